"""Settings of the chapter on APD: its paper's own targets, with the numbers of App. D and those its code ran with."""

from __future__ import annotations

from dataclasses import replace

from .apd_targets import TargetTraining
from .baselines.apd import APDConfig

# App. D.1: superposition. The paper says "constant learning rate", its code let it fall in a line to 0. The numbers of
# targets side by side (12, 3) set how large starting values are, here and in the decompositions.
_TMS = TargetTraining(kind="superposition", n_features=5, n_hidden=2, init_runs=12)
_TMS_LARGE = replace(_TMS, n_features=40, n_hidden=10, steps=2000, batch_size=2048, init_runs=3)
# App. D.2: residual MLPs, 100 features and 50 neurons in all.
_MLP = TargetTraining(
    kind="residual", n_features=100, n_hidden=50, p_active=0.01, steps=10_000, batch_size=2048, lr=0.003,
    schedule="cosine",
)  # fmt: skip
_APD_TMS = APDConfig(
    n_components=5, n_terms=3, steps=20_000, top_k=0.211, simplicity=0.7, p=1.0, lr=0.03, schedule="constant",
    warmup=0.05, init_runs=12, attributions="components",
)  # fmt: skip
_APD_TMS_LARGE = APDConfig(
    n_components=50, n_terms=11, steps=20_000, top_k=1.0, minimality=10.0, simplicity=20.0, warmup=0.05, init_runs=3
)
# The paper's text has batches of 2048 and 40,000 steps for one layer, the files of its code 256 and 10,000: these.
_APD_MLP = APDConfig(
    n_components=130, n_terms=50, steps=10_000, batch_size=256, top_k=1.28, simplicity=10.0, hidden=1.0,
    unit_norm=True, init_scale=2.0,
)  # fmt: skip
_APD_MLP_2 = replace(_APD_MLP, n_components=200, n_terms=25, minimality=2.0, simplicity=7.0, unit_norm=False)

"""Local Loss Landscape Decomposition: directions in parameter space from which a few rebuild each sample's gradient.

>>> from l3d_core import L3DConfig, decompose, impact, perturb, toys
>>> task = toys.superposition(seed=1)                             # a shipped target; toys.train(...) makes new ones
>>> config = L3DConfig(n_v=5, rank=1, k_fraction=0.2, epochs=30)
>>> l3d = decompose(task.model, task.inputs, "mse", config, seed=0)
>>> scores = impact(l3d, task.inputs, n_references=10)            # [n_s, n_v]
>>> outputs = perturb(l3d, {3: 1.0})(task.inputs)                 # f(x, W + 1.0 v_3)

>>> scores.shape, outputs.shape
(torch.Size([1000, 5]), torch.Size([1000, 5]))
"""

from . import toys
from .artifacts import __version__
from .gradients import divergence_gradients
from .intervention import delta_sweep, impact, output_gradients, perturb, top_outputs, top_samples
from .l3d import L3DConfig
from .metrics import gradient_reconstruction
from .runs import Run
from .training import L3D, decompose, fit

__all__ = [
    "L3D",
    "L3DConfig",
    "Run",
    "__version__",
    "decompose",
    "delta_sweep",
    "divergence_gradients",
    "fit",
    "gradient_reconstruction",
    "impact",
    "output_gradients",
    "perturb",
    "top_outputs",
    "top_samples",
    "toys",
]

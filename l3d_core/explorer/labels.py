"""How alike the samples of largest impact are, beside those of directions that nothing was learned for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..baselines.principal import principal_directions
from ..baselines.random_directions import random_directions
from ..chapters.circuits import coherence, random_sets
from ..chapters.own_model_measures import at_start
from ..gradients import divergence_gradients, side_by_side
from ..intervention import top_samples
from ..training import L3D
from .samples import known

# Samples whose gradients' principal directions are taken, and most numbers of these gradients.
N_PRINCIPAL, NUMBERS = 2048, 2**27
# Inputs that the untrained start is made on.
N_START = 64


def other_directions(l3d: L3D, inputs: Tensor, n_positions: int, chunk_size: int, seed: int) -> dict[str, Tensor]:
    """Returns as many encoder directions of other kinds as a decomposition has subnetworks, `[n_v, n_w]` each.

    'random'; 'principal', the principal directions of gradients on some of the inputs, unless there are fewer of these
    than subnetworks; and 'untrained', what the decomposition started from.

    Args:
        l3d: The decomposition.
        inputs: `[n, ...]`.
        n_positions: Samples in an input.
        chunk_size: Inputs whose gradients are formed at once.
        seed: Seeds the choice of inputs and the random directions.
    """
    n_v, n_w = l3d.v_out.n_v, l3d.v_out.layout.n_w
    most = max(1, min(N_PRINCIPAL, NUMBERS // n_w) // n_positions)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:most]
    options = {"parameters": l3d.parameters, "chunk_size": chunk_size, "seed": seed}
    few = inputs[order.to(inputs.device)]
    g = side_by_side(divergence_gradients(l3d.model, few, l3d.divergence, **options))
    found = {"random": random_directions(g, n_v, seed=seed).v_in}
    if min(g.shape) >= n_v:
        found["principal"] = principal_directions(g, n_v).v_in
    # Which inputs does not matter, but a batch of them there has to be, and some whose references differ from them.
    some = torch.arange(max(l3d.config.batch_size, N_START), device=inputs.device) % len(inputs)
    found["untrained"] = at_start(l3d, inputs[some]).v_in.matrix()
    return found


def coherences(
    scores: Tensor, others: Mapping[str, Tensor], top: Tensor, labels: Mapping[str, Tensor], n_positions: int
) -> tuple[Tensor, list[list]]:
    """Returns how coherent each subnetwork's top samples are in each kind of label, and what that is compared with.

    Args:
        scores: Impacts of the subnetworks `[n_s, n_v]`.
        others: Those of other directions, by name.
        top: Top samples of the subnetworks `[n_v, n_top]`.
        labels: By kind, what each sample is, whole numbers `[n_s]`.
        n_positions: Samples in a text.

    Returns:
        Coherences `[n_v, n_labels]`; and for each kind of label its name with the mean coherences of other directions
        and of random samples.
    """
    if not labels or top.shape[1] < 2:
        return torch.zeros(len(top), 0), []
    groups = torch.arange(len(scores) // n_positions).repeat_interleave(n_positions) if n_positions > 1 else None
    tops = {name: top_samples(known(each), top.shape[1], groups=groups) for name, each in others.items()}
    found = []
    for kind, of in labels.items():
        means = {name: float(coherence(each, of).mean()) for name, each in tops.items()}
        means["random samples"] = float(random_sets(scores, of, top.shape[1]).mean())
        found.append([f"coherence: {kind}", means])
    return torch.stack([coherence(top, of) for of in labels.values()], 1), found

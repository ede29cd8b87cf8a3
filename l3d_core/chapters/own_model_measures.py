"""What is measured of each decomposition of chapter 8: errors, what subnetworks serve, and what steps along them do."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..intervention import impact, matched_deltas, perturb, top_samples
from ..metrics import gradient_reconstruction
from ..runs import Run
from ..training import L3D, fit
from .own_model_task import OUTPUTS, RULES, Task, answers, rules_of

# Samples that a subnetwork is judged by: those it has the most impact on.
N_TOP = 20


def held_out_error(l3d: L3D, x: Tensor, k_fraction: float | None = None) -> Tensor:
    """Returns the squared error ratio on held-out samples, the mean over batches of the size trained with.

    Args:
        l3d: The decomposition.
        x: The samples `[n, ...]`.
        k_fraction: Share of coefficients that is kept; None for that of the training, 1 for all.

    Raises:
        ValueError: Fewer samples than a batch.
    """
    batches = [batch for batch in x.split(l3d.config.batch_size) if len(batch) == l3d.config.batch_size]
    if not batches:
        raise ValueError(f"got {len(x)} samples; expected at least a batch of {l3d.config.batch_size}.")
    errors = [
        gradient_reconstruction(l3d, batch, k_fraction=k_fraction, seed=i).recon_sq for i, batch in enumerate(batches)
    ]
    return torch.stack(errors).mean()


def mean_by_group(values: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Returns the mean over the samples of each group.

    Args:
        values: `[n, n_v]`.
        groups: Of each sample `[n]`, from 0.
        n_groups: How many there are.

    Returns:
        `[n_v, n_groups]`; 0 for a group without samples.
    """
    member = F.one_hot(groups, n_groups).to(values)
    return values.mT @ member / member.sum(0).clamp_min(1)


def shares(values: Tensor) -> Tensor:
    """Returns values, none below 0, over their sum along the last axis; 0 where that is 0."""
    total = values.sum(-1, keepdim=True)
    return values / torch.where(total > 0, total, 1)


def shares_by_rule(values: Tensor, x: Tensor) -> Tensor:
    """Returns which part of each subnetwork's mean values each rule has, `[n_v, n_rules]` on the CPU.

    Args:
        values: None below 0, `[n, n_v]`.
        x: Their sequences `[n, LENGTH + 1]`.
    """
    return shares(mean_by_group(values, rules_of(x), len(RULES))).cpu()


def purity(top: Tensor, labels: Tensor) -> Tensor:
    """Returns which share of each subnetwork's top samples has the commonest label among them.

    Args:
        top: Indices of samples `[n_v, m]`.
        labels: Of every sample `[n]`.

    Returns:
        `[n_v]`, from 1 / m to 1.
    """
    own = labels[top]
    same = own[:, :, None] == own[:, None, :]
    return same.sum(-1).amax(-1) / top.shape[1]


class Effects(NamedTuple):
    """What a step along each subnetwork does to every sample, the mean over both signs.

    Attributes:
        divergence: KL of the outputs before from those after, in nats `[n, n_v]`.
        changed: Whether the most likely answer is another one, `[n, n_v]`.
    """

    divergence: Tensor
    changed: Tensor


def effects(l3d: L3D, x: Tensor, length: float) -> Effects:
    """Returns the effects of steps of one Euclidean length, in the direction of each subnetwork and against it.

    Args:
        l3d: The decomposition of a model that gives logits `[n, n_o]`.
        x: Samples.
        length: Of a step, the same for all subnetworks.
    """
    with torch.no_grad():
        before = F.log_softmax(l3d.model(x), -1)
    found = []
    for v, delta in enumerate(matched_deltas(l3d, length).tolist()):
        for sign in (1, -1):
            after = F.log_softmax(perturb(l3d, {v: sign * delta})(x), -1)
            moved = (before.exp() * (before - after)).sum(-1)
            found.append(torch.stack([moved, (before.argmax(-1) != after.argmax(-1)).to(moved)]))
    both = torch.stack(found).unflatten(0, (-1, 2)).mean(1)
    return Effects(both[:, 0].mT, both[:, 1].mT)


def at_start(l3d: L3D, inputs: Tensor) -> L3D:
    """Returns the random directions that a decomposition started from: no step is taken."""
    run = Run(l3d.model, inputs, l3d.config, l3d.divergence, l3d.seed, l3d.parameters)
    return fit([run], max_steps=0)[0]


def measure_all(l3d: L3D, task: Task, *, length: float, untrained: bool = False) -> dict[str, Tensor]:
    """Returns what is kept of a decomposition.

    Args:
        l3d: The decomposition.
        task: What it is of.
        length: Of the steps of interventions.
        untrained: Measure the directions it started from; all of them count as live.

    Returns:
        'recon_sq' by epoch, 'first_losses', 'p_active', 'held_out' and 'dense', the errors on held-out samples with
        the top and with all coefficients; by subnetwork 'impact' and 'effect' and 'changed' under each rule, 'rule',
        the one of most impact, 'pure_rule', 'pure_answer' and 'pure_both' of the top samples, 'v_out'.
    """
    device = l3d.v_out.flat.device
    x, history = task.held_out.to(device), l3d.history
    p_active = torch.ones_like(l3d.p_active) if untrained else l3d.p_active
    l3d = at_start(l3d, task.inputs.to(device)) if untrained else l3d
    rule, answer = rules_of(x), answers(x)
    scores, moved = impact(l3d, x), effects(l3d, x, length)
    by_rule = mean_by_group(scores, rule, len(RULES))
    top = top_samples(scores, N_TOP)
    return {
        "recon_sq": history.recon_sq, "first_losses": history.first_losses, "p_active": p_active,
        "held_out": held_out_error(l3d, x), "dense": held_out_error(l3d, x, 1.0),
        "impact": by_rule, "rule": by_rule.argmax(1),
        "effect": mean_by_group(moved.divergence, rule, len(RULES)),
        "changed": mean_by_group(moved.changed, rule, len(RULES)),
        "pure_rule": purity(top, rule), "pure_answer": purity(top, answer),
        "pure_both": purity(top, rule * len(OUTPUTS) + answer),
        # Directions in half precision, a third of what is on disk otherwise: cosines keep three digits.
        "v_out": F.normalize(l3d.v_out.matrix(), dim=1).half(),
    }  # fmt: skip

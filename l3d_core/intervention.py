"""Pushing a model along its subnetworks, and measuring what they do (paper section 2.5)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor
from torch.func import functional_call, jvp, vjp

from .gradients import build_target, check_inputs, model_outputs, sample_gradients, target_outputs
from .references import draw_partners, reference_outputs
from .training import L3D


def _check_subnetworks(l3d: L3D, chosen: Sequence[int]) -> None:
    wrong = [v for v in chosen if not isinstance(v, int) or not 0 <= v < l3d.v_out.n_v]
    if wrong:
        raise ValueError(
            f"subnetwork {wrong[0]!r} does not exist; expected whole numbers from 0 to {l3d.v_out.n_v - 1}."
        )


def direction(l3d: L3D, coefficients: Mapping[int, float], tensors: str | Sequence[str] = "*") -> dict[str, Tensor]:
    """Returns sum_v delta_v v_out, over all tensors or only some (paper Eq. 6 for several subnetworks).

    Args:
        l3d: A decomposition.
        coefficients: delta of each subnetwork by its index.
        tensors: Name patterns; the direction is zero on tensors that match none.

    Returns:
        A dict of `[*shape]`.

    Raises:
        ValueError: A subnetwork that does not exist, or patterns that match no tensor.
    """
    _check_subnetworks(l3d, list(coefficients))
    patterns = [tensors] if isinstance(tensors, str) else list(tensors)
    named = l3d.v_out.dense()
    kept = {name for name in named if any(fnmatchcase(name, pattern) for pattern in patterns)}
    if not kept:
        raise ValueError(f"no decomposed tensor matches {patterns}; expected some of {list(named)}.")
    index, delta = list(coefficients), torch.tensor(list(coefficients.values()), dtype=torch.float64)
    total = {}
    for name, v in named.items():
        weights = delta.to(v) if name in kept else torch.zeros(len(index)).to(v)
        total[name] = torch.tensordot(weights, v[index], 1)
    return total


def perturb(l3d: L3D, coefficients: Mapping[int, float], tensors: str | Sequence[str] = "*") -> Callable[..., Tensor]:
    """Returns the model moved along subnetworks, f(., W_0 + sum_v delta_v v) (paper Eq. 6).

    Args:
        l3d: A decomposition.
        coefficients: delta of each subnetwork by its index.
        tensors: Name patterns of the tensors to move; the others stay at W_0.

    Returns:
        A function that takes what the model takes and returns what it returns. The model itself is not changed.

    Raises:
        ValueError: A subnetwork that does not exist, or patterns that match no tensor.
    """
    w0 = dict(l3d.model.named_parameters())
    moved = {name: w0[name].detach() + d for name, d in direction(l3d, coefficients, tensors).items()}

    def perturbed(*args, **kwargs):  # noqa: ANN202
        with torch.no_grad():
            return functional_call(l3d.model, moved, args, kwargs)

    return perturbed


def delta_sweep(
    l3d: L3D, subnetwork: int, deltas: Sequence[float], inputs: Tensor, tensors: str | Sequence[str] = "*"
) -> Tensor:
    """Returns the outputs along one subnetwork, f(x, W_0 + delta v) for each delta (paper Fig. 5).

    Args:
        l3d: A decomposition.
        subnetwork: Its index.
        deltas: Steps in units of v_out.
        inputs: `[n, ...]`.
        tensors: See `perturb`.

    Returns:
        `[n_deltas, n, ...]`.

    Raises:
        ValueError: See `perturb`.
    """
    outputs = [perturb(l3d, {subnetwork: float(delta)}, tensors)(inputs) for delta in deltas]
    return torch.stack([out if isinstance(out, Tensor) else out.logits for out in outputs])


def matched_deltas(l3d: L3D, length: float) -> Tensor:
    """Returns, for each subnetwork, the delta with `|delta v|_2 = length`, `[n_v]`; 0 for a zero direction."""
    norms = l3d.v_out.norms("l2")
    return torch.where(norms > 0, length / torch.where(norms > 0, norms, 1), 0)


def impact(
    l3d: L3D,
    inputs: Tensor,
    n_references: int = 10,
    *,
    signed_mean: bool = False,
    seed: int = 0,
    chunk_size: int | None = None,
) -> Tensor:
    """Returns the impact of each subnetwork on each sample, averaged over references (paper Eqs. 7-8).

    Args:
        l3d: A decomposition.
        inputs: `[n, ...]`; references are outputs of other samples among them, drawn with replacement.
        n_references: References to average over, the paper's n_j (10 in App. B.4).
        signed_mean: Take the mean of V_in grad D first and its absolute value after, as the authors' code did
            for tokens, instead of the mean of absolute values of Eq. 8.
        seed: Seeds the references.
        chunk_size: Inputs whose gradients are formed at once; results do not depend on it.

    Returns:
        `[n_s, n_v]`, not negative; positions are samples of their own.

    Raises:
        TypeError: Inputs are no tensor.
        ValueError: No inputs, or n_references below 1.
    """
    check_inputs(inputs, minimum=2)
    if n_references < 1:
        raise ValueError(f"n_references is {n_references}; expected at least 1.")
    target = build_target([l3d.model], l3d.parameters)
    y = target_outputs(target, inputs[None])
    flat, v_in = y.flatten(1, 2), l3d.v_in.matrix()
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(flat.shape[1], l3d.v_in.n_v, dtype=v_in.dtype, device=v_in.device)
    size = chunk_size or len(inputs)
    for _ in range(n_references):
        partners = draw_partners(1, flat.shape[1], generator)
        cotangents = l3d.divergence.cotangent(flat, reference_outputs(flat, "sample", partners=partners))
        pieces = zip(inputs.split(size), cotangents.reshape(y.shape)[0].split(size), strict=True)
        z = torch.cat([sample_gradients(target, x[None], c[None])[0] @ v_in.mT for x, c in pieces])
        total += z if signed_mean else z.abs()
    return total.abs() / n_references


def top_samples(scores: Tensor, n: int = 5, *, groups: Tensor | None = None) -> Tensor:
    """Returns the samples each subnetwork affects most (paper Table 2, Fig. 11).

    Args:
        scores: Impacts `[n_s, n_v]`.
        n: Samples for each subnetwork.
        groups: For each sample, the text or image it is part of `[n_s]`; at most one sample of each is taken.

    Returns:
        Indices `[n_v, n]`, largest impact first.

    Raises:
        ValueError: Fewer samples (or groups) than n.
    """
    available = len(scores) if groups is None else len(groups.unique())
    if n < 1 or available < n:
        raise ValueError(f"n is {n}; expected between 1 and the {available} samples (or groups) there are.")
    order = scores.argsort(dim=0, descending=True, stable=True).T
    if groups is None:
        return order[:, :n]
    chosen = []
    for ranked in order:
        seen: dict[int, int] = {}
        for sample in ranked.tolist():
            seen.setdefault(int(groups[sample]), sample)
            if len(seen) == n:
                break
        chosen.append(list(seen.values()))
    return torch.tensor(chosen)


def output_gradients(l3d: L3D, subnetwork: int, inputs: Tensor, *, probabilities: bool = False) -> Tensor:
    """Returns d f(x, W_0 + delta v) / d delta at 0, the change of each output along a subnetwork (paper Eq. 10).

    Args:
        l3d: A decomposition.
        subnetwork: Its index.
        inputs: `[n, ...]`.
        probabilities: Differentiate softmax(f) instead of f, as the authors' notebook for tokens did.

    Returns:
        `[n, ..., n_o]`.

    Raises:
        ValueError: The subnetwork does not exist.
    """
    v = direction(l3d, {subnetwork: 1.0})
    w0 = {name: w.detach() for name, w in l3d.model.named_parameters() if name in v}

    def outputs(w: dict[str, Tensor]) -> Tensor:
        out = model_outputs(l3d.model, w, inputs)
        return out.softmax(-1) if probabilities else out

    # J v as the derivative of u -> J^T u along v: reverse mode alone, which more operations have than forward mode.
    try:
        _, back = vjp(lambda u: vjp(outputs, w0)[1](u)[0], torch.zeros_like(outputs(w0)))
        return back(v)[0].detach()
    except RuntimeError:  # Some, such as hardsigmoid, have a forward derivative and no second one backwards.
        with warnings.catch_warnings():  # torch warns of its own use of what it is about to drop.
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
            return jvp(outputs, (w0,), (v,))[1].detach()


def top_outputs(gradients: Tensor, n: int = 5, *, signed: bool = False) -> Tensor:
    """Returns the outputs a subnetwork moves most: argmax_i of abs(dy_i / dv) (paper Eq. 10, "top logits").

    Args:
        gradients: What `output_gradients` returns, `[..., n_o]`.
        n: Outputs for each sample.
        signed: Rank by the signed derivative, as the authors' notebook for tokens did.

    Returns:
        Indices `[..., n]`, most moved first.
    """
    return (gradients if signed else gradients.abs()).topk(n, -1).indices

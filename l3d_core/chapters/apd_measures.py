"""What APD's components do: how near they are to single features, and what is left when others are taken away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

from ..baselines.apd import APD
from ..baselines.apd_losses import applied_active, attributions, listed
from ..baselines.apd_networks import Apply, Factors, Network, ResidualMLP, applied
from ..l3d import batch_top_k

# Samples run at once, which bounds the memory; share of the components up to which only those kept are multiplied.
CHUNK, FEW = 1000, 0.1
# A component serves a feature if one of its neurons contributes as much (the authors' code).
SERVES = 0.04
# Every row of W has to be as long (the house's rule for superposition, see `toys.Task.kept`).
LONG = 0.5
# Least cosine and ratio of lengths of a feature that is found.
FOUND = (0.9, 0.5)


def whole(w: Tensor) -> Tensor:
    """Returns whether no feature of superposition is missing, every row being longer than `LONG`, `[n_runs]`.

    Args:
        w: `[n_runs, n_features, n_hidden]`.
    """
    return (w.norm(dim=-1) > LONG).all(1)


class Geometry(NamedTuple):
    """How near components of tied superposition are to the rows of W, each feature by itself.

    Attributes:
        component: The one whose row of a feature points most nearly along W's, `[n_runs, n_features]`.
        cosine: Its cosine with W's; the mean over features is MMCS (APD Eq. 3).
        ratio: Its row's length over that of W's; the mean over features is ML2R (APD Eq. 4).
    """

    component: Tensor
    cosine: Tensor
    ratio: Tensor


def geometry(w: Tensor, components: Tensor) -> Geometry:
    """Returns the cosines and lengths behind MMCS and ML2R.

    Args:
        w: `[n_runs, n_features, n_hidden]`.
        components: P_c `[n_runs, n_components, n_features, n_hidden]`.
    """
    cosine, component = cosine_similarity(components, w[:, None], dim=-1).max(1)
    lengths = components.norm(dim=-1).gather(1, component[:, None])[:, 0]
    return Geometry(component, cosine, lengths / w.norm(dim=-1))


def n_found(w: Tensor, components: Tensor) -> Tensor:
    """Returns how many features have a component of their own, `[n_runs]`.

    Components and features are paired one to one with the largest total of how far a feature's row in the component
    reaches along W's; a feature is found if the row in its component points along W's and is long enough, see `FOUND`.
    The component with the largest cosine, which MMCS is of, may be a stub.

    Args:
        w: `[n_runs, n_features, n_hidden]`.
        components: P_c `[n_runs, n_components, n_features, n_hidden]`.
    """
    cosine, found = cosine_similarity(components, w[:, None], dim=-1), []
    ratio = components.norm(dim=-1) / w.norm(dim=-1)[:, None]
    for own, length in zip(cosine, ratio, strict=True):
        at = linear_sum_assignment((own * length).cpu().numpy(), maximize=True)
        found.append(int(((own[at] >= FOUND[0]) & (length[at] >= FOUND[1])).sum()))
    return torch.tensor(found)


def contributions(network: ResidualMLP, weights: dict[str, Tensor]) -> Tensor:
    """Returns how much each neuron has to do with each feature's computation (APD section 3.2).

    `(R_i^T W_out) * (W_in E_i)`, the product of how a neuron reads feature i and how it writes output i; neurons of
    all layers one behind the other.

    Args:
        network: Gives E and R.
        weights: Matrices `[n_runs, ..., n_in, n_out]` by name, of the target or of every component.

    Returns:
        `[n_runs, ..., n_features, n_neurons]`.
    """
    extra = weights["W_in.0"].ndim - network.embed.ndim
    embed, unembed = (t[(slice(None), *(None,) * extra)] for t in (network.embed, network.unembed))
    layers = range(len(network.b))
    return torch.cat([(embed @ weights[f"W_in.{i}"]) * (weights[f"W_out.{i}"] @ unembed).mT for i in layers], -1)


def feature_components(network: Network, apd: APD, n_features: int) -> Tensor:
    """Returns the component with the largest attribution on each feature alone, at 1, `[n_runs, n_features]`."""
    weights = network.weights
    x = torch.eye(n_features).to(next(iter(weights.values()))).expand(len(apd.seeds), -1, -1)
    return attributions(network, x, weights, apd.components).argmax(-1)


def n_own(component: Tensor) -> Tensor:
    """Returns how many features have a component that is no other feature's, `[n_runs]`.

    Args:
        component: Of each feature `[n_runs, n_features]`, see `feature_components`.
    """
    return ((component[:, :, None] == component[:, None]).sum(2) == 1).sum(1)


def applied_kept(components: Mapping[str, Factors], kept: Tensor) -> Apply:
    """Returns the `apply` in which each sample meets the sum of its own components only (APD Eq. 7).

    Where these are many, all are multiplied with all samples: several times as fast as gathering each sample's own.

    Args:
        components: P_c of each weight matrix.
        kept: Booleans `[n_runs, n_s, n_components]`.
    """
    if kept.sum() <= FEW * kept.numel():
        return applied_active(components, listed(kept))

    def apply(name: str, h: Tensor, transposed: bool = False) -> Tensor:
        own = components[name].transposed() if transposed else components[name]
        inner = (h @ own.u.flatten(2)).unflatten(-1, own.u.shape[2:]) * kept[..., None]
        return inner.flatten(2) @ own.v.flatten(1, 2)

    return apply


def masked_outputs(network: Network, apd: APD, x: Tensor, kept: Tensor) -> Tensor:
    """Returns outputs with some components only, `[n_runs, n_s, n_o]`.

    Args:
        network: The targets.
        apd: Their decompositions.
        x: Inputs `[n_runs, n_s, n_i]`.
        kept: Which components each sample has `[n_runs, n_s, n_components]`.
    """
    parts = zip(x.split(CHUNK, 1), kept.split(CHUNK, 1), strict=True)
    with torch.no_grad():
        return torch.cat([network.forward(a, applied_kept(apd.components, k))[0] for a, k in parts], 1)


def most_attributed(network: Network, apd: APD, x: Tensor, top_k: float, batch_size: int) -> Tensor:
    """Returns which components batch top-k chooses, `[n_runs, n_s, n_components]`.

    Args:
        network: The targets.
        apd: Their decompositions.
        x: Inputs `[n_runs, n_s, n_i]`, cut into batches in their order.
        top_k: Active components per sample, in the mean over a batch.
        batch_size: Samples of a batch; 1 for as many on each sample.
    """
    weights = network.weights
    if apd.config.attributions == "components":
        weights = {name: own.total() for name, own in apd.components.items()}
    parts = []
    for some in x.split(max(batch_size, 1024 // batch_size * batch_size), 1):
        with torch.no_grad():
            scores = attributions(network, some, weights, apd.components)
        whole = scores.shape[1] // batch_size * batch_size
        for own in (scores[:, :whole].unflatten(1, (-1, batch_size)), scores[:, None, whole:]):
            if own.numel():
                parts.append(batch_top_k(own, max(int(top_k * own.shape[2] + 1e-9), 1)).flatten(1, 2))
    return torch.cat(parts, 1)


class Scrubbed(NamedTuple):
    """Squared errors of each sample against the target, mean over outputs, `[n_runs, n_s]`.

    Attributes:
        top_k: With the components that batch top-k chooses.
        scrubbed: With those of the active features, and of the others a random half.
        anti_scrubbed: With a random half, but none of those of the active features.
    """

    top_k: Tensor
    scrubbed: Tensor
    anti_scrubbed: Tensor


def scrubbing(network: Network, apd: APD, x: Tensor, *, batch_size: int, seed: int = 0) -> Scrubbed:
    """Returns what is left of the outputs with random halves of the components (APD section 3.2, Fig. 8).

    Args:
        network: The targets.
        apd: Their decompositions.
        x: Inputs `[n_runs, n_s, n_i]`; a feature is active where it is not 0.
        batch_size: Of batch top-k.
        seed: Seeds the halves, one fair coin for every component and sample.
    """
    own = one_hot(feature_components(network, apd, x.shape[-1]), apd.config.n_components)
    serving = (x != 0).to(own) @ own > 0
    generator = torch.Generator().manual_seed(seed)
    coin = (torch.rand(serving.shape, generator=generator) < 0.5).to(serving.device)
    target = network.forward(x, applied(network.weights))[0]

    def error(kept: Tensor) -> Tensor:
        return (masked_outputs(network, apd, x, kept) - target).square().mean(-1)

    top_k = most_attributed(network, apd, x, apd.config.top_k, batch_size)
    return Scrubbed(error(top_k), error(coin | serving), error(coin & ~serving))


def monosemantic_error(network: ResidualMLP, x: Tensor) -> Tensor:
    """Returns how far a network that gives each neuron to one feature is from the targets, `[n_runs]`.

    Its outputs are `x`, plus `relu(x_i)` for as many features as there are neurons, without any disturbance by
    embeddings that overlap. They are compared with the targets' outputs, as the authors' code did and as all other
    errors here are, and not with the labels (APD section 3.2, Fig. 8).

    Args:
        network: The targets.
        x: Inputs `[n_runs, n_s, n_features]`.
    """
    served = torch.arange(x.shape[-1], device=x.device) < sum(b.shape[1] for b in network.b)
    return (x + torch.relu(x) * served - network.outputs(x)).square().mean((1, 2))


class FeatureErrors(NamedTuple):
    """Errors on samples with one active feature, means by feature `[n_runs, n_features]`.

    Attributes:
        target: Of the target against the labels.
        single: Of APD with one component for each sample, against the labels.
        batch: Of APD with batch top-k, against the labels.
        single_target: Of APD with one component, against the target.
        active: Components that batch top-k gives to such a sample.
    """

    target: Tensor
    single: Tensor
    batch: Tensor
    single_target: Tensor
    active: Tensor


def feature_errors(network: ResidualMLP, apd: APD, x: Tensor, *, batch_size: int) -> FeatureErrors:
    """Returns how well features are served one by one (APD Figs. 16 to 18 and 21 to 23).

    Batch top-k chooses over all samples; those without exactly one active feature are left out afterwards.

    Args:
        network: The targets.
        apd: Their decompositions.
        x: Inputs `[n_runs, n_s, n_features]`.
        batch_size: Of batch top-k.
    """
    labels, target = x + torch.relu(x), network.outputs(x)
    kept = most_attributed(network, apd, x, apd.config.top_k, batch_size)
    one = most_attributed(network, apd, x, 1.0, 1)
    single, batch = (masked_outputs(network, apd, x, mask) for mask in (one, kept))
    values = [
        (target - labels).square().mean(-1), (single - labels).square().mean(-1), (batch - labels).square().mean(-1),
        (single - target).square().mean(-1), kept.sum(-1).to(x),
    ]  # fmt: skip
    alone = ((x != 0) & ((x != 0).sum(-1, keepdim=True) == 1)).to(x)
    counts = alone.sum(1)
    return FeatureErrors(*(torch.einsum("rsf,rs->rf", alone, value) / counts for value in values))

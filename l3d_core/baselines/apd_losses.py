"""The losses of APD: what its components are asked to be (APD section 2.2 and App. A.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..l3d import batch_top_k
from .apd_networks import Apply, Factors, Network, applied

# Added to the square of a singular value, so that its root has a slope at zero, as the authors' code did.
TINY = 1e-16


def attributions(
    network: Network, x: Tensor, weights: Mapping[str, Tensor], components: Mapping[str, Factors]
) -> Tensor:
    """Returns how much each component matters to each sample's outputs to first order (APD Eq. 8).

    `A_c(x) = sqrt(1/n_o sum_o (sum_l,i,j df_o/dtheta_lij P_c,lij)^2)`, with the derivatives of all outputs at once:
    the sum within the brackets is the derivative of the outputs along P_c.

    Args:
        network: The target.
        x: Inputs `[n_runs, n_s, n_i]`.
        weights: Where derivatives are taken: the target's, or the sum of the components.
        components: P_c of each weight matrix.

    Returns:
        `[n_runs, n_s, n_components]`.
    """
    return squared_attributions(network, x, weights, components).sqrt()


def squared_attributions(
    network: Network, x: Tensor, weights: Mapping[str, Tensor], components: Mapping[str, Factors]
) -> Tensor:
    """Returns the squares of `attributions`, which have a slope at zero too."""
    effects = network.effects(x, weights, components)
    return (torch.linalg.vecdot(effects, effects) / effects.shape[-1]).mT


def faithfulness(network: Network, components: Mapping[str, Factors]) -> Tensor:
    """Returns the mean squared difference of the sum of the components and the target's weights, `[n_runs]`.

    The mean is over all decomposed weights, as in section 2.2 and the authors' code (Eq. 23 has the sum).
    """
    squares = sum((components[name].total() - w).square().sum((1, 2)) for name, w in network.weights.items())
    return squares / n_weights(network)


def n_weights(network: Network) -> int:
    """Returns how many weights of each network are decomposed; a tied matrix counts once."""
    return sum(w[0].numel() for w in network.weights.values())


def schatten(components: Mapping[str, Factors], p: float) -> Tensor:
    """Returns `sum_l,m (|U_clm|^2 |V_clm|^2)^(p/2)` of each component (APD Eqs. 21 and 22), `[n_runs, n_components]`.

    That is the p-th power of its Schatten norm if its terms are orthogonal.
    """
    found = (own.u.square().sum(1) * own.v.square().sum(-1) + TINY for own in components.values())
    return sum(squares.pow(p / 2).sum(-1) for squares in found)


class Active(NamedTuple):
    """Which samples each component is active on, as lists of the longest one's length.

    Attributes:
        samples: Numbers of samples `[n_runs, n_components, n_most]`.
        valid: 1 for entries that count, 0 for those that fill up, the same shape.
    """

    samples: Tensor
    valid: Tensor


def listed(kept: Tensor) -> Active:
    """Returns the samples of each component from a mask.

    Args:
        kept: Booleans `[n_runs, n_s, n_components]`.
    """
    run, sample, component = kept.nonzero(as_tuple=True)
    places = kept.cumsum(1)[run, sample, component] - 1
    most = int(places.max()) + 1 if len(places) else 0
    samples = places.new_zeros(kept.shape[0], kept.shape[2], most)
    valid = torch.zeros_like(samples, dtype=torch.bool)
    samples[run, component, places], valid[run, component, places] = sample, True
    return Active(samples, valid)


def applied_active(components: Mapping[str, Factors], active: Active) -> Apply:
    """Returns the `apply` in which each sample meets the sum of its active components only (APD Eq. 7).

    The work is that of the pairs of sample and active component, not of all.
    """

    def apply(name: str, h: Tensor, transposed: bool = False) -> Tensor:
        own = components[name].transposed() if transposed else components[name]
        n_runs, n_s = h.shape[:2]
        at = (active.samples + n_s * torch.arange(n_runs, device=h.device)[:, None, None]).flatten()
        rows = h.flatten(0, 1).index_select(0, at).view(*active.samples.shape, h.shape[-1])
        out = (rows @ own.u.transpose(1, 2) @ own.v) * active.valid[..., None]
        return out.new_zeros(n_runs * n_s, out.shape[-1]).index_add(0, at, out.flatten(0, 2)).view(n_runs, n_s, -1)

    return apply


class Losses(NamedTuple):
    """The terms of the loss of one batch, each `[n_runs]`; 0 for a term that the form does not have."""

    faithfulness: Tensor
    minimality: Tensor
    simplicity: Tensor
    hidden: Tensor


def top_k_losses(
    network: Network, x: Tensor, components: Mapping[str, Factors], scores: Tensor, k_count: int, p: float, hidden: bool
) -> Losses:
    """Returns the losses of the top-k form (APD Eqs. 16, 17, 22 and 23).

    Minimality is the mean squared error of the outputs with active components only against the target's, hidden the
    same of hidden activations, mean over layers. Simplicity is divided by the number of decomposed weights and by the
    number of samples, as the authors' code did: the weights of the terms make sense with these scalings only.

    Args:
        network: The target.
        x: Inputs `[n_runs, n_s, n_i]`.
        components: P_c of each weight matrix.
        scores: Attributions `[n_runs, n_s, n_components]`; no gradient runs through what they choose.
        k_count: How many components are active in the batch, over all samples; none with an attribution of 0.
        p: Power of the Schatten norm.
        hidden: Compare hidden activations too.
    """
    kept = batch_top_k(scores, k_count)
    wanted, wanted_hidden = network.forward(x, applied(network.weights))
    got, got_hidden = network.forward(x, applied_active(components, listed(kept)))
    used = kept.sum(1).to(x)
    faithful = faithfulness(network, components)
    pairs = list(zip(got_hidden, wanted_hidden, strict=True)) if hidden else []
    compared = [(a - b).square().mean((1, 2)) for a, b in pairs]
    return Losses(
        faithful,
        (got - wanted).square().mean((1, 2)),
        (used * schatten(components, p)).sum(1) / n_weights(network) / x.shape[1],
        torch.stack(compared).mean(0) if compared else torch.zeros_like(faithful),
    )


def l_p_losses(
    network: Network, x: Tensor, components: Mapping[str, Factors], squares: Tensor, p_attribution: float, p: float
) -> Losses:
    """Returns the losses of the form without top-k (APD Eq. 26), means over samples.

    Minimality is `sum_c A_c^p1`, simplicity `sum_c A_c^p1 |P_c|_p^p`, divided as in `top_k_losses`. Both train the
    attributions, so `squares` must carry a gradient.

    Args:
        network: The target.
        x: Inputs `[n_runs, n_s, n_i]`.
        components: P_c of each weight matrix.
        squares: Squared attributions `[n_runs, n_s, n_components]`.
        p_attribution: p1.
        p: p2, the power of the Schatten norm.
    """
    powers = (squares + TINY).pow(p_attribution / 2)
    faithful = faithfulness(network, components)
    simple = (powers.mean(1) * schatten(components, p)).sum(1) / n_weights(network)
    return Losses(faithful, powers.sum(2).mean(1), simple, torch.zeros_like(faithful))

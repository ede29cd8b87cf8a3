"""The networks that APD takes apart, several of one shape side by side, and the slopes of their outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

# Each activation with its derivative.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "none": (lambda h: h, torch.ones_like),
    "relu": (torch.relu, lambda h: (h > 0).to(h)),
    "gelu": (F.gelu, lambda h: torch.special.ndtr(h) + h * torch.exp(-h.square() / 2) / math.sqrt(2 * math.pi)),
    "elu": (F.elu, lambda h: torch.exp(h.clamp(max=0))),
}
# Returns `h @ W` of the weight matrix of that name, or `h @ W^T`: `apply(name, h, transposed)`.
Apply = Callable[..., Tensor]


class Factors(NamedTuple):
    """Components of one weight matrix as sums of rank-one terms, `P_c = U_c V_c` (APD Eq. 24).

    Attributes:
        u: `[n_runs, n_in, n_components, n_terms]`, so that all terms of all components are the columns of one matrix.
        v: `[n_runs, n_components, n_terms, n_out]`.
    """

    u: Tensor
    v: Tensor

    def total(self) -> Tensor:
        """Returns the sum of the components `[n_runs, n_in, n_out]`."""
        return self.u.flatten(2) @ self.v.flatten(1, 2)

    def each(self) -> Tensor:
        """Returns every component as a matrix `[n_runs, n_components, n_in, n_out]`."""
        return self.u.transpose(1, 2) @ self.v

    def transposed(self) -> Factors:
        """Returns the components' transposes."""
        return Factors(self.v.movedim(-1, 1), self.u.movedim(1, -1))

    def inner(self, h: Tensor) -> Tensor:
        """Returns `h U_c` of every component, `[n_runs, n_components, n_s, n_terms]`, for h `[n_runs, n_s, n_in]`."""
        return (h @ self.u.flatten(2)).unflatten(-1, self.u.shape[2:]).transpose(1, 2)


class Network(Protocol):
    """What APD needs to know of a network; of several with the same shape, whose tensors have n_runs in front."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """Weight matrices that are decomposed, `[n_runs, n_in, n_out]` by name."""
        ...

    def forward(self, x: Tensor, apply: Apply) -> tuple[Tensor, list[Tensor]]:
        """Returns outputs `[n_runs, n_s, n_o]` and hidden activations, with weight matrices applied by `apply`."""
        ...

    def effects(self, x: Tensor, weights: Mapping[str, Tensor], components: Mapping[str, Factors]) -> Tensor:
        """Returns the derivative of the outputs along each component, `[n_runs, n_components, n_s, n_o]`.

        Args:
            x: Inputs `[n_runs, n_s, n_i]`.
            weights: The parameters at which it is taken.
            components: The directions.
        """
        ...


def applied(weights: Mapping[str, Tensor]) -> Apply:
    """Returns the `apply` of whole weight matrices."""
    return lambda name, h, transposed=False: h @ (weights[name].mT if transposed else weights[name])


class TiedSuperposition(NamedTuple):
    """The toy model of superposition with tied weights, `f(x) = relu(x W W^T + b)` (APD section 3.1).

    Rows of W here are the columns of the paper's, which writes samples as columns.

    Attributes:
        w: `[n_runs, n_features, n_hidden]`.
        b: Always on, never decomposed `[n_runs, n_features]`.
    """

    w: Tensor
    b: Tensor

    @property
    def weights(self) -> dict[str, Tensor]:
        """Returns W, by name."""
        return {"W": self.w}

    def forward(self, x: Tensor, apply: Apply) -> tuple[Tensor, list[Tensor]]:
        """Returns outputs `[n_runs, n_s, n_features]` and no hidden activations, see `Network`."""
        return torch.relu(apply("W", apply("W", x), transposed=True) + self.b[:, None]), []

    def effects(self, x: Tensor, weights: Mapping[str, Tensor], components: Mapping[str, Factors]) -> Tensor:
        """Returns `relu'(y) (x P_c W^T + x W P_c^T)`, see `Network`."""
        w, p = weights["W"], components["W"].each()
        open_ = (x @ w @ w.mT + self.b[:, None] > 0).to(x)
        # Both parts read x, so that they are one matrix for each component: a single product with all of them.
        both = p @ w.mT[:, None]
        both = (both + both.mT).movedim(1, 2)
        moved = (x @ both.flatten(2)).unflatten(-1, both.shape[2:])
        return (moved * open_[:, :, None]).transpose(1, 2)


class Chain(NamedTuple):
    """Linear layers one behind the other, the toy networks of the L3D paper: `h_l = act_l(h_(l-1) W_l + b_l)`.

    Attributes:
        w: Of each layer `[n_runs, n_in, n_out]`.
        b: Of each layer `[n_runs, n_out]`, always on; zeros for none.
        activations: Of each layer 'none', 'relu', 'gelu' or 'elu'.
    """

    w: tuple[Tensor, ...]
    b: tuple[Tensor, ...]
    activations: tuple[str, ...]

    @property
    def weights(self) -> dict[str, Tensor]:
        """Returns the layers' matrices as W.0, W.1 and so on."""
        return {f"W.{i}": w for i, w in enumerate(self.w)}

    def forward(self, x: Tensor, apply: Apply) -> tuple[Tensor, list[Tensor]]:
        """Returns outputs and the activations of all layers but the last, see `Network`."""
        hidden = [x]
        for i, (b, name) in enumerate(zip(self.b, self.activations, strict=True)):
            hidden.append(ACTIVATIONS[name][0](apply(f"W.{i}", hidden[-1]) + b[:, None]))
        return hidden[-1], hidden[1:-1]

    def effects(self, x: Tensor, weights: Mapping[str, Tensor], components: Mapping[str, Factors]) -> Tensor:
        """Returns the outputs' derivatives layer by layer, see `Network`."""
        h, moved = x, 0
        for i, (b, name) in enumerate(zip(self.b, self.activations, strict=True)):
            w, own = weights[f"W.{i}"], components[f"W.{i}"]
            moved = own.inner(h) @ own.v + (moved @ w[:, None] if i else 0)
            opened = h @ w + b[:, None]
            activation, derivative = ACTIVATIONS[name]
            h, moved = activation(opened), moved * derivative(opened)[:, None]
        return moved


class ResidualMLP(NamedTuple):
    """MLP layers on a residual stream between fixed embeddings, ReLU inside (APD sections 3.2, 3.3 and App. B.1).

    `z_0 = x E`, `z_(l+1) = z_l + relu(z_l W_in + b) W_out`, `f(x) = z_L R`. Embeddings and biases are not decomposed.

    Attributes:
        embed: E `[n_runs, n_i, n_resid]`.
        w_in: Of each layer `[n_runs, n_resid, n_mlp]`.
        b: Of each layer `[n_runs, n_mlp]`; zeros for none.
        w_out: Of each layer `[n_runs, n_mlp, n_resid]`.
        unembed: R `[n_runs, n_resid, n_o]`.
    """

    embed: Tensor
    w_in: tuple[Tensor, ...]
    b: tuple[Tensor, ...]
    w_out: tuple[Tensor, ...]
    unembed: Tensor

    @property
    def weights(self) -> dict[str, Tensor]:
        """Returns the layers' matrices as W_in.0, W_out.0, W_in.1 and so on."""
        layers = enumerate(zip(self.w_in, self.w_out, strict=True))
        return {f"{kind}.{i}": w for i, pair in layers for kind, w in zip(("W_in", "W_out"), pair, strict=True)}

    def forward(self, x: Tensor, apply: Apply) -> tuple[Tensor, list[Tensor]]:
        """Returns outputs `[n_runs, n_s, n_o]` and each layer's activations behind the ReLU, see `Network`."""
        z, hidden = x @ self.embed, []
        for i, b in enumerate(self.b):
            hidden.append(torch.relu(apply(f"W_in.{i}", z) + b[:, None]))
            z = z + apply(f"W_out.{i}", hidden[-1])
        return z @ self.unembed, hidden

    def outputs(self, x: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Returns the outputs `[n_runs, n_s, n_o]`, without ever forming a residual stream, see `effects`.

        Args:
            x: Inputs `[n_runs, n_s, n_i]`.
            weights: To be used instead of the network's own.
        """
        weights = self.weights if weights is None else weights
        written, wrote = x, self.embed
        for i, b in enumerate(self.b):
            a = torch.relu(written @ (wrote @ weights[f"W_in.{i}"]) + b[:, None])
            written, wrote = torch.cat([written, a], -1), torch.cat([wrote, weights[f"W_out.{i}"]], 1)
        return written @ (wrote @ self.unembed)

    def effects(self, x: Tensor, weights: Mapping[str, Tensor], components: Mapping[str, Factors]) -> Tensor:
        """Returns the outputs' derivatives, see `Network`, without ever forming a residual stream.

        The stream is a sum of what was written to it, `z = [x, a_0, a_1, ...] [E; W_out.0; W_out.1; ...]`, and is
        seen only through the matrices that read it: the W_in of later layers and R. So U and V are multiplied with
        these, once for all samples, and the stream's many axes are gone.
        """
        written, wrote = x, self.embed
        moved: list[tuple[Tensor, Tensor]] = []  # What moves along each component, and the matrix it goes through.
        for i, b in enumerate(self.b):
            w_in, w_out = weights[f"W_in.{i}"], weights[f"W_out.{i}"]
            into, out = components[f"W_in.{i}"], components[f"W_out.{i}"]
            opened = written @ (wrote @ w_in) + b[:, None]
            seen = Factors((wrote @ into.u.flatten(2)).unflatten(-1, into.u.shape[2:]), into.v)
            slope = seen.inner(written) @ into.v
            slope = slope + _read(moved, w_in) if moved else slope
            a = torch.relu(opened)
            moved += [(slope * (opened > 0).to(x)[:, None], w_out[:, None]), (out.inner(a), out.v)]
            written, wrote = torch.cat([written, a], -1), torch.cat([wrote, w_out], 1)
        return _read(moved, self.unembed)


def _read(moved: list[tuple[Tensor, Tensor]], reader: Tensor) -> Tensor:
    """Returns what a matrix that reads the stream sees of the parts that move, `[n_runs, n_components, n_s, n_out]`.

    Args:
        moved: Pairs of a part `[n_runs, n_components, n_s, n]` and what writes it to the stream
            `[n_runs, n_components or 1, n, n_resid]`.
        reader: `[n_runs, n_resid, n_out]`.
    """
    parts, writers = zip(*moved, strict=True)
    seen = [(writer @ reader[:, None]).expand(-1, parts[0].shape[1], -1, -1) for writer in writers]
    return torch.cat(parts, -1) @ torch.cat(seen, 2)  # One product of long rows is faster than the sum of several.

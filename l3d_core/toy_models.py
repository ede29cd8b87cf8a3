"""The networks of the toy tasks and the inputs they are trained on (paper section 3 and App. B.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

P_ACTIVE = 0.05


class Superposition(nn.Module):
    """The toy model of superposition, `f(x) = relu(x W_in W_out + b)` (paper section 3.1.1).

    Trained with tied weights, decomposed with W_in and W_out as separate parameters, as the authors did.

    Args:
        w_in: Embeddings of the features `[n_features, n_hidden]`.
        b: Output bias `[n_features]`.
        tied: Keep W_out as the transpose of W_in instead of a parameter of its own.
    """

    def __init__(self, w_in: Tensor, b: Tensor, *, tied: bool = False) -> None:
        super().__init__()
        self.W_in = nn.Parameter(w_in.clone())
        self.W_out = None if tied else nn.Parameter(w_in.mT.contiguous().clone())
        self.b = nn.Parameter(b.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Returns outputs `[n, n_features]` for inputs of the same shape."""
        w_out = self.W_in.mT if self.W_out is None else self.W_out
        return torch.relu(x @ self.W_in @ w_out + self.b)


class Perceptron(nn.Module):
    """One hidden layer without a nonlinearity of its own, `f(x) = relu(x W_in W_out + b)` (paper sections 3.2, 3.3).

    Args:
        w_in: `[n_features, n_hidden]`.
        w_out: `[n_hidden, n_o]`.
        b: Output bias `[n_o]`.
    """

    def __init__(self, w_in: Tensor, w_out: Tensor, b: Tensor) -> None:
        super().__init__()
        self.W_in, self.W_out, self.b = (nn.Parameter(w.clone()) for w in (w_in, w_out, b))

    def forward(self, x: Tensor) -> Tensor:
        """Returns outputs `[n, n_o]` for inputs `[n, n_features]`."""
        return torch.relu(x @ self.W_in @ self.W_out + self.b)


class DeepPerceptron(nn.Module):
    """Linear layers with a nonlinearity between them, the squaring network of paper section 3.4.

    Args:
        weights: Of each layer `[n_o, n_i]`.
        biases: Of each layer `[n_o]`.
        activation: 'gelu' between the layers, as the paper has it; or 'elu' after every layer, the last one too, as
            the authors' code had it.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str = "gelu") -> None:
        super().__init__()
        self.layers, self.activation = nn.ModuleList(), activation
        for w, b in zip(weights, biases, strict=True):
            layer = nn.utils.skip_init(nn.Linear, w.shape[1], w.shape[0])
            layer.weight.data, layer.bias.data = w.clone(), b.clone()
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Returns outputs `[n, n_o]` for inputs `[n, n_i]`."""
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.activation == "elu":
                x = F.elu(x)
            elif i + 1 < len(self.layers):
                x = F.gelu(x)
        return x

    def extra_repr(self) -> str:
        """Returns the nonlinearity, so that networks that differ in it look different."""
        return f"activation={self.activation!r}"


def sparse_inputs(n: int, n_features: int, p_active: float = P_ACTIVE, *, seed: int = 0) -> Tensor:
    """Returns random sparse inputs, uniform in [0, 1] where active, none of them all zero (paper App. B.2).

    The paper calls p_active "sparsity". Rows without an active feature are dropped, as the authors' code did,
    so that a feature is active in `p / (1 - (1 - p)^n_features)` of the rows.

    Args:
        n: Rows wanted.
        n_features: Length of a row.
        p_active: Probability that a feature is active, before empty rows are dropped; in (0, 1].
        seed: Seeds the draw.

    Returns:
        `[n, n_features]`, float32.

    Raises:
        ValueError: p_active outside (0, 1], or sizes below 1.
    """
    if n < 1 or n_features < 1 or not 0 < p_active <= 1:
        raise ValueError(f"n {n}, n_features {n_features}, p_active {p_active}; expected n >= 1, p_active in (0, 1].")
    generator = torch.Generator().manual_seed(seed)
    found, rows = 0, []
    while found < n:
        values = torch.rand(n, n_features, generator=generator)
        active = torch.rand(n, n_features, generator=generator) < p_active
        kept = (values * active)[active.any(1)]
        rows.append(kept)
        found += len(kept)
    return torch.cat(rows)[:n]


def grouped_inputs(n: int, n_groups: int, group_size: int, p_active: float = P_ACTIVE, *, seed: int = 0) -> Tensor:
    """Returns sparse inputs whose consecutive features are active in groups (paper section 3.3.1).

    Args:
        n: Rows wanted.
        n_groups: Groups, each active or not as one; rows without an active group are dropped.
        group_size: Features of a group, uniform in [0, 1] independently of each other where it is active.
        p_active: Probability that a group is active, before empty rows are dropped; in (0, 1].
        seed: Seeds the draw.

    Returns:
        `[n, n_groups * group_size]`, float32.

    Raises:
        ValueError: See `sparse_inputs`.
    """
    on = sparse_inputs(n, n_groups, p_active, seed=seed) > 0
    values = torch.rand(n, n_groups, group_size, generator=torch.Generator().manual_seed(2**23 + seed))
    return (values * on[:, :, None]).flatten(1)


def signed_inputs(n: int, n_features: int, p_active: float = P_ACTIVE, *, seed: int = 0) -> Tensor:
    """Returns sparse inputs, uniform in [-1, 1] where active (paper App. B.2); otherwise see `sparse_inputs`."""
    sign = torch.rand(n, n_features, generator=torch.Generator().manual_seed(2**23 + seed)) < 0.5
    return sparse_inputs(n, n_features, p_active, seed=seed) * (1 - 2 * sign.float())


def active_share(n_features: int, p_active: float = P_ACTIVE) -> float:
    """Returns the share of the rows of `sparse_inputs` in which a feature is active: p / (1 - (1 - p)^n_features)."""
    return p_active / (1 - (1 - p_active) ** n_features)

"""APD written out in loops over runs, samples and components: slow, and obviously what the paper says."""

import torch
from torch import Tensor

from l3d_core.baselines.apd_networks import Network, applied


def one_run(network: Network, run: int) -> Network:
    """The network of one run, as a stack of one."""
    return type(network)(
        *(tuple(t[run : run + 1] for t in part) if isinstance(part, tuple) and isinstance(part[0], Tensor)
          else part[run : run + 1] if isinstance(part, Tensor) else part for part in network)
    )  # fmt: skip


def matrices(components, run: int) -> list[dict[str, Tensor]]:
    """P_c of every weight matrix of one run, a dict for each component, as the sum of outer products of Eq. 20."""
    found = []
    for c in range(next(iter(components.values())).v.shape[1]):
        p = {}
        for name, own in components.items():
            p[name] = sum(torch.outer(own.u[run, :, c, m], own.v[run, c, m]) for m in range(own.v.shape[2]))
        found.append(p)
    return found


def output(network: Network, run: int, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Outputs of one sample with other weight matrices."""
    one = one_run(network, run)
    return one.forward(x[None, None], applied({name: w[None] for name, w in weights.items()}))[0][0, 0]


def hidden(network: Network, run: int, weights: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """Hidden activations of one sample."""
    one = one_run(network, run)
    return [h[0, 0] for h in one.forward(x[None, None], applied({name: w[None] for name, w in weights.items()}))[1]]


def attribution(network: Network, run: int, at: dict[str, Tensor], p: dict[str, Tensor], x: Tensor) -> float:
    """Eq. 8, a backward pass for every output."""
    at = {name: w.detach().clone().requires_grad_() for name, w in at.items()}
    y, squares = output(network, run, at, x), 0.0
    for o in range(len(y)):
        slopes = torch.autograd.grad(y[o], list(at.values()), retain_graph=True)
        squares += float(sum((slope * p[name]).sum() for slope, name in zip(slopes, at, strict=True))) ** 2
    return (squares / len(y)) ** 0.5

"""Two plain ways to take the same training step, to measure the package against: as published, and as in a textbook.

`Published` is the algorithm of the authors' code, written anew from a description of it: per-sample gradients as a
Jacobian over all outputs of a batch, a separate tensor for every core and factor, einsums of all operands, a full
sort for the threshold, and a loop over subnetworks and tensors to normalise. `Textbook` is what one would write
today without a thought for cost: vmap(grad), dense directions, matrix products and autograd. Both take the steps of
the settings `code` (loss 'recon_sq', one entry more than k, 'tensor_sum', Adam).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import kl_div, log_softmax
from torch.utils._python_dispatch import TorchDispatchMode

from l3d_core.gradients import select_parameters
from l3d_core.l3d import L3DConfig
from l3d_core.tucker import Layout, TuckerDirections, resolve_ranks

STAGES = ("gradients", "encode", "keep", "decode", "loss", "backward", "adam_", "normalise_")


def half_reference_mse(y: Tensor, y_ref: Tensor) -> Tensor:
    """Returns mean(y (y - y_ref)) over outputs, `[..., n_o]` to `[...]`: its gradient is (2y - y_ref) / n_o."""
    return (y * (y - y_ref)).mean(-1)


def kl(y: Tensor, y_ref: Tensor) -> Tensor:
    """Returns KL(reference || model) of logits, `[..., n_o]` to `[...]`."""
    return kl_div(log_softmax(y, -1), log_softmax(y_ref, -1), reduction="none", log_target=True).sum(-1)


DIVERGENCES = {"half_reference_mse": half_reference_mse, "kl": kl}


@dataclass(frozen=True)
class Problem:
    """What is decomposed.

    Attributes:
        model: The target, in evaluation mode.
        w0: The decomposed parameters, `[*shape]` each.
        rest: All other parameters, likewise; constants, or autograd would follow them too.
        divergence: `(y, y_ref) -> D`, `[..., n_o]` to `[...]`.
        config: Settings of the kind `code`.
        layout: Where the numbers of a direction lie.
        n_positions: Samples that each input gives.
    """

    model: nn.Module
    w0: dict[str, Tensor]
    rest: dict[str, Tensor]
    divergence: Callable[[Tensor, Tensor], Tensor]
    config: L3DConfig
    layout: Layout
    n_positions: int

    def outputs(self, w: dict[str, Tensor], x: Tensor) -> Tensor:
        """Returns f(x, W) with one row per sample: `[n, ...]` to `[n * n_positions, n_o]`."""
        with sdpa_kernel(SDPBackend.MATH):
            y = functional_call(self.model, self.rest | w, (x,))
        return (y if isinstance(y, Tensor) else y.logits).flatten(0, -2)


def build_problem(
    model: nn.Module, inputs: Tensor, divergence: str, config: L3DConfig, parameters: str | Sequence[str] = "*"
) -> Problem:
    """Returns the problem of decomposing a model.

    Args:
        model: The target.
        inputs: `[n, ...]`.
        divergence: 'half_reference_mse' or 'kl'.
        config: Settings of the kind `code`.
        parameters: Name patterns of the parameters to decompose.

    Raises:
        ValueError: Settings that the baselines do not have.
    """
    expected = {"loss": "recon_sq", "v_out_norm": "tensor_sum", "weight_decay": 0.0, "form": "tucker",
                "reference": "sample", "encoder_init": "copy", "revival": 0.0}  # fmt: skip
    for name, value in expected.items():
        if getattr(config, name) != value:
            raise ValueError(f"{name} is {getattr(config, name)!r}; expected {value!r}, as in the code.")
    w0 = {name: w.detach() for name, w in select_parameters(model, parameters).items()}
    shapes = {name: tuple(w.shape) for name, w in w0.items()}
    layout = Layout(shapes, resolve_ranks(shapes, config.rank))
    rest = {name: w.detach() for name, w in model.named_parameters() if name not in w0}
    problem = Problem(model, w0, rest, DIVERGENCES[divergence], config, layout, n_positions=1)
    with torch.no_grad():
        return replace(problem, n_positions=len(problem.outputs(w0, inputs[:1])))


def start_values(problem: Problem, generator: torch.Generator) -> Tensor:
    """Returns the numbers a run starts from, `[2, n_v, n_numbers]`: V_in a copy of the once normalised V_out."""
    v_out = problem.layout.draw(problem.config.n_v, generator)
    problem.layout.draw(problem.config.n_v, generator)  # What a run would draw for V_in if that were no copy.
    v_out = TuckerDirections(problem.layout, v_out).normalised("tensor_sum").flat
    return torch.stack([v_out, v_out]).to(next(iter(problem.w0.values())))


class Batch(NamedTuple):
    """One step's draws.

    Attributes:
        epoch: Epochs done before.
        chosen: Indices of its inputs `[n]`.
        partners: Each sample's reference `[n * n_positions]`.
    """

    epoch: int
    chosen: Tensor
    partners: Tensor


def draw_batches(problem: Problem, n: int, generator: torch.Generator) -> Iterator[Batch]:
    """Yields the batches of all epochs over n inputs, in the order in which a run draws them."""
    for epoch in range(problem.config.epochs):
        for chosen in torch.randperm(n, generator=generator).split(problem.config.batch_size):
            n_s = len(chosen) * problem.n_positions
            yield Batch(epoch, chosen, torch.randint(n_s, (n_s,), generator=generator))


class Published:
    """The algorithm as published: every stage written out on full tensors.

    Differs from the description: the denominator of the loss has no 1e-10, dense epochs keep all entries and not
    0.999 of them, and no cache of the accelerator is emptied.

    Args:
        problem: What is decomposed.
        start: Numbers of V_in and V_out `[2, n_v, n_numbers]`.
        chunk_size: Outputs whose gradients are formed at once; None for all.
    """

    def __init__(self, problem: Problem, start: Tensor, chunk_size: int | None = None) -> None:
        self.problem, self.chunk_size, self.steps = problem, chunk_size, 0
        self.v_in, self.v_out = (self._pieces(side) for side in start)
        trained = [t for side in (self.v_in, self.v_out) for pieces in side.values() for t in pieces]
        self.optimiser = torch.optim.Adam(trained, lr=problem.config.lr)

    def _pieces(self, numbers: Tensor) -> dict[str, list[Tensor]]:
        """Returns core `[r_1, ..., r_m, n_v]` and factors `[r_d, n_d, n_v]` from `[n_v, n_numbers]`."""
        found, start = {}, 0
        for name, shapes in self.problem.layout.pieces.items():
            found[name] = []
            for shape in shapes:
                part = numbers[:, start : start + math.prod(shape)].reshape(-1, *shape)
                found[name].append(part.movedim(0, -1).clone(memory_format=torch.contiguous_format).requires_grad_())
                start += math.prod(shape)
        return found

    def numbers(self) -> Tensor:
        """Returns V_in and V_out in the package's order, `[2, n_v, n_numbers]`."""
        sides = ([t.detach().movedim(-1, 0).flatten(1) for ts in side.values() for t in ts]
                 for side in (self.v_in, self.v_out))  # fmt: skip
        return torch.stack([torch.cat(list(parts), 1) for parts in sides])

    def gradients(self, x: Tensor, partners: Tensor) -> dict[str, Tensor]:
        """Returns every sample's gradients, `[n_s, *shape]` each, as the Jacobian of all divergences of the batch."""

        def divergences(w: dict[str, Tensor]) -> Tensor:
            y = self.problem.outputs(w, x)
            return self.problem.divergence(y, y.detach()[partners])

        return jacrev(divergences, chunk_size=self.chunk_size)(self.problem.w0)

    def encode(self, g: dict[str, Tensor]) -> Tensor:
        """Returns the coefficients z, `[n_s, n_v]`: one einsum of core, factors and gradient for each tensor."""
        z = 0
        for name, pieces in self.v_in.items():
            axes, operands = subscripts(pieces)
            z = z + torch.einsum(f"{operands},n{axes}->nv", *pieces, g[name])
        return z

    def keep(self, z: Tensor, dense: bool) -> Tensor:
        """Returns z `[n_s, n_v]` with all but its largest entries set to 0; the threshold comes from a full sort."""
        count = z.numel() if dense else self.problem.config.k_count(len(z))
        threshold = z.detach().abs().flatten().sort(descending=True).values[count - 1]
        return z * (z.abs() >= threshold)

    def decode(self, z: Tensor) -> dict[str, Tensor]:
        """Returns the reconstructed gradients, `[n_s, *shape]` each, from coefficients `[n_s, n_v]`."""
        g_hat = {}
        for name, pieces in self.v_out.items():
            axes, operands = subscripts(pieces)
            g_hat[name] = torch.einsum(f"nv,{operands}->n{axes}", z, *pieces)
        return g_hat

    def loss(self, g: dict[str, Tensor], g_hat: dict[str, Tensor]) -> Tensor:
        """Returns the error's sum of squares over that of the gradients, over samples and tensors."""
        error = sum(((g_hat[name] - g[name]) ** 2).sum() for name in g)
        return error / sum((part**2).sum() for part in g.values())

    def backward(self, loss: Tensor) -> None:
        """Forms the gradients of all cores and factors."""
        self.optimiser.zero_grad()
        loss.backward()

    def adam_(self, lr: float) -> None:
        """Takes the optimiser's step."""
        self.optimiser.param_groups[0]["lr"] = lr
        self.optimiser.step()

    @torch.no_grad()
    def normalise_(self) -> None:
        """Divides each V_out by the root of the sum of its tensors' norms, one subnetwork and tensor at a time."""
        full = {}
        for name, pieces in self.v_out.items():
            axes, operands = subscripts(pieces)
            full[name] = torch.einsum(f"{operands}->v{axes}", *pieces)
        for v in range(self.problem.config.n_v):
            root = sum((tensor[v] ** 2).sum() ** 0.5 for tensor in full.values()) ** 0.5
            for pieces in self.v_out.values():
                for piece in pieces:
                    piece[..., v] = piece[..., v] / root ** (1 / len(pieces))

    def step(self, x: Tensor, partners: Tensor, epoch: int = 0) -> Tensor:
        """Takes one step.

        Args:
            x: The batch's inputs `[n, ...]`.
            partners: Each sample's reference `[n * n_positions]`.
            epoch: Epochs done before; dense epochs and the learning rate depend on it.

        Returns:
            The loss before the step.
        """
        config = self.problem.config
        g = self.gradients(x, partners)
        z = self.keep(self.encode(g), epoch < config.dense_epochs)
        loss = self.loss(g, self.decode(z))
        self.backward(loss)
        self.adam_(config.lr_at(epoch, self.steps))
        self.normalise_()
        self.steps += 1
        return loss.detach()


def subscripts(pieces: list[Tensor]) -> tuple[str, str]:
    """Returns a tensor's axes and the operands of a Tucker product, such as 'ab' and 'ABv,Aav,Bbv'."""
    axes = "abcdefgh"[: len(pieces) - 1]
    return axes, ",".join([f"{axes.upper()}v", *(f"{axis.upper()}{axis}v" for axis in axes)])


class Textbook:
    """The step as a textbook would have it: vmap(grad), dense directions, matrix products and autograd.

    Args:
        problem: What is decomposed.
        start: Numbers of V_in and V_out `[2, n_v, n_numbers]`.
        chunk_size: Inputs whose gradients are formed at once; None for all.
    """

    def __init__(self, problem: Problem, start: Tensor, chunk_size: int | None = None) -> None:
        self.problem, self.chunk_size, self.steps = problem, chunk_size, 0
        self.v_in, self.v_out = (side.clone().requires_grad_() for side in start)
        self.optimiser = torch.optim.Adam([self.v_in, self.v_out], lr=problem.config.lr)

    def numbers(self) -> Tensor:
        """Returns V_in and V_out in the package's order, `[2, n_v, n_numbers]`."""
        return torch.stack([self.v_in.detach(), self.v_out.detach()])

    def gradients(self, x: Tensor, partners: Tensor) -> Tensor:
        """Returns every sample's gradient `[n_s, n_w]`, the positions of one input by their Jacobian."""
        problem, w0 = self.problem, self.problem.w0
        with torch.no_grad():
            y_ref = problem.outputs(w0, x)[partners].unflatten(0, (len(x), problem.n_positions))

        def divergences(w: dict[str, Tensor], x: Tensor, y_ref: Tensor) -> Tensor:
            found = problem.divergence(problem.outputs(w, x[None]), y_ref)
            return found[0] if problem.n_positions == 1 else found

        of_one_input = grad(divergences) if problem.n_positions == 1 else jacrev(divergences)
        g = vmap(of_one_input, in_dims=(None, 0, 0), chunk_size=self.chunk_size)(w0, x, y_ref)
        return torch.cat([part.reshape(len(partners), -1) for part in g.values()], 1)

    def encode(self, g: Tensor) -> Tensor:
        """Returns the coefficients z, `[n_s, n_v]`."""
        return g @ dense_rows(self.problem.layout, self.v_in).mT

    def keep(self, z: Tensor, dense: bool) -> Tensor:
        """Returns z `[n_s, n_v]` with all but its largest entries set to 0."""
        if dense:
            return z
        size = z.detach().abs()
        return z * (size >= size.flatten().topk(self.problem.config.k_count(len(z))).values[-1])

    def decode(self, z: Tensor) -> Tensor:
        """Returns the reconstructed gradients `[n_s, n_w]` from coefficients `[n_s, n_v]`."""
        return z @ dense_rows(self.problem.layout, self.v_out)

    def loss(self, g: Tensor, g_hat: Tensor) -> Tensor:
        """Returns the error's sum of squares over that of the gradients."""
        return (g - g_hat).square().sum() / g.square().sum()

    @torch.no_grad()
    def normalise_(self) -> None:
        """Divides all V_out by the root of the sum of their tensors' norms, at once."""
        layout = self.problem.layout
        root = sum(t.flatten(1).norm(dim=1) for t in dense_tensors(layout, self.v_out).values()).sqrt()
        self.v_out /= root[:, None] ** layout.shares().to(root)

    backward, adam_, step = Published.backward, Published.adam_, Published.step


def dense_tensors(layout: Layout, numbers: Tensor) -> dict[str, Tensor]:
    """Returns the full tensors `[n_v, *shape]` of each direction: the core times one factor after the other."""
    tensors, n_v = {}, len(numbers)
    flat = iter(numbers.split([math.prod(piece) for pieces in layout.pieces.values() for piece in pieces], -1))
    for name, pieces in layout.pieces.items():
        tensor, *factors = (next(flat).reshape(n_v, *piece) for piece in pieces)
        for factor in factors:  # Each product removes the first axis and appends the full one at the end.
            rest = tensor.shape[2:]
            tensor = tensor.reshape(n_v, factor.shape[1], -1).mT
            tensor = tensor * factor if factor.shape[1] == 1 else tensor @ factor
            tensor = tensor.reshape(n_v, *rest, factor.shape[2])
        tensors[name] = tensor
    return tensors


def dense_rows(layout: Layout, numbers: Tensor) -> Tensor:
    """Returns directions as rows `[n_v, n_w]` from `[n_v, n_numbers]`."""
    return torch.cat([t.flatten(1) for t in dense_tensors(layout, numbers).values()], 1)


Baseline = Published | Textbook


def train(baseline: Baseline, inputs: Tensor, generator: torch.Generator, max_steps: int | None = None) -> Tensor:
    """Trains a baseline in place on all its epochs, or fewer steps.

    Args:
        baseline: What to train.
        inputs: `[n, ...]`.
        generator: The run's stream, as `start_values` left it.
        max_steps: Stop after so many steps; None for all.

    Returns:
        The loss of every step.
    """
    losses = []
    for batch in draw_batches(baseline.problem, len(inputs), generator):
        if len(losses) == max_steps:
            break
        losses.append(baseline.step(inputs[batch.chosen], batch.partners.to(inputs.device), batch.epoch))
    return torch.stack(losses)


class _Count(TorchDispatchMode):
    """Counts the operations that reach the kernels."""

    n_ops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        self.n_ops += 1
        return func(*args, **(kwargs or {}))


def ops_per_step(function: Callable[[], object]) -> int:
    """Returns how many aten operations a call takes, whatever the machine is busy with.

    Args:
        function: Takes one step; call it before, so that what is made once (such as the optimiser's moments) exists.
    """
    with _Count() as count:
        function()
    return count.n_ops


def ops_by_stage(baseline: Baseline, x: Tensor, partners: Tensor) -> dict[str, int]:
    """Returns how many aten operations each of `STAGES` takes in one step.

    Args:
        baseline: Has taken a step before.
        x: Inputs of a batch `[n, ...]`.
        partners: Each sample's reference `[n * n_positions]`.
    """
    counts = {}

    def counted(stage: str, method: Callable) -> Callable:
        def call(*args: object) -> object:
            before = count.n_ops
            result = method(*args)
            counts[stage] = count.n_ops - before
            return result

        return call

    for stage in STAGES:
        setattr(baseline, stage, counted(stage, getattr(baseline, stage)))
    try:
        with _Count() as count:
            baseline.step(x, partners)
    finally:
        for stage in STAGES:
            delattr(baseline, stage)
    return counts

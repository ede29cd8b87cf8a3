"""Slow twins of the training step, the metrics and the interventions: plain loops, one sample at a time."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import torch
from torch import Tensor, nn

from l3d_core.divergences import resolve_divergence
from l3d_core.gradients import select_parameters
from l3d_core.l3d import L3DConfig
from l3d_core.training import L3D, History
from l3d_core.tucker import Layout, TuckerDirections, resolve_ranks


class Mixer(nn.Module):
    """A small smooth network with a position axis: every position sees every other."""

    def __init__(self, n_positions: int = 3, n_in: int = 3, n_out: int = 4) -> None:
        super().__init__()
        self.mix = nn.Linear(n_positions, n_positions, bias=False)
        self.up = nn.Linear(n_in, 3)
        self.down = nn.Linear(3, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[n, n_positions, n_out]` for `[n, n_positions, n_in]`."""
        return self.down(torch.tanh(self.up(self.mix(x.mT).mT)))


def mlp(seed: int, n_in: int = 4, n_hidden: int = 3, n_out: int = 4) -> nn.Module:
    """Returns a smooth two-layer network in float64 and evaluation mode."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(n_in, n_hidden), nn.Tanh(), nn.Linear(n_hidden, n_out)).double().eval()


def mixer(seed: int) -> nn.Module:
    """Returns a `Mixer` in float64 and evaluation mode."""
    torch.manual_seed(seed)
    return Mixer().double().eval()


def normal(seed: int, *shape: int) -> Tensor:
    """Returns standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def divergence_by_name(name: str, y: Tensor, r: Tensor) -> Tensor:
    """Returns the divergence of one sample `[n_o]` from its reference, as a number whose gradient in y is right."""
    n_o = len(y)
    if name == "mse":
        return sum((y[o] - r[o]) ** 2 for o in range(n_o)) / n_o
    if name == "half_reference_mse":
        return sum(y[o] * (y[o] - r[o]) for o in range(n_o)) / n_o
    if name == "kl":
        p, q = y.exp() / y.exp().sum(), r.exp() / r.exp().sum()
        return sum(q[o] * (q[o] / p[o]).log() for o in range(n_o))
    raise KeyError(name)


def reference_of(kind: str, outputs: list[Tensor], partner: int, *, probabilities: bool) -> Tensor:
    """Returns the reference output of one sample, from the outputs of all samples of its batch."""
    if kind == "sample":
        return outputs[partner]
    n_s, n_o = len(outputs), len(outputs[0])
    if kind == "mean":
        rows = [y.exp() / y.exp().sum() if probabilities else y for y in outputs]
        mean = sum(rows) / n_s
        return mean.log() if probabilities else mean
    if probabilities:
        return torch.full((n_o,), 1 / n_o, dtype=torch.float64).log()
    return torch.full((n_o,), float(sum(y.sum() for y in outputs).detach()) / (n_s * n_o), dtype=torch.float64)


def gradient_of(model: nn.Module, names: list[str], scalar: Tensor) -> Tensor:
    """Returns the gradient of one number over the named parameters, as one vector."""
    named = dict(model.named_parameters())
    return torch.cat([g.flatten() for g in torch.autograd.grad(scalar, [named[n] for n in names], retain_graph=True)])


def batch_gradients(
    model: nn.Module, names: list[str], x: Tensor, divergence: str, kind: str, partners: Tensor, given: Tensor | None
) -> list[Tensor]:
    """Returns each sample's gradient by one backward pass per sample; positions are samples of their own."""
    outputs = [position for one in x for position in model(one[None])[0].reshape(-1, model(one[None]).shape[-1])]
    fixed = [y.detach() for y in outputs]
    gradients = []
    for s, y in enumerate(outputs):
        if given is not None:
            r = given[s]
        else:
            r = reference_of(kind, fixed, int(partners[s]), probabilities=divergence == "kl")
        gradients.append(gradient_of(model, names, divergence_by_name(divergence, y, r)))
    return gradients


class SlowDirection:
    """One direction: for each tensor its core and factors as separate trained tensors."""

    def __init__(self, shapes: dict, ranks: dict, form: str, flat: Tensor) -> None:
        self.shapes, self.form, self.pieces, start = shapes, form, {}, 0
        for name, shape in shapes.items():
            sizes = [(r, n) for r, n in zip(ranks[name], shape, strict=True)]
            sizes = sizes if form == "cp" else [ranks[name], *sizes]
            self.pieces[name] = []
            for size in sizes:
                count = math.prod(size)
                self.pieces[name].append(flat[start : start + count].reshape(size).clone().requires_grad_())
                start += count

    def tensors(self) -> list[Tensor]:
        """Returns all trained tensors."""
        return [piece for pieces in self.pieces.values() for piece in pieces]

    def dense(self) -> dict[str, Tensor]:
        """Returns the full tensors: a sum of outer products over all combinations of rank indices."""
        found = {}
        for name, shape in self.shapes.items():
            core, factors = (
                (None, self.pieces[name]) if self.form == "cp" else (self.pieces[name][0], self.pieces[name][1:])
            )
            total = torch.zeros(shape, dtype=torch.float64)
            if self.form == "cp":
                choices = [(i,) * len(shape) for i in range(len(factors[0]))]
            else:
                choices = itertools.product(*(range(len(factor)) for factor in factors))
            for choice in choices:
                term = torch.ones((), dtype=torch.float64) if core is None else core[choice]
                for factor, i in zip(factors, choice, strict=True):
                    term = term[..., None] * factor[i]
                total = total + term
            found[name] = total
        return found

    def vector(self) -> Tensor:
        """Returns the full tensors one after the other."""
        return torch.cat([t.flatten() for t in self.dense().values()])

    @torch.no_grad()
    def normalise_(self, kind: str) -> None:
        """Divides by the Euclidean length, or by the root of the sum of the tensors' lengths."""
        dense = self.dense().values()
        if kind == "l2":
            divisor = math.sqrt(sum(float((t**2).sum()) for t in dense))
        else:
            divisor = math.sqrt(sum(math.sqrt(float((t**2).sum())) for t in dense))
        for pieces in self.pieces.values():
            for piece in pieces:
                piece /= divisor ** (1 / len(pieces))


def kept_by_sorting(z: list[list[float]], k_count: int) -> list[list[bool]]:
    """Returns which coefficients reach the k-th largest size."""
    sizes = sorted((abs(value) for row in z for value in row), reverse=True)
    threshold = sizes[k_count - 1]
    return [[abs(value) >= threshold and value != 0 for value in row] for row in z]


def slow_k_count(config, n_s: int) -> int:  # noqa: ANN001
    """Returns floor(k n_s n_v) + k_extra in exact arithmetic, between 1 and all."""
    count = int(Fraction(str(config.k_fraction)) * n_s * config.n_v) + config.k_extra
    return max(1, min(count, n_s * config.n_v))


def slow_reconstruction(
    gradients: list[Tensor], v_in: list[Tensor], v_out: list[Tensor], k_count: int, *, dense: bool
) -> tuple[Tensor, list[list[bool]]]:
    """Returns the squared error ratio of a batch and the mask, sample by sample (paper Eqs. 3-5)."""
    z = [[(g * v).sum() for v in v_in] for g in gradients]
    kept = kept_by_sorting([[float(value.detach()) for value in row] for row in z], k_count)
    error, size = 0, 0
    for s, g in enumerate(gradients):
        estimate = torch.zeros_like(g)
        for v in range(len(v_in)):
            if dense or kept[s][v]:
                estimate = estimate + z[s][v] * v_out[v]
        error = error + ((g - estimate) ** 2).sum()
        size = size + (g**2).sum()
    if size == 0:  # Nothing to reconstruct: no error, and nothing to learn from.
        return torch.zeros((), dtype=torch.float64, requires_grad=True).sum(), [[dense] * len(v_in)] * len(gradients)
    return error / size, [[dense or value for value in row] for row in kept]


def slow_revival(
    gradients: list[Tensor], v_in: list[Tensor], v_out: list[Tensor], kept: list[list[bool]], dead: list[bool]
) -> Tensor | int:
    """Returns the share of the gradients left once dead subnetworks rebuilt what the kept ones leave."""
    error, size = 0, 0
    for s, g in enumerate(gradients):
        left = g
        for v in range(len(v_in)):
            if kept[s][v]:
                left = left - (g * v_in[v]).sum() * v_out[v]
        left = left.detach()
        for v in range(len(v_in)):
            if dead[v] and not kept[s][v]:
                left = left - (g * v_in[v]).sum() * v_out[v]
        error = error + (left**2).sum()
        size = size + (g**2).sum()
    return error / size if size else 0


def slow_lr(config, epoch: int, step: int) -> float:  # noqa: ANN001
    """Returns the learning rate after one multiplication per decay passed."""
    lr, every = config.lr, config.lr_decay_every_steps or config.lr_decay_every_epochs
    now = step if config.lr_decay_every_steps else epoch
    for i in range(1, now + 1):
        if every and i % every == 0:
            lr = lr * config.lr_decay
    return lr


def start_slowly(shapes: dict, ranks: dict, config, generator: torch.Generator) -> tuple[list, list]:  # noqa: ANN001
    """Returns the starting directions V_in and V_out as a run of this seed draws them."""
    count = 0
    for name, shape in shapes.items():
        count += sum(r * n for r, n in zip(ranks[name], shape, strict=True))
        count += 0 if config.form == "cp" else math.prod(ranks[name])
    sides = []
    for _ in range(2):
        drawn = torch.randn(config.n_v, count, generator=generator, dtype=torch.float64) / config.n_v
        side = [SlowDirection(shapes, ranks, config.form, row) for row in drawn]
        for direction in side:
            direction.normalise_(config.v_out_norm)
        sides.append(side)
    v_out, v_in = sides
    if config.encoder_init == "copy":
        for mine, other in zip(v_in, v_out, strict=True):
            for a, b in zip(mine.tensors(), other.tensors(), strict=True):
                a.data.copy_(b.data)
    return v_in, v_out


def train_slowly(
    model: nn.Module,
    inputs: Tensor,
    divergence: str,
    config,  # noqa: ANN001
    ranks: dict,
    *,
    seed: int = 0,
    references: Tensor | None = None,
) -> dict[str, Tensor]:
    """Returns what Alg. 1 learns and records, one sample and one subnetwork at a time."""
    names, shapes = list(ranks), {n: tuple(dict(model.named_parameters())[n].shape) for n in ranks}
    generator = torch.Generator().manual_seed(seed)
    v_in, v_out = start_slowly(shapes, ranks, config, generator)
    trained = [t for side in (v_in, v_out) for direction in side for t in direction.tensors()]
    optimiser = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
    n, step = len(inputs), 0
    n_positions = model(inputs[:1])[0].reshape(-1, model(inputs[:1]).shape[-1]).shape[0]
    records = {"recon_sq": [], "recon_norm": [], "p_active": [], "steps": []}
    for epoch in range(config.epochs):
        dead = [share == 0 for share in records["p_active"][-1]] if epoch else [False] * config.n_v
        order = torch.randperm(n, generator=generator)
        losses, counts = [], torch.zeros(config.n_v, dtype=torch.float64)
        for start in range(0, n, config.batch_size):
            chosen = order[start : start + config.batch_size]
            n_s = len(chosen) * n_positions
            partners = torch.randint(n_s, (n_s,), generator=generator)
            given = None if references is None else references[chosen].reshape(n_s, -1)
            g = batch_gradients(model, names, inputs[chosen], divergence, config.reference, partners, given)
            rows = [v.vector() for v in v_in], [v.vector() for v in v_out]
            recon_sq, kept = slow_reconstruction(g, *rows, slow_k_count(config, n_s), dense=epoch < config.dense_epochs)
            optimiser.param_groups[0]["lr"] = slow_lr(config, epoch, step)
            for t in trained:  # a direction that was never kept has gradient zero, but its weights decay like others
                t.grad = torch.zeros_like(t)
            loss = recon_sq.sqrt() if config.loss == "recon_norm" else recon_sq
            (loss + config.revival * slow_revival(g, *rows, kept, dead)).backward()
            optimiser.step()
            for direction in v_out:
                direction.normalise_(config.v_out_norm)
            losses.append(float(recon_sq.detach()))
            counts += torch.tensor(kept, dtype=torch.float64).sum(0)
            step += 1
        records["recon_sq"].append(sum(losses) / len(losses))
        records["recon_norm"].append(sum(math.sqrt(loss) for loss in losses) / len(losses))
        records["p_active"].append(counts / (n * n_positions))
        records["steps"] += losses
    return {
        "v_in": torch.stack([v.vector() for v in v_in]).detach(),
        "v_out": torch.stack([v.vector() for v in v_out]).detach(),
        "recon_sq": torch.tensor(records["recon_sq"], dtype=torch.float64),
        "recon_norm": torch.tensor(records["recon_norm"], dtype=torch.float64),
        "p_active": torch.stack(records["p_active"]),
        "first_losses": torch.tensor(records["steps"], dtype=torch.float64),
    }


def slow_impact(l3d, inputs: Tensor, divergence: str, partners: list[Tensor], *, signed_mean: bool) -> Tensor:  # noqa: ANN001
    """Returns impacts by one backward pass per reference and sample (paper Eqs. 7-8)."""
    v_in, names = l3d.v_in.matrix(), l3d.parameters
    total = torch.zeros(len(partners[0]), len(v_in), dtype=torch.float64)
    for chosen in partners:
        g = batch_gradients(l3d.model, names, inputs, divergence, "sample", chosen, None)
        for s, v in itertools.product(range(len(g)), range(len(v_in))):
            z = (g[s] * v_in[v]).sum()
            total[s, v] += z if signed_mean else z.abs()
    return total.abs() / len(partners)


def slow_matching(a: Tensor, b: Tensor) -> float:
    """Returns the largest total abs(cos) over all one-to-one pairings, by trying every one."""
    if len(a) > len(b):
        a, b = b, a
    cosines = [[abs(float((x * y).sum() / (x.norm() * y.norm()))) for y in b] for x in a]
    choices = itertools.permutations(range(len(b)), len(a))
    return max(sum(cosines[i][j] for i, j in enumerate(choice)) for choice in choices)


class Shift(nn.Module):
    """The simplest target, f(x) = x + w with w = 0: its mse gradient is 2 (y - r) / n_o itself."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(n, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Returns outputs of the inputs' shape."""
        return x + self.w


def made(model: nn.Module, v_in: Tensor, v_out: Tensor, layout, *, p_active: list[float] | None = None, **settings):  # noqa: ANN001, ANN003, ANN201
    """Returns a decomposition that holds given numbers `[n_v, n_numbers]`, without training."""
    n_v = len(v_out)
    divergence = resolve_divergence(settings.pop("divergence", "mse"))
    shares = torch.tensor([p_active or [1.0] * n_v], dtype=torch.float64)
    empty = torch.zeros(1, dtype=torch.float64)
    return L3D(
        model, TuckerDirections(layout, v_in), TuckerDirections(layout, v_out), divergence,
        L3DConfig(n_v=n_v, **settings), 0, History(empty, empty, shares, empty, 0.0),
    )  # fmt: skip


def made_at_random(model: nn.Module, n_v: int, rank: int = 1, patterns="*", seed: int = 0, **settings):  # noqa: ANN001, ANN003, ANN201
    """Returns a decomposition of random directions, of length of order 1."""
    shapes = {name: tuple(w.shape) for name, w in select_parameters(model, patterns).items()}
    layout = Layout(shapes, resolve_ranks(shapes, rank))
    numbers = normal(seed + 77, 2, n_v, layout.n_numbers)
    return made(model, *numbers, layout, **settings)


def made_of_vectors(v_in: list[list[float]], v_out: list[list[float]] | None = None, **settings):  # noqa: ANN003, ANN201
    """Returns a decomposition of `Shift` whose directions are these vectors."""
    rows = [torch.tensor(v, dtype=torch.float64) for v in (v_in, v_in if v_out is None else v_out)]
    n = rows[0].shape[1]
    layout = Layout({"w": (n,)}, {"w": (1,)})
    numbers = [torch.cat([torch.ones(len(v), 1, dtype=torch.float64), v], 1) for v in rows]
    return made(Shift(n).eval(), *numbers, layout, **settings)

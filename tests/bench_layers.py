"""Steps of known sizes for the speed benchmark: one square matrix, and its loss computed directly in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from baselines import Textbook, build_problem
from bench_programs import settings
from torch import Tensor, nn

from l3d_core import L3DConfig, Run
from l3d_core.l3d import batch_top_k
from l3d_core.tucker import Layout, dense_tensors


class Averages(nn.Module):
    """A linear map, then the mean over all positions up to each, read by a fixed matrix.

    Every position is a sample that all earlier ones act on, as in a language model; or, `whole`, a text is one sample.

    Args:
        width: Inputs and outputs of the map.
        whole: Whether only the mean over all positions is read.
        n_o: Outputs.
    """

    def __init__(self, width: int, whole: bool = False, n_o: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.map, self.whole = nn.Linear(width, width, bias=False), whole
        self.map.weight.data = torch.randn(width, width, generator=generator) / width**0.5
        self.register_buffer("read", torch.randn(width, n_o, generator=generator) / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[n, T, n_o]`, or `[n, n_o]`, for inputs `[n, T, width]`."""
        y = self.map(x)
        mean = y.mean(1) if self.whole else averages(y)
        return mean @ self.read


def averages(x: Tensor) -> Tensor:
    """Returns the mean over positions up to each, `[n, T, width]` to the same."""
    return x.cumsum(1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device)[:, None]


class Shape(NamedTuple):
    """The sizes of a step.

    Attributes:
        width: Of the linear map.
        rank: Of both its axes.
        n_v: Number of subnetworks.
        n_s: Samples a step.
        n_rows: Positions that act on each sample.
        whole: Whether a text is one sample, not each of its positions.
    """

    width: int
    rank: int
    n_v: int
    n_s: int
    n_rows: int
    whole: bool = False

    def run(self) -> Run:
        """Returns a run whose batch is all of its inputs, with random given references."""
        generator = torch.Generator().manual_seed(1)
        whole = self.whole or self.n_rows == 1
        n = self.n_s if whole else self.n_s // self.n_rows
        model = Averages(self.width, whole).eval()
        x = torch.randn(n, self.n_rows, self.width, generator=generator)
        with torch.no_grad():
            references = torch.randn(model(x).shape, generator=generator)
        config = settings(self.n_v, self.rank, epochs=1, batch_size=n, dense_epochs=0)
        return Run(model, x, config, "mse", 0, references=references)


def kept_coefficients(z: Tensor, config: L3DConfig) -> Tensor:
    """Returns z with all but its largest entries set to 0."""
    return z * batch_top_k(z, config.k_count(len(z)))


def gradient_factors(run: Run) -> tuple[Tensor, Tensor]:
    """Returns d and b, `[n_s, width]` in float64: on `Averages` the gradient of sample n is `d_n b_n^T`.

    They are the sample's cotangent behind the reading matrix, and the mean of its inputs.
    """
    x, model = run.inputs.double(), copy.deepcopy(run.model).double()
    with torch.no_grad():
        y = model(x)
        d = (2 * (y - run.references.double()) / y.shape[-1]) @ model.read.mT
    return d.flatten(0, 1), averages(x).flatten(0, 1)


def direct_loss(run: Run, layout: Layout, numbers: Tensor, block_numbers: int = 2**25) -> float:
    """Returns the loss of a run on `Averages`, in float64 from whole gradients and directions.

    They are formed for a few rows of the map at a time.

    Args:
        run: One whose batch is all of its inputs.
        layout: Of its directions.
        numbers: Of encoder and decoder, `[2, n_v, n_numbers]`.
        block_numbers: How much is formed at a time.
    """
    d, b = gradient_factors(run)
    v_in, v_out = (next(iter(dense_tensors(layout, side).values())) for side in numbers)
    per_block = max(1, block_numbers // ((len(d) + len(v_in)) * b.shape[1]))
    blocks = [slice(i, i + per_block) for i in range(0, d.shape[1], per_block)]

    def gradients(rows: slice) -> Tensor:
        return (d[:, rows, None] * b[:, None]).flatten(1)

    z = sum(gradients(rows) @ v_in[:, rows].double().flatten(1).mT for rows in blocks)
    z, total, error = kept_coefficients(z, run.config), 0, 0
    for rows in blocks:
        g = gradients(rows)
        total = total + g.square().sum()
        error = error + (g - z @ v_out[:, rows].double().flatten(1)).square().sum()
    return float(error / total)


def off(loss: float, other: float) -> float:
    """Returns the relative difference of what two losses leave to one, the share of the gradients that is rebuilt."""
    return abs((1 - loss) / (1 - other) - 1)


def textbook_step(run: Run, numbers: Tensor) -> Callable[[], Tensor]:
    """Returns the textbook's step on `Averages` with its gradients there, from the numbers `[2, n_v, n_numbers]`."""
    problem = build_problem(run.model, run.inputs, "half_reference_mse", run.config)
    baseline = Textbook(problem, numbers)
    d, b = gradient_factors(run)
    g = (d[:, :, None] * b[:, None]).flatten(1).float()
    baseline.gradients = lambda x, partners: g
    return lambda: baseline.step(None, None, 1)


def series(tiny: bool) -> dict[str, tuple[str, list[Shape], float]]:
    """Returns, for each size that is varied: its field, the shapes, and the largest exponent wanted."""
    base = Shape(16, 2, 6, 32, 4) if tiny else Shape(256, 4, 100, 256, 16)
    widths = (16, 32) if tiny else (256, 512, 1024, 2048)
    n_vs = (6, 12) if tiny else (125, 250, 500, 1000)
    rows = (2, 4) if tiny else (8, 16, 32, 64)
    many = base if tiny else base._replace(n_s=2048)
    return {
        "n_w": ("width", [base._replace(width=w) for w in widths], 0.7),
        "n_v": ("n_v", [many._replace(n_v=v) for v in n_vs], 1.2),
        "T": ("n_rows", [base._replace(n_rows=t) for t in rows], 1.15),
    }


def shapes_to_plan(tiny: bool) -> list[Shape]:
    """Returns shapes on both sides of where the paths cost the same: by width, rank, n_v, rows and samples."""
    if tiny:
        return [Shape(8, 1, 4, 8, 1), Shape(8, 4, 4, 16, 8)]
    grid = [
        Shape(width, rank, n_v, 128, n_rows)
        for width in (64, 256)
        for rank in (1, 4, 25)
        for n_v in (20, 100)
        for n_rows in (1, 16, 64)
    ]
    wide = [Shape(1024, rank, 50, 64, n_rows) for rank in (4, 64) for n_rows in (1, 16)]
    samples = [Shape(256, rank, 50, n_s, 16) for rank in (4, 25) for n_s in (32, 1024)]
    images = [Shape(width, 12, 100, 32, n_rows, whole=True) for width in (96, 192) for n_rows in (49, 196)]
    return grid + wide + samples + images

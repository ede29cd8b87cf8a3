"""Models whose parts do not fit the usual picture: gradients are still those of the plain twin."""

import pytest
import torch
from cases import seeded
from plain_step import plain_fit
from reference_training import normal
from torch import nn

from l3d_core import L3DConfig, Run, fit

CONFIG = L3DConfig(n_v=3, epochs=2, batch_size=4, encoder_init="random")


class Padded(nn.Module):
    """A bag of words in which one word counts nothing; it only occurs late in the data."""

    def __init__(self):
        super().__init__()
        self.e, self.o = nn.Embedding(7, 5, padding_idx=0), nn.Linear(5, 3)

    def forward(self, x):
        return self.o(torch.tanh(self.e(x).sum(1)))


class Masked(nn.Module):
    """Words of one kind are masked by a module of its own, which runs before what is decomposed."""

    class Mask(nn.Module):
        def forward(self, x):
            return x.eq(0)

    def __init__(self):
        super().__init__()
        self.mask, self.e, self.a = self.Mask(), nn.Embedding(7, 5), nn.Linear(5, 3)

    def forward(self, x):
        mask = self.mask(x)
        return self.a(torch.tanh(self.e(x)).masked_fill(mask[..., None], 0).sum(1))


class Unread(nn.Module):
    """One layer's output is not read."""

    def __init__(self):
        super().__init__()
        self.aux, self.a = nn.Linear(4, 2), nn.Linear(4, 3)

    def forward(self, x):
        self.aux(x)
        return self.a(x)


class Scaled(nn.Module):
    """A number multiplies the output."""

    def __init__(self):
        super().__init__()
        self.scale, self.a = nn.Parameter(torch.tensor(1.5)), nn.Linear(4, 3)

    def forward(self, x):
        return self.scale * self.a(x)


class Named(nn.Module):
    """The last layer has two names."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 6)
        self.net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), self.head)

    def forward(self, x):
        return self.net(x)


class LookedInto(nn.Module):
    """The last layer's weight is looked at."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 6)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)).to(self.head.weight.dtype))


class Positions(nn.Module):
    """Positions are embedded once for all texts, without an axis of texts."""

    def __init__(self, length):
        super().__init__()
        self.tok, self.pos, self.o = nn.Embedding(9, 4), nn.Embedding(length, 4), nn.Linear(4, 3)

    def forward(self, i):
        return self.o(torch.tanh(self.tok(i) + self.pos(torch.arange(i.shape[1], device=i.device))))


class Gain(nn.Module):
    """One is added to a weight before it multiplies."""

    def __init__(self, width):
        super().__init__()
        self.w, self.o = nn.Parameter(torch.zeros(width)), nn.Linear(width, 3)

    def forward(self, x):
        return self.o(torch.tanh(x * (1.0 + self.w)))


def words(length=3, n=12):
    """Texts whose first five hold no 0."""
    draw = torch.Generator().manual_seed(3)
    x = torch.randint(1, 7, (n, length), generator=draw)
    x[5:, 0] = 0
    return x


CASES = {
    "padding late": (Padded, (), words(), "e.*"),
    "a mask that matters late": (Masked, (), words(), "a.*"),
    "an output not read": (Unread, (), normal(1, 12, 4), "*"),
    "a scalar": (Scaled, (), normal(1, 12, 4), "*"),
    "a last layer of two names": (Named, (), normal(1, 12, 4), "net.0.*"),
    "a last layer looked into": (LookedInto, (), normal(1, 12, 4), "body.*"),
    **{f"{t} positions": (Positions, (t,), words(t), "*") for t in (3, 4, 6, 8)},
    **{f"gain of {n}": (Gain, (n,), normal(1, 12, n), "*") for n in (6, 8)},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("once", [True, False])
def test_odd_models_equal_the_twin(name, once, request):
    make, sizes, inputs, parameters = CASES[name]
    if not once:
        request.getfixturevalue("batch_blocks")
    run = Run(seeded(make(*sizes)), inputs, CONFIG, "mse", 1, parameters)
    found, expected = fit([run])[0], plain_fit([run])[0]
    torch.testing.assert_close(found.history.first_losses, expected.losses[:6], rtol=1e-9, atol=0)
    for mine, theirs in zip((found.v_in.flat, found.v_out.flat), expected.numbers, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def added(x, w):
    total = torch.zeros(len(x), 3, dtype=x.dtype)
    total += x @ w
    return total


def written(x, w):
    total = torch.zeros(len(x), 3, dtype=x.dtype)
    total[:] = x @ w
    return total


def read(x, w):
    return x @ w if (x @ w).sum().item() > 0 else -x @ w


@pytest.mark.parametrize("operation", [added, written, read])
def test_an_operation_that_cannot_be_batched_is_named(operation):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x):
            return operation(x, self.a.weight.exp().mT) + self.a.bias

    run = Run(Odd().double().eval(), normal(0, 8, 4), CONFIG, "mse")
    with pytest.raises(RuntimeError, match=r"an operation that torch.func.vmap cannot batch \(.*in place and without"):
        fit([run])

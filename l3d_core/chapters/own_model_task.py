"""A small transformer that follows one of four rules, and is trained in seconds: the model of chapter 8.

It sees four letters and the name of a rule, and answers by that rule. Which samples belong together is thus known,
though nothing of it is told to a decomposition.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

LETTERS = "abcdefgh"
LENGTH = 4
RULES = {
    "first": "the first letter",
    "next": "the letter that follows the last one, a after h",
    "latest": "the letter that stands latest in the alphabet",
    "vowels": "how many of the letters are vowels",
}
VOWELS = "ae"
OUTPUTS = [*LETTERS, *map(str, range(LENGTH + 1))]
# What is decomposed: the block, without the tables that read letters in and answers out.
PARAMETERS = ("attention.*", "mlp.*")


def every_sequence() -> Tensor:
    """Returns all sequences of letters under every rule, `[n, LENGTH + 1]`: letters by index, then the rule's token."""
    letters = torch.cartesian_prod(*[torch.arange(len(LETTERS))] * LENGTH)
    return torch.cat([torch.cat([letters, torch.full((len(letters), 1), len(LETTERS) + r)], 1) for r in range(4)])


def rules_of(x: Tensor) -> Tensor:
    """Returns the rule of each sequence `[n, LENGTH + 1]`, its place in `RULES`, `[n]`."""
    return x[:, -1] - len(LETTERS)


def answers(x: Tensor) -> Tensor:
    """Returns the right answer to each sequence `[n, LENGTH + 1]`, its place in `OUTPUTS`, `[n]`."""
    letters = x[:, :LENGTH]
    vowels = torch.isin(letters, torch.tensor([LETTERS.index(v) for v in VOWELS], device=x.device)).sum(1)
    following = (letters[:, -1] + 1) % len(LETTERS)
    by_rule = torch.stack([letters[:, 0], following, letters.amax(1), len(LETTERS) + vowels], 1)
    return by_rule.gather(1, rules_of(x)[:, None]).squeeze(1)


def written(x: Tensor) -> list[str]:
    """Returns sequences `[n, LENGTH + 1]` as text, such as 'first: dach'."""
    names = list(RULES)
    return [f"{names[r]}: {''.join(LETTERS[i] for i in row)}" for row, r in zip(x[:, :-1], rules_of(x), strict=True)]


class RuleModel(nn.Module):
    """One layer of a transformer that reads from its last position, where the rule stands.

    Args:
        width: Of the residual stream.
        heads: Of the attention, a divisor of the width.
        hidden: Of the perceptron.
    """

    def __init__(self, width: int = 32, heads: int = 4, hidden: int = 64) -> None:
        super().__init__()
        self.heads = heads
        self.tokens = nn.Embedding(len(LETTERS) + len(RULES), width)
        self.places = nn.Embedding(LENGTH + 1, width)
        sides = ("query", "key", "value", "out")
        self.attention = nn.ModuleDict({side: nn.Linear(width, width, bias=False) for side in sides})
        self.mlp = nn.ModuleDict({"up": nn.Linear(width, hidden), "down": nn.Linear(hidden, width)})
        self.answer = nn.Linear(width, len(OUTPUTS), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits of the answers `[n, 13]` to sequences `[n, LENGTH + 1]`."""
        stream = self.tokens(x) + self.places.weight
        last = stream[:, -1]
        query = self.attention["query"](last).unflatten(-1, (self.heads, -1))
        key, value = (self.attention[side](stream).unflatten(-1, (self.heads, -1)) for side in ("key", "value"))
        scores = torch.einsum("nhd,nphd->nhp", query, key) / query.shape[-1] ** 0.5
        mixed = torch.einsum("nhp,nphd->nhd", scores.softmax(-1), value).flatten(1)
        last = last + self.attention["out"](mixed)
        return self.answer(last + self.mlp["down"](torch.relu(self.mlp["up"](last))))


@dataclass(frozen=True, kw_only=True)
class RuleTraining:
    """How a model learns the rules."""

    steps: int = 500
    """Steps of AdamW, the learning rate rising and falling once over all of them."""
    batch_size: int = 256
    """Sequences in a step, drawn anew each time."""
    lr: float = 0.005
    """The highest learning rate."""

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and self.batch_size >= 1 and self.lr > 0):
            raise ValueError(f"{self}; expected at least one step and one sequence in it, and lr above 0.")


@cache
def _trained(training: RuleTraining, seed: int) -> dict[str, Tensor]:
    """Returns the weights of a trained model; kept, since several studies take the same models."""
    generator = torch.Generator().manual_seed(seed)
    model, x = RuleModel().double(), every_sequence()
    # Double precision: training then ends in the same single-precision weights whatever the machine's sums round to.
    with torch.no_grad():
        for weight in model.parameters():
            start = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.copy_(start / weight.shape[-1] ** 0.5 if weight.ndim > 1 else 0 * start)
    optimiser = torch.optim.AdamW(model.parameters(), training.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, training.lr, total_steps=training.steps)
    for _ in range(training.steps):
        batch = x[torch.randint(len(x), (training.batch_size,), generator=generator)]
        optimiser.zero_grad()
        F.cross_entropy(model(batch), answers(batch)).backward()
        optimiser.step()
        schedule.step()
    return {name: weight.detach() for name, weight in model.state_dict().items()}


def train(training: RuleTraining | None = None, seed: int = 0) -> RuleModel:
    """Returns a model that has learnt the rules, in evaluation mode.

    Args:
        training: How; None for the chapter's way.
        seed: Seeds starting weights and batches.
    """
    model = RuleModel()
    model.load_state_dict(_trained(RuleTraining() if training is None else training, seed))
    return model.eval()


def accuracy(model: nn.Module) -> Tensor:
    """Returns the share of right answers under each rule over all sequences there are, `[n_rules]`."""
    x = every_sequence().to(next(model.parameters()).device)
    with torch.no_grad():
        right = (model(x).argmax(1) == answers(x)).double()
    return right.unflatten(0, (len(RULES), -1)).mean(1).cpu()


class Task(NamedTuple):
    """A trained model with what it is decomposed on.

    Attributes:
        seed: Of its training.
        model: In evaluation mode.
        inputs: What it is decomposed on `[n, LENGTH + 1]`.
        held_out: Other sequences, to judge by.
    """

    seed: int
    model: RuleModel
    inputs: Tensor
    held_out: Tensor


def make_task(seed: int, n: int = 1024, n_held_out: int = 2048, training: RuleTraining | None = None) -> Task:
    """Returns a trained model, with two sets of sequences that have none in common.

    Args:
        seed: Seeds training and the choice of sequences.
        n: Sequences to decompose on.
        n_held_out: Sequences to judge by.
        training: See `train`.

    Raises:
        ValueError: There are not so many different sequences.
    """
    x = every_sequence()
    if not 1 <= n <= n + n_held_out <= len(x):
        raise ValueError(f"n {n} and n_held_out {n_held_out}; expected at least 1, and at most {len(x)} together.")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2**20 + seed))
    return Task(seed, train(training, seed), x[order[:n]], x[order[n : n + n_held_out]])

"""Chapter 5: what the held-out tokens of a language model are, and what its subnetworks do to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..intervention import output_gradients, top_outputs
from ..pretrained import load_language_model
from .real_chapter import RealResult
from .real_models import Language
from .real_tables import live
from .tokens import END_OF_TEXT, sentence_parts, shown, token_texts

LABELS = ("next token", "last token", "part of the sentence")


class TextCard(NamedTuple):
    """A subnetwork of a language model.

    Attributes:
        number: Its index.
        p_active: Its P_act.
        lines: For each top sample the text before its last token, that token, and the tokens moved most.
    """

    number: int
    p_active: float
    lines: list[tuple[str, str, list[str]]]


class Read(NamedTuple):
    """The held-out windows of a language model as a reader sees them.

    Attributes:
        texts: Of every token of the vocabulary, see `tokens.token_texts`.
        labels: By kind, what each held-out sample is `[n_s]`.
        groups: The window of each `[n_s]`.
    """

    texts: list[str]
    labels: dict[str, Tensor]
    groups: Tensor


def read(source: Language, device: str = "cpu") -> Read:
    """Returns labels of the held-out samples of a language model; errors are those of `Language.load`."""
    subject = source.load(device)
    _, tokenizer = load_language_model(source.model_id)
    texts = token_texts(tokenizer, len(subject.names))
    n, n_positions = subject.held_out.shape
    ids, following = subject.held_out.cpu(), subject.labels.view(n, n_positions)
    found = (subject.labels, ids.flatten(), sentence_parts(ids, following, texts))
    return Read(texts, dict(zip(LABELS, found, strict=True)), torch.arange(n).repeat_interleave(n_positions))


def story_ends(result: RealResult, words: Read) -> dict[str, str]:
    """Returns the share of held-out windows, and of the top samples of `text`, that an end of a story stands in.

    The windows join stories by the end-of-text token, after which this model never saw anything.
    """
    ends = torch.tensor([text == END_OF_TEXT for text in words.texts])[result.subject.held_out.cpu()].any(1)
    tops = result.of("top", "text")[live(result, "text")] // result.subject.held_out.shape[1]
    return {
        "ends_windows": f"{100 * float(ends.double().mean()):.1f} %",
        "ends_top": f"{100 * float(ends[tops].double().mean()):.1f} %",
    }


def text_cards(
    result: RealResult, words: Read, circuits: Sequence[int], name: str = "text",
    *, signed: bool = False, n_outputs: int = 5,
) -> list[TextCard]:  # fmt: skip
    """Returns what some subnetworks act on: their top samples and, for each, the tokens they move most (Table 2).

    Args:
        result: The chapter's.
        words: See `read`.
        circuits: Subnetworks.
        name: The decomposition.
        signed: Rank samples and tokens as the authors' code did: by the absolute value of the mean over references, and
            by the signed change of probabilities, instead of by Eqs. 8 and 10.
        n_outputs: Tokens for each sample.
    """
    l3d, kind = result.runs[name].l3d, " signed" if signed else ""
    held_out, tops = result.subject.held_out, result.of(f"top{kind}", name)
    n_positions, cards = held_out.shape[1], []
    p_active = l3d.p_active.cpu()
    for v in circuits:
        windows, positions = tops[v] // n_positions, tops[v] % n_positions
        moved = output_gradients(l3d, v, held_out[windows.to(held_out.device)], probabilities=signed).cpu()
        outputs = top_outputs(moved[torch.arange(len(windows)), positions], n_outputs, signed=signed)
        lines = []
        for window, position, logits in zip(windows.tolist(), positions.tolist(), outputs.tolist(), strict=True):
            *before, last = [shown(words.texts[i]) for i in held_out[window, : position + 1].tolist()]
            lines.append(("".join(before), last, [shown(words.texts[i]) for i in logits]))
        cards.append(TextCard(v, float(p_active[v]), lines))
    return cards

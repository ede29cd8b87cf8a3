"""Tokens as a reader sees them: their text, and the part of a sentence that each stands in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PARTS = ("mark", "first word", "inside a word", "end of a word")
# What ends a sentence, and what else is no part of a word.
END_OF_TEXT = "¶"
ENDS = f".!?{END_OF_TEXT}"
MARKS = f"{ENDS},;:-–—\"'“”‘’…()[]"


def token_texts(tokenizer: Any, n: int) -> list[str]:
    """Returns the text of every token as it stands within a text, a leading space included; special ones are "¶".

    Args:
        tokenizer: Of the model.
        n: Tokens in the model's vocabulary.
    """
    # A token by itself loses its leading space in some tokenizers; behind another one it keeps it.
    [*_, plain] = tokenizer("a", add_special_tokens=False)["input_ids"]
    start = len(tokenizer.decode([plain]))
    special = set(tokenizer.all_special_ids)
    return [END_OF_TEXT if i in special else tokenizer.decode([plain, i])[start:] for i in range(n)]


def sentence_parts(ids: Tensor, following: Tensor, texts: list[str]) -> Tensor:
    """Returns the part of a sentence that each position stands in, an index into `PARTS`.

    'mark': the token is punctuation, a line break or nothing. 'first word': it belongs to the first word after the end
    of a sentence or a line break in its window. 'inside a word': the word goes on after it. 'end of a word': the rest.

    Args:
        ids: Windows `[n, n_positions]`.
        following: The token that follows each `[n, n_positions]`.
        texts: See `token_texts`.

    Returns:
        `[n * n_positions]`, positions running fastest.
    """
    found = []
    for window, after in zip(ids.tolist(), following.tolist(), strict=True):
        words = None  # Since the end of a sentence, begun; None before the first one.
        for token, follower in zip(window, after, strict=True):
            text, then = texts[token], texts[follower]
            if not text.strip().strip(MARKS):
                ends = any(mark in text for mark in ENDS) or "\n" in text
                words = 0 if ends or words == 0 else words
                found.append(0)
                continue
            begins = text[0].isspace() or words == 0
            words = None if words is None else words + begins
            goes_on = bool(then) and not then[0].isspace() and then[0] not in MARKS
            found.append(1 if words == 1 else 2 if goes_on else 3)
    return torch.tensor(found)


def shown(text: str) -> str:
    """Returns a token's text with what cannot be seen in it made visible."""
    for hidden, mark in (("\n", "⏎"), ("\t", "⇥"), ("\r", "")):
        text = text.replace(hidden, mark)
    return "".join(c if c.isprintable() else "□" for c in text)

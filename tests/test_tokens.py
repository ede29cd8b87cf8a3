"""Tokens as a reader sees them, and the parts of sentences they stand in."""

import torch
from hub_cases import make_hub

from l3d_core.chapters.tokens import PARTS, sentence_parts, shown, token_texts
from l3d_core.pretrained import load_language_model


class Pieces:
    """A tokenizer that drops a leading space of the first token, as SentencePiece's do."""

    all_special_ids = (3,)
    words = ("a", "▁cat", "ty", "</s>")

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [self.words.index(text)]}

    def decode(self, ids):
        return "".join(self.words[i] for i in ids).replace("▁", " ").removeprefix(" ")


def test_a_leading_space_belongs_to_a_token():
    assert token_texts(Pieces(), 4) == ["a", " cat", "ty", "¶"]
    assert Pieces().decode([1]) == "cat"


def test_tokens_of_a_real_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setenv("L3D_HUB", str(tmp_path))
    make_hub(tmp_path)
    _, tokenizer = load_language_model("me/words")
    assert [text.strip() for text in token_texts(tokenizer, 6)] == ["¶", "¶", "a", "b", "c", "d"]


def test_parts_of_a_sentence_by_hand():
    texts = [" the", " dog", "gy", ".", '"', " He", " ran", "¶", "\n", "'", "s"]
    window = [0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 9, 10, 6]
    following = [*window[1:], 3]
    found = sentence_parts(torch.tensor([window]), torch.tensor([following]), texts)
    assert [PARTS[i] for i in found] == [
        "end of a word",  # The window starts somewhere: whether this word is a first one is not known.
        "inside a word", "end of a word", "mark", "mark", "first word", "end of a word", "mark", "mark",
        "first word", "mark", "first word",  # He's
        "end of a word",
    ]  # fmt: skip


def test_hidden_characters_are_shown():
    assert shown(" a\n\tb\x00") == " a⏎⇥b□"

"""A folder laid out as the Hugging Face hub: a language model of six words, texts, and small images."""

import io
import json
from pathlib import Path

import numpy
import pandas as pd
import pyarrow
import torch
from PIL import Image
from pyarrow import parquet
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["<end>", "<unk>", "a", "b", "c", "d"]
TEXTS = ["a b c", "d a", "b b b b"]


def make_hub(root: Path) -> None:
    """Writes a language model without a padding token, texts, and images of two classes."""
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=6, **sizes)).save_pretrained(root / "me" / "words")
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<unk>").save_pretrained(
        root / "me" / "words"
    )
    folder = root / "me" / "texts" / "data"
    folder.mkdir(parents=True)
    for i, text in enumerate(TEXTS):
        pd.DataFrame({"text": [text]}).to_parquet(folder / f"train-{i:05}-of-00003.parquet")
    pd.DataFrame({"text": ["d d d", "a b c d " * 3]}).to_parquet(folder / "validation-00000-of-00001.parquet")
    save_images(root / "me" / "images")


def save_images(folder, sizes=((4, 4), (4, 4), (4, 4)), column="img", names=("cat", "dog")):
    """Three images, of which the last is grey, with labels 0, 1, 1."""
    folder.mkdir(parents=True)
    rows = []
    for i, size in enumerate(sizes):
        shape = size if i == 2 else (*size, 3)
        file = io.BytesIO()
        Image.fromarray(numpy.full(shape, 10 * i + 5, dtype="uint8")).save(file, "PNG")
        rows.append({"bytes": file.getvalue(), "path": None})
    table = pyarrow.table({column: rows, "label": [0, 1, 1]})
    if names:
        facts = {"info": {"features": {"label": {"names": list(names)}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(facts)})
    parquet.write_table(table, folder / "train-00000-of-00001.parquet")

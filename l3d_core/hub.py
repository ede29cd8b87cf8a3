"""Texts and images by their ids on the Hugging Face hub, or from a folder that is laid out as the hub is."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

# What torchvision's ImageNet weights were trained with, by channel.
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Tokens(NamedTuple):
    """Windows of texts.

    Attributes:
        inputs: Token ids `[n, n_positions]`.
        tokenizer: What made them, and turns them back into text.
    """

    inputs: Tensor
    tokenizer: Any


class Images(NamedTuple):
    """Images as they are stored.

    Attributes:
        pixels: `[n, 3, height, width]`, whole numbers from 0 to 255.
        labels: The class of each `[n]`.
        names: Of the classes, by label.
    """

    pixels: Tensor
    labels: Tensor
    names: list[str]


def local_folder(hub_id: str) -> Path | None:
    """Returns where `L3D_HUB`, a folder laid out by hub ids, holds an id; None if it is not set or does not hold it.

    Raises:
        ValueError: `L3D_HUB` names no folder.
    """
    named = os.environ.get("L3D_HUB")
    if not named:
        return None
    if not Path(named).is_dir():
        raise ValueError(f"L3D_HUB is {named!r}, which is no folder; expected one laid out by hub ids. Correct it.")
    folder = Path(named) / hub_id
    return folder if folder.is_dir() else None


def unreachable(what: str, error: Exception) -> str:
    """Returns what to say of something that neither the folder nor the hub gives."""
    named = os.environ.get("L3D_HUB")
    looked = f"L3D_HUB ({named}) does not hold it" if named else "L3D_HUB is not set"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{what} cannot be loaded: {looked}, and from the network: {reason} Expected an id that exists and is open to "
        "you, and a network. Correct the id, log in (hf auth login), or put it under L3D_HUB."
    )


def load_table(hub_id: str, split: str, n: int | None = None) -> pd.DataFrame:
    """Returns the first rows of a split of a dataset that is stored as parquet files.

    Args:
        hub_id: Hub id such as 'roneneldan/TinyStories'.
        split: 'train', 'validation' or 'test': files whose names start with it are read, in order.
        n: Rows wanted; None for all. No more files are read or fetched than that takes.

    Raises:
        ImportError: pyarrow is not installed.
        OSError: Neither `L3D_HUB` nor the hub gives the dataset.
        ValueError: It has no such split.
    """
    import pandas as pd

    tables, rows = [], 0
    for path in _parquet_files(hub_id, split):
        try:
            tables.append(pd.read_parquet(path))
        except ImportError as error:
            raise ImportError("datasets need pyarrow; install it with: pip install pyarrow") from error
        rows += len(tables[-1])
        if n is not None and rows >= n:
            break
    return pd.concat(tables, ignore_index=True)[:n]


def _parquet_files(hub_id: str, split: str) -> Iterator[Path]:
    """Yields the files of a split, fetched one at a time where they come from the hub."""
    folder = local_folder(hub_id)
    if folder is not None:
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet"))
        yield from (folder / name for name in _of_split(names, hub_id, split))
        return
    from huggingface_hub import HfApi, hf_hub_download

    def fetched(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # Of the hub's client or of the HTTP library below it, which it has changed before.
            raise OSError(unreachable(f"the dataset {hub_id!r}", error)) from error

    names = sorted(fetched(lambda: HfApi().list_repo_files(hub_id, repo_type="dataset")))
    for name in _of_split(names, hub_id, split):
        yield Path(fetched(lambda name=name: hf_hub_download(hub_id, name, repo_type="dataset")))


def _of_split(names: Sequence[str], hub_id: str, split: str) -> list[str]:
    files = [name for name in names if name.endswith(".parquet")]
    found = [name for name in files if Path(name).name.startswith(split)]
    if not found:
        splits = sorted({Path(name).name.split("-")[0] for name in files})
        raise ValueError(f"{hub_id} has no split {split!r} in parquet files; expected one of {splits}.")
    return found


def load_texts(
    data_id: str, split: str, tokenizer: Any, *, n: int, n_positions: int = 16, seed: int = 0,
    rows: int | None = None, column: str = "text", apart: bool = False,
) -> Tokens:  # fmt: skip
    """Returns windows of texts (paper App. B.4), as the authors' code drew them: with replacement, from any start.

    Such windows overlap. To judge by, take them `apart`, or the same words count several times among the samples that a
    subnetwork affects most. The texts are joined, each followed by the end-of-sequence token if the tokenizer has one,
    and cut into windows without padding, so that no padding token is needed.

    Args:
        data_id: Hub id of the dataset.
        split: Its split.
        tokenizer: That of the model.
        n: Windows.
        n_positions: Tokens of a window.
        seed: Seeds the draw.
        rows: Texts to draw from, the first ones; None for all.
        column: Where the texts stand.
        apart: Draw without replacement from windows that do not overlap.

    Raises:
        ValueError: No such column, or texts shorter than one window together, or than n windows apart; and see
            `load_table`.
    """
    table = load_table(data_id, split, rows)
    if column not in table.columns:
        raise ValueError(f"{data_id} has no column {column!r}; expected one of {list(table.columns)}.")
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids = [
        token for text in table[column]
        for token in (*tokenizer(text, add_special_tokens=False)["input_ids"], *end)
    ]  # fmt: skip
    if len(ids) < n_positions:
        raise ValueError(
            f"the {len(table)} texts of {data_id} ({split}) have {len(ids)} tokens together; expected at least one "
            f"window of {n_positions}. Take more rows, or fewer positions."
        )
    generator, most = torch.Generator().manual_seed(seed), len(ids) // n_positions
    if apart and n > most:
        raise ValueError(f"n is {n}; expected at most the {most} windows of {data_id} ({split}) that do not overlap.")
    if apart:
        starts = n_positions * torch.randperm(most, generator=generator)[:n, None]
    else:
        starts = torch.randint(len(ids) - n_positions + 1, (n, 1), generator=generator)
    return Tokens(torch.tensor(ids)[starts + torch.arange(n_positions)], tokenizer)


def load_images(data_id: str, split: str, n: int | None = None) -> Images:
    """Returns the first images of a split, grey ones as RGB.

    Args:
        data_id: Hub id such as 'uoft-cs/cifar10'.
        split: Its split.
        n: Images wanted; None for all.

    Raises:
        ValueError: No image or label column, or images of several sizes; and see `load_table`.
    """
    import numpy
    from PIL import Image

    table = load_table(data_id, split, n)
    image = next((name for name in ("img", "image") if name in table.columns), None)
    label = next((name for name in ("label", "fine_label") if name in table.columns), None)
    if image is None or label is None:
        raise ValueError(
            f"{data_id} has the columns {list(table.columns)}; expected 'img' or 'image', and 'label' or 'fine_label'."
        )
    decoded = [numpy.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table[image]]
    if len({one.shape for one in decoded}) > 1:
        raise ValueError(f"the images of {data_id} have several sizes; expected one. Resize them first.")
    pixels = torch.from_numpy(numpy.stack(decoded)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(table[label].to_numpy())
    return Images(pixels, labels, _class_names(next(_parquet_files(data_id, split)), label, int(labels.max()) + 1))


def _class_names(path: Path, column: str, n: int) -> list[str]:
    """Returns the names of classes as a parquet file tells them, else their numbers."""
    from pyarrow import parquet

    facts = json.loads((parquet.read_schema(path).metadata or {}).get(b"huggingface", b"{}"))
    names = facts.get("info", {}).get("features", {}).get(column, {}).get("names")
    return list(names or map(str, range(n)))


def normalised(pixels: Tensor, size: int) -> Tensor:
    """Returns images as a torchvision network takes them: resized, and with ImageNet's mean and deviation by channel.

    Args:
        pixels: `[n, 3, height, width]`, from 0 to 255.
        size: Pixels along a side of the result.

    Returns:
        `[n, 3, size, size]`, float32.
    """
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    x = pixels.float() / 255
    if x.shape[2:] != (size, size):
        x = torch.nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True)
    return (x - mean) / std

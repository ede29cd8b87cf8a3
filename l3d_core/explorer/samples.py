"""Which samples a subnetwork is shown on, how they are shown, and how impacts spread over all of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..intervention import top_samples
from .record import Item, shortened
from .settings import ExplorerSettings

# Bins of a histogram, the smallest impact it tells apart as a share of the largest, and most values shown of a vector.
BINS, SMALLEST, MOST_VALUES = 24, 1e-4, 256


@dataclass(frozen=True)
class Shown:
    """What a reader sees of inputs.

    Attributes:
        kind: 'tokens', 'images' or 'vectors'.
        samples: Token ids or values `[n, ...]`, or pixels `[n, 3 or 1, height, width]` from 0 to 255.
        names: Of the outputs.
        labels: By kind, what each sample is: texts, which are shown, or whole numbers, by which alone coherence goes.
        captions: Of the inputs; None for none.
        input_names: Of a vector's values; None for others.
        n_positions: Samples in an input.
    """

    kind: str
    samples: Tensor
    names: Sequence[str]
    labels: Mapping[str, Sequence[str] | Tensor]
    captions: Sequence[str] | None
    input_names: Sequence[str] | None
    n_positions: int

    @property
    def per_item(self) -> int:
        """Samples that are shown as one item: all of a text, and one of anything else."""
        return self.n_positions if self.kind == "tokens" else 1

    def item(self, number: int) -> Item:
        """Returns one item as a page shows it; samples stand `per_item` to an item."""
        texts = {kind: of for kind, of in self.labels.items() if not isinstance(of, Tensor)}
        own = range(number * self.per_item, (number + 1) * self.per_item)
        label = ["; ".join(f"{kind}: {of[s]}" for kind, of in texts.items()) for s in own] if texts else None
        i, position = divmod(number * self.per_item, self.n_positions)
        name = None if self.captions is None else str(self.captions[i])
        if self.per_item < self.n_positions:
            name = f"{name or f'input {i}'}, position {position}"
        if self.kind == "tokens":
            return Item(tokens=self.samples[i].tolist(), name=name, label=label)
        if self.kind == "images":
            return Item(image=data_address(self.samples[i]), name=name, label=label)
        return Item(values=shortened(self.samples[i].flatten().double().tolist()), name=name, label=label)


def data_address(pixels: Tensor) -> str:
    """Returns an image `[3 or 1, height, width]` from 0 to 255 as a JPEG in a data address."""
    from PIL import Image

    file = io.BytesIO()
    colours = pixels.cpu().byte().expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(colours).save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def as_shown(
    inputs: Tensor, n_positions: int, n_o: int, samples: Tensor | None, names: Sequence[str] | None,
    labels: Mapping[str, Sequence[str] | Tensor] | None, captions: Sequence[str] | None,
    input_names: Sequence[str] | None,
) -> Shown:  # fmt: skip
    """Returns what a reader sees of inputs, everything checked.

    Args:
        inputs: What the model takes `[n, ...]`.
        n_positions: Samples in an input.
        n_o: Outputs of the model.
        samples: What to show instead: whole numbers `[n, n_positions]` are tokens, bytes `[n, 3 or 1, h, w]` images,
            others vectors; None for the inputs themselves.
        names: Of the outputs; None to number them.
        labels: By kind, for every sample a text or a whole number; positions run fastest.
        captions: Of the inputs.
        input_names: Of a vector's values; None to number them.

    Raises:
        ValueError: Anything of another length than it should have, or samples that cannot be shown.
    """
    samples = inputs if samples is None else samples
    if len(samples) != len(inputs):
        raise ValueError(f"got {len(samples)} samples to show for {len(inputs)} inputs; expected as many.")
    kind, n_values = _kind(samples, n_positions, n_o), samples[0].numel()
    if kind == "vectors" and n_values > MOST_VALUES:
        raise ValueError(
            f"inputs have {n_values} values each; expected at most {MOST_VALUES} to show. Pass what a reader can see "
            "as samples=, such as images of whole numbers from 0 to 255 [n, 3, height, width], of type uint8."
        )
    word = "token" if kind == "tokens" else "output"
    input_names = [f"x {i}" for i in range(n_values)] if input_names is None else list(input_names)
    found = Shown(
        kind=kind, samples=samples.detach().cpu(), labels=dict(labels or {}), captions=captions,
        names=[f"{word} {i}" for i in range(n_o)] if names is None else list(names),
        input_names=input_names if kind == "vectors" else None, n_positions=n_positions,
    )  # fmt: skip
    _check_lengths(found, len(inputs), n_o, n_values)
    return found


def _kind(samples: Tensor, n_positions: int, n_o: int) -> str:
    """Returns 'tokens', 'images' or 'vectors'; see `as_shown`."""
    if samples.dtype == torch.uint8 and samples.ndim == 4 and samples.shape[1] in (1, 3):
        return "images"
    whole = not samples.is_floating_point() and samples.ndim == 2 and samples.shape[1] == n_positions
    # Of a model that gives something else than tokens, ids would be named for what they are not.
    return "tokens" if whole and int(samples.min()) >= 0 and int(samples.max()) < n_o else "vectors"


def _check_lengths(shown: Shown, n: int, n_o: int, n_values: int) -> None:
    """Raises ValueError unless there is one name, label and caption for each thing that has one."""
    lengths = {"names of outputs": (len(shown.names), n_o)}
    lengths |= {f"labels of {kind!r}": (len(of), n * shown.n_positions) for kind, of in shown.labels.items()}
    if shown.captions is not None:
        lengths["captions"] = (len(shown.captions), n)
    if shown.input_names is not None:
        lengths["names of inputs"] = (len(shown.input_names), n_values)
    for what, (got, expected) in lengths.items():
        if got != expected:
            raise ValueError(f"got {got} {what}; expected {expected}, one for each.")
    texts = {"names": shown.names, "input_names": shown.input_names or (), "captions": shown.captions or ()}
    texts |= {f"labels of {kind!r}": of for kind, of in shown.labels.items() if not isinstance(of, Tensor)}
    for what, given in texts.items():
        wrong = [value for value in given if not isinstance(value, str)]
        if wrong:
            raise ValueError(
                f"{what} hold {wrong[0]!r}, a {type(wrong[0]).__name__}; expected texts. Pass str of each; labels that "
                "are whole numbers as a tensor."
            )


def numbered(labels: Sequence[str] | Tensor) -> Tensor:
    """Returns labels as whole numbers, equal ones for equal labels `[n_s]`."""
    if isinstance(labels, Tensor):
        return labels.cpu()
    places: dict[str, int] = {}
    return torch.tensor([places.setdefault(label, len(places)) for label in labels])


def chosen_samples(scores: Tensor, n_positions: int, settings: ExplorerSettings) -> tuple[Tensor, list[list[int]]]:
    """Returns the samples that subnetworks are shown on: those of largest impact, and random others.

    Of each text at most one sample is taken, and random ones are of texts that none of the top ones is of. They are
    drawn from the same few texts for all subnetworks, `pool`.

    Args:
        scores: Impacts `[n_s, n_v]`; those that are not finite come last.
        n_positions: Samples in a text, which stand side by side.
        settings: How many, and the seed.

    Returns:
        Top samples `[n_v, n_top]`, largest impact first, and random ones by subnetwork.
    """
    n = len(scores) // n_positions
    groups = torch.arange(n).repeat_interleave(n_positions)
    top = top_samples(known(scores), min(settings.n_samples, n), groups=groups if n_positions > 1 else None)
    texts, random = pool(n, settings), []
    for v, own in enumerate((top // n_positions).tolist()):
        generator = torch.Generator().manual_seed(settings.seed + v)
        order = torch.randperm(len(texts), generator=generator).tolist()
        others = [texts[i] for i in order if texts[i] not in own][: settings.n_samples]
        places = torch.randint(n_positions, (len(others),), generator=generator).tolist()
        random.append([text * n_positions + place for text, place in zip(others, places, strict=True)])
    return top, random


def known(scores: Tensor) -> Tensor:
    """Returns impacts with those that are not finite below all others, where they are ranked."""
    return torch.where(scores.isfinite(), scores, -1.0)


def pool(n: int, settings: ExplorerSettings) -> list[int]:
    """Returns the texts that random samples are drawn from: some of n, in a random order."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(settings.seed))
    return order[: settings.n_pool].tolist()


def histogram(values: Tensor) -> dict[str, list[float]]:
    """Returns how many finite impacts lie between edges that grow by one factor, the first bin holding smaller ones.

    Edges run from a ten-thousandth of the largest impact to the largest, with 0 before them; each bin holds its lower
    edge, the last both. Without a finite impact there are no edges.

    Args:
        values: Impacts `[n_s]`, not negative.
    """
    values = values.double()[values.isfinite()].contiguous()
    if not len(values):
        return {"edges": [], "counts": []}
    largest = float(values.max())
    if not largest > 0:
        return {"edges": [0.0, 1.0], "counts": [len(values)]}
    edges = largest * torch.logspace(torch.log10(torch.tensor(SMALLEST)), 0, BINS + 1, dtype=torch.float64)
    counts = torch.bincount(torch.bucketize(values, edges[:-1], right=True), minlength=BINS + 1)
    return {"edges": [0.0, *shortened(edges.tolist())], "counts": counts.tolist()}

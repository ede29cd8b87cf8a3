"""Cards that show what each subnetwork acts on, as HTML that flows to the width of a page (Table 2, Fig. 11)."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

import torch
from torch import Tensor

from ..chapters.language import TextCard
from ..chapters.vision import ImageCard

# Colours of their own only where they hold on light and on dark pages alike.
STYLE = (
    "<style>"
    ".l3d-cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(19rem,100%),1fr));gap:.9rem;"
    "font-size:.85rem;line-height:1.35}"
    ".l3d-card{border:1px solid rgba(128,128,128,.45);border-radius:.4rem;padding:.5rem .6rem;min-width:0;"
    "overflow-wrap:anywhere}"
    ".l3d-card h4{margin:0 0 .35rem;font-size:.95rem}"
    ".l3d-card .p{font-weight:400;opacity:.75}"
    ".l3d-card ol{list-style:none;margin:0;padding:0}"
    ".l3d-card li{margin:0 0 .4rem}"
    ".l3d-card mark{background:rgba(217,130,43,.38);color:inherit;border-radius:.2rem;padding:0 .1rem;"
    "white-space:pre-wrap}"
    ".l3d-card .t{white-space:pre-wrap}"
    ".l3d-card .o{display:block;opacity:.8;font-size:.9em}"
    ".l3d-images{display:grid;grid-template-columns:repeat(5,minmax(0,1fr));gap:.35rem}"
    ".l3d-images figure{margin:0;padding:0;font-size:.72rem;line-height:1.2}"
    ".l3d-card img{width:100%;height:auto;image-rendering:pixelated;display:block;box-shadow:none!important}"
    ".l3d-images figcaption{margin:0;color:inherit;font-size:inherit;hyphens:auto}"
    "</style>"
)


class Html(str):
    """A piece of a page, which notebooks show as what it is."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"<{self.count(CARD)} cards>"


CARD = '<div class="l3d-card">'


def _card(number: int, p_active: float, inside: str) -> str:
    head = f'<h4>{number} <span class="p">P<sub>act</sub> {p_active:.3f}</span></h4>'
    return f"{CARD}{head}{inside}</div>"


def _cards(cards: Iterable[str]) -> Html:
    return Html(f'{STYLE}<div class="l3d-cards">{"".join(cards)}</div>')


def show_texts(cards: Sequence[TextCard]) -> Html:
    """Returns subnetworks of a language model with their top samples, the last token of each marked (paper Table 2)."""

    def line(before: str, last: str, outputs: list[str]) -> str:
        moved = " · ".join(escape(out.strip() or "␣") for out in outputs)
        text = f'<span class="t">{escape(before)}</span><mark>{escape(last)}</mark>'
        return f'<li>{text}<span class="o">→ {moved}</span></li>'

    return _cards(_card(c.number, c.p_active, f"<ol>{''.join(line(*one) for one in c.lines)}</ol>") for c in cards)


def show_images(cards: Sequence[ImageCard], *, compact: bool = False) -> Html:
    """Returns subnetworks of a vision network with their top images (paper Fig. 11).

    Args:
        cards: The subnetworks.
        compact: All images of one in one picture, and the classes that it moves most for most of them.
    """

    def inside(card: ImageCard) -> str:
        if compact:
            often = [name for name, _ in Counter(name for names in card.outputs for name in names).most_common(3)]
            picture = f'<img alt="its {len(card.pixels)} top images" src="{_picture(list(card.pixels))}">'
            return f'{picture}<span class="o">→ {" · ".join(map(escape, often))}</span>'
        pairs = zip(card.pixels, card.outputs, strict=True)
        captions = [(image, "<br>".join(map(escape, names))) for image, names in pairs]
        figures = (
            f'<figure><img alt="top image {i}" src="{_picture([image])}"><figcaption>{names}</figcaption></figure>'
            for i, (image, names) in enumerate(captions, 1)
        )
        return f'<div class="l3d-images">{"".join(figures)}</div>'

    return _cards(_card(card.number, card.p_active, inside(card)) for card in cards)


def _picture(images: Sequence[Tensor], columns: int = 5) -> str:
    """Returns images beside and below each other as one JPEG in a data address."""
    from PIL import Image

    blank = [torch.full_like(images[0], 255)] * (-len(images) % min(columns, len(images)))
    whole = [*images, *blank]
    width = min(columns, len(images))
    rows = [torch.cat(whole[i : i + width], 2) for i in range(0, len(whole), width)]
    file = io.BytesIO()
    Image.fromarray(torch.cat(rows, 1).permute(1, 2, 0).byte().numpy()).save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"

"""Blocks of data for the explorer's page: made up, of the size and shape of real ones."""

from __future__ import annotations

import base64
import math
import random
import struct
import zlib
from typing import Any

WORDS = """
the little girl saw big dog and he was happy she went to park with her mom they played ball cat bird tree said yes no
run jump sun day one time there named lily tim toy box found red blue green then but so it is in on at my you we are
can not like love want help friend home garden water food cake very good bad sad
"""
DELTAS = [-2.0, -1.5, -1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0]
COUNTS = [int(2000 * math.exp(-i / 2)) for i in range(20)]
TERMS = [
    ["impact", "how strongly the gradient of a divergence points along V_in"],
    ["P_act", "share of samples it is used on"],
    ["delta", "steps along the direction"], ["coherence", "how alike the top samples are"],
    ["norm", "length of the direction"], ["linear prediction", "delta times the derivative at delta = 0"],
]  # fmt: skip
AGAINST = {"random": 0.12, "principal": 0.2, "untrained": 0.13}
PARTS = ["inside a word", "end of a word", "mark", "first word"]
TENSORS = [f"layers.{layer}.{name}.weight" for layer in range(2) for name in ("q_proj", "k_proj", "v_proj", "o_proj")]


def four(x: float) -> float:
    """A number with four significant digits, as blocks hold them."""
    return float(f"{x:.4g}")


def png(red: int, green: int, blue: int, size: int = 8) -> str:
    """A square picture of one colour as a data: URL."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes([red, green, blue]) * size) * size
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def bent(delta: float, fold: float) -> float:
    """A line that bends away from itself, half as much below 0."""
    return delta + (fold if delta > 0 else fold / 2) * delta * abs(delta)


def held(fold: float) -> list[float]:
    """The deltas between which a line is at most 20 % off what bends away from it: from 0 on until it first fails."""
    fine = [d for d in DELTAS if d == 0 or abs(d - bent(d, fold)) <= 0.2 * abs(bent(d, fold))]
    return [min(fine), max(fine)]


def sample(rng: random.Random, item: int, n: int, position: int, n_outputs: int, scale: float, fold: float) -> dict:
    """A sample whose real outputs bend away from the line, half as much below 0: y = y0 + s bent(delta)."""
    moved = [[output, four(scale * rng.choice((-1, 1)) * (3 - k / 2))]
             for k, output in enumerate(rng.sample(range(n_outputs), min(5, n_outputs)))]  # fmt: skip
    before = [four(rng.uniform(-4, 9)) for _ in moved]
    real = [[round(y + s * bent(d, fold), 4) for y, (_, s) in zip(before, moved, strict=True)] for d in DELTAS]
    signed = [four(rng.gauss(0, 0.15) * scale) for _ in range(n)]
    signed[position] = four(scale * rng.choice((-1, 1)))
    return {"item": item, "position": position, "impact": four(abs(signed[position]) / 10), "signed": signed,
            "moved": moved, "before": before, "real": real,
            "normaliser": [four(12 + abs(d) / 5) for d in DELTAS]}  # fmt: skip


def subnetwork(
    rng: random.Random, k: int, n: int, block: dict[str, Any], n_kinds: int, norms: list[float] | None
) -> dict[str, Any]:
    live, scale, fold = k % 7 != 6, rng.uniform(0.2, 1.0), rng.choice((0.1, 0.3, 0.6))
    sizes = [len(item["tokens"]) if "tokens" in item else 1 for item in block["items"]]

    def draw(strength: float) -> dict[str, Any]:
        i = rng.randrange(len(sizes))
        return sample(rng, i, sizes[i], rng.randrange(sizes[i]), len(block["outputs"]), scale * strength, fold)

    top = sorted((draw(rng.uniform(0.6, 1)) for _ in range(10)), key=lambda e: -e["impact"]) if live else []
    parts = [rng.expovariate(1) for _ in block["tensors"]]
    others = rng.sample([j for j in range(n) if j != k], min(5, n - 1))
    cosines = sorted((four(rng.uniform(-0.9, 0.9)) for _ in others), key=lambda c: -abs(c))
    return {
        "id": k, "live": live, "p_active": four(rng.uniform(0.001, 0.2)) if live else 0.0,
        "norm": 1.0 if norms is None else norms[k],
        "impact": four(rng.uniform(0.001, 0.01)) if live else 0.0,
        "coherence": [four(rng.uniform(0.1, 0.6)) for _ in range(n_kinds)],
        "note": "ends of names" if k == 5 else "", "share": [four(p / sum(parts)) for p in parts],
        "nearest": [[j, c] for j, c in zip(others, cosines, strict=True)],
        "history": [four(0.1 + 0.3 * math.exp(-t / 10) * rng.uniform(0.8, 1.2)) for t in range(60)],
        "histogram": {"edges": [four(10 ** (-6 + 0.25 * i)) for i in range(21)],
                      "counts": [COUNTS[0] - (4 if k == 5 else 0), *COUNTS[1:]]},
        "top": top, "random": [draw(rng.uniform(0, 0.2)) for _ in range(10)],
        "linear": held(fold) if top else None,
    }  # fmt: skip


def weights(rng: random.Random, n_v: int, size: int = 8) -> dict[str, Any]:
    """Numbers of n_v directions of rank 1 for two tensors."""
    layout = {"form": "tucker", "tensors": [["a.weight", [size, size], [1, 1]], ["b.weight", [size, 4], [1, 1]]]}
    n = n_v * ((1 + 2 * size) + (1 + size + 4))

    def flat() -> str:
        # Many numbers are but bytes, which are quicker to draw and as hard to pack.
        data = rng.randbytes(4 * n) if n > 1e5 else struct.pack(f"<{n}f", *(rng.gauss(0, 1) for _ in range(n)))
        return base64.b64encode(data).decode()

    return {"layout": layout, "v_in": flat(), "v_out": flat()}


def decomposition(seed: int, n: int, block: dict[str, Any], name: str, method: str = "L3D", n_prompts: int = 6,
                  n_uses: int = 3, kinds: tuple[str, ...] = ("class",)) -> dict[str, Any]:  # fmt: skip
    rng = random.Random(seed)
    norms = [four(rng.uniform(0.5, 2)) for _ in range(n)] if method == "APD" else None
    prompts = []
    for i in range(min(n_prompts, len(block["items"]))):
        m = len(block["items"][i]["tokens"]) if block["kind"] == "tokens" else 1
        uses = [[[j, four(abs(rng.gauss(0, 0.4)) + 0.001)] for j in rng.sample(range(n), min(n, n_uses))]
                for _ in range(m)]  # fmt: skip
        prompts.append({
            "item": i, "positions": [sorted(use, key=lambda u: -u[1]) for use in uses],
            "signed": {str(j): [four(rng.gauss(0, 0.4)) for _ in range(m)] for use in uses for j, _ in use},
        })  # fmt: skip
    return {
        "name": name, "method": method, "facts": [["n_v", str(n)], ["seed", str(seed)], ["epochs", "60"]],
        "baselines": [[f"coherence: {kind}", AGAINST] for kind in kinds],
        "terms": TERMS, "along": "v_out" if method == "L3D" else "the component", "deltas": DELTAS,
        "signs": method == "L3D",
        "subnetworks": [subnetwork(rng, k, n, block, len(kinds), norms) for k in range(n)],
        "prompts": prompts, "weights": weights(rng, n),
    }  # fmt: skip


def frame(kind: str, title: str) -> dict[str, Any]:
    facts = [["model", "karpathy/stories260K"], ["data", "roneneldan/TinyStories"], ["preset", "paper"],
             ["samples", str(sum(COUNTS))], ["version", "0.1.0"], ["date", "2026-11-30"]]  # fmt: skip
    return {"format": 2, "title": title, "facts": facts, "kind": kind, "distribution": kind != "vectors",
            "tensors": TENSORS, "matches": []}  # fmt: skip


LABELS = ("next token", "part of the sentence")


def language(
    n: int = 100, seed: int = 0, n_items: int = 400, n_outputs: int = 0, n_prompts: int = 6, n_uses: int = 3
) -> dict[str, Any]:
    """Subnetworks of a language model: items of 16 tokens, some with a name."""
    rng = random.Random(1000 + seed)
    outputs = [" " + word for word in WORDS.split()] + [".", ",", "!", "\n", '"', "s", "ed", "ing"]
    outputs += [f"w{i}" for i in range(n_outputs - len(outputs))]
    items = []
    for i in range(n_items):
        tokens = [rng.randrange(len(outputs)) for _ in range(16)]
        label = [f"{LABELS[0]}: {outputs[t]}; {LABELS[1]}: {rng.choice(PARTS)}" for t in [*tokens[1:], tokens[0]]]
        items.append({"tokens": tokens, "label": label} | ({"name": f"story {i}"} if i % 40 == 7 else {}))
    block = {**frame("tokens", "Subnetworks of stories260K"), "outputs": outputs, "items": items}
    return {**block, "decompositions": [
        decomposition(seed, n, block, "tuned", n_prompts=n_prompts, n_uses=n_uses, kinds=LABELS)
    ]}  # fmt: skip


def many(n: int = 1000) -> dict[str, Any]:
    """A language model's subnetworks by the thousand, each on texts of its own, with all that real ones have.

    Ten top and ten random samples of 16 tokens, five of 512 outputs at 13 deltas, 20 prompts, and 2604 numbers of each
    direction. Samples are those of a hundred again and again, so that they are quick to make.
    """
    block, rng = language(100, n_items=4000, n_outputs=512, n_prompts=20, n_uses=8), random.Random(2)
    one, sizes = block["decompositions"][0], len(block["items"])

    def again(s: dict[str, Any], k: int) -> dict[str, Any]:
        copies = {group: [e | {"item": rng.randrange(sizes)} for e in s[group]] for group in ("top", "random")}
        return s | copies | {"id": k, "nearest": [[(j + k) % n, c] for j, c in s["nearest"]]}

    one["subnetworks"] = [again(one["subnetworks"][k % 100], k) for k in range(n)]
    one["weights"] = weights(rng, n, 866)
    return block


def images(n: int = 12) -> dict[str, Any]:
    outputs = ["airplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    rng = random.Random(5)
    names = [outputs[i % 10] for i in range(40)]
    items = [{"image": png(*(rng.randrange(256) for _ in range(3))), "name": name, "label": [f"class: {name}"]}
             for name in names]  # fmt: skip
    block = {**frame("images", "Subnetworks of a vision network"), "outputs": outputs, "items": items}
    return {**block, "decompositions": [decomposition(3, n, block, "text")]}


def vectors(n: int = 6) -> dict[str, Any]:
    rng = random.Random(6)
    items = [{"values": [four(rng.random()) if rng.random() < 0.3 else 0.0 for _ in range(5)],
              "name": f"input {i // 4}, position {i % 4}"} for i in range(40)]  # fmt: skip
    block = {**frame("vectors", "Subnetworks of superposition"), "outputs": [f"y {i}" for i in range(5)],
             "inputs": [f"x {i}" for i in range(5)], "items": items}  # fmt: skip
    return {**block, "decompositions": [decomposition(4, n, block, "code")]}


def comparison(n: int = 12) -> dict[str, Any]:
    """Two decompositions of one model; subnetwork i of the first matches n - 1 - i of the second, the last two none."""
    block = language(n, n_items=60)
    block["decompositions"].append(decomposition(9, n, block, "APD", "APD", kinds=LABELS))
    matches = [[i, n - 1 - i, four(0.95 - 0.05 * i)] for i in range(n - 2)]
    return {**block, "matches": matches}


HOSTILE = [
    "<script>window.__pwned = 1</script>", "<img src=x onerror='window.__pwned = 2'>",
    "</script><script>window.__pwned = 3</script>",
    "javascript:window.__pwned=4", "\"' onmouseover=\"window.__pwned = 5", "<!--",
    "]]>", "{{script}}", "&lt;b&amp;", "<b>bold</b>",
    "שלום עולם", "\u202egnp.exe", "مرحبا", "👩‍👩‍👧‍👦🏳️‍🌈",
    "e\u0301\u0302\u0303\u0304\u0305\u0306\u0307" * 20, "W" * 10_000, "漢" * 10_000,
    "", " ", "   ", "\n", "\t", "\0", "\ud800", "a\udfffb", "\u2028", "\ufeff",
    "__proto__", "constructor", "a,b;\"c\"\r\nd", "=1+1",
]  # fmt: skip


def hostile() -> dict[str, Any]:
    """Strings that would be markup, scripts or a broken layout if anything were interpreted; NaN as null."""
    rng = random.Random(7)
    items = [{"tokens": list(range(len(HOSTILE))), "label": list(reversed(HOSTILE))}, {"tokens": []}]
    items += [{"tokens": [k], "label": [HOSTILE[k]]} for k in range(len(HOSTILE))]
    items += [{"tokens": [rng.randrange(len(HOSTILE)) for _ in range(6)]} for _ in range(20)]
    block = {**frame("tokens", HOSTILE[2] + HOSTILE[0] + "\0\ud800"), "outputs": HOSTILE, "items": items,
             "tensors": [*HOSTILE[:3], "W" * 300]}  # fmt: skip
    block["facts"] = [[text, text] for text in HOSTILE[:12]] + [["long", "W" * 10_000]]
    block["items"] = [item for item in items if item["tokens"]]
    one = decomposition(8, len(HOSTILE), block, HOSTILE[0])
    one["baselines"] = [[HOSTILE[1], {HOSTILE[0]: 0.1, HOSTILE[3]: None}]]
    one["facts"] = [[text, text] for text in HOSTILE]
    one["terms"] = [["impact", HOSTILE[2] + "W" * 10_000], [HOSTILE[0], HOSTILE[1]]]
    one["along"] = HOSTILE[0]
    for k, s in enumerate(one["subnetworks"]):
        s["note"] = HOSTILE[k]
    broken = one["subnetworks"][0]
    broken.update(impact=None, p_active=None, norm=None, coherence=[None], history=[None, None, 0.1], linear=None)
    for e in broken["top"]:
        e.update(impact=None, signed=[None] * len(e["signed"]), before=[None] * 5, real=[[None] * 5 for _ in DELTAS])
    # One of which some is known: logits at minus infinity, and no normaliser, count or signed impact.
    some = one["subnetworks"][1]
    some.update(histogram={"edges": [], "counts": []}, share=[None] * len(block["tensors"]), linear=[-0.5, 0])
    for e in some["top"]:
        e.update(normaliser=[None] * len(DELTAS), signed=[None] * len(e["signed"]))
        e["real"][-1] = [None] * len(e["moved"])
    first = one["prompts"][0]["signed"]
    for values in first.values():
        values[0] = None
    block["items"].append({"tokens": []})
    return {**block, "decompositions": [one]}

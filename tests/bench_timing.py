"""Timing that holds on a machine with other work: interleaved blocks, disturbed ones repeated, ratios of neighbours.

Memory is taken in a process of its own, as the growth of the peak over what was resident once the model was built.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

GIB = 2**30
DRIFT = 1.1
ATTEMPTS = 3
SPIN_ADDITIONS = 50_000


class Effort(NamedTuple):
    """How much is measured.

    Attributes:
        blocks: Timing blocks of each variant.
        seconds: Least length of a block.
        tiny: Whether subjects are small stand-ins, to try the program.
    """

    blocks: int
    seconds: float
    tiny: bool = False


FULL, QUICK = Effort(7, 0.5), Effort(2, 0.02, tiny=True)


class Variant(NamedTuple):
    """Something to be timed.

    Attributes:
        take: Does so many units of work and returns the seconds they took.
        steps: Training steps of a unit.
    """

    take: Callable[[int], float]
    steps: int = 1


class Timing(NamedTuple):
    """Seconds a step of each variant, one for each round; those of one round were taken side by side.

    Attributes:
        seconds: By variant.
        disturbed: Blocks taken again, or kept after the last attempt, because the machine's speed moved.
    """

    seconds: dict[str, list[float]]
    disturbed: int


def stopwatch(function: Callable[[], object]) -> Callable[[int], float]:
    """Returns what times so many calls of a function."""

    def take(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            function()
        return time.perf_counter() - start

    return take


def spin() -> float:
    """Returns the seconds of a fixed piece of work, the least of three: how fast the machine is just now."""

    def once() -> float:
        start, total = time.perf_counter(), 0
        for i in range(SPIN_ADDITIONS):
            total += i
        return time.perf_counter() - start

    return min(once() for _ in range(3))


def units_per_block(variant: Variant, seconds: float) -> int:
    """Returns how many units fill a block; what is taken to find out warms up and is dropped."""
    n = 1
    variant.take(n)
    while (taken := variant.take(n)) < 0.25 * seconds:
        n *= 4
    return max(1, math.ceil(n * seconds / taken))


def calm_block(variant: Variant, n: int, gauge: Callable[[], float] = spin) -> tuple[float, int]:
    """Returns the seconds of n units, and how many attempts at them were disturbed.

    A block is disturbed if the gauge moved by more than 10 % while it ran; the last attempt is kept as it is.
    """
    disturbed, taken = 0, 0.0
    for _ in range(ATTEMPTS):
        before = gauge()
        taken = variant.take(n)
        after = gauge()
        if max(before, after) <= DRIFT * min(before, after):
            break
        disturbed += 1
    return taken, disturbed


def interleave(variants: Mapping[str, Variant], effort: Effort, gauge: Callable[[], float] = spin) -> Timing:
    """Returns timings of several variants, taken in turn: A, B, A, B and so on."""
    counts = {name: units_per_block(variant, effort.seconds) for name, variant in variants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    disturbed = 0
    for _ in range(effort.blocks):
        for name, variant in variants.items():
            taken, moved = calm_block(variant, counts[name], gauge)
            seconds[name].append(taken / (counts[name] * variant.steps))
            disturbed += moved
    return Timing(seconds, disturbed)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns median, smallest, largest and number of some values."""
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}


def paired_ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Returns the spread of `slow / fast`, round by round."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Returns the exponent p of the least-squares fit `y = c x^p`, a line in logarithms."""
    u, w = [math.log(v) for v in x], [math.log(v) for v in y]
    mean_u, mean_w = sum(u) / len(u), sum(w) / len(w)
    rise = sum((a - mean_u) * (b - mean_w) for a, b in zip(u, w, strict=True))
    return rise / sum((a - mean_u) ** 2 for a in u)


def geometric_mean(values: Sequence[float]) -> float:
    """Returns the root of the product."""
    return math.exp(sum(map(math.log, values)) / len(values))


def check(what: str, value: float | None, *, least: float | None = None, most: float | None = None) -> dict[str, Any]:
    """Returns a target beside what was found; None for what was not measured. Whether it is met is told by the page.

    Args:
        what: The quantity, with its unit.
        value: What was found.
        least: The target, if at least so much is wanted.
        most: The target, if at most so much is.
    """
    return {"what": what, "value": value, "bound": most if least is None else least, "at_least": least is not None}


def rounded(value: Any, digits: int = 4) -> Any:
    """Returns a JSON-able value with every number cut to so many significant digits."""
    if isinstance(value, Mapping):
        return {key: rounded(v, digits) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v, digits) for v in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _status(field: str) -> int | None:
    """Returns a size from Linux's record of this process, in bytes; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field)), None)


def peak_bytes() -> int:
    """Returns the most that was resident since `reset_peak`, or since the start where that is not kept."""
    scale = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM:") or scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_peak() -> int:
    """Forgets the peak, where the system can, and returns what is resident now."""
    with contextlib.suppress(OSError):  # Elsewhere the peak includes what building the model took.
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS:") or peak_bytes()


def with_memory(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns what some work returned, with its peak and the growth over what was resident before, in GiB."""
    before = reset_peak()
    found = work()
    peak = peak_bytes()
    return {**found, "peak_gib": peak / GIB, "growth_gib": (peak - before) / GIB}


def run_apart(script: Path, name: str, arguments: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Returns what `script --apart name arguments` prints as JSON on its last line, run in a process of its own.

    Raises:
        RuntimeError: The process failed; the end of what it said is quoted.
    """
    command = [sys.executable, str(script), "--apart", name, json.dumps(arguments), "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUTF8": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed with status {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])

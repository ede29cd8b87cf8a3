"""What one decomposition costs: processor seconds and memory of a process that does nothing else."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import artifacts
from ..baselines.apd import APD, APDConfig
from ..baselines.apd_training import decompose_apd
from ..training import Run, fit
from .apd_runs import CODE as APD_CODE
from .comparison_measures import gradients
from .comparison_parts import leading
from .comparison_settings import Compared
from .comparison_subjects import subject, targets_digest
from .studies import config_facts

# What measuring depends on; that of the methods themselves is in every digest.
CODE = (
    *APD_CODE, "comparison_costs", "comparison_measures", "comparison_parts", "comparison_subjects", "principal"
)  # fmt: skip


def costs(name: str, own: Compared, steps: int, folder: Path, apart: bool = True) -> dict[str, Tensor]:
    """Returns the seconds and MiB of one decomposition of one target alone, by '<method>/seconds' and '<method>/mib'.

    Each method runs in a process of its own with one thread, one after the other. L3D runs whole; APD runs some steps,
    whose time is multiplied up to all of them. Memory is the largest resident size less that before the start.

    Args:
        name: Of the target.
        own: How it is taken apart; the first seed is.
        steps: Of APD.
        folder: Where results lie.
        apart: Use processes of their own; False to stay in this one, whose memory then tells little.
    """
    run = own.apd[0]
    key = {
        "name": name, "seed": own.seeds[0], "steps": steps, "apart": apart, "n_inputs": own.n_inputs,
        "torch": torch.__version__,
        "l3d": [config_facts(own.l3d.config), *own.l3d[1:]], "apd": [asdict(run.config), repr(run.target)],
        "code": artifacts.code_digest(CODE), "target": targets_digest(name, own.seeds[:1], folder),
    }  # fmt: skip

    def compute(_: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        options, call = {"name": name, "own": own}, _alone if apart else _here
        found = {
            "L3D": call(_l3d, **options), "APD": call(_apd, **options, steps=steps),
            "principal": call(_principal, **options),
        }  # fmt: skip
        pairs = {
            f"{method}/{what}": torch.tensor(value, dtype=torch.float64)
            for method, both in found.items()
            for what, value in zip(("seconds", "mib", "numbers"), both, strict=True)
        }
        return pairs, {}

    return artifacts.cached(folder, f"compared-{name}-costs", key, compute)[0]


def _here(function: Callable[..., tuple[float, float, float]], **options: Any) -> tuple[float, float, float]:  # noqa: ANN401
    return function(**options)


def _alone(function: Callable[..., tuple[float, float, float]], **options: Any) -> tuple[float, float, float]:  # noqa: ANN401
    """Returns what a function returns in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, **options).result()


def _measured(work: Callable[[], Any], little: Callable[[], Any]) -> tuple[float, float, Any]:
    """Returns processor seconds and MiB that some work took, and its result, after a little of it was done before."""
    torch.set_num_threads(1)
    little()  # What libraries load when they are first used is not the method's.
    before, begun = _mib(forget=True), time.process_time()
    result = work()
    return time.process_time() - begun, _mib() - before, result


def _mib(forget: bool = False) -> float:
    """Returns the largest resident size of this process in MiB: since it last forgot, where Linux tells."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Bytes, on a Mac.
    if forget:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:  # Then the largest size is not that of the work alone.
            return float("nan")
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def _l3d(name: str, own: Compared) -> tuple[float, float, float]:
    one = subject(name, own.seeds[0])
    x = one.draw(own.n_inputs, seed=one.seed)
    run = Run(one.module, x, own.l3d.config, own.l3d.divergence, seed=one.seed, parameters=one.parameters)
    short = replace(run, config=replace(run.config, epochs=1), inputs=x[: run.config.batch_size])
    seconds, mib, [found] = _measured(lambda: fit([run]), lambda: fit([short]))
    return seconds, mib, found.v_in.flat.numel() + found.v_out.flat.numel()


def _apd(name: str, own: Compared, steps: int) -> tuple[float, float, float]:
    one, config = subject(name, own.seeds[0]), own.apd[0].config
    steps = min(steps, config.steps)

    def some(settings: APDConfig, n: int) -> APD:
        return decompose_apd(one.network, one.sample, settings, [one.seed], max_steps=n)

    small = replace(config, batch_size=16)
    seconds, mib, found = _measured(lambda: some(config, steps), lambda: some(small, 1))
    numbers = sum(part.numel() for factors in found.components.values() for part in factors)
    return seconds * config.steps / steps, mib, numbers


def _principal(name: str, own: Compared) -> tuple[float, float, float]:
    one = subject(name, own.seeds[0])
    x = one.draw(own.n_inputs, seed=one.seed)

    def some(inputs: Tensor) -> Tensor:
        g = gradients(one, inputs, own.l3d.divergence)
        return leading(g, min(own.l3d.config.n_v, *g.shape))

    seconds, mib, v = _measured(lambda: some(x), lambda: some(x[:2]))
    return seconds, mib, float(v.numel())

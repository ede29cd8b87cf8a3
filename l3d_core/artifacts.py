"""Results on disk: saved whole, found again by their configuration, with provenance."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

__version__ = "0.1.0"
_HERE = Path(__file__).parent
# Where unfinished work keeps the seconds it took up to its last checkpoint, and how often it looks for a new one.
_SECONDS, _EVERY = "seconds.json", 2.0
# Modules that show, list, check or publish results and have no part in computing them, or in some only.
_BESIDE_RESULTS = (
    "__init__", "__main__", "apd_claims", "apd_experiments", "apd_shipped", "apd_targets", "artifacts", "baselines",
    "chapter_explorers", "chapters", "check", "claim_list", "claims", "cli", "comparison_experiments", "exhibits",
    "experiments", "explorer", "explorer_pages", "figures", "hub", "markdown", "measures", "pages", "pretrained",
    "publish", "real_experiments", "record", "requested", "runner", "sharing", "speed_pages", "sweep", "targets",
    "toy_experiments", "vision_training",
)  # fmt: skip


def code_digest(also: Sequence[str] = ()) -> str:
    """Returns a hash of the source that results depend on, so that those of other code are not reused.

    Args:
        also: Modules of `chapters`, `baselines` and the like that take part, by their last name.
    """
    h = hashlib.sha256()
    for path in sorted(_HERE.rglob("*.py")):
        name = path.relative_to(_HERE).as_posix()
        top = name.split("/")[0].removesuffix(".py")
        if top not in _BESIDE_RESULTS or (path.stem in also and top != "figures"):
            h.update(name.encode() + path.read_bytes())
    return h.hexdigest()[:16]


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Returns where and with what a result was computed: versions, commit, device, date."""
    return {
        "version": __version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else _cpu_name(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _commit() -> str | None:
    """Returns the commit of the checkout the package lies in, with '+' if it has changes; None outside one."""
    try:
        run = ["git", "-C", str(_HERE), "describe", "--always", "--dirty=+", "--abbrev=12", "--match="]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_name() -> str:
    """Returns the processor's name and how many cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {cores} cores"


def project_root() -> Path:
    """Returns the top folder of the project: the one the working directory lies in, or else the package's checkout.

    Raises:
        ValueError: Neither is a checkout of the project.
    """
    folders = (Path.cwd(), *Path.cwd().parents, _HERE.parent)
    root = next((folder for folder in folders if (folder / "book" / "paper_values.json").is_file()), None)
    if root is None:
        raise ValueError(
            f"{Path.cwd()} is not in a checkout of the project; expected one. Go there, or pip install -e it."
        )
    return root


def results_folder(folder: str | Path | None) -> Path:
    """Returns where results lie: the folder given, or `artifacts/` of the project for None."""
    return project_root() / "artifacts" if folder is None else Path(folder)


def config_hash(config: dict[str, Any]) -> str:
    """Returns the first 8 hexadecimal digits of the hash of a JSON-able configuration."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]


def artifact_path(folder: str | Path, experiment: str, config: dict[str, Any]) -> Path:
    """Returns the folder of a result, `<experiment>-<hash8>`."""
    return Path(folder) / f"{experiment}-{config_hash(config)}"


def save_artifact(
    path: Path, config: dict[str, Any], tensors: dict[str, Tensor], metrics: dict[str, Any], facts: dict[str, Any],
    more: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Writes a result folder: config.json, tensors.safetensors, metrics.json, provenance.json.

    Args:
        path: The folder to appear; it is written under another name and renamed, so it is whole or absent.
        config: What determines the result.
        tensors: Arrays.
        metrics: Numbers.
        facts: Provenance and seconds.
        more: Texts of further files by name.

    Raises:
        OSError: The folder cannot be written; an earlier result is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}; expected a writable folder. Choose another.") from error
    try:
        save_file({name: t.contiguous() for name, t in tensors.items()}, part / "tensors.safetensors")
        for name, content in {"config": config, "metrics": metrics, "provenance": facts}.items():
            (part / f"{name}.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
        for name, text in (more or {}).items():
            (part / name).write_text(text, encoding="utf-8")
        _swap(part, path)
    except (OSError, SafetensorError) as error:
        raise OSError(f"writing {path} failed ({error}); expected room on the disk. Free some, run again.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _swap(part: Path, path: Path) -> None:
    """Puts a folder in the place of another, which is put back if that fails."""
    old = part.with_name(f"{part.name}.old")
    if path.exists():
        path.rename(old)
    try:
        part.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def load_artifact(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Returns config, tensors, metrics and provenance of a result folder.

    Raises:
        ValueError: The folder is not whole.
    """
    try:
        config, metrics, facts = (
            json.loads((path / f"{name}.json").read_text()) for name in ("config", "metrics", "provenance")
        )
        return config, load_file(path / "tensors.safetensors"), metrics, facts
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is no whole result ({error}); delete the folder to compute it again.") from error


def cached(
    folder: str | Path,
    experiment: str,
    config: dict[str, Any],
    compute: Callable[[Path], tuple[dict[str, Tensor], dict[str, Any]]],
    device: str = "cpu",
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Returns a result from disk, or computes and saves it.

    Args:
        folder: Where results live.
        experiment: Name of the result.
        config: What determines it, code digest and data identity included; JSON-able.
        compute: Takes a scratch folder for checkpoints, which survives interruption and is removed at the end;
            returns tensors and metrics.
        device: For the provenance.

    Returns:
        Tensors, metrics and provenance with the seconds it took: by the clock, and of processor time, which other work
        on the machine does not change.

    Raises:
        ValueError: A folder of this name is there but not whole.
        OSError: The result cannot be written.
    """
    path = artifact_path(folder, experiment, config)
    if not path.exists():
        scratch = path.with_name(path.name + ".unfinished")
        scratch.mkdir(parents=True, exist_ok=True)
        with _timed(scratch) as spent:
            tensors, metrics = compute(scratch)
        facts = provenance(device) | {name: round(seconds, 1) for name, seconds in spent().items()}
        save_artifact(path, config, tensors, metrics, facts)
        shutil.rmtree(scratch, ignore_errors=True)
    _, tensors, metrics, facts = load_artifact(path)
    return tensors, metrics, facts


@contextmanager
def _timed(scratch: Path) -> Iterator[Callable[[], dict[str, float]]]:
    """Yields what tells the seconds spent so far, those before an interruption included, up to its last checkpoint.

    While the work goes on, the seconds at its last checkpoint are kept beside it, where a run that is killed leaves
    them to the one that goes on.
    """
    kept, done, start, used = scratch / _SECONDS, threading.Event(), time.monotonic(), time.process_time()
    before = json.loads(kept.read_text()) if kept.exists() else {"wall_seconds": 0.0, "core_seconds": 0.0}

    def spent() -> dict[str, float]:
        now = {"wall_seconds": time.monotonic() - start, "core_seconds": time.process_time() - used}
        return {name: before[name] + seconds for name, seconds in now.items()}

    def keep(last: float | None) -> None:
        while not done.wait(_EVERY):
            if (newest := _newest(scratch)) != last:
                part, last = kept.with_suffix(".part"), newest
                part.write_text(json.dumps(spent()))
                part.replace(kept)

    thread = threading.Thread(target=keep, args=(_newest(scratch),), daemon=True)
    thread.start()
    try:
        yield spent
    finally:
        done.set()
        thread.join()


def _newest(scratch: Path) -> float | None:
    """Returns when the last checkpoint was written, None if there is none."""
    times = []
    for path in scratch.rglob("*"):
        with suppress(FileNotFoundError):  # A checkpoint's temporary file may be gone by now.
            if path.is_file() and path.stem != Path(_SECONDS).stem:
                times.append(path.stat().st_mtime)
    return max(times, default=None)


def tensor_digest(tensors: Sequence[Tensor], facts: str = "") -> str:
    """Returns a hash of the contents of tensors, the identity of data and weights, and of a text of facts."""
    h = hashlib.sha256(facts.encode())
    for tensor in tensors:
        h.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        h.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return h.hexdigest()[:16]

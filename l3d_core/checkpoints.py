"""Training state on disk: written whole or not at all, read back exactly."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "l3d-checkpoint-1"


def write_whole(path: Path, write) -> None:
    """Calls `write(temporary)` beside path and renames the result to path; on failure path is as it was.

    Args:
        path: The file to appear.
        write: Writes a file at the path it is given.

    Raises:
        OSError: The folder cannot be made or written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror}; expected a writable folder. Choose another, or free it."
        ) from error
    os.close(handle)
    try:
        write(Path(name))
        os.replace(name, path)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"writing {path} failed ({error}); expected room on the disk. Free some and run again; "
            "what was saved before is untouched."
        ) from error
    finally:
        Path(name).unlink(missing_ok=True)


def save_checkpoint(path: Path, key: str, state: dict[str, Tensor]) -> None:
    """Writes a training state.

    Args:
        path: The file.
        key: Hash of all that determines the runs.
        state: Tensors by name.

    Raises:
        OSError: It cannot be written; an earlier file is untouched.
    """
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    write_whole(path, lambda part: save_file(tensors, part, metadata={"format": FORMAT, "key": key}))


def load_checkpoint(path: Path, key: str) -> dict[str, Tensor]:
    """Returns the training state saved for these runs, on the CPU.

    Args:
        path: The file.
        key: Hash of the runs that want to continue.

    Returns:
        Tensors by name.

    Raises:
        ValueError: The file is damaged, no checkpoint, or of other runs.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"checkpoint {path} is damaged ({error}); expected a whole file. Delete it to start again."
        ) from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is no checkpoint of this library; expected format {FORMAT}. Give another path.")
    if metadata.get("key") != key:
        raise ValueError(
            f"checkpoint {path} belongs to other runs (settings, seeds, weights or data differ); expected the same. "
            "Give another path, or delete it to start again."
        )
    return state

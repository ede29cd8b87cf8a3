"""Threads and processes: small work on one thread, independent jobs on one core each."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch


def available_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """Returns how many jobs run side by side where a call does not say: `L3D_WORKERS`, or one per core.

    Raises:
        ValueError: `L3D_WORKERS` is no whole number of at least 1.
    """
    named = os.environ.get("L3D_WORKERS") or str(available_cores())
    if not (named.isdecimal() and int(named)):
        raise ValueError(f"L3D_WORKERS is {named!r}; expected a whole number of at least 1. Correct or unset it.")
    return int(named)


@contextmanager
def small_work(small: bool) -> Iterator[None]:
    """Uses one thread inside the block if the work is small, and as many as before after it."""
    before = torch.get_num_threads()
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees for what it needs next; returns whether its C library can be told so.

    By default glibc gives large blocks back to the system at once, which then has to clear new ones page by page: half
    the time of a training step that makes and drops tensors of some MiB. Other libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt if sys.platform == "linux" else None
    except AttributeError:  # musl has none.
        mallopt = None
    if mallopt is None:
        return False
    trim, top, mmap, largest = -1, -2, -3, 2**25  # The numbers of malloc.h; glibc takes no larger block from its heap.
    return bool(mallopt(mmap, largest) and mallopt(trim, 2**31 - 1) and mallopt(top, 2 * largest))


def _start_worker() -> None:
    """Makes a worker use one thread, since small operations are slower with more, and die with its parent."""
    torch.set_num_threads(1)
    keep_freed_memory()

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def run_jobs(function: Callable[..., Any], jobs: Sequence[dict[str, Any]], workers: int | None = None) -> list[Any]:
    """Returns the results of `function(**job)` for every job, in order.

    Args:
        function: A function of a module, so that another process can find it.
        jobs: Keyword arguments of each call; start with the longest.
        workers: Processes; None for `default_workers`, 1 to stay in this one.

    Raises:
        Exception: Whatever a job raised; jobs not begun are dropped.
        ValueError: See `default_workers`.
    """
    workers = min(default_workers() if workers is None else workers, len(jobs))
    if workers <= 1:
        return [function(**job) for job in jobs]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        futures = [pool.submit(function, **job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

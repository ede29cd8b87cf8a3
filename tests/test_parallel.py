"""Jobs side by side: same results in order, errors passed on, no worker outlives its parent."""

import os
import signal
import subprocess
import sys
import time

import pytest

from l3d_core.parallel import available_cores, default_workers, keep_freed_memory, run_jobs


def square(x):
    return x * x, os.getpid()


def fail(x):
    raise ValueError(f"job {x} is bad")


def linger(path):
    path.write_text(str(os.getpid()))
    time.sleep(60)


def test_results_come_in_order_from_other_processes():
    found = run_jobs(square, [{"x": x} for x in (3, 1, 2)], workers=2)
    assert [value for value, _ in found] == [9, 1, 4]
    assert os.getpid() not in {pid for _, pid in found}


def test_one_worker_stays_in_this_process():
    assert run_jobs(square, [{"x": 5}], workers=4) == [(25, os.getpid())]


def test_how_many_jobs_run_side_by_side_can_be_named(monkeypatch):
    monkeypatch.setenv("L3D_WORKERS", "1")
    assert default_workers() == 1
    assert {pid for _, pid in run_jobs(square, [{"x": x} for x in (3, 1)])} == {os.getpid()}
    monkeypatch.setenv("L3D_WORKERS", "")
    assert default_workers() == available_cores()


@pytest.mark.parametrize("named", ["0", "-1", "two", "1.5"])
def test_a_number_of_jobs_that_is_none_is_refused(monkeypatch, named):
    monkeypatch.setenv("L3D_WORKERS", named)
    with pytest.raises(ValueError, match=f"L3D_WORKERS is '{named}'; expected a whole number"):
        run_jobs(square, [{"x": 1}])


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_passed_on(workers):
    with pytest.raises(ValueError, match="job 7 is bad"):
        run_jobs(fail, [{"x": 7}, {"x": 8}], workers=workers)


def test_workers_die_with_a_killed_parent(tmp_path):
    """kill -9 of the parent ends its workers, so that a rerun does not work beside them."""
    script = f"""
import pathlib, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import test_parallel, l3d_core.parallel
if __name__ == "__main__":
    jobs = [{{"path": pathlib.Path({str(tmp_path)!r}) / n}} for n in "ab"]
    l3d_core.parallel.run_jobs(test_parallel.linger, jobs, workers=2)
"""
    (tmp_path / "main.py").write_text(script)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "main.py")])
    marks = [tmp_path / "a", tmp_path / "b"]
    wait_for(lambda: all(m.exists() and m.read_text() for m in marks), 60)
    workers = [int(m.read_text()) for m in marks]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not any(alive(pid) for pid in workers), 20)


@pytest.mark.skipif(sys.platform != "linux", reason="memory that is freed can be kept with glibc, on Linux, only")
def test_freed_memory_is_kept():
    """Four blocks of 16 MiB that are made and dropped again and again are new pages of the system's no more."""
    script = """
import resource, sys, torch
from l3d_core.parallel import keep_freed_memory
done = keep_freed_memory() if sys.argv[1] == "keep" else None
for i in range(20):
    if i == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2**22) for _ in range(4)]
    del blocks
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    plain, kept = (
        subprocess.run([sys.executable, "-c", script, how], capture_output=True, text=True, check=True).stdout.split()
        for how in ("plain", "keep")
    )
    if kept[0] == "False":
        pytest.skip("the C library cannot be told to keep memory")
    assert int(kept[1]) < 1000
    # Ten rounds of 64 MiB in pages of 64 KiB at most, unless another allocator keeps them by itself.
    assert int(plain[1]) < 1000 or int(plain[1]) > 9 * 2**26 / 2**16


def test_nothing_is_done_where_the_library_cannot_be_told(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def alive(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False

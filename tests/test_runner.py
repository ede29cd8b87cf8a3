"""Runs of notebooks: whole ones replace the last, all others leave it as it was."""

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
from nbformat.v4 import new_output
from notebook_cases import PARAMETERS, executed, printed, tiny, write

from l3d_core import runner

GOOD = b"the last good notebook"
SPIN = "import os, time, pathlib\npathlib.Path('kernel').write_text(str(os.getpid()))\nwhile True: time.sleep(0.1)"


@pytest.fixture
def folder(tmp_path):
    """A notebooks folder, and a destination that holds the last good notebook."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "out.ipynb").write_bytes(GOOD)
    return tmp_path


def source_of(folder: Path, *cells: str) -> Path:
    return write(folder / "notebooks" / "tiny.ipynb", tiny(*cells))


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("notebooks", "out.ipynb"))


def test_a_run_stores_outputs_without_what_differs_between_runs(folder, monkeypatch, capfd):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    source = source_of(
        folder,
        "import os, sys\nprint(sys.executable)\nprint(os.getcwd())\nprint(n, device, os.environ['OMP_NUM_THREADS'])",
        "print('to the user', file=sys.stderr)\nprint('a')\nprint('b', file=sys.stderr, flush=True)\nprint('c')",
        "import matplotlib.pyplot as plt\nplt.subplots()[0]",
    )
    before = source.read_bytes()
    out = folder / "out.ipynb"
    parameters = {"n": 7, "device": "cpu", "artifacts_dir": str(folder)}
    runner.run_notebook(source, out, parameters)
    first = out.read_bytes()
    assert printed(out) == f"{sys.executable}\n{source.parent}\n7 cpu 1\na\nc\n"
    assert "to the user" in capfd.readouterr().err
    notebook = nbformat.read(out, as_version=4)
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    injected = notebook.cells[2]
    assert injected.metadata == {"tags": ["injected-parameters", "remove-cell"]}
    assert "n = 7" in injected.source
    assert str(folder) not in injected.source
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2, 3, 4, 5]
    assert [cell.metadata for cell in notebook.cells[3:]] == [{}, {}, {}]
    assert len(notebook.cells[4].outputs) == 1
    assert any("image/png" in o.data for o in notebook.cells[5].outputs), "an inherited MPLBACKEND left the figure out"
    assert "OMP_NUM_THREADS" not in os.environ
    runner.run_notebook(source, out, parameters)
    assert out.read_bytes() == first
    assert source.read_bytes() == before
    assert leftovers(folder) == []
    assert out.stat().st_mode & 0o777 == source.stat().st_mode & 0o777


def test_in_place_stores_outputs_only(folder):
    source = source_of(folder, "print(n)")
    before = nbformat.read(source, as_version=4)
    runner.run_notebook(source, source, {"preset": "quick"}, in_place=True)
    after = nbformat.read(source, as_version=4)
    assert [(c.id, c.source) for c in after.cells] == [(c.id, c.source) for c in before.cells]
    assert [c.execution_count for c in after.cells[1:]] == [1, 2]
    assert printed(source) == "1\n"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["print('before')", "raise KeyError('a plain name')"], r"tiny\.ipynb failed: KeyError: 'a plain name'"),
        (["import os", "os._exit(1)", "print('after')"], r"tiny\.ipynb failed: Kernel died.*Run again"),
        # papermill takes this for a normal end of the run.
        (
            ["import sys", "sys.exit(0)", "print('after')"],
            r"did not run to its end: cell 5 raised SystemExit; cell 6 was not run",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:To exit")
def test_a_run_that_fails_leaves_the_last_good_notebook(folder, cells, message):
    source = source_of(folder, *cells)
    with pytest.raises(RuntimeError, match=message):
        runner.run_notebook(source, folder / "out.ipynb", {"n": 2})
    assert (folder / "out.ipynb").read_bytes() == GOOD
    assert leftovers(folder) == []


def test_cells_that_papermill_calls_completed_are_looked_at(folder, monkeypatch):
    notebook = executed("n", "n")
    notebook.cells[-1].execution_count = None
    notebook.cells[-1].metadata["papermill"] = {"status": "completed", "exception": None}
    monkeypatch.setattr(runner, "_execute", lambda *_: notebook)
    with pytest.raises(RuntimeError, match=r"cell 4 was not run\. .*out\.ipynb is as it was; run again"):
        runner.run_notebook(source_of(folder, "n", "n"), folder / "out.ipynb", {})
    assert (folder / "out.ipynb").read_bytes() == GOOD


def test_incomplete_names_each_fault():
    notebook = executed("a", "b", "c", " ")
    assert runner.incomplete(notebook) == []
    notebook.cells[-1].execution_count = None  # Nothing in it to run.
    assert runner.incomplete(notebook) == []
    notebook.cells[0].metadata["tags"] = ["papermill-error-cell-tag"]
    notebook.cells[2].execution_count = None
    notebook.cells[3].outputs.append(new_output("error", ename="ValueError", evalue="", traceback=[]))
    assert runner.incomplete(notebook) == ["cell 1 reports an error", "cell 3 was not run", "cell 4 raised ValueError"]


def test_unknown_parameters_and_notebooks_are_refused(folder):
    source = source_of(folder, "print(n)")
    with pytest.raises(
        ValueError, match=r"has no parameter m; expected names among \['artifacts_dir', .*'n', 'preset'\]"
    ):
        runner.run_notebook(source, folder / "out.ipynb", {"n": 2, "m": 3})
    with pytest.raises(ValueError, match=r"none\.ipynb does not exist; expected a notebook"):
        runner.run_notebook(source.with_name("none.ipynb"), folder / "out.ipynb", {})
    assert (folder / "out.ipynb").read_bytes() == GOOD


@contextmanager
def disk_with(n_bytes: int):
    """No file grows beyond n_bytes: a write fails halfway, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_last_good_notebook(folder, monkeypatch):
    monkeypatch.setattr(runner, "_execute", lambda *_: executed("n" * 100_000))
    with disk_with(10_000), pytest.raises(OSError, match=r"cannot be written .*expected a writable folder with room"):
        runner.run_notebook(source_of(folder, "n"), folder / "out.ipynb", {})
    assert (folder / "out.ipynb").read_bytes() == GOOD
    assert leftovers(folder) == []


def test_a_folder_that_cannot_be_made_is_found_before_the_run(folder, monkeypatch):
    monkeypatch.setattr(runner, "_execute", lambda *_: pytest.fail("was run"))
    with pytest.raises(OSError, match="cannot be written"):
        runner.run_notebook(source_of(folder, "n"), folder / "out.ipynb" / "in_a_file.ipynb", {})


def test_a_lost_race_for_ports_is_tried_once_more(folder, monkeypatch):
    attempts = []

    def execute(*_, **__):
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return executed("n")

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    source = source_of(folder, "n")
    runner.run_notebook(source, folder / "out.ipynb", {})
    assert len(attempts) == 2


@pytest.mark.parametrize(
    ("words", "n_attempts"), [("Address already in use", 2), ("Kernel died before replying", 2), ("Kernel died", 1)]
)
def test_what_fails_again_is_told(folder, monkeypatch, words, n_attempts):
    attempts = []

    def execute(*_, **__):
        attempts.append(1)
        raise RuntimeError(words)

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    with pytest.raises(RuntimeError, match=rf"tiny\.ipynb failed: {words}\. Run again"):
        runner.run_notebook(source_of(folder, "n"), folder / "out.ipynb", {})
    assert len(attempts) == n_attempts


def test_printed_text_is_joined_however_it_came():
    pieces = ["a", "b", None, "c"]
    notebook = executed("n")
    notebook.cells[-1].outputs = [
        new_output("stream", name="stderr", text="bar")
        if text is None
        else new_output("stream", name="stdout", text=text)
        for text in pieces
    ]
    notebook.cells[-1].outputs.append(new_output("display_data", data={"text/plain": "figure"}))
    [text, figure] = runner.clean(notebook).cells[-1].outputs
    assert text.text == "abc"
    assert figure.data == {"text/plain": "figure"}


def test_the_notebook_appears_in_one_step(folder, monkeypatch):
    """A reader sees the old or the new file, never a part: the new one comes under another name."""
    monkeypatch.setattr(runner, "_execute", lambda *_: executed("n"))
    old = (folder / "out.ipynb").stat().st_ino
    with (folder / "out.ipynb").open("rb") as reader:
        runner.run_notebook(source_of(folder, "n"), folder / "out.ipynb", {})
        assert reader.read() == GOOD
    assert (folder / "out.ipynb").stat().st_ino != old


def test_a_kernel_of_another_interpreter_is_refused(tmp_path, monkeypatch):
    spec = tmp_path / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(
        '{"argv": ["/usr/bin/other", "-f", "{connection_file}"], "display_name": "x", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"kernel python3 runs /usr/bin/other; expected .*python"):
        runner.check_kernel()
    with runner._kernel_environment():  # It looks into its own environment first.
        runner.check_kernel()


def test_the_kernel_is_checked_before_each_run(folder, monkeypatch):
    def refuse():
        raise RuntimeError("kernel python3 runs another")

    monkeypatch.setattr(runner, "check_kernel", refuse)
    monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: pytest.fail("was run"))
    with pytest.raises(RuntimeError, match="kernel python3 runs another"):
        runner.run_notebook(source_of(folder, "n"), folder / "out.ipynb", {})


COMMAND = """
import signal, sys
from pathlib import Path
from l3d_core import cli, experiments
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background job inherits it ignored.
experiments.NOTEBOOKS = ("tiny",)
cli.project_root = lambda: Path(sys.argv[1])
sys.exit(cli.main(["run", "tiny", "--device", "cpu", "--output", sys.argv[1] + "/out.ipynb"]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_killed_run_takes_its_kernel_along(folder, monkeypatch, number, status):
    source_of(folder, SPIN)
    pid_file = folder / "notebooks" / "kernel"
    command = [sys.executable, "-c", COMMAND, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        try:
            wait_for(lambda: pid_file.exists() and pid_file.read_text())
            kernel = int(pid_file.read_text())
            assert len(leftovers(folder)) == 1
            run.send_signal(number)
            assert run.wait(20) == status
            assert 'File "<string>"' not in run.stderr.read()
        finally:
            run.kill()
    wait_for(lambda: not psutil.pid_exists(kernel))
    assert (folder / "out.ipynb").read_bytes() == GOOD
    if number == signal.SIGKILL:
        monkeypatch.setattr(runner, "_execute", lambda *_: executed("n"))
        runner.run_notebook(source_of(folder, "n"), folder / "out.ipynb", {})
    assert leftovers(folder) == []


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_the_file_of_another_live_run_is_left_alone(folder, monkeypatch):
    monkeypatch.setattr(runner, "_execute", lambda *_: executed("n"))
    live, dead = (folder / f".out.ipynb.{pid}.part" for pid in (os.getppid(), 2**22 + 1))
    live.touch()
    dead.touch()
    runner.run_notebook(source_of(folder, "n"), folder / "out.ipynb", {})
    assert leftovers(folder) == [live.name]


def test_the_parameters_used_here_are_what_the_notebooks_take():
    assert [line.split(" = ")[0] for line in PARAMETERS.splitlines()][:3] == ["preset", "device", "artifacts_dir"]

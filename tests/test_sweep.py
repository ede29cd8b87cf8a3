"""Sweeps: how a grid is read, which points run, what interrupts and failures leave, the table at the end."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
from nbformat.v4 import new_output
from notebook_cases import executed, printed, tiny, write

from l3d_core import cli, experiments, runner, sweep
from l3d_core.record import MIME


def showing(record: str) -> str:
    """A cell that stores a record."""
    return f"from IPython.display import display\ndisplay({{'{MIME}': {record}}}, raw=True)"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one notebook, and as working directory."""
    monkeypatch.setattr(experiments, "notebooks", lambda: ["tiny"])
    monkeypatch.setattr(cli, "project_root", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    notebook(tmp_path, "print(n)")
    return tmp_path


def notebook(checkout: Path, *cells: str) -> Path:
    built = tiny(*cells)
    built.cells[1].source += "\nseeds = [0]\nword = 'a'"
    return write(checkout / "notebooks" / "tiny.ipynb", built)


@pytest.fixture
def ran(monkeypatch):
    """Runs without kernels: the parameters of each, and records by `n` that take the place of its own."""
    asked = []

    def execute(source, parameters, progress):
        assert not progress
        asked.append(parameters)
        done = papermill.execute_notebook(str(source), None, dict(parameters), prepare_only=True, progress_bar=False)
        for count, cell in enumerate([cell for cell in done.cells if cell.cell_type == "code"], 1):
            cell.execution_count = count
        n = parameters["n"]
        if n in execute.records:
            done.cells[-1].outputs = [new_output("display_data", data={MIME: execute.records[n]})]
        if n in execute.errors:
            raise execute.errors[n]
        return done

    execute.records = {n: {"numbers": {"twice": 2 * n}} for n in range(10)}
    execute.errors = {}
    execute.asked = asked
    monkeypatch.setattr(runner, "_execute", execute)
    return execute


def swept(*arguments: str) -> int:
    return cli.main(["sweep", "tiny", "--device", "cpu", "--output", "out", *arguments])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def asked_n(ran) -> list[int]:
    found = sorted(parameters["n"] for parameters in ran.asked)
    ran.asked.clear()
    return found


@pytest.mark.parametrize(
    ("pairs", "grid"),
    [
        (["rank=1,2,3", "seeds=0:4"], {"rank": [1, 2, 3], "seeds": [[0, 1, 2, 3]]}),
        (["b=1", "a=x"], {"a": ["x"], "b": [1]}),
        (["a=0:2,-2:0"], {"a": [[0, 1], [-2, -1]]}),
        (["a=[1,2]"], {"a": [[1, 2]]}),
        (["a=[1,[2,3]],[4]"], {"a": [[1, [2, 3]], [4]]}),
        (["a=(1,2)"], {"a": [[1, 2]]}),
        (["a='x,y',\"it's\",z"], {"a": ["x,y", "it's", "z"]}),
        (["a='[',2"], {"a": ["[", 2]}),
        (["a=1e-3,.5, true,None"], {"a": [0.001, 0.5, True, None]}),
        (["a=x:y"], {"a": ["x:y"]}),
    ],
)
def test_grids_by_hand(pairs, grid):
    found = sweep.parse_grid(pairs)
    assert found == grid
    assert list(found) == sorted(found)
    assert repr(found) == repr(grid), "1 and True are equal and not the same"


def test_points_by_hand():
    grid = {"lr": [0.1, 0.01], "n_v": [5], "rank": [1, 2], "seeds": [[0, 1]]}
    points = sweep.make_points(grid)
    assert [point.name for point in points] == [
        "lr=0.1,rank=1", "lr=0.1,rank=2", "lr=0.01,rank=1", "lr=0.01,rank=2"
    ]  # fmt: skip
    assert points[1].parameters == {"lr": 0.1, "n_v": 5, "rank": 2, "seeds": [0, 1]}
    assert list(points[1].columns.items()) == [("lr", 0.1), ("n_v", 5), ("rank", 2)]


def test_names_are_fit_for_files_and_tell_points_apart():
    values = ["a/b", "a b", "../x", "", "é", "x" * 300, [1, 2], [1, 3], -1, 1e-05, "low-rank"]
    points = sweep.make_points({"a": values})
    found = [point.name for point in points]
    assert len(set(found)) == len(values)
    assert all(set(name) < set("abcdefghijklmnopqrstuvwxyz0123456789.+-_=") for name in found)
    assert max(map(len, found)) < 60
    assert found[-3:] == ["a=-1", "a=1e-05", "a=low-rank"]
    assert points[6].columns == {"a": "[1, 2]"}, "a list that tells points apart has a column"
    long = sweep.make_points({f"name_{i}": ["y" * 39 + end for end in "ab"] for i in range(6)})
    assert len({point.name for point in long}) == 64
    assert max(len(point.name) for point in long) < 200
    [only] = sweep.make_points({"n": [3], "word": ["b"]})
    assert only.name == "n=3,word=b"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "-p", "n=1"], "notebook 'none' is unknown; expected one of ['tiny']"),
        (["tiny"], "got no parameter; expected -p name=1,2,3"),
        (["tiny", "-p", "m=1,2"], "tiny.ipynb has no parameter m; expected names among"),
        (["tiny", "-p", "n"], "-p 'n' is no parameter; expected -p name=value"),
        (["tiny", "-p", "n="], "-p 'n=' lacks a value; expected one, or several between commas"),
        (["tiny", "-p", "n=1,,2"], "-p 'n=1,,2' lacks a value"),
        (["tiny", "-p", "n=1,"], "-p 'n=1,' lacks a value"),
        (["tiny", "-p", "n=[1,2"], "-p 'n=[1,2' has no readable value; expected brackets and quotes in pairs"),
        (["tiny", "-p", "n=don't,do"], "has no readable value; expected brackets and quotes in pairs"),
        (["tiny", "-p", "n=[1 2: x]: y"], "has no readable value; expected a Python literal or YAML"),
        (["tiny", "-p", "seeds=4:4"], "-p 'seeds=4:4' holds no numbers from 4:4; expected first:end with first < end"),
        (["tiny", "-p", "seeds=4:1"], "holds no numbers from 4:1; expected first:end"),
        (["tiny", "-p", "seeds=0:8:2"], "holds no numbers from 0:8:2; expected first:end"),
        (["tiny", "-p", "seeds=:8"], "holds no numbers from :8; expected first:end"),
        (["tiny", "-p", "seeds=1:2.5"], "holds no numbers from 1:2.5; expected first:end"),
        (["tiny", "-p", "n={1,2}"], "-p 'n={1,2}': Object of type set is not JSON serializable; expected numbers"),
        (["tiny", "-p", "n=1,2,1"], "-p 'n=1,2,1' has 2 values called 1; expected each value once"),
        (["tiny", "-p", "n=1", "-p", "n=2"], "-p n is given twice; expected it once. Separate its values by commas"),
        (["tiny", "-p", "preset=quick,paper"], "-p preset is not taken; use --preset quick,paper"),
        (["tiny", "-p", "device=cpu"], "-p device is not taken; use --device cpu"),
        (["tiny", "-p", "artifacts_dir=x"], "-p artifacts_dir is not taken; use --artifacts x"),
        (["tiny", "-p", "n=1", "--jobs", "0"], "got jobs = 0; expected at least 1. Leave --jobs out"),
        (["tiny", "-p", "n=1", "--jobs", "two"], "invalid int value: 'two'"),
        (
            ["tiny", "-p", "n=1", "--output", "notebooks/x"],
            "--output notebooks/x is refused; expected a folder outside",
        ),
        (["tiny", "-p", "n=1", "--output", "book"], "--output book is refused; expected a folder outside"),
        (["tiny", "-p", "n=1", "--output", "file"], "--output file is refused; expected a folder outside"),
    ],
)
def test_sweeps_that_make_no_sense_are_refused_before_any_work(checkout, ran, capsys, arguments, message):
    (checkout / "file").touch()
    try:
        assert cli.main(["sweep", *arguments]) == 2
    except SystemExit as stop:
        assert stop.code == 2
    assert message in capsys.readouterr().err
    assert ran.asked == []
    assert names(checkout) == ["file", "notebooks"]


def test_each_point_is_a_notebook_and_a_row(checkout, ran, capsys):
    assert swept("--preset", "paper", "-p", "n=1,2", "-p", "seeds=0:3", "-p", "word=b,c", "--artifacts", "a") == 0
    points = [(parameters["n"], parameters["word"]) for parameters in ran.asked]
    assert sorted(points) == [(1, "b"), (1, "c"), (2, "b"), (2, "c")]
    shared = {"preset": "paper", "device": "cpu", "artifacts_dir": str(checkout / "a"), "seeds": [0, 1, 2]}
    assert all(shared.items() <= parameters.items() for parameters in ran.asked)
    expected = ["n=1,word=b.ipynb", "n=1,word=c.ipynb", "n=2,word=b.ipynb", "n=2,word=c.ipynb", "table.csv"]
    assert names(checkout / "out") == expected
    assert (checkout / "out/table.csv").read_text() == "n,word,twice\n1,b,2\n1,c,2\n2,b,4\n2,c,4\n"
    captured = capsys.readouterr()
    assert captured.out == "out/table.csv\n"
    lines = captured.err.splitlines()
    assert lines[0] == "4 points, 0 of them done before"
    assert [line.split()[0] for line in lines[1:]] == ["1/4", "2/4", "3/4", "4/4"]
    assert {line.split()[1] for line in lines[1:]} == {f"{name.removesuffix('.ipynb')}:" for name in expected[:4]}


def test_the_table_holds_the_rows_of_the_records(checkout, ran):
    ran.records[1] = {
        "numbers": {"ignored": 1},
        "table": [{"variant": "text", "seed": 3, "recon_sq": 0.1}, {"variant": "a, b", "seed": 4, "recon_sq": None}],
    }
    ran.records[2] = {"table": [{"n": 2, "found": True, "variant": "code"}]}
    ran.records[3] = {"numbers": {"recon_sq": 1 / 3, "kept": [1, 2], "by_kind": {"a": 1}}}
    assert swept("-p", "n=3,1,2", "-p", "seeds=0:8") == 0
    assert (checkout / "out/table.csv").read_text().splitlines() == [
        "n,recon_sq,seed,variant,found",
        "3,0.3333333333333333,,,",
        "1,0.1,3,text,",
        '1,,4,"a, b",',
        "2,,,code,True",
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "holds no record; expected an executed notebook"),
        ({"table": []}, "records no table of rows; expected a list of flat dicts"),
        ({"table": {"n": 1}}, "records no table of rows; expected a list of flat dicts"),
        ({"table": [{"a": 1}, [2]]}, "records no table of rows; expected a list of flat dicts"),
        ({"table": [{"a": [1, 2]}]}, "records no table of rows; expected a list of flat dicts"),
        ({"table": [{"n": 2}, {"n": 7}]}, "records n = 7 at the point n = 2; expected the same. Rename the column"),
    ],
)
def test_a_record_without_rows_is_told_and_the_others_are_kept(checkout, ran, capsys, record, message):
    ran.records[2] = record
    if record is None:
        del ran.records[2]
    assert swept("-p", "n=1,2,3") == 1
    [told] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("l3d: ")]
    assert told.startswith("l3d: n=2 failed: ") and message in told
    assert (checkout / "out/table.csv").read_text() == "n,twice\n1,2\n3,6\n"


def test_what_is_done_is_not_run_again(checkout, ran):
    assert swept("-p", "n=1,2") == 0
    assert asked_n(ran) == [1, 2]
    out = checkout / "out"
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.glob("*.ipynb")}
    assert swept("-p", "n=3,2,1", "--artifacts", "elsewhere") == 0
    assert asked_n(ran) == [3]
    after = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.glob("*.ipynb")}
    assert before.items() < after.items()
    assert (out / "table.csv").read_text() == "n,twice\n3,6\n2,4\n1,2\n"


def test_what_is_not_as_it_would_be_now_is_run_again(checkout, ran):
    def again(*options: str) -> list[int]:
        assert swept("-p", "n=1,2", *options) == 0
        return asked_n(ran)

    assert again() == [1, 2]
    assert again("--preset", "paper") == [1, 2]
    assert again("--preset", "paper", "-p", "word=b") == [1, 2]
    assert again() == [1, 2]
    one = checkout / "out" / "n=1.ipynb"
    for broken in ("", "[]", "{}", one.read_text()[:-100]):
        one.write_text(broken)
        assert again() == [1]
    notebook = nbformat.read(one, as_version=4)
    notebook.cells[-1].execution_count = None
    write(one, notebook)
    assert again() == [1]
    source = checkout / "notebooks" / "tiny.ipynb"
    changed = nbformat.read(source, as_version=4)
    changed.cells[0].source = "Only words."
    write(source, changed)
    assert again() == []
    changed.cells[-1].source = "print(n, n)"
    write(source, changed)
    assert again() == [1, 2]


def test_the_default_folder_belongs_to_notebook_preset_and_grid(checkout, ran, capsys):
    def folder(*options: str) -> str:
        assert cli.main(["sweep", "tiny", "--device", "cpu", *options]) == 0
        table = Path(capsys.readouterr().out.strip())
        assert table.parts[:2] == ("artifacts", "sweeps") and table.name == "table.csv"
        return table.parts[2]

    found = [folder(*options) for options in (
        ("-p", "n=1,2", "-p", "word=b"), ("-p", "n=1,3", "-p", "word=b"), ("-p", "n=1,2"),
        ("-p", "n=1,2", "-p", "word=b", "--preset", "paper"),
    )]  # fmt: skip
    assert len(set(found)) == 4
    assert all(name.startswith("tiny-") and len(name) == len("tiny-12345678") for name in found)
    assert folder("-p", "word=b", "-p", "n=1,2", "--jobs", "2") == found[0]


def test_a_failed_point_is_told_at_the_end_and_loses_nothing(checkout, ran, capsys):
    assert swept("-p", "n=2") == 0
    good = (checkout / "out/n=2.ipynb").read_bytes()
    ran.errors = {2: RuntimeError("the kernel died"), 3: KeyError("x")}
    capsys.readouterr()
    assert swept("--preset", "paper", "-p", "n=1,2,3,4") == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-2:] == ["l3d: n=2 failed: the kernel died", "l3d: n=3 failed: KeyError('x')"]
    assert "n=2: failed" in captured.err and captured.err.count("/4 ") == 4
    assert captured.out == "out/table.csv\n"
    assert (checkout / "out/table.csv").read_text() == "n,twice\n1,2\n4,8\n", "an old run has no row in a new table"
    assert (checkout / "out/n=2.ipynb").read_bytes() == good
    ran.asked.clear()
    ran.errors = {}
    assert swept("--preset", "paper", "-p", "n=1,2,3,4") == 0
    assert asked_n(ran) == [2, 3]


def test_without_a_row_there_is_no_table(checkout, ran, capsys):
    ran.errors = {1: RuntimeError("no")}
    assert swept("-p", "n=1") == 1
    assert capsys.readouterr().out == ""
    assert names(checkout / "out") == []


def test_a_table_that_cannot_be_written_exits_with_1(checkout, ran, capsys):
    (checkout / "out" / "table.csv" / "in_the_way").mkdir(parents=True)
    assert swept("-p", "n=1") == 1
    assert "table.csv cannot be written" in capsys.readouterr().err
    assert names(checkout / "out") == ["n=1.ipynb", "table.csv"]


def test_as_many_run_at_a_time_as_asked_for(checkout, ran, monkeypatch):
    plain, now, most, lock = runner._execute, [], [], threading.Lock()

    def execute(*arguments):
        with lock:
            now.append(1)
            most.append(len(now))
        time.sleep(0.1)
        with lock:
            now.pop()
        return plain(*arguments)

    monkeypatch.setattr(runner, "_execute", execute)
    for jobs in (1, 3):
        most.clear()
        assert swept("--jobs", str(jobs), "-p", "n=1,2,3,4,5", "-p", f"word=w{jobs}") == 0
        assert (len(most), max(most)) == (5, jobs)


def test_runs_that_share_a_process_leave_its_environment_alone(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("JUPYTER_PATH", "mine")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    first, second = runner._kernel_environment(), runner._kernel_environment()
    first.__enter__()
    inside = dict(os.environ)
    assert inside["OMP_NUM_THREADS"] == "1" and "MPLBACKEND" not in inside
    second.__enter__()
    assert dict(os.environ) == inside
    first.__exit__(None, None, None)
    assert dict(os.environ) == inside, "the second still runs"
    second.__exit__(None, None, None)
    assert dict(os.environ) == before


def test_real_kernels_two_at_a_time(checkout, capsys):
    """Each waits for the other, one fails, and all of them run in the notebook's folder."""
    notebook(
        checkout,
        "import os, pathlib, time\npathlib.Path(f'began{n}').touch()\n"
        "while n < 3 and not pathlib.Path(f'began{3 - n}').exists(): time.sleep(0.05)",
        "print(os.getcwd(), os.environ['OMP_NUM_THREADS'], n, seeds, word)\nassert n != 2, 'n is two'",
        showing("{'table': [{'seed': s, 'value': s * n} for s in seeds]}"),
    )
    before = Path.cwd(), dict(os.environ)
    assert swept("--jobs", "2", "-p", "n=1,2,3", "-p", "seeds=4:6", "-p", "word=b") == 1
    assert (Path.cwd(), dict(os.environ)) == before
    captured = capsys.readouterr()
    assert captured.out == "out/table.csv\n"
    assert "l3d: n=2 failed: tiny.ipynb failed: AssertionError: n is two" in captured.err
    assert names(checkout / "out") == ["n=1.ipynb", "n=3.ipynb", "table.csv"]
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    assert printed(checkout / "out/n=3.ipynb") == f"{checkout / 'notebooks'} {threads} 3 [4, 5] b\n"
    assert (checkout / "out/table.csv").read_text() == "n,word,seed,value\n1,b,4,4\n1,b,5,5\n3,b,4,12\n3,b,5,15\n"
    source = checkout / "notebooks/tiny.ipynb"
    parameters = {"preset": "quick", "device": "cpu", "n": 3, "seeds": [4, 5], "word": "b"}
    assert sweep.is_done(source, checkout / "out/n=3.ipynb", parameters)
    assert not sweep.is_done(source, checkout / "out/n=3.ipynb", {**parameters, "n": 1})


COMMAND = """
import signal, sys
from pathlib import Path
from l3d_core import cli, experiments
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background job inherits it ignored.
experiments.notebooks = lambda: ["tiny"]
cli.project_root = lambda: Path.cwd()
sys.exit(cli.main(["sweep", "tiny", "--device", "cpu", "--jobs", "2", "--output", "out", "-p", "n=1,2,3,4"]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_killed_sweep_takes_its_kernels_along_and_goes_on_later(checkout, ran, number, status):
    notebook(
        checkout,
        "import os, pathlib, time\npathlib.Path(f'kernel{n}').write_text(str(os.getpid()))\n"
        "while n in (2, 3): time.sleep(0.1)",
        showing("{'numbers': {'twice': 2 * n}}"),
    )
    out, pids = checkout / "out", [checkout / "notebooks" / f"kernel{n}" for n in (2, 3)]
    with subprocess.Popen([sys.executable, "-c", COMMAND], stderr=subprocess.PIPE, text=True) as run:
        try:
            wait_for(lambda: (out / "n=1.ipynb").exists() and all(pid.exists() and pid.read_text() for pid in pids))
            kernels = [int(pid.read_text()) for pid in pids]
            run.send_signal(number)
            assert run.wait(20) == status
            told = run.stderr.read()
            assert all(words not in told for words in ("Traceback", "Exception", "Task was destroyed")), told
        finally:
            run.kill()
    wait_for(lambda: not any(map(psutil.pid_exists, kernels)))
    assert not (checkout / "notebooks" / "kernel4").exists()
    parts = [name for name in names(out) if name != "n=1.ipynb"]
    assert len(parts) == (2 if number == signal.SIGKILL else 0)
    before = (out / "n=1.ipynb").stat().st_mtime_ns
    assert swept("-p", "n=1,2,3,4") == 0
    assert asked_n(ran) == [2, 3, 4]
    assert (out / "n=1.ipynb").stat().st_mtime_ns == before
    assert names(out) == ["n=1.ipynb", "n=2.ipynb", "n=3.ipynb", "n=4.ipynb", "table.csv"]
    assert (out / "table.csv").read_text() == "n,twice\n1,2\n2,4\n3,6\n4,8\n"


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_an_executed_notebook_without_parameters_of_its_own_is_not_taken_for_a_run(checkout):
    source = checkout / "notebooks/tiny.ipynb"
    assert not sweep.is_done(source, write(checkout / "x.ipynb", executed("print(n)")), {"n": 1})
    assert not sweep.is_done(source, checkout / "none.ipynb", {"n": 1})

"""The command line: what is refused, where notebooks go, exit statuses."""

import json
import subprocess
import sys

import pytest
import torch
from notebook_cases import executed, printed, tiny, write

from l3d_core import artifacts, check, cli, experiments, publish, runner


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout whose manifest has one small notebook, and a figure of another one."""
    exhibits = (
        experiments.Exhibit("a", "Figure 1", "First", "tiny"),
        experiments.Exhibit("b", "Figure 2", "Second", "later"),
    )
    monkeypatch.setattr(experiments, "EXHIBITS", exhibits)
    monkeypatch.setattr(experiments, "NOTEBOOKS", ("tiny",))
    monkeypatch.setattr(cli, "project_root", lambda: tmp_path)
    write(tmp_path / "notebooks" / "tiny.ipynb", tiny("print(preset, n)"))
    return tmp_path


@pytest.fixture
def runs(checkout, monkeypatch):
    """The runs asked for, none of which takes place."""
    asked = []
    monkeypatch.setattr(runner, "run_notebook", lambda *args, **options: asked.append((*args, options)))
    return asked


def refusal(capsys, *arguments: str) -> str:
    try:
        assert cli.main(arguments) == 2
    except SystemExit as stop:
        assert stop.code == 2
    return capsys.readouterr().err


def test_run_executes_a_notebook_and_prints_where_it_is(checkout, capsys, monkeypatch):
    monkeypatch.chdir(checkout)
    assert cli.main(["run", "tiny", "--device", "cpu", "-p", "n=3"]) == 0
    path = checkout / capsys.readouterr().out.strip()
    assert path.parent == checkout / "artifacts" / "runs"
    assert printed(path) == "quick 3\n"


def test_destinations(runs, checkout):
    def goes_to(*options: str):
        runs.clear()
        assert cli.main(["run", "tiny", *options]) == 0
        [(source, destination, parameters, rest)] = runs
        assert source == checkout / "notebooks" / "tiny.ipynb"
        assert rest == {"in_place": "--in-place" in options}
        return str(destination.relative_to(checkout)), parameters

    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert goes_to() == ("artifacts/runs/tiny.quick.ipynb", {"preset": "quick", "device": device})
    assert goes_to("--preset", "paper") == ("book/results/tiny.ipynb", {"preset": "paper", "device": device})
    assert goes_to("--in-place", "--device", "cpu")[0] == "notebooks/tiny.ipynb"
    assert goes_to("--output", str(checkout / "x.ipynb"))[0] == "x.ipynb"
    one, two = (goes_to("--preset", "paper", "-p", f"n={n}")[0] for n in (1, 2))
    assert one != two
    assert one.startswith("artifacts/runs/tiny-") and len(one) == len("artifacts/runs/tiny-12345678.ipynb")
    assert goes_to("-p", "n=1")[0] not in (one, two)
    assert goes_to("--artifacts", str(checkout / "a"))[1]["artifacts_dir"] == str(checkout / "a")


def test_all_runs_the_manifest(runs, monkeypatch, checkout):
    monkeypatch.setattr(experiments, "NOTEBOOKS", ("tiny", "more"))
    write(checkout / "notebooks" / "more.ipynb", tiny())
    assert cli.main(["run", "--all"]) == 0
    assert [source.stem for source, *_ in runs] == ["tiny", "more"]


def test_all_leaves_out_what_has_no_data_and_says_so(runs, monkeypatch, checkout, capsys):
    monkeypatch.delenv("L3D_HUB", raising=False)
    monkeypatch.setattr(experiments, "NOTEBOOKS", ("06_vision", "tiny"))
    write(checkout / "notebooks" / "06_vision.ipynb", tiny())
    assert cli.main(["run", "--all"]) == 0
    assert [source.stem for source, *_ in runs] == ["tiny"]
    assert "06_vision skipped: L3D_HUB does not hold uoft-cs/cifar10." in capsys.readouterr().out
    assert cli.main(["run", "06_vision"]) == 0  # By its name it may fetch them.
    assert [source.stem for source, *_ in runs] == ["tiny", "06_vision"]


def test_override_values():
    pairs = ["a=1e-3", "b=true", "c=[1, x]", "d=word", "e='1'", "f=(1, 2)", "g=x=y", "h="]
    expected = {"a": 0.001, "b": True, "c": [1, "x"], "d": "word", "e": "1", "f": (1, 2), "g": "x=y", "h": None}
    assert cli.parse_overrides(pairs) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["walk"], "invalid choice: 'walk'"),
        (["run"], "got 0 names and --all not set; expected names or --all"),
        (["run", "tiny", "--all"], "got 1 names and --all set; expected names or --all"),
        (["run", "none"], "notebook 'none' is unknown; expected one of ['tiny']. See l3d list."),
        (["run", "tiny", "--preset", "huge"], "invalid choice: 'huge'"),
        (["run", "tiny", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["run", "tiny", "-p", "m=1"], "tiny.ipynb has no parameter m; expected names among"),
        (["run", "tiny", "-p", "n"], "-p 'n' is no parameter; expected -p name=value"),
        (["run", "tiny", "-p", "2=3"], "-p '2=3' is no parameter; expected -p name=value"),
        (["run", "tiny", "-p", "n=[1"], "-p 'n=[1' has no readable value; expected a Python literal or YAML"),
        (["run", "tiny", "-p", "preset=paper"], "-p preset is not taken; use --preset paper"),
        (["run", "tiny", "-p", "device=cpu"], "-p device is not taken; use --device cpu"),
        (["run", "tiny", "-p", "artifacts_dir=x"], "-p artifacts_dir is not taken; use --artifacts x"),
        (["run", "tiny", "--in-place", "--preset", "paper"], "--in-place refreshes the quick outputs; expected no"),
        (["run", "tiny", "--in-place", "-p", "n=2"], "--in-place refreshes the quick outputs; expected no"),
        (["run", "tiny", "--in-place", "--output", "x.ipynb"], "--in-place refreshes the quick outputs; expected no"),
        (["run", "tiny", "--output", "x.html"], "--output x.html is refused; expected an .ipynb file outside"),
        (["run", "tiny", "tiny", "--output", "x.ipynb"], "--output names one file for 2 notebooks"),
    ],
)
def test_commands_that_make_no_sense_exit_with_2(runs, capsys, arguments, message):
    assert message in refusal(capsys, *arguments)
    assert runs == []


def test_output_over_a_source_is_refused(runs, capsys, checkout):
    source = checkout / "notebooks" / "tiny.ipynb"
    assert "is refused; expected an .ipynb file outside notebooks/" in refusal(
        capsys, "run", "tiny", "--output", str(source)
    )
    assert runs == []


def test_a_listed_notebook_that_is_not_there_is_refused_before_any_runs(runs, capsys, monkeypatch):
    monkeypatch.setattr(experiments, "NOTEBOOKS", ("tiny", "gone"))
    assert "gone.ipynb does not exist" in refusal(capsys, "run", "--all")
    assert runs == []


def test_cuda_without_a_gpu_is_refused(capsys, runs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda, but torch sees no GPU" in refusal(capsys, "run", "tiny", "--device", "cuda")
    assert cli.resolve_device("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cli.resolve_device("auto") == cli.resolve_device("cuda") == "cuda"
    assert cli.resolve_device("cpu") == "cpu"


@pytest.mark.parametrize("error", [RuntimeError("it failed"), OSError("it failed")])
def test_a_failed_run_exits_with_1_and_stops(checkout, capsys, monkeypatch, error):
    asked = []

    def fail(source, *_, **__):
        asked.append(source.stem)
        raise error

    monkeypatch.setattr(runner, "run_notebook", fail)
    assert cli.main(["run", "tiny", "tiny"]) == 1
    assert asked == ["tiny"]
    captured = capsys.readouterr()
    assert captured.err == "l3d: it failed\n"
    assert captured.out == ""


def test_list_tells_how_far_each_exhibit_is(checkout, capsys, monkeypatch):
    def states():
        assert cli.main(["list", "--json"]) == 0
        return [row["state"] for row in json.loads(capsys.readouterr().out)]

    source, result = (checkout / folder / "tiny.ipynb" for folder in ("notebooks", "book/results"))
    assert states() == ["quick only", "quick only"]
    write(result, executed("print(preset, n)"))
    problems = {(source, result, "tiny"): []}
    monkeypatch.setattr(check, "check_result", lambda *arguments: problems[arguments])
    assert states() == ["paper run", "quick only"]
    problems[source, result, "tiny"] = ["the paper preset has changed"]
    assert states() == ["paper run out of date", "quick only"]


def test_list_prints_a_table(checkout, capsys):
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["shown in", "Figure 1", "Figure 2"]
    assert ["l3d run tiny --preset paper" in line for line in lines] == [False, True, False]


def test_list_tells_of_every_exhibit_of_the_manifest(capsys):
    assert cli.main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["shown in"] for row in rows] == [exhibit.place for exhibit in experiments.EXHIBITS]


def test_check_tells_its_problems(checkout, capsys, monkeypatch):
    problems: list[str] = []
    monkeypatch.setattr(check, "check_all", lambda root, progress: problems if root == checkout else ["another root"])
    assert cli.main(["check"]) == 0
    problems += ["one is wrong", "two is wrong"]
    assert cli.main(["check"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "one is wrong\ntwo is wrong\n"
    assert captured.out == "all checks passed\nproblems: 2\n"


def test_book_tells_where_it_is_or_what_failed(checkout, capsys, monkeypatch):
    def fail(root):
        raise RuntimeError("a page is missing")

    monkeypatch.chdir(checkout)
    monkeypatch.setattr(publish, "build_book", lambda root: root / "_build" / "html")
    assert cli.main(["book"]) == 0
    assert capsys.readouterr().out == "_build/html\n"
    monkeypatch.setattr(publish, "build_book", fail)
    assert cli.main(["book"]) == 1
    assert capsys.readouterr().err == "l3d: a page is missing\n"


def test_without_a_checkout_the_message_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(artifacts, "_HERE", tmp_path / "l3d_core")
    assert "is not in a checkout of the project; expected one" in refusal(capsys, "list")


def test_help_is_quick_and_a_closed_pipe_is_quiet():
    command = f"{sys.executable} -m l3d_core list | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("shown in")
    lazy = "import sys, l3d_core.cli\nprint(*{'papermill', 'IPython', 'sphinx', 'nbformat'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", lazy], capture_output=True, text=True).stdout == "\n"

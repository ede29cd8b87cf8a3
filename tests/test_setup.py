"""Installation: pins that agree, refusals that are clear, and a README that tells the truth."""

import ast
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import l3d_core
from l3d_core import cli

ROOT = Path(__file__).resolve().parents[1]
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
DIRECT = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"], "setuptools"]


def pins() -> dict[str, Requirement]:
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, LOCK)}


def needed() -> set[str]:
    """What the project needs in this environment, directly and under that."""
    waiting, seen = [Requirement(text) for text in DIRECT], set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        for text in importlib.metadata.requires(name) or []:
            other = Requirement(text)
            extras = requirement.extras | {""}
            if other.marker is None or any(other.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(other)
    return {name for name, _ in seen}


def test_the_lock_holds_exact_pins_and_nothing_else():
    assert [line for line in LOCK if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*( ; .+)?", line)] == []
    assert len(pins()) == len(LOCK)
    assert sorted(LOCK, key=str.lower) == LOCK


def test_the_lock_holds_what_is_needed_and_no_more():
    here = {name for name, pin in pins().items() if pin.marker is None or pin.marker.evaluate()}
    without_marker = {name for name, pin in pins().items() if pin.marker is None}
    assert needed() - here == set()
    assert without_marker - needed() == set()


def test_the_lock_keeps_to_what_the_project_asks_for():
    for requirement in map(Requirement, DIRECT):
        [version] = pins()[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(version.version), requirement


def test_linux_packages_are_asked_for_on_linux_only():
    for name, pin in pins().items():
        if name.startswith(("nvidia-", "cuda-")) or name == "triton":
            assert pin.marker == Marker('platform_system == "Linux" and platform_machine == "x86_64"'), name


def test_conda_gets_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    *conda, pip = environment["dependencies"]
    assert conda == ["python=3.11", "pip"]
    assert pip == {"pip": LOCK}


def test_no_addresses_or_machine_paths_in_the_pins():
    for name in ("requirements.lock", "environment.yml", "pyproject.toml", "Makefile"):
        assert re.findall(r"\w+://|index-url|find-links|/(?:opt|root|home)/", (ROOT / name).read_text()) == [], name


def test_versions_agree():
    assert importlib.metadata.version("l3d-core") == l3d_core.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == l3d_core.__version__


def test_the_readme_is_short_and_shows_the_tested_usage():
    assert len(README.splitlines()) <= 120
    [shown] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    example = l3d_core.__doc__.split("\n\n")[1]
    assert shown.splitlines() == [line.removeprefix(">>> ") for line in example.splitlines()]
    # After the import, the lines that a reader has to write.
    assert len(shown.splitlines()) == 6


def test_commands_in_the_readme_exist(capsys):
    commands = re.findall(r"`l3d ([^`]+)`", README)
    assert len(commands) >= 6
    for command in commands:
        if " " in command or command in ("list", "book", "check"):
            cli._parser().parse_args(shlex.split(command.replace("auto|cpu|cuda", "cpu")))
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z]+)\b", README):
        assert f"\n{target}:" in makefile, target


@pytest.fixture
def folder(tmp_path):
    """A checkout with the files that installation reads, and a folder for false programs."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def false_python(path: Path, version: str, supported: bool) -> Path:
    """A Python that tells its version, notes what it is asked for, and makes environments with itself inside."""
    return program(
        path,
        f'if [ "$1" = -c ]; then echo {version}; exit {0 if supported else 1}; fi\n'
        'echo "$*" >> log\n'
        'if [ "$2" = venv ]; then mkdir -p $3/bin; cp "$0" $3/bin/python; fi',
    )


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    # Makes the false programs come first, and keeps the real Pythons out of sight.
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(folder)}
    command = [shutil.which("make"), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
@pytest.mark.parametrize("version", ["3.10.13", "3.14.0"])
@pytest.mark.parametrize("target", ["book", "test", "mutants"])
def test_another_python_is_refused(folder, version, target):
    python = false_python(folder / "bin" / "other", version, supported=False)
    done = make(folder, target, f"PYTHON={python}")
    assert done.returncode != 0
    assert f"{python} is Python {version}; expected Python 3.11, 3.12 or 3.13." in done.stderr
    assert "Install one of them, or name it: make PYTHON=" in done.stderr
    assert not (folder / ".venv").exists()


@needs_make
def test_a_python_that_does_not_start_is_refused(folder):
    done = make(folder, "test", "PYTHON=/nowhere/python")
    assert done.returncode != 0
    assert "/nowhere/python is no Python that starts; expected Python 3.11, 3.12 or 3.13." in done.stderr


@needs_make
def test_an_environment_of_another_python_is_refused(folder):
    false_python(folder / ".venv" / "bin" / "python", "3.10.13", supported=False)
    done = make(folder, "test")
    assert done.returncode != 0
    assert ".venv/bin/python is Python 3.10.13; expected" in done.stderr
    assert "Remove .venv and run make again." in done.stderr


def check_of_versions() -> str:
    [code] = re.findall(r"^SUPPORTED := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return code


@pytest.mark.parametrize(
    ("version", "good"), [((3, 10), 0), ((3, 11), 1), ((3, 12), 1), ((3, 13), 1), ((3, 14), 0), ((2, 7), 0)]
)
def test_the_versions_accepted_are_those_of_the_metadata(version, good):
    test = re.search(r"sys\.exit\(not (.*)\)$", check_of_versions()).group(1)
    assert eval(test.replace("sys.version_info[:2]", repr(version))) == bool(good)
    assert ast.parse(check_of_versions())
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


@needs_make
def test_the_environment_is_made_once_and_again_for_new_pins(folder):
    false_python(folder / "bin" / "python3.11", "3.10.1", supported=False)
    false_python(folder / "bin" / "python3.12", "3.12.1", supported=True)
    log = folder / "log"
    done = make(folder, "setup")
    assert done.returncode == 0, done.stderr
    steps = log.read_text().splitlines()
    assert steps[0] == "-m venv .venv"
    assert steps[1].endswith("-r requirements.lock")
    assert "--no-deps" in steps[2] and steps[2].endswith("-e .")
    assert len(steps) == 3
    make(folder, "setup")
    assert log.read_text().splitlines() == steps
    later = (folder / ".venv" / ".ready").stat().st_mtime + 5
    os.utime(folder / "requirements.lock", (later, later))
    make(folder, "setup")
    assert log.read_text().splitlines() == [*steps, *steps[1:]]


@needs_make
@pytest.mark.parametrize("target", ["test", "book"])
def test_targets_stop_at_the_first_failure(folder, target):
    names = ("ruff", "pytest", "l3d")
    for name in names:
        program(folder / ".venv" / "bin" / name, f'echo "{name} $*" >> log; [ "$(wc -l < log)" -lt "$(cat stop)" ]')
    false_python(folder / ".venv" / "bin" / "python", "3.11.7", supported=True)
    (folder / ".venv" / ".ready").touch()

    def steps(stop: int) -> list[str]:
        (folder / "stop").write_text(str(stop))
        (folder / "log").write_text("")
        done = make(folder, target)
        ran = (folder / "log").read_text().splitlines()
        assert (done.returncode == 0) == (len(ran) < stop)
        return ran

    def ordered(ran: list[str]) -> list[str]:
        """Check and book run side by side within a test, so that either may be first."""
        return [*ran[:4], *sorted(ran[4:6], reverse=True), *ran[6:]] if target == "test" else ran

    every = ordered(steps(100))
    expected = {
        "test": ["ruff check", "ruff format --check", "pytest", "pytest", "l3d check", "l3d book", "pytest"],
        "book": ["l3d run --all --preset quick", "l3d book"],
    }
    assert [step.startswith(words) for step, words in zip(every, expected[target], strict=True)] == [True] * len(every)
    for stop in range(1, len(every) + 1):
        ran = ordered(steps(stop))
        # Where one of the two that run side by side fails, the other may still run, and nothing after them.
        beside = target == "test" and stop == 5
        assert ran == every[:stop] or (beside and ran in (every[:6], [*every[:4], every[5]]))

"""The rules that keep the project small and its parts apart."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell
from notebook_cases import tiny

import l3d_core

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "l3d_core"
MODULES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb")) + sorted((ROOT / "book" / "results").glob("*.ipynb"))

# Each group may import the groups before it; leaves import nothing of the package.
LEAVES = ("artifacts", "record", "checks", "checkpoints", "parallel", "hub", "markdown")
ORDER = (
    ("divergences", "references"),
    ("gradients",),
    ("tucker",),
    ("l3d",),
    ("bundles",),
    ("directions", "plan"),
    ("factors",),
    ("cuts", "probe"),
    ("runs",),
    ("step",),
    ("streams",),
    ("batches",),
    ("training",),
    ("sharing",),
    ("metrics",),
    ("intervention",),
    ("toy_models",),
    ("toy_training",),
    ("toys",),
    ("measures",),
    ("pretrained",),
    ("vision_training",),
    ("baselines",),
    ("apd_targets",),
    ("apd_shipped",),
    ("targets",),
    ("chapters",),
    ("figures",),
    ("explorer",),
    ("claim_list", "exhibits"),
    ("apd_claims",),
    ("apd_experiments", "real_experiments", "toy_experiments"),
    ("comparison_experiments",),
    ("experiments",),
    ("chapter_explorers",),
    ("claims",),
    ("check", "explorer_pages", "pages", "publish", "runner", "speed_pages", "sweep"),
    ("requested",),
    ("cli",),
    ("__main__",),
)
# These folders and the last step before the command line may import among themselves, though never in a circle.
AMONG_THEMSELVES = ("baselines", "chapters", "figures", "explorer", "check", "explorer_pages", "pages", "publish",
                    "runner", "speed_pages", "sweep")  # fmt: skip
MATHEMATICS = ("divergences", "references", "gradients", "tucker", "l3d", "bundles", "directions", "plan", "factors",
               "probe", "cuts", "runs", "step", "batches", "streams", "training", "metrics",
               "intervention")  # fmt: skip
HEAVY = ("matplotlib", "seaborn", "pandas", "transformers", "torchvision", "datasets", "papermill", "IPython", "sphinx")


def n_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def body_lines(function: ast.FunctionDef) -> int:
    """Lines from the first statement after the docstring to the end."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


def imports(path: Path, tree: ast.Module) -> set[str]:
    """What a module imports of the package, inside functions too, by dotted name; not what is for types only."""
    place = path.relative_to(PACKAGE).with_suffix("").parts
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name.removeprefix("l3d_core.") for alias in node.names if "l3d_core" in alias.name)
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "l3d_core"):
            parts = (node.module or "").split(".")
            base = [*place[: len(place) - node.level], *parts] if node.level else parts[1:]
            base = [part for part in base if part]
            for alias in node.names:
                whole = PACKAGE.joinpath(*base, alias.name)
                is_module = whole.with_suffix(".py").exists() or whole.is_dir()
                found.add(".".join([*base, alias.name] if is_module or not base else base))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def rank(module: str) -> int:
    top = module.split(".")[0]
    if top in LEAVES:
        return -1
    places = [i for i, group in enumerate(ORDER) if top in group]
    assert places, f"{module} has no place in ORDER"
    return places[0]


def import_problems(module: str, imported: set[str]) -> list[str]:
    """What a module imports and may not."""
    top = module.split(".")[0]
    problems = []
    for other in sorted(imported):
        among = (
            top.startswith(AMONG_THEMSELVES) and other.split(".")[0] in AMONG_THEMSELVES and rank(other) == rank(module)
        )
        if not (rank(other) < rank(module) or among):
            problems.append(f"{module} imports {other}")
        if top == "figures" and other == "training":
            problems.append(f"{module} draws, and imports {other}")
    return problems


def test_modules_and_functions_are_short():
    long = [f"{path.relative_to(ROOT)}: {n_lines(path)} lines" for path in MODULES if n_lines(path) > 300]
    long += [
        f"{path.relative_to(ROOT)}: {function.name} has {body_lines(function)} lines"
        for path in MODULES
        for function in functions(tree_of(path))
        if body_lines(function) > 40
    ]
    assert long == []


def test_body_lines_leave_the_docstring_out():
    [plain, documented] = functions(ast.parse("def f():\n  a\n\n  b\ndef g():\n  '''One.\n\n  Two.\n  '''\n  a"))
    assert (body_lines(plain), body_lines(documented)) == (3, 1)


def test_the_package_is_small():
    mathematics = sum(n_lines(PACKAGE / f"{name}.py") for name in MATHEMATICS)
    apart = ("chapters", "figures", "baselines", "explorer")
    lists = ("exhibits", "claim_list", "apd_claims", "chapter_explorers")
    rest = sum(n_lines(path) for path in MODULES if path.parent.name not in apart and path.stem not in lists)
    # Two paths, written-out derivatives, factors of gradients, their plan, parts cut off a model, revival of dead
    # subnetworks: twice as much as a step that forms all and leaves the derivatives to autograd.
    assert mathematics <= 4100
    # The explorer is a part by itself: what it computes, and its page.
    # Chapters, their figures and explorers and the lists of exhibits and claims grow with what is shown, baselines with
    # what L3D is compared with; each module of theirs is short.
    assert rest <= 9250


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    imported = imports(path, tree_of(path))
    if module == "__init__":
        assert "cli" not in imported
    else:
        assert import_problems(module.removesuffix(".__init__"), imported) == []


def test_modules_do_not_import_in_circles():
    graph = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): imports(path, tree_of(path)) for path in MODULES
    }
    graph.pop("__init__")
    while free := [module for module, imported in graph.items() if not imported & graph.keys()]:
        for module in free:
            del graph[module]
    assert graph == {}


def test_wrong_imports_are_seen():
    source = """
from typing import TYPE_CHECKING
from . import cli
from .training import fit
import l3d_core.claims
if TYPE_CHECKING:
    from .publish import build_book
def f():
    from l3d_core import figures
"""
    assert imports(PACKAGE / "tucker.py", ast.parse(source)) == {"cli", "training", "claims", "figures"}
    inside = ast.parse("from ..training import fit\nfrom . import style\nfrom .. import toys")
    assert imports(PACKAGE / "figures" / "some.py", inside) >= {"training", "toys"}
    assert import_problems("tucker", {"gradients", "parallel", "training"}) == ["tucker imports training"]
    assert import_problems("parallel", {"artifacts"}) == ["parallel imports artifacts"]
    assert import_problems("figures.some", {"training", "figures.style"}) == [
        "figures.some draws, and imports training"
    ]
    assert import_problems("claims", {"cli"}) == ["claims imports cli"]
    assert import_problems("publish", {"check", "claims"}) == []
    with pytest.raises(AssertionError, match="unheard has no place in ORDER"):
        import_problems("unheard", {"toys"})


IMPORTING = """
import os, random, sys, warnings
import numpy, scipy.optimize, torch  # These set up what they like.
before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), warnings.filters[:]
settings = dict(os.environ), torch.get_num_threads(), torch.get_default_dtype()
import l3d_core
after = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), warnings.filters[:]
assert before == after, "the import changes a random stream or a warning filter"
assert settings == (dict(os.environ), torch.get_num_threads(), torch.get_default_dtype()), "the import changes settings"
loaded = [name for name in HEAVY if name in sys.modules]
assert not loaded, f"the import loads {loaded}"
"""


def test_importing_does_nothing(tmp_path):
    listing = sorted(PACKAGE.rglob("*[!c]"))
    code = f"HEAVY = {HEAVY}\n{IMPORTING}"
    # An empty home shows folders that an import would make.
    command = [sys.executable, "-W", "error", "-B", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env={"HOME": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
    assert sorted(PACKAGE.rglob("*[!c]")) == listing


def test_public_names_are_few():
    assert len(l3d_core.__all__) <= 15
    assert l3d_core.__all__ == sorted(l3d_core.__all__)
    assert all(hasattr(l3d_core, name) for name in l3d_core.__all__)


def docstring_problems(tree: ast.Module) -> list[str]:
    """Public functions and methods that do not tell what they return or raise."""
    problems = []
    owners = [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name[0] != "_")]
    for function in (node for owner in owners for node in owner.body if isinstance(node, ast.FunctionDef)):
        if function.name.startswith("_"):
            continue
        text = ast.get_docstring(function) or ""
        # A property or a context manager is named for what it is or does.
        named = any(
            ast.unparse(d) in ("property", "cached_property", "contextmanager") for d in function.decorator_list
        )
        gives = function.returns is not None and ast.unparse(function.returns) != "None" and not named
        if not text:
            problems.append(f"{function.name} has no docstring")
        if gives and not any(word in text for word in ("Return", "Yield", "return")):
            problems.append(f"{function.name} does not tell what it returns")
        # Raises in nested functions are theirs; a bare raise passes on what came.
        raised = [node for node in ast.walk(function) if isinstance(node, ast.Raise) and node.exc is not None]
        kinds = {ast.unparse(node.exc).split("(")[0] for node in raised} - {"AssertionError"}
        problems += [f"{function.name} does not name {kind}" for kind in sorted(kinds) if kind not in text]
    return problems


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_functions_tell_what_they_return_and_raise(path):
    assert docstring_problems(tree_of(path)) == []


def test_poor_docstrings_are_seen():
    source = '''
def a(): pass
def b() -> int:
    """Counts."""
def c() -> None:
    """Checks."""
    raise ValueError("x")
def _d(): raise OSError
class E:
    def f(self) -> int:
        """Returns one.

        Raises:
            TypeError: Never.
        """
        raise KeyError
'''
    expected = ["a has no docstring", "b does not tell what it returns", "c does not name ValueError",
                "f does not name KeyError"]  # fmt: skip
    assert docstring_problems(ast.parse(source)) == expected


def notebook_problems(notebook: nbformat.NotebookNode) -> list[str]:
    """Where a notebook does more than import, call, show and assert."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    cells = [cell for cell in cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    problems = [] if tagged == [0] else [f"parameters are in code cells {tagged}; expected the first alone"]
    for number, cell in enumerate(cells):
        lines = cell.source.splitlines()
        if len(lines) > (15 if number in tagged else 10):  # Parameters are a list, one to a line.
            problems.append(f"code cell {number} has {len(lines)} lines")
        if any(line.lstrip().startswith(("%", "!")) for line in lines):
            problems.append(f"code cell {number} has a magic or shell command")
            continue
        tree = ast.parse(cell.source)
        kinds = {type(node).__name__ for node in ast.walk(tree)}
        problems += [
            f"code cell {number} has a {kind}" for kind in sorted(kinds & {"FunctionDef", "ClassDef", "Lambda"})
        ]
        problems += [f"code cell {number} has {word}" for word in ("sys.path", "savefig") if word in cell.source]
        if number in tagged:
            problems += [f"parameter is no literal: {ast.unparse(node)}" for node in tree.body if not _is_literal(node)]
    return problems


def _is_literal(node: ast.stmt) -> bool:
    try:
        ast.literal_eval(node.value)
    except (AttributeError, ValueError):
        return False
    return isinstance(node, ast.Assign | ast.AnnAssign)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_notebooks_are_thin(path):
    assert notebook_problems(nbformat.read(path, as_version=4)) == []


def test_there_is_a_notebook_for_each_entry_of_the_manifest():
    from l3d_core.experiments import notebooks

    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == sorted(notebooks())


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def f():\n    pass", "code cell 1 has a FunctionDef"),
        ("class A:\n    pass", "code cell 1 has a ClassDef"),
        ("f = lambda: 1", "code cell 1 has a Lambda"),
        ("import sys\nsys.path.append('.')", "code cell 1 has sys.path"),
        ("figure.savefig('x.png')", "code cell 1 has savefig"),
        ("%pip install x", "code cell 1 has a magic or shell command"),
        ("  !ls", "code cell 1 has a magic or shell command"),
        ("\n".join("abcdefghijk"), "code cell 1 has 11 lines"),
    ],
)
def test_fat_notebooks_are_seen(source, problem):
    assert notebook_problems(tiny("x = 1")) == []
    assert notebook_problems(tiny(source)) == [problem]


def test_wrong_parameter_cells_are_seen():
    late, twice, computed = tiny("x = 1"), tiny("x = 1"), tiny("x = 1")
    late.cells.insert(0, new_code_cell("import os"))
    twice.cells[-1].metadata["tags"] = ["parameters"]
    computed.cells[1].source += "\nm = 2 * n\nprint(m)"
    assert notebook_problems(late) == ["parameters are in code cells [1]; expected the first alone"]
    assert notebook_problems(twice) == ["parameters are in code cells [0, 1]; expected the first alone"]
    assert notebook_problems(computed) == ["parameter is no literal: m = 2 * n", "parameter is no literal: print(m)"]

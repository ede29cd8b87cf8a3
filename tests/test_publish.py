"""What the book is built from, and the checks of what was built: each finds the defect it is for."""

import pathlib

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import l3d_core
from l3d_core import experiments, pages, publish
from l3d_core.l3d import L3DConfig

ROOT = publish.Path(__file__).resolve().parents[1]
ADDRESS = "https://example.org/lab/book"
WHOLE = '<article><p>Text <span class="pasted-text">0.19</span></p><img src="a/b.png" alt="Two lines"></article>'


def config() -> dict:
    return yaml.safe_load((ROOT / "_config.yml").read_text())


def notebook(*cells) -> nbformat.NotebookNode:
    return new_notebook(cells=list(cells))


def executed() -> nbformat.NotebookNode:
    return notebook(new_markdown_cell("# Title"), new_code_cell("1 + 1", execution_count=1))


def site(folder, page=WHOLE):
    """A built book with one chapter, that has every anchor, and its notebook for download."""
    anchors = "".join(f'<span id="{e.id}"></span>' for e in experiments.EXHIBITS if experiments.built(e))
    for name in experiments.notebooks():
        chapter = folder / "book" / "results" / f"{name}.html"
        chapter.parent.mkdir(parents=True, exist_ok=True)
        chapter.write_text(f"<article>{anchors}</article>")
        source = folder / "_sources" / "book" / "results" / f"{name}.ipynb"
        source.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(executed(), source)
    (folder / "book" / "index.html").write_text(page)
    return ["book/index", *(f"book/results/{name}" for name in experiments.notebooks())]


def test_without_an_address_there_are_no_buttons():
    composed = publish.compose_config({**config(), "repository": None})
    assert "repository" not in composed
    assert composed["launch_buttons"] == {"thebe": False}
    assert not [key for key, value in composed["html"].items() if key.endswith("_button") and value]
    assert composed["sphinx"] == config()["sphinx"] and composed["title"] == config()["title"]


def test_an_address_brings_every_button():
    composed = publish.compose_config({**config(), "repository": {"url": ADDRESS + "/"}})
    assert composed["repository"] == {"url": ADDRESS, "branch": "main"}
    assert composed["html"]["use_repository_button"] and composed["html"]["use_issues_button"]
    assert composed["launch_buttons"]["colab_url"] and composed["launch_buttons"]["binderhub_url"]


def test_a_named_branch_is_kept():
    composed = publish.compose_config({"repository": {"url": ADDRESS, "branch": "next"}})
    assert composed["repository"]["branch"] == "next"


def test_citation_and_colab_lines_need_an_address():
    for part in (pages.launch, pages.cite):
        assert part({}).startswith("%") and "\n" not in part({})
        assert ADDRESS in part({"url": ADDRESS})


def test_committed_contents_are_those_of_the_manifest():
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    publish.check_toc(toc)
    written = [f"book/{path.stem}" for path in (ROOT / "book").glob("*.md")]
    assert sorted(page for page in publish.toc_pages(toc) if "/results/" not in page) == sorted(written)


@pytest.mark.parametrize(
    "chapters", [[], ["book/results/99_other"], ["book/results/01_superposition", "book/results/x"]]
)
def test_contents_that_differ_from_the_manifest_are_refused(chapters):
    with pytest.raises(RuntimeError, match=r"expected the chapters of the manifest"):
        publish.check_toc({"root": "book/index", "chapters": [{"file": chapter} for chapter in chapters]})


def test_an_absent_result_names_the_command(tmp_path):
    with pytest.raises(
        RuntimeError, match=r"01_superposition.ipynb is absent.*l3d run 01_superposition --preset paper"
    ):
        publish.check_results(tmp_path)


@pytest.mark.parametrize(
    "cell",
    [
        new_code_cell("1 + 1"),
        new_code_cell("1 / 0", execution_count=1, outputs=[new_output("error", ename="ZeroDivisionError", evalue="")]),
    ],
    ids=["not run", "failed"],
)
def test_an_incomplete_result_is_refused(tmp_path, cell):
    folder = tmp_path / "book" / "results"
    folder.mkdir(parents=True)
    for name in experiments.notebooks():
        nbformat.write(notebook(cell), folder / f"{name}.ipynb")
    with pytest.raises(RuntimeError, match=r"is incomplete: cell 1 .*l3d run"):
        publish.check_results(tmp_path)


def test_a_failing_build_leaves_the_last_one(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "_toc.yml").write_text((ROOT / "book" / "_toc.yml").read_text())
    last = tmp_path / "_build" / "html" / "index.html"
    last.parent.mkdir(parents=True)
    last.write_text("the last build")
    with pytest.raises(RuntimeError, match="absent"):
        publish.build_book(tmp_path)
    assert last.read_text() == "the last build"


def test_a_warning_stops_the_build_and_is_named(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    (tmp_path / "book" / "index.md").write_text("# Title\n\nA link to [nowhere](#nowhere).\n")
    settings = tmp_path / "_config.yml"
    settings.write_text("title: T\nonly_build_toc_files: true\nexclude_patterns: [_build]\n")
    with pytest.raises(RuntimeError, match=r"(?s)correct these.*index.md:3.*nowhere"):
        publish.run_build(tmp_path, settings, tmp_path / "_build" / "next")
    (tmp_path / "book" / "index.md").write_text("# Title\n")
    assert (publish.run_build(tmp_path, settings, tmp_path / "_build" / "next") / "book" / "index.html").exists()


def test_a_sound_site_has_no_problems(tmp_path):
    assert publish.site_problems(tmp_path, site(tmp_path)) == []


@pytest.mark.parametrize(
    "element",
    [
        '<script src="https://cdn.example.org/a.js"></script>',
        '<script src="//cdn.example.org/a.js"></script>',
        '<link rel="stylesheet" href="http://cdn.example.org/a.css">',
        '<img alt="x" src="https://example.org/a.png">',
        '<iframe src="https://example.org"></iframe>',
    ],
)
def test_what_comes_from_another_host_is_found(tmp_path, element):
    names = site(tmp_path, WHOLE + element)
    assert [p for p in publish.site_problems(tmp_path, names) if "loads" in p and "example.org" in p]


def test_links_to_other_hosts_are_allowed(tmp_path):
    assert publish.site_problems(tmp_path, site(tmp_path, WHOLE + '<a href="https://example.org">there</a>')) == []


def test_a_style_sheet_from_another_host_is_found(tmp_path):
    names = site(tmp_path)
    (tmp_path / "a.css").write_text("@import url('https://example.org/font.css');")
    assert publish.site_problems(tmp_path, names) == ["a.css: loads from another host"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("0.19", ""), "a glued value is empty near 'Text'"),
        (('alt="Two lines"', 'alt=""'), "figure b.png has no alternative text"),
        ((' alt="Two lines"', ""), "figure b.png has no alternative text"),
        (('alt="Two lines"', 'alt="../_images/b.png"'), "figure b.png has no alternative text"),
        (("article", "div"), "the page has no article"),
    ],
)
def test_what_a_page_lacks_is_found(change, problem):
    assert publish.content_problems(WHOLE) == []
    found = publish.content_problems(WHOLE.replace(*change))
    assert len(found) == 1 and problem in found[0]


def test_a_missing_page_is_found(tmp_path):
    names = site(tmp_path)
    assert publish.site_problems(tmp_path, [*names, "book/other"]) == ["book/other: the page is missing"]


def test_every_missing_anchor_is_found(tmp_path):
    names = site(tmp_path)
    exhibit = next(filter(experiments.built, experiments.EXHIBITS))
    path = tmp_path / "book" / "results" / f"{exhibit.notebook}.html"
    path.write_text(path.read_text().replace(f'id="{exhibit.id}"', ""))
    found = publish.site_problems(tmp_path, names)
    assert len(found) == 1 and f"no anchor {exhibit.id};" in found[0]


def test_the_download_must_be_there_and_executed(tmp_path):
    names = site(tmp_path)
    name = experiments.notebooks()[0]
    source = tmp_path / "_sources" / "book" / "results" / f"{name}.ipynb"
    nbformat.write(notebook(new_code_cell("1 + 1")), source)
    assert publish.site_problems(tmp_path, names) == [f"{name}: the notebook for download is not the executed one"]
    source.unlink()
    assert publish.site_problems(tmp_path, names) == [f"{name}: the executed notebook cannot be downloaded"]


def test_mathjax_is_one_script_of_the_environment():
    path = publish.find_mathjax()
    assert path.name == "tex-svg.js" and path.stat().st_size > 10**6


def test_live_code_is_dropped_and_nothing_else():
    class Script:
        def __init__(self, body):
            self.attributes = {"body": body}

        def __str__(self):
            return "inline"

    kept = Script("const other = 1")
    context = {"script_files": ["a.js", "_static/sphinx-thebe.js", Script('const THEBE_JS_URL = "x"'), kept]}
    publish.drop_live_code_(None, "page", "template", context, None)
    assert context["script_files"] == ["a.js", kept]


def test_fields_of_named_tuples_are_not_documented_twice():
    assert publish.is_tuple_field(experiments.Exhibit.id)
    assert not publish.is_tuple_field(L3DConfig.k_count)


def test_the_table_of_settings_has_every_field_and_variant():
    text = pages.hyperparameters()
    header = text.splitlines()[3]
    assert header == "| setting | text | code | tuned |"
    for name in L3DConfig.__dataclass_fields__:
        assert f"| `{name}`<br>" in text
    assert "| `mse` | **`half_reference_mse`** |" in text


def test_the_table_of_settings_tells_what_stands_in_for_the_papers_models(monkeypatch):
    monkeypatch.setattr(experiments, "NOTEBOOKS", ("06_vision", "08_your_own_model"))
    text = pages.hyperparameters()
    assert text.count(":::{table}") == 1 and "{table} 06_vision" in text
    weights = "`mobilenet_v3_small_cifar10.safetensors`"  # A file's name and not where it lies.
    assert f" | {weights} | {weights} | {weights} |" in text
    assert "| `dense_epochs`<br>" in text and "| `0` | **`11`** | `0` |" in text
    assert "| `divergence`<br>An argument of `decompose`. | `kl` | `kl` | `kl` |" in text


def test_the_reproduce_table_has_every_exhibit():
    lines = pages.reproduce().splitlines()[2:]
    assert len(lines) == len(experiments.EXHIBITS)
    for line, exhibit in zip(lines, experiments.EXHIBITS, strict=True):
        made = experiments.built(exhibit)
        assert (f"(#{exhibit.id})" in line) == made == (f"`l3d run {exhibit.notebook} --preset paper`" in line)
        assert ("not made yet" in line) != made


def test_usage_is_the_docstring_of_the_package():
    lines = pages.usage().splitlines()[1:-1]
    assert lines[0] == "from l3d_core import L3DConfig, decompose, impact, perturb, toys"
    doc = " ".join(l3d_core.__doc__.split())
    assert lines and all(">>> " + " ".join(line.split()) in doc for line in lines)


def test_every_public_name_is_linked():
    text = pages.names()
    for name in set(l3d_core.__all__) - {"__version__"}:
        assert f".{name}`" in text


def test_cells_of_a_table_cannot_break_it():
    assert pages.table(["a"], [["|x|"]]) == "| a |\n| --- |\n| \\|x\\| |"


def test_the_time_of_chapters_is_told_by_what_it_was_spent_on(monkeypatch):
    seconds = {"main": 10.0, "tuning": 4.0, "more-switches": 2.0, "more-copies": 1.0, "ranks": 5.0, "tried a": 3.0}
    facts = {"core_seconds": 25.0, "seconds": seconds, "torch": "2"}
    monkeypatch.setattr(pages.record, "read", lambda path: {"provenance": facts})
    monkeypatch.setattr(pages.experiments, "notebooks", lambda: ["one"])
    lines = pages.hardware(pathlib.Path()).splitlines()
    assert lines[2:4] == ["| core-seconds | 25.0 |", "| of these for ablation, stability and settings | 9.0 |"]

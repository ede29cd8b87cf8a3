"""Building the book: generated pages, one strict build, and checks of what came out."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import experiments, explorer_pages, pages, speed_pages
from .runner import incomplete

TAIL = 30
OTHER_HOST = re.compile(r"(https?:)?//", re.IGNORECASE)
SOURCES = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}


def compose_config(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the configuration to build with: buttons that lead to a repository if one is named, else none.

    Args:
        config: What `_config.yml` holds. The one key that matters here is `repository.url`.

    Returns:
        A new configuration; with an address it has the repository, issue, Colab and Binder buttons.
    """
    repository = config.get("repository") or {}
    html = {key: value for key, value in config.get("html", {}).items() if not key.startswith("use_")}
    html["use_multitoc_numbering"] = config.get("html", {}).get("use_multitoc_numbering", False)
    composed = {key: value for key, value in config.items() if key not in ("repository", "launch_buttons")}
    composed |= {"html": html, "launch_buttons": {"thebe": False}}
    if repository.get("url"):
        composed["repository"] = {"branch": "main", **repository, "url": repository["url"].rstrip("/")}
        composed["html"] |= {"use_repository_button": True, "use_issues_button": True}
        composed["launch_buttons"] |= {
            "notebook_interface": "jupyterlab",
            "colab_url": "https://colab.research.google.com",
            "binderhub_url": "https://mybinder.org",
        }
    return composed


def toc_pages(toc: dict[str, Any]) -> list[str]:
    """Returns the pages of a table of contents, in order and at any depth, without extensions."""

    def files(node: Any) -> list[str]:
        if isinstance(node, list):
            return [name for item in node for name in files(item)]
        if isinstance(node, dict):
            own = [node["file"]] if "file" in node else []
            return own + [name for value in node.values() for name in files(value)]
        return []

    return [toc["root"], *files(toc)]


def check_toc(toc: dict[str, Any]) -> None:
    """Raises unless the notebooks of a table of contents are those of the manifest, in its order.

    Raises:
        RuntimeError: A chapter is missing, unknown or out of place.
    """
    expected = [f"book/results/{name}" for name in experiments.notebooks()]
    found = [page for page in toc_pages(toc) if page.startswith("book/results/")]
    if found != expected:
        raise RuntimeError(f"book/_toc.yml lists {found}; expected the chapters of the manifest, {expected}. Edit it.")


def missing_from(notebook: Path) -> list[str]:
    """Returns what keeps a stored notebook from being a whole run: cells that were not run, or failed."""
    import nbformat

    return incomplete(nbformat.read(notebook, as_version=4))


def check_results(root: Path) -> None:
    """Raises unless every chapter of the manifest has a complete executed notebook under book/results.

    Raises:
        RuntimeError: A notebook is absent or incomplete.
    """
    for name in experiments.notebooks():
        notebook = root / "book" / "results" / f"{name}.ipynb"
        remedy = f"Run l3d run {name} --preset paper."
        if not notebook.exists():
            raise RuntimeError(f"book/results/{name}.ipynb is absent; expected an executed notebook. {remedy}")
        missing = missing_from(notebook)
        if missing:
            raise RuntimeError(f"book/results/{name}.ipynb is incomplete: {'; '.join(missing)}. {remedy}")


def find_mathjax() -> Path:
    """Returns where the installed copy of MathJax lies, one script that loads nothing else.

    Raises:
        RuntimeError: The package that carries it is not installed.
    """
    try:
        files = importlib.metadata.files("sphinx-mathjax-offline") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "tex-svg.js" and Path(file.locate()).exists():
            return Path(file.locate())
    raise RuntimeError("MathJax is absent; expected the package sphinx-mathjax-offline. Install requirements.lock.")


def write_inputs(root: Path) -> Path:
    """Writes what the build needs and git ignores: generated pages, explorers, MathJax, the configuration.

    Args:
        root: The checkout.

    Returns:
        The configuration to build with.
    """
    import yaml

    config = compose_config(yaml.safe_load((root / "_config.yml").read_text()))
    generated = root / "book" / "generated"
    shutil.rmtree(generated, ignore_errors=True)
    generated.mkdir(parents=True)
    for name, text in pages.generate(root, config.get("repository", {})).items():
        (generated / f"{name}.md").write_text(text.rstrip() + "\n")
    figures = speed_pages.speed_figures(speed_pages.speed_results(root))
    figures["settings_kept"] = pages.settings_figure(root)
    for name, figure in figures.items():
        figure.savefig(generated / f"{name}.png")
    explorer_pages.write_book_pages(root)
    mathjax = root / "book" / "_static" / "mathjax"
    mathjax.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(find_mathjax(), mathjax / "tex-svg.js")
    path = generated / "_config.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def run_build(root: Path, config: Path, output: Path) -> Path:
    """Builds the pages in a fresh folder, any warning being an error.

    Args:
        root: The checkout.
        config: The composed configuration.
        output: Folder to build in; emptied first.

    Returns:
        The folder of pages.

    Raises:
        RuntimeError: The build warned or failed.
    """
    shutil.rmtree(output, ignore_errors=True)
    options = ["--toc", "book/_toc.yml", "--config", str(config), "--path-output", str(output)]
    options += ["-W", "-n", "--keep-going"]
    program = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONUTF8": "1", "NO_COLOR": "1"}
    command = [sys.executable, "-c", program, "build", ".", *options]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        said = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-TAIL:]
        raise RuntimeError("the book does not build without warnings; correct these:\n" + "\n".join(said[:TAIL]))
    return output / "_build" / "html"


def setup(app: Any) -> dict[str, bool]:
    """Registers refinements with Sphinx, which loads this module as an extension; returns what it promises."""
    # Figures bear the paper's numbers; a second numbering, switched on by another extension, would contradict them.
    app.connect("config-inited", lambda app, config: setattr(config, "numfig", False), priority=900)
    app.connect("autodoc-skip-member", lambda app, what, name, value, skip, options: skip or is_tuple_field(value))
    app.connect("html-page-context", drop_live_code_, priority=900)
    app.connect("source-read", explorer_pages.add_explorer_)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def is_tuple_field(value: object) -> bool:
    """Returns whether a member is a named tuple's field, which its class already describes."""
    return type(value).__name__ == "_tuplegetter"


def drop_live_code_(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Removes the start-up scripts of live code, which is off; they are declared twice and name another host."""
    scripts = context.get("script_files", [])
    context["script_files"] = [s for s in scripts if "thebe" not in f"{s} {getattr(s, 'attributes', '')}".lower()]


def resource_problems(html: str) -> list[str]:
    """Returns what a page would load from another host: scripts, style sheets, images, frames."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    return [
        f"<{tag}> loads {element[attribute]}"
        for tag, attribute in SOURCES.items()
        for element in soup.find_all(tag)
        if OTHER_HOST.match(element.get(attribute) or "")
    ]


def content_problems(html: str) -> list[str]:
    """Returns what a page's article lacks: glued numbers that are empty, figures without a description."""
    from bs4 import BeautifulSoup

    article = BeautifulSoup(html, "html.parser").find("article")
    if article is None:
        return ["the page has no article"]
    found = [
        f"a glued value is empty near {str(element.parent.get_text(' ', strip=True))[:60]!r}"
        for element in article.select(".pasted-text, .pasted-inline")
        if not element.get_text(strip=True) and not element.find("img")
    ]
    for image in article.find_all("img"):
        alt, name = (image.get("alt") or "").strip(), Path(image.get("src", "")).name
        if not alt or alt.endswith(name):
            found.append(f"figure {name} has no alternative text; set mystnb.image.alt in its cell")
    return found


def site_problems(html: Path, names: list[str]) -> list[str]:
    """Returns everything wrong with a built book.

    Args:
        html: The folder of pages.
        names: The pages of the table of contents, without extensions.

    Returns:
        One line for each problem.
    """
    found = []
    for path in sorted(html.rglob("*.html")):
        found += [f"{path.relative_to(html)}: {problem}" for problem in resource_problems(path.read_text())]
    for path in sorted(html.rglob("*.css")):
        if re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", path.read_text()):
            found.append(f"{path.relative_to(html)}: loads from another host")
    texts = {}
    for name in names:
        path = html / f"{name}.html"
        if not path.exists():
            found.append(f"{name}: the page is missing")
            continue
        texts[name] = path.read_text()
        found += [f"{name}: {problem}" for problem in content_problems(texts[name])]
    return found + exhibit_problems(html, texts)


def exhibit_problems(html: Path, texts: dict[str, str]) -> list[str]:
    """Returns which figures and tables of the manifest have no anchor, and which notebooks cannot be downloaded.

    Args:
        html: The folder of pages.
        texts: The pages' HTML by name.
    """
    found = []
    for exhibit in filter(experiments.built, experiments.EXHIBITS):
        if f'id="{exhibit.id}"' not in texts.get(f"book/results/{exhibit.notebook}", ""):
            found.append(f"{exhibit.notebook}: no anchor {exhibit.id}; name the figure so in its cell")
    for name in experiments.notebooks():
        notebook = html / "_sources" / "book" / "results" / f"{name}.ipynb"
        if not notebook.exists():
            found.append(f"{name}: the executed notebook cannot be downloaded")
        elif missing_from(notebook):
            found.append(f"{name}: the notebook for download is not the executed one")
    return found


def build_book(root: Path) -> Path:
    """Builds and checks the book; an earlier build is replaced only by one that passes.

    Args:
        root: The checkout.

    Returns:
        The folder of pages, `_build/html`.

    Raises:
        RuntimeError: A result is absent or incomplete, the build warns, or the pages are not as they should be.
    """
    import yaml

    root = Path(root).resolve()
    toc = yaml.safe_load((root / "book" / "_toc.yml").read_text())
    check_toc(toc)
    check_results(root)
    html = run_build(root, write_inputs(root), root / "_build" / "next")
    found = site_problems(html, toc_pages(toc))
    if found:
        raise RuntimeError("the pages are built but not as they should be; correct these:\n" + "\n".join(found[:TAIL]))
    final = root / "_build" / "html"
    shutil.rmtree(final, ignore_errors=True)
    html.rename(final)
    shutil.rmtree(root / "_build" / "next", ignore_errors=True)
    return final

"""Every example on the pages about one's own model and its explorer runs, in order, and prints what the page says."""

import doctest
import re
from pathlib import Path

import pytest

PAGES = [Path(__file__).parents[1] / "book" / name for name in ("your_own_model.md", "explorer.md")]
BLOCK = re.compile(r"^```pycon\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch, on its first jvp
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_an_example_that_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Where examples leave their files.
    text = page.read_text()
    blocks, included = BLOCK.findall(text), text.count("```{include}")
    assert text.count("```") == 2 * (len(blocks) + included), "a block of the page is not marked pycon"
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    said, names = [], {}
    for i, block in enumerate(blocks):
        test = doctest.DocTestParser().get_doctest(block, names, f"block {i}", str(page), 0)
        assert test.examples, f"block {i} holds no example"
        runner.run(test, out=said.append, clear_globs=False)
        names = test.globs
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_fits_the_column(page):
    wide = [line for line in page.read_text().splitlines() if line.startswith((">>>", "...")) and len(line) > 84]
    assert wide == []

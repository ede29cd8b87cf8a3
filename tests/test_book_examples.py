"""Every example on the page about one's own model runs, in order, and prints what the page says."""

import doctest
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "book" / "your_own_model.md"
BLOCK = re.compile(r"^```pycon\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch, on its first jvp
def test_every_block_is_an_example_that_runs():
    text = PAGE.read_text()
    blocks = BLOCK.findall(text)
    assert text.count("```") == 2 * len(blocks), "a block of the page is not marked pycon"
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    said, names = [], {}
    for i, block in enumerate(blocks):
        test = doctest.DocTestParser().get_doctest(block, names, f"block {i}", str(PAGE), 0)
        assert test.examples, f"block {i} holds no example"
        runner.run(test, out=said.append, clear_globs=False)
        names = test.globs
    assert runner.failures == 0, "".join(said)


def test_code_fits_the_column():
    wide = [line for line in PAGE.read_text().splitlines() if line.startswith((">>>", "...")) and len(line) > 84]
    assert wide == []

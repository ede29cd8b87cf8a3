"""The data block of the explorer's page: golden bytes, refusals, and files that are whole or as they were."""

import base64
import hashlib
import itertools
import json
import math
import os
import re
import zlib

import explorer_cases as cases
import pytest

from l3d_core.explorer.checked import check_block
from l3d_core.explorer.page import packed, page_text, write_page

BLOCKS = [cases.language(), cases.images(), cases.vectors(), cases.comparison(), cases.hostile()]


def test_the_page_holds_no_address_of_another_host():
    text = page_text(cases.vectors())
    assert re.findall(r"(?:src|href|action)\s*=\s*[\"']?(?:https?:)?//", text) == []
    assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", text) == []
    # What stands between the tags of a script ends at the first of these.
    assert [text.lower().count(tag) for tag in ("<script", "</script", "<!--")] == [2, 2, 0]


GOLDEN = {
    "format": 2, "title": "Two", "facts": [["model", "m"]], "kind": "vectors", "outputs": ["y 0", "é\ud800"],
    "inputs": ["x 0"], "distribution": False, "tensors": ["w"], "items": [{"values": [0.5]}], "matches": [],
    "decompositions": [{
        "name": "tuned", "method": "L3D", "facts": [], "baselines": [], "along": "v_out", "signs": True,
        "terms": [["impact", "x"]],
        "deltas": [-1, 0, 1], "prompts": [],
        "subnetworks": [{
            "id": 0, "live": True, "p_active": 0.5, "norm": 1.0, "impact": 0.1, "coherence": [], "note": "",
            "share": [1.0], "nearest": [], "history": [], "histogram": {"edges": [], "counts": []},
            "linear": [-1, 0], "random": [],
            "top": [{"item": 0, "position": 0, "impact": None, "signed": [None], "moved": [[1, 2.0]], "before": [1.0],
                     "real": [[-1.0], [1.0], [3.5]]}],
        }],
    }],
}  # fmt: skip
GOLDEN_TEXT = (
    '{"decompositions":[{"along":"v_out","baselines":[],"deltas":[-1,0,1],"facts":[],"method":"L3D","name":"tuned",'
    '"prompts":[],"signs":true,"subnetworks":[{"coherence":[],"histogram":{"counts":[],"edges":[]},"history":[],"id":0,"impact":0.1,'
    '"linear":[-1,0],"live":true,"nearest":[],"norm":1.0,"note":"","p_active":0.5,"random":[],"share":[1.0],'
    '"top":[{"before":[1.0],"impact":null,"item":0,"moved":[[1,2.0]],"position":0,"real":[[-1.0],[1.0],[3.5]],'
    '"signed":[null]}]}],"terms":[["impact","x"]]}],"distribution":false,"facts":[["model","m"]],"format":2,'
    '"inputs":["x 0"],"items":[{"values":[0.5]}],"kind":"vectors","matches":[],"outputs":["y 0","\\u00e9\\ud800"],'
    '"tensors":["w"],"title":"Two"}'
)


def test_the_block_in_the_page_is_the_golden_one():
    [held] = re.findall(r'id="block">([^<]*)</script>', page_text(GOLDEN))
    assert zlib.decompress(base64.b64decode(held)).decode() == GOLDEN_TEXT
    assert base64.b64decode(held)[:2] == b"\x78\xda"  # zlib at its highest level.


def test_the_same_block_gives_the_same_bytes(tmp_path):
    turned = json.loads(json.dumps(GOLDEN))
    turned = dict(reversed(turned.items()))
    first, second = write_page(GOLDEN, tmp_path / "a.html"), write_page(turned, tmp_path / "deep" / "b.html")
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "deep"]
    other = GOLDEN | {"title": "Three"}
    assert page_text(other) != first.read_text()


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_the_policy_names_the_scripts_and_styles_that_are_there():
    text = page_text(GOLDEN)
    policy = re.search(r'content="(default-src[^"]*)"', text)[1]
    script, style = (
        re.findall(r"<script>(.*)</script>", text, re.DOTALL)[0],
        re.findall(r"<style>(.*)</style>", text, re.DOTALL)[0],
    )
    for name, part in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def changed(*path, to=None, drop=False) -> dict:
    """The golden block with one thing changed."""
    block = json.loads(json.dumps(GOLDEN))
    place = block
    for key in path[:-1]:
        place = place[key]
    if drop:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return block


D, S = ("decompositions", 0), ("decompositions", 0, "subnetworks", 0)
E = (*S, "top", 0)
ONLY = GOLDEN["decompositions"][0]["subnetworks"][0]
PROMPT = {"item": 0, "positions": [], "signed": {}}
WEIGHTS = {"layout": {"form": "tucker", "tensors": [["w", [2, 2], [1, 1]]]}, "v_in": "AAAA", "v_out": "AAAA"}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ([], "the block has format 'list'; expected 2. Write it again"),
        (changed("format", to=3), "the block has format 3; expected 2. Write it again with this version"),
        (changed("format", drop=True), "the block has format None; expected 2"),
        (changed("items", drop=True), "the block lacks items; expected the keys title"),
        (changed("kind", to="sounds"), "kind is 'sounds'; expected one of tokens, images, vectors. Name"),
        (changed("items", 0, to={"tokens": [0]}), "item 0 lacks values"),
        (changed("items", 0, "values", to=[1, 2]), "values of item 0 has length 2; expected 1, one per input"),
        (changed("items", 0, "label", to=["a", "b"]), "label of item 0 has length 2; expected 1, one per position"),
        (changed("decompositions", to=[]), "the block has 0 decompositions; expected 1, or 2"),
        (changed(*D, to=None), "a decomposition is of type NoneType; expected a record"),
        (changed(*D, "deltas", drop=True), "decomposition 'tuned' lacks deltas"),
        (changed(*D, "subnetworks", to=[]), "decomposition 'tuned' has no subnetworks; expected at least one"),
        (changed(*D, "subnetworks", to=[ONLY] * 2), "two subnetworks of one id"),
        (changed(*S, "impact", drop=True), "a subnetwork of decomposition 'tuned' lacks impact"),
        (changed(*S, to=ONLY | {"impact": None, "top": []}),
         "subnetwork 0 of .* has no impacts; expected the impact of each sample. Compute them first, with impact"),
        (changed(*S, "share", to=[]), "share of subnetwork 0 of .* has length 0; expected 1, one per tensor"),
        (changed(*S, "coherence", to=[0.1]), "coherence of .* has length 1; expected 0, one per baseline"),
        (changed(*S, "histogram", to={"edges": [0], "counts": [3]}), "edges of the histogram of .* has length 1"),
        (changed(*S, "nearest", to=[[7, 0.1]]), "subnetwork 0 of .* has 7 among its nearest; expected ids"),
        (changed(*E, "before", drop=True), "top sample 0 of subnetwork 0 of .* lacks before"),
        (changed(*E, "item", to=1), "item of top sample 0 of .* is 1; expected one of the 1 items"),
        (changed(*E, "position", to=-1), "position of top sample 0 of .* is -1"),
        (changed(*E, "signed", to=[]), "signed of top sample 0 .* has length 0; expected 1, one per position"),
        (changed(*E, "moved", to=[[2, 1.0]]), "a moved output of .* is 2; expected one of the 2 outputs"),
        (changed(*E, "before", to=[]), "before of top sample 0 .* has length 0; expected 1, one per moved output"),
        (changed(*E, "real", to=[[1.0]]), "real of top sample 0 .* has length 1; expected 3, one per delta"),
        (changed(*E, "real", 0, to=[]), "a row of real of top sample 0 .* has length 0; expected 1"),
        (changed(*E, "normaliser", to=[0.0]), "normaliser of top sample 0 .* has length 1; expected 3"),
        (changed(*E, "impact", to=math.nan), "the block is no JSON .*; expected plain values. Write None for NaN"),
        (changed("title", to={1, 2}), "the block is no JSON"),
        (changed(*D, "prompts", to=[PROMPT]), "positions of prompt 0 .* has length 0"),
        (changed(*D, "prompts", to=[PROMPT | {"item": 3}]), "item of prompt 0 .* is 3"),
        (changed(*D, "prompts", to=[PROMPT | {"positions": [[[4, 0.1]]]}]), "prompt 0 .* names subnetwork 4"),
        (changed(*D, "weights", to={}), "weights of decomposition 'tuned' lacks layout"),
        (changed(*D, "weights", to=WEIGHTS), "v_in of .* has 3 bytes; expected 20 for each of at least 1"),
        (changed("matches", to=[[0, 0, 1.0]]), "the block has matches and one decomposition"),
        (changed("decompositions", to=GOLDEN["decompositions"] * 2) | {"matches": [[0, 5, 1.0]]},
         "a match names subnetwork 5; expected an id of decomposition 1"),
    ],
)  # fmt: skip
def test_a_block_that_cannot_be_shown_is_refused(tmp_path, block, message):
    page = tmp_path / "page.html"
    page.write_text("an earlier page")
    with pytest.raises(ValueError, match=message):
        write_page(json.loads(json.dumps(block)) if "is no JSON" not in message else block, page)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("page.html", "an earlier page")]


def test_images_from_elsewhere_are_refused():
    for image in (
        "https://example.org/x.png",
        "data:image/svg+xml;base64,AAAA",
        "data:text/html,<b>",
        'data:image/png;base64,"',
        3,
    ):
        block = cases.images(2)
        block["items"][3]["image"] = image
        with pytest.raises((ValueError, TypeError), match=r"the image of item 3"):
            check_block(block)


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    page = write_page(GOLDEN, tmp_path / "page.html")
    before = page.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_page(GOLDEN | {"title": "Other"}, page)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_every_made_up_block_can_be_shown():
    for block in BLOCKS:
        check_block(block)
    assert packed(BLOCKS[-1]).isascii()


def test_cases_differ():
    assert len({packed(block) for block in BLOCKS}) == len(BLOCKS)
    assert all(a != b for a, b in itertools.pairwise(cases.DELTAS))

"""Records of the explorer: rounding by hand, bytes that stay the same, strings of any kind, refusals."""

import json
import math
from dataclasses import replace

import pytest

from l3d_core.explorer.record import FORMAT, Block, Decomposition, Item, curve, from_json, short, to_block, to_json

HOSTILE = [
    "</script><script>alert(1)</script>", "<!--", "\"'\\", "\u202eright to left",
    "👩‍👩‍👧 é", "\ud800", "\0\n\u2028", "", "x" * 10_000,
]  # fmt: skip


def tiny(**changes) -> Block:
    decomposition = Decomposition(
        name="one", method="L3D", facts=[["n_v", "1"]], baselines=[], along="v_out", signs=True, terms=[["delta", "d"]],
        deltas=None, subnetworks=[], prompts=[],
    )  # fmt: skip
    return Block(
        **{"title": "t", "facts": [], "kind": "vectors", "outputs": ["y"], "distribution": False, "tensors": ["W"],
           "items": [Item(values=[1.5, 2.0])], "decompositions": [decomposition], "matches": [], **changes},
    )  # fmt: skip


def test_four_significant_digits():
    assert [short(x) for x in (0.123456, 12345.6, -1e-9 / 3, 2.0)] == [0.1235, 12350.0, -3.333e-10, 2.0]
    assert math.isnan(short(math.nan)) and short(math.inf) == math.inf


def test_curves_keep_decimals_by_their_range():
    # The range is .0123, in (.01, .1], so that five decimals stay: 4 - (-1).
    assert curve([100.0, 100.0123456, 100.00001234]) == [100.0, 100.01235, 100.00001]
    # In (1, 10]: three decimals. In (1000, 10000]: whole numbers.
    assert curve([0.0, 7.12345]) == [0.0, 7.123]
    assert curve([0.4, 2000.6]) == [0.0, 2001.0]
    assert curve([3.14159, 3.14159]) == [3.142, 3.142]
    assert curve([]) == []
    assert math.isnan(curve([math.nan, 1.0, 1.01])[0])


def test_golden_bytes():
    expected = (
        '{"decompositions":[{"along":"v_out","baselines":[],"deltas":null,"facts":[["n_v","1"]],"method":"L3D","name":"one",'
        '"prompts":[],"signs":true,"subnetworks":[],"terms":[["delta","d"]]}],"distribution":false,"facts":[],"format":2,'
        '"items":[{"values":[1.5,2]}],"kind":"vectors","matches":[],"outputs":["y"],"tensors":["W"],"title":"t"}'
    )
    assert to_json(tiny()) == expected


def test_nan_and_infinities_become_null_and_absent_is_absent():
    block = to_block(tiny(matches=[[0, 0, math.nan]], items=[Item(values=[math.inf, -0.0])]))
    assert block["matches"] == [[0, 0, None]]
    assert block["items"] == [{"values": [None, 0]}]
    assert "inputs" not in block and "weights" not in block["decompositions"][0]
    assert block["decompositions"][0]["deltas"] is None


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:12]))
def test_any_string_survives(text):
    block = tiny(title=text, outputs=[text], items=[Item(tokens=[0], name=text, label=[text])], facts=[[text, text]])
    found = from_json(to_json(block))
    assert found == block
    to_json(block).encode("ascii")


def test_read_back_records_are_equal_and_give_the_same_bytes():
    text = to_json(tiny())
    assert from_json(text) == tiny()
    assert to_json(from_json(text)) == text
    assert to_json(tiny(title="u")) != text


def test_refusals():
    block = to_block(tiny())
    for wrong, message in (
        ("{", "no whole JSON"),
        ("[]", "format 'list'; expected 2"),
        (json.dumps({**block, "format": FORMAT + 1}), "format 3; expected 2"),
        (json.dumps({key: value for key, value in block.items() if key != "items"}), r"the block lacks \['items'\]"),
        (json.dumps({**block, "more": 1}), r"the block has \['more'\]"),
        (json.dumps({**block, "items": [3]}), r"items\[0\] is a int"),
        (json.dumps({**block, "decompositions": [{}]}), r"decompositions\[0\] lacks"),
    ):
        with pytest.raises(ValueError, match=message):
            from_json(wrong)


def test_records_are_frozen():
    with pytest.raises(AttributeError):
        tiny().title = "other"
    assert replace(tiny(), title="other").title == "other"


def test_logits_keep_decimals_whatever_their_range():
    """Of a range of 142 a thousandth is .142: without more decimals exp(y - normaliser) would be off by a tenth."""
    values = [0.0, 13.41234, 142.0]
    assert curve(values) == [0.0, 13.4, 142.0] and curve(values, 3) == [0.0, 13.412, 142.0]
    assert curve([0.0, 0.012341], 3) == [0.0, 0.01234] and curve([7.12345, 7.12345], 3) == [7.123, 7.123]

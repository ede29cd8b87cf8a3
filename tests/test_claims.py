"""The ledger's rule, worked by hand, and that every claim can be told from its values."""

import json
from dataclasses import replace

import pytest

from l3d_core import claims, experiments, record
from l3d_core.claims import CLAIMS, DOES_NOT, IN_PART, NOT_TESTABLE, REPRODUCES, Claim, holds, verdict

NUMBER = Claim(id="n", notebook="x", figure="f", place="p", statement="s", paper="key", tolerance=0.04)
YES_NO = Claim(id="y", notebook="x", figure="f", place="p", statement="s")
EIGHT = [0.10, 0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 0.17]


def values(text, code=None, tuned=None):
    never = [99.0] * len(text)
    return {"text": text, "code": code or never, "tuned": tuned or never}


@pytest.mark.parametrize(
    ("paper", "expected"),
    [
        (0.17, True),  # within [0.10, 0.17]
        (0.174, True),  # outside, but |median 0.135 - 0.174| = 0.039 <= 0.04
        (0.176, False),  # 0.041 > 0.04
        (0.094, False),  # |0.135 - 0.094| = 0.041
        (0.10, True),
    ],
)
def test_a_number_holds_within_the_range_or_the_tolerance_of_the_median(paper, expected):
    assert holds(NUMBER, paper, EIGHT) is expected


def test_a_yes_or_no_claim_holds_from_ninety_per_cent_of_the_targets():
    assert holds(YES_NO, None, [True] * 9 + [False])  # 9 of 10
    assert not holds(YES_NO, None, [True] * 8 + [False] * 2)


def test_verdicts_of_a_number():
    far = [0.5] * 8
    assert verdict(NUMBER, 0.15, values(EIGHT)) == REPRODUCES
    assert verdict(NUMBER, 0.15, values(far, code=EIGHT)) == IN_PART
    assert verdict(NUMBER, 0.15, values(far, tuned=EIGHT)) == IN_PART
    assert verdict(NUMBER, 0.15, values(far)) == DOES_NOT
    assert verdict(NUMBER, 0.15, values(EIGHT[:7])) == NOT_TESTABLE


def test_verdicts_of_a_yes_or_no_claim():
    def seen(yes):
        return [True] * yes + [False] * (10 - yes)

    none = seen(0)
    assert verdict(YES_NO, None, values(seen(9), none, none)) == REPRODUCES
    assert verdict(YES_NO, None, values(seen(8), none, none)) == IN_PART
    assert verdict(YES_NO, None, values(seen(5), none, none)) == IN_PART
    assert verdict(YES_NO, None, values(seen(4), none, none)) == DOES_NOT
    assert verdict(YES_NO, None, values(seen(4), none, seen(9))) == IN_PART


def test_a_claim_of_other_variants_takes_as_many_values_as_it_asks_for():
    two = replace(NUMBER, variants=("text", "code"), fewest=3)
    near, far = [0.15] * 3, [0.5] * 3
    assert verdict(two, 0.15, {"text": near, "code": far}) == REPRODUCES
    assert verdict(two, 0.15, {"text": far, "code": near}) == IN_PART
    assert verdict(two, 0.15, {"text": near, "code": near[:2]}) == NOT_TESTABLE
    alone = replace(YES_NO, variants=("code",), fewest=3)
    assert verdict(alone, None, {"code": [True] * 3}) == IN_PART  # Only the text can reproduce.
    assert verdict(alone, None, {"code": [False] * 3}) == DOES_NOT
    row = claims.Row(alone, None, {"code": [True, True, False]}, IN_PART)
    assert row.found("code") == "2 of 3" and row.found("text") == row.found("tuned") == ""
    assert row.holding() == "holds for none"


def test_every_claim_names_a_number_with_a_tolerance_or_neither(root):
    papers = record.paper_values(root)
    for claim in CLAIMS:
        assert (claim.paper is None) == (claim.tolerance is None)
        assert claim.paper is None or claim.paper in papers
        assert claim.notebook in {e.notebook for e in experiments.EXHIBITS}
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)


def test_the_ledger_refuses_a_result_without_a_claims_values(tmp_path, root):
    (tmp_path / "book" / "results").mkdir(parents=True)
    (tmp_path / "book" / "paper_values.json").write_text((root / "book" / "paper_values.json").read_text())
    bare = {"numbers": {}, "claims": {}}
    for name in experiments.notebooks():
        write_record(tmp_path / "book" / "results" / f"{name}.ipynb", bare)
    with pytest.raises(ValueError, match="has no values of 'tms-recon'; run l3d run"):
        claims.ledger(tmp_path)


def test_reading_a_notebook_without_a_record_says_so(tmp_path):
    write_record(tmp_path / "x.ipynb", None)
    with pytest.raises(ValueError, match="holds no record; expected an executed notebook"):
        record.read(tmp_path / "x.ipynb")


def test_tables_hold_every_claim_and_its_verdict():
    found = {claim.id: {name: [0.19] * 8 for name in claims.VARIANTS} for claim in CLAIMS}
    papers = {claim.paper: {"value": 0.19} for claim in CLAIMS if claim.paper}
    rows = [claims._row(claim, papers, {"claims": found}) for claim in CLAIMS]
    for table in (claims.markdown_table(rows), claims.glance_table(rows)):
        subjects = {claim.notebook for claim in CLAIMS}
        assert len(table.splitlines()) == len(CLAIMS) + 2 + len(subjects)
        assert table.count("**") == 2 * len(subjects)
        assert table.count("verdict-reproduces") == sum("text" in claim.variants for claim in CLAIMS)


def write_record(path, content):
    import nbformat

    data = {"text/plain": "record"} if content is None else {record.MIME: content}
    output = nbformat.v4.new_output("display_data", data=data)
    cell = nbformat.v4.new_code_cell("publish", execution_count=1, outputs=[output])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    assert json.loads(path.read_text())["cells"]


def test_a_row_tells_why_a_number_holds_and_which_median_is_nearest():
    found = {"text": [0.18, 0.19, 0.2], "code": [0.1, 0.1, 0.26], "tuned": [0.08, 0.08, 0.09]}
    row = claims.Row(NUMBER, 0.19, found, REPRODUCES)
    expected = (
        "holds for text (median within tolerance); code (by its range only). The nearest median is that of *text*."
    )
    assert row.holding() == expected


def test_a_row_without_values_says_that_nothing_was_decided():
    row = claims.Row(YES_NO, None, values([], [], []), verdict(YES_NO, None, {"text": [], "code": [], "tuned": []}))
    assert row.verdict == NOT_TESTABLE and row.found("text") == "none"
    assert row.holding() == "what it is measured by decides nothing here; the chapter says why"

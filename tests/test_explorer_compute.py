"""Everything a page shows, against loops and by hand; resuming, bytes, and refusals before any work."""

import json
import math
import shutil
from dataclasses import replace

import cases
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from l3d_core import L3DConfig, decompose, impact
from l3d_core.divergences import resolve_divergence
from l3d_core.explorer import ExplorerSettings, compute, explore
from l3d_core.explorer.assemble import nearest, prompts, thinned
from l3d_core.explorer.explored import impacts, of_l3d
from l3d_core.explorer.labels import coherences, other_directions
from l3d_core.explorer.record import to_json
from l3d_core.explorer.samples import as_shown, chosen_samples, histogram, numbered, pool
from l3d_core.explorer.store import load_result, read_weights
from l3d_core.gradients import divergence_gradients, side_by_side
from l3d_core.references import draw_partners
from l3d_core.sharing import save_l3d

SETTINGS = ExplorerSettings(n_samples=3, n_references=2, n_moved=2, n_steps=2, n_pool=9, n_prompts=2, n_used=2)


def decomposed(case: cases.Case, divergence: str = "mse", n_v: int = 3, seed: int = 0):
    config = L3DConfig(n_v=n_v, rank=1, k_fraction=0.5, epochs=2, batch_size=min(4, len(case.inputs)))
    return decompose(case.model, case.inputs, divergence, config, parameters=case.parameters, seed=seed)


@pytest.fixture
def toy():
    case = cases.mlp(n=12)
    return decomposed(case), case.inputs


def block_at(folder):
    return load_result(folder).block


# Hand.


def test_histogram_by_hand():
    found = histogram(torch.tensor([1.0, 1e-4, 9.9e-5, 0.0, 0.5], dtype=torch.float64))
    edges, counts = found["edges"], found["counts"]
    assert len(edges) == len(counts) + 1 == 26
    assert edges[:2] == [0.0, 1e-4] and edges[-1] == 1.0
    # Each edge is 10^(4/24) times the last: .1 after 18 of 24.
    assert edges[19] == 0.1 and edges[2] == 0.0001468
    # Below the first edge: 9.9e-5 and 0. On it: 1e-4. 10^(-4/24 * 2) = .4642 < .5 < .6813, and 1 in the last.
    assert {i: n for i, n in enumerate(counts) if n} == {0: 2, 1: 1, 23: 1, 24: 1}
    assert histogram(torch.zeros(4)) == {"edges": [0.0, 1.0], "counts": [4]}
    # What is not finite is in no bin.
    assert histogram(torch.tensor([math.nan, 0.0, math.inf])) == {"edges": [0.0, 1.0], "counts": [1]}
    assert histogram(torch.tensor([math.nan])) == {"edges": [], "counts": []}


def test_nearest_by_hand():
    cosine = torch.tensor([[1.0, -0.8, 0.3], [-0.8, 1.0, 0.0], [0.3, 0.0, 1.0]])
    assert nearest(cosine) == [[[1, -0.8], [2, 0.3]], [[0, -0.8], [2, 0.0]], [[0, 0.3], [1, 0.0]]]
    assert nearest(torch.ones(1, 1)) == [[]]
    assert len(nearest(torch.rand(9, 9))[0]) == 5


def test_histories_are_thinned_evenly_with_their_last_row():
    rows = torch.arange(1000.0)[:, None]
    found = thinned(rows)[:, 0]
    assert len(found) == 100 and found[0] == 0 and found[-1] == 999
    assert found.diff().min() >= 10 and found.diff().max() <= 11
    assert torch.equal(thinned(rows[:100]), rows[:100])


def test_prompts_by_hand():
    """The second text of two samples: by impact and not by what its sign leaves; no zeros, NaN or dead ones."""
    nan = math.nan
    impact = torch.tensor([[9.0, 9, 9, 9], [9, 9, 9, 9], [0.5, 0.3, 7, nan], [2, 0, 7, nan]])
    signed = torch.tensor([[9.0, 9, 9, 9], [9, 9, 9, 9], [0.1, -0.3, 7, nan], [-2, 0, 7, nan]])
    live = torch.tensor([True, True, False, True])
    [found] = prompts(impact, signed, live, [1], 2, {1: 7}, 2)
    assert (found.item, found.positions) == (7, [[[0, 0.5], [1, 0.3]], [[0, 2.0]]])
    assert found.signed == {"0": [0.1, -2.0], "1": [-0.3, 0.0]}
    [found] = prompts(impact, signed, live, [1], 2, {1: 7}, 1)
    assert found.positions == [[[0, 0.5]], [[0, 2.0]]] and found.signed == {"0": [0.1, -2.0]}


def test_coherence_beside_others_by_hand():
    labels = {"kind": torch.tensor([0, 0, 1, 1])}
    own, other = torch.tensor([[4.0, 0], [3, 1], [2, 2], [1, 3]]), torch.tensor([[4.0, 4], [1, 1], [3, 3], [0, 0]])
    found, baselines = coherences(own, {"random": other}, torch.tensor([[0, 1], [3, 1]]), labels, 1)
    # Samples 0 and 1 are alike, 3 and 1 not; both other directions take 0 and 2.
    assert found.tolist() == [[1.0], [0.0]]
    [[name, means]] = baselines
    assert name == "coherence: kind" and means["random"] == 0.0
    # A second random sample is of the first one's label in half of the draws.
    assert means["random samples"] == pytest.approx(0.5, abs=0.03)
    assert coherences(own, {}, torch.tensor([[0], [1]]), labels, 1)[1] == []


def test_random_samples_are_of_other_texts_one_of_each():
    scores, settings = cases.normal(40 * 5, 6).abs(), ExplorerSettings(n_samples=4, n_pool=30)
    top, random = chosen_samples(scores, 5, settings)
    few = set(pool(40, settings))
    assert len(few) == 30
    for v in range(6):
        texts, best = [s // 5 for s in random[v]], (top[v] // 5).tolist()
        assert len(set(texts)) == 4 == len(set(best)) and not set(texts) & set(best) and set(texts) <= few
        assert scores[top[v][0], v] == scores[:, v].max()
    assert len({tuple(one) for one in random}) == 6
    assert chosen_samples(scores, 5, settings)[1] == random
    assert chosen_samples(scores, 5, replace(settings, seed=1))[1] != random
    # With as few texts as that, some are left for the random ones or none.
    assert [len(one) for one in chosen_samples(scores[:25], 5, settings)[1]] == [1] * 6


# Oracles.


@pytest.mark.parametrize("kind", ["mlp", "conv1d", "transformer"])
@pytest.mark.parametrize("divergence", ["mse", "kl"])
def test_signed_impacts_are_those_of_a_loop(kind, divergence):
    case = cases.CASES[kind]()
    n, v_in = len(case.inputs) * case.n_positions, cases.normal(4, sum(p.numel() for p in case.model.parameters()))
    parameters, resolved = [name for name, _ in case.model.named_parameters()], resolve_divergence(divergence)
    found = impacts(case.model, case.inputs, v_in, resolved, parameters, n_references=3, seed=5, chunk_size=2)
    with torch.no_grad():
        y = case.model(case.inputs)
    flat, generator, each = y.reshape(n, -1), torch.Generator().manual_seed(5), []
    for _ in range(3):
        partner = draw_partners(1, n, generator)[0]
        reference = flat[partner].reshape(y.shape)
        g = divergence_gradients(case.model, case.inputs, divergence, references=reference)
        each.append(side_by_side(g) @ v_in.mT)
    assert torch.allclose(found.signed, torch.stack(each).mean(0), atol=1e-10)
    assert torch.allclose(found.absolute, torch.stack(each).abs().mean(0), atol=1e-10)
    assert (found.signed.abs() <= found.absolute + 1e-12).all() and (found.signed < 0).any()


@pytest.mark.parametrize("kind", ["mlp", "tms_tied", "cnn", "transformer"])
def test_a_page_shows_what_the_package_measures(kind, tmp_path):
    case = cases.CASES[kind]()
    l3d = decomposed(case, "kl" if kind == "transformer" else "mse")
    samples = torch.zeros(len(case.inputs), 3, 4, 4, dtype=torch.uint8) if kind == "cnn" else None
    explore(l3d, case.inputs, tmp_path / "p.html", settings=SETTINGS, samples=samples)
    block = block_at(tmp_path / "p")
    [found] = block.decompositions
    scores, n = impact(l3d, case.inputs, n_references=2), case.n_positions
    assert block.kind == {"transformer": "tokens", "cnn": "images"}.get(kind, "vectors")
    rows, dense = normalize(l3d.v_out.matrix(), dim=1), l3d.v_out.dense()
    for v, s in enumerate(found.subnetworks):
        assert s.impact == pytest.approx(float(scores[:, v].mean()), rel=1e-3)
        assert s.norm == pytest.approx(float(l3d.v_out.norms()[v]), rel=1e-3)
        assert s.p_active == pytest.approx(float(l3d.p_active[v]), rel=1e-3) and s.live == bool(l3d.live[v])
        assert s.history == pytest.approx(l3d.history.p_active[:, v].tolist(), rel=1e-3)
        assert sum(s.histogram["counts"]) == len(scores)
        sizes = torch.stack([t[v].square().sum() for t in dense.values()])
        assert s.share == pytest.approx((sizes / sizes.sum()).tolist(), rel=1e-3, abs=1e-6)
        for w, cosine in s.nearest:
            assert cosine == pytest.approx(float(rows[v] @ rows[w]), rel=1e-3, abs=1e-6)
        assert [example.impact for example in s.top] == sorted((e.impact for e in s.top), reverse=True)
        best = scores[:, v].view(-1, n).max(1).values.sort(descending=True).values[: len(s.top)]
        assert [example.impact for example in s.top] == pytest.approx(best.tolist(), rel=1e-3)
        for example in (*s.top, *s.random):
            assert abs(example.signed[example.position]) <= example.impact * 1.001
            zero = s.deltas.index(0.0)
            assert example.real[zero] == example.before and len(example.real) == len(s.deltas) == 5
            assert (example.normaliser is None) == (kind != "transformer")
    assert len(found.prompts) == 2 and len(found.prompts[0].positions) == n
    v_in, v_out = read_weights(found.weights)
    assert torch.allclose(v_out.matrix().double(), l3d.v_out.matrix(), atol=1e-6)
    assert torch.allclose(v_in.dense()[l3d.parameters[0]].double(), l3d.v_in.dense()[l3d.parameters[0]], atol=1e-6)


# What else is taken.


class Wrapped(nn.Module):
    """Returns an object with logits, as Hugging Face's models do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        out = type("Out", (), {})()
        out.logits = self.inner(x)
        return out


def test_outputs_with_positions_and_objects_with_logits(tmp_path):
    case = cases.conv1d(n=8)  # Vectors, four positions each: an item for each position.
    l3d = decomposed(case)
    explore(l3d, case.inputs, tmp_path / "conv", settings=SETTINGS, labels={"at": [f"p{s % 4}" for s in range(32)]})
    block = block_at(tmp_path / "conv")
    assert block.kind == "vectors" and len(block.inputs) == 12
    for item in block.items:
        assert item.label == [f"at: p{item.name[-1]}"] and item.name.startswith("input ")
    for s in block.decompositions[0].subnetworks:
        texts = [block.items[e.item].name.split(",")[0] for e in s.top]
        assert len(set(texts)) == 3 and {e.position for e in s.top} == {0}
    plain, wrapped = cases.transformer(n=8), cases.transformer(n=8)
    wrapped = wrapped._replace(model=Wrapped(wrapped.model).eval())
    for name, one in (("plain", plain), ("wrapped", wrapped)):
        explore(decomposed(one, "kl"), one.inputs, tmp_path / name, settings=SETTINGS)
    left, right = (block_at(tmp_path / name).decompositions[0].subnetworks for name in ("plain", "wrapped"))
    assert left == right


def test_labels_notes_and_names_are_shown(toy, tmp_path):
    l3d, inputs = toy
    labels = {"side": ["left" if x < 0 else "<b>right</b>" for x in inputs[:, 0].tolist()], "number": torch.arange(12)}
    page = explore(
        l3d, inputs, tmp_path / "p", labels=labels, notes={1: "seen"}, names=["a", "b", "c"], title="T", name="own",
        facts=[("model", "m")], captions=[f"c{i}" for i in range(12)], input_names=list("wxyz"), settings=SETTINGS,
    )  # fmt: skip
    assert page == tmp_path / "p.html" and page.is_file()
    block = block_at(tmp_path / "p")
    [found] = block.decompositions
    assert (block.title, block.outputs, block.inputs, found.name) == ("T", ["a", "b", "c"], list("wxyz"), "own")
    assert block.facts[0] == ["model", "m"] and [key for key, _ in block.facts[1:]] == ["samples", "version", "date"]
    assert [s.note for s in found.subnetworks] == ["", "seen", ""]
    assert [kind for kind, _ in found.baselines] == ["coherence: side", "coherence: number"]
    # Twelve inputs of one batch: as many gradients as it takes for three principal directions.
    assert set(found.baselines[0][1]) == {"random", "principal", "untrained", "random samples"}
    assert {label for item in block.items for label in item.label} == {"side: left", "side: <b>right</b>"}
    for s in found.subnetworks:
        sides = [block.items[e.item].label[0] for e in s.top]
        pairs = [(sides[i], sides[j]) for i in range(3) for j in range(i)]
        assert s.coherence == pytest.approx([sum(a == b for a, b in pairs) / 3, 0.0], rel=1e-3)
    assert all(item.name == f"c{inputs.tolist().index(pytest.approx(item.values, abs=1e-3))}" for item in block.items)


def test_any_string_is_shown_as_it_is(toy, tmp_path):
    l3d, inputs = toy
    odd = ["</script><script>alert(1)</script>", "\ud800\u202e\0", "x" * 10_000]
    texts = {"names": odd, "title": odd[0], "name": odd[1], "facts": [(odd[0], odd[1])], "notes": {0: odd[0], 1: ""},
             "labels": {odd[1]: [odd[i % 3] for i in range(12)]}, "captions": [""] * 12}  # fmt: skip
    for _ in range(2):  # Computed, and read back.
        page = explore(l3d, inputs, tmp_path / "p", settings=SETTINGS, **texts)
        assert odd[0] not in page.read_text()
    block = block_at(tmp_path / "p")
    assert block.outputs == odd and block.title == odd[0] and block.facts[0] == odd[:2]
    assert {item.label[0] for item in block.items} == {f"{odd[1]}: {text}" for text in odd}
    assert [s.note for s in block.decompositions[0].subnetworks] == [odd[0], "", ""]


def test_images_are_pictures_and_long_vectors_are_refused(tmp_path):
    case = cases.cnn(n=6)
    l3d = decomposed(case)
    pixels = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=cases.stream(0))
    explore(l3d, case.inputs, tmp_path / "p", samples=pixels, settings=SETTINGS)
    assert all(item.image.startswith("data:image/jpeg;base64,") for item in block_at(tmp_path / "p").items)
    with pytest.raises(ValueError, match="300 values each; expected at most 256 to show. Pass what a reader can see"):
        as_shown(torch.zeros(2, 3, 10, 10), 1, 2, None, None, None, None, None)


def test_numbered_labels():
    assert numbered(["b", "a", "b"]).tolist() == [0, 1, 0]
    assert numbered(torch.tensor([4, 2])).tolist() == [4, 2]


# Invariants.


def test_results_do_not_depend_on_the_chunk_size(tmp_path):
    case = cases.transformer(n=10)
    l3d, blocks = decomposed(case, "kl"), []
    for size in (1, 3, 50):
        explore(l3d, case.inputs, tmp_path / str(size), settings=SETTINGS, chunk_size=size)
        blocks.append(load_result(tmp_path / str(size)))
    for other in blocks[1:]:
        assert torch.allclose(other.tensors["signed"], blocks[0].tensors["signed"], atol=1e-6)
        first, second = (result.block.decompositions[0].subnetworks for result in (blocks[0], other))
        for a, b in zip(first, second, strict=True):
            assert [e.item for e in a.top] == [e.item for e in b.top] and a.deltas == b.deltas
            for x, y in zip(a.top, b.top, strict=True):
                assert x.before == pytest.approx(y.before, abs=2e-3)


def test_the_same_result_gives_the_same_bytes(toy, tmp_path):
    l3d, inputs = toy
    pages = [explore(l3d, inputs, tmp_path / name, settings=SETTINGS) for name in ("a", "b")]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    texts = [(tmp_path / name / "explorer.json").read_bytes() for name in ("a", "b")]
    assert texts[0] == texts[1] == to_json(block_at(tmp_path / "a")).encode() + b"\n"
    explore(l3d, inputs, tmp_path / "c", settings=replace(SETTINGS, seed=1))
    assert (tmp_path / "c" / "explorer.json").read_bytes() != texts[0]


def test_a_call_that_was_stopped_goes_on(toy, tmp_path, monkeypatch):
    l3d, inputs = toy
    explore(l3d, inputs, tmp_path / "whole", settings=SETTINGS)
    pushed, scored, real = [], [], compute._push

    def stopping(task, measured, v):
        if v == 2 and not pushed.count(2):
            pushed.append(2)
            raise KeyboardInterrupt
        pushed.append(v)
        return real(task, measured, v)

    monkeypatch.setattr(compute, "_push", stopping)
    with pytest.raises(KeyboardInterrupt):
        explore(l3d, inputs, tmp_path / "half", settings=SETTINGS)
    assert not (tmp_path / "half").exists() and not (tmp_path / "half.html").exists()
    gradients = "l3d_core.explorer.explored.sample_gradients"
    monkeypatch.setattr(gradients, lambda *args: scored.append(1))
    explore(l3d, inputs, tmp_path / "half", settings=SETTINGS)
    assert pushed == [0, 1, 2, 2] and scored == []
    assert (tmp_path / "half.html").read_bytes() == (tmp_path / "whole.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "half.html", "whole", "whole.html"]


def test_what_a_call_with_other_settings_left_goes_when_another_is_done(toy, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(compute, "_push", stop)
        explore(*toy, tmp_path / "p", settings=replace(SETTINGS, seed=1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(compute, "_push", stop)
        explore(*toy, tmp_path / "other", settings=SETTINGS)
    explore(*toy, tmp_path / "p", settings=SETTINGS)
    [left] = [path.name for path in tmp_path.iterdir() if path.name not in ("p", "p.html")]
    assert left.startswith("other.unfinished-")


def test_samples_without_a_finite_impact_come_last(toy, tmp_path):
    """A sample whose gradient is NaN is no top sample, and takes no mean, histogram or prompt with it."""
    l3d, inputs = toy

    def score(*args):
        found = of_l3d(l3d).score(*args)
        for each in found:
            each[3] = math.nan
            each[5, 0] = math.inf
        return found

    explore(
        replace(of_l3d(l3d), score=score), inputs, tmp_path / "p", settings=replace(SETTINGS, n_prompts=12, n_pool=12)
    )
    result = load_result(tmp_path / "p")
    impact = result.tensors["impact"].double()
    assert impact[3].isnan().all() and impact[5, 0] == math.inf
    [own] = result.block.decompositions
    for s in own.subnetworks:
        finite = impact[:, s.id][impact[:, s.id].isfinite()]
        assert len(finite) == len(inputs) - (2 if s.id == 0 else 1)
        assert s.impact == pytest.approx(float(finite.mean()), rel=1e-3) and sum(s.histogram["counts"]) == len(finite)
        assert s.top[0].impact == pytest.approx(float(finite.max()), rel=1e-3)
        assert all(math.isfinite(e.impact) for e in s.top)
    assert len(own.prompts) == 12
    assert [len(uses) for prompt in own.prompts for uses in prompt.positions].count(0) == 1  # That of the NaN sample.
    assert all(0 < x < math.inf for prompt in own.prompts for uses in prompt.positions for _, x in uses)


def test_impacts_go_on_from_the_reference_they_came_to(toy, tmp_path, monkeypatch):
    l3d, inputs = toy
    what = (l3d.model, inputs, l3d.v_in.matrix(), l3d.divergence, l3d.parameters)
    whole = impacts(*what, n_references=4)
    impacts(*what, n_references=2, scratch=tmp_path)  # As if the other two had not come to be.
    found = impacts(*what, n_references=4, scratch=tmp_path)
    assert torch.equal(found.signed, whole.signed) and torch.equal(found.absolute, whole.absolute)


def test_only_what_is_told_changes_without_computing(toy, tmp_path, monkeypatch):
    l3d, inputs = toy
    explore(l3d, inputs, tmp_path / "p", settings=SETTINGS)
    before = block_at(tmp_path / "p")
    monkeypatch.setattr(compute, "_compute", lambda *args: pytest.fail("computed again"))
    explore(l3d, inputs, tmp_path / "p", settings=SETTINGS, notes={0: "new"}, title="U", facts=[("a", "b")])
    after = block_at(tmp_path / "p")
    assert (after.title, after.facts) == ("U", [["a", "b"], *before.facts])
    assert after.decompositions[0].subnetworks[0] == replace(before.decompositions[0].subnetworks[0], note="new")
    assert after.items == before.items
    monkeypatch.undo()
    explore(l3d, inputs, tmp_path / "p", settings=SETTINGS, names=["a", "b", "c"])
    assert block_at(tmp_path / "p").outputs == ["a", "b", "c"]


# Refusals.


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"l3d": 3}, TypeError, "got a int to explore; expected an L3D"),
        ({"inputs": torch.zeros(1, 4).double()}, ValueError, "got 1 inputs; expected at least 2"),
        ({"inputs": [1, 2]}, TypeError, "inputs are a list"),
        ({"names": ["a"]}, ValueError, "got 1 names of outputs; expected 3"),
        ({"labels": {"k": ["a"]}}, ValueError, "got 1 labels of 'k'; expected 12"),
        ({"captions": ["a"]}, ValueError, "got 1 captions; expected 12"),
        ({"names": range(3)}, ValueError, "names hold 0, a int; expected texts. Pass str of each"),
        ({"labels": {"k": [None] * 12}}, ValueError, "labels of 'k' hold None, a NoneType; expected texts"),
        ({"input_names": ["a"]}, ValueError, "got 1 names of inputs; expected 4"),
        ({"samples": torch.zeros(3, 4)}, ValueError, "got 3 samples to show for 12 inputs"),
        ({"notes": {3: "x"}}, ValueError, "a note is of subnetwork 3; expected whole numbers from 0 to 2"),
        ({"notes": {"0": "x"}}, ValueError, "a note is of subnetwork '0'"),
        ({"chunk_size": 0}, ValueError, "chunk_size is 0; expected a whole number of at least 1"),
        ({"against": "nowhere"}, ValueError, "nowhere is no folder; expected a result that explore left"),
    ],
)
def test_refusals_before_any_work(toy, tmp_path, monkeypatch, changes, kind, message):
    l3d, inputs = toy
    monkeypatch.setattr(compute, "_compute", lambda *args: pytest.fail("worked"))
    given = {"l3d": l3d, "inputs": inputs, **changes}
    with pytest.raises(kind, match=message):
        explore(given.pop("l3d"), given.pop("inputs"), tmp_path / "p", settings=SETTINGS, **given)
    assert list(tmp_path.iterdir()) == []


def test_models_and_directions_that_cannot_be_pushed_are_refused(toy, tmp_path):
    l3d, inputs = toy
    bad = replace(l3d, v_out=replace(l3d.v_out, flat=l3d.v_out.flat * torch.nan))
    with pytest.raises(ValueError, match="the directions hold NaN"):
        explore(bad, inputs, tmp_path / "p")
    l3d.model.train()
    with pytest.raises(ValueError, match="training mode"):
        explore(l3d, inputs, tmp_path / "p")
    l3d.model.eval()
    early = replace(l3d, history=replace(l3d.history, p_active=l3d.history.p_active[:0]))
    with pytest.raises(ValueError, match="training stopped before its first epoch"):
        explore(early, inputs, tmp_path / "p")


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_samples", 0), ("n_moved", 1.5), ("change", 0.0), ("divergence", float("nan")), ("n_pool", 0)],
)
def test_settings_refuse(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value!r}; expected"):
        ExplorerSettings(**{field: value})


def test_what_is_no_result_of_explore_is_left_alone(toy, tmp_path):
    """A saved decomposition, a folder of other files and a file of the name that the result would have."""
    l3d, inputs = toy
    saved = save_l3d(l3d, tmp_path / "mine")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("kept")
    (tmp_path / "file").write_text("kept")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name in (saved.name, "notes", "file"):
        with pytest.raises(ValueError, match=f"{name} is there and no result of explore; expected a free name"):
            explore(l3d, inputs, tmp_path / f"{name}.html", settings=SETTINGS)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    (tmp_path / "empty").mkdir()
    assert explore(l3d, inputs, tmp_path / "empty.html", settings=SETTINGS).exists()


def test_an_unwritable_place_is_said(toy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        explore(*toy, tmp_path / "file" / "p", settings=SETTINGS)


def test_results_that_are_not_whole_are_refused(toy, tmp_path):
    page = explore(*toy, tmp_path / "p", settings=SETTINGS)
    folder, before = tmp_path / "p", page.read_bytes()

    def refused(message, change):
        other = tmp_path / "other"
        shutil.copytree(folder, other)
        change(other)
        with pytest.raises(ValueError, match=message):
            load_result(other)
        shutil.rmtree(other)

    def rewritten(name, **changes):
        def change(at):
            found = json.loads((at / name).read_text())
            (at / name).write_text(json.dumps({**found, **changes}))

        return change

    refused("is no whole result", lambda at: (at / "config.json").unlink())
    refused("is no whole result", lambda at: (at / "tensors.safetensors").write_bytes(b"12"))
    refused("is no whole result", lambda at: (at / "explorer.json").unlink())
    refused("explorer.json: the block is no whole JSON", lambda at: (at / "explorer.json").write_text('{"format": 2,'))
    refused("format 1; expected 2", rewritten("config.json", explorer=1))
    refused("format 1; expected 2", rewritten("explorer.json", format=1))
    from safetensors.torch import load_file, save_file

    def without_impacts(at):
        tensors = load_file(at / "tensors.safetensors")
        del tensors["impact"]
        save_file(tensors, at / "tensors.safetensors")

    refused("holds no 'impact' among its tensors", without_impacts)
    assert page.read_bytes() == before


def test_baselines_are_what_their_names_say(toy):
    l3d, inputs = toy
    found = other_directions(l3d, inputs[:3], 1, 32, 0)
    assert set(found) == {"random", "principal", "untrained"}
    assert all(rows.shape == (3, l3d.v_out.layout.n_w) for rows in found.values())
    still = replace(l3d.config, lr=1e-30, weight_decay=0.0)
    start = decompose(l3d.model, inputs, "mse", still)
    assert torch.allclose(found["untrained"], start.v_in.matrix(), atol=1e-8)
    order = torch.randperm(3, generator=cases.stream(0))
    g = side_by_side(divergence_gradients(l3d.model, inputs[order], "mse"))
    # On three gradients: the three principal directions rebuild them whole, random ones do not.
    left = {name: float((g - g @ rows.mT @ torch.linalg.pinv(rows.mT)).norm()) for name, rows in found.items()}
    assert left["principal"] < 1e-6 * float(g.norm()) < 0.1 * float(g.norm()) < left["random"]
    assert not torch.allclose(found["random"], other_directions(l3d, inputs, 1, 32, 1)["random"])
    assert "principal" not in other_directions(l3d, inputs[:2], 1, 32, 0)

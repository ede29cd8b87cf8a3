"""Two results on one page: matches by hand, items in one list, and what cannot stand side by side."""

from dataclasses import replace

import cases
import pytest
import torch

from l3d_core import L3DConfig, decompose
from l3d_core.baselines.apd import APD, APDConfig
from l3d_core.baselines.apd_losses import Losses
from l3d_core.baselines.apd_networks import Factors
from l3d_core.chapters.comparison_subjects import subject
from l3d_core.explorer import ExplorerSettings, explore
from l3d_core.explorer.checked import check_block
from l3d_core.explorer.compare import beside, matched
from l3d_core.explorer.components import GRID, of_apd, whole_tensors
from l3d_core.explorer.push import outputs_along
from l3d_core.explorer.record import from_json, to_block, to_json
from l3d_core.explorer.store import load_result

SETTINGS = ExplorerSettings(n_samples=3, n_references=2, n_moved=2, n_steps=2, n_pool=4, n_prompts=2)


def decomposed(case, seed=0, n_v=3, parameters="*"):
    config = L3DConfig(n_v=n_v, rank=1, k_fraction=0.5, epochs=2, batch_size=4)
    return decompose(case.model, case.inputs, "mse", config, seed=seed, parameters=parameters)


def test_matches_by_hand():
    # 0 with 1 and 1 with 0 make .9 + .8, more than .95 + .1; cosines keep their signs.
    assert matched(torch.tensor([[0.95, -0.9], [0.8, 0.1]])) == [[0, 1, -0.9], [1, 0, 0.8]]
    assert matched(torch.tensor([[0.0, 0.5], [0.0, 0.4]])) == [[0, 1, 0.5]]
    assert matched(torch.tensor([[0.2, 0.5, 0.3]])) == [[0, 1, 0.5]]


def test_two_seeds_on_one_page(tmp_path):
    case = cases.mlp(n=20)
    left, right = decomposed(case), decomposed(case, seed=1, n_v=4)
    explore(right, case.inputs, tmp_path / "b", settings=SETTINGS)
    page = explore(left, case.inputs, tmp_path / "a", settings=SETTINGS, against=tmp_path / "b", title="Both")
    assert page.stat().st_size > (tmp_path / "b.html").stat().st_size
    one, other = load_result(tmp_path / "a"), load_result(tmp_path / "b")
    both = beside(one, other)
    check_block(to_block(both))
    assert from_json(to_json(both)) == both
    assert both.title == "Both" and [d.name for d in both.decompositions] == ["L3D", "L3D (2)"]
    # The one's own folder holds it alone.
    assert len(one.block.decompositions) == 1 and one.block.matches == []
    assert len(set(map(repr, both.items))) == len(both.items) >= len(one.block.items)
    for result, found in ((one, both.decompositions[0]), (other, both.decompositions[1])):
        [own] = result.block.decompositions
        for a, b in zip(own.subnetworks, found.subnetworks, strict=True):
            for x, y in zip((*a.top, *a.random), (*b.top, *b.random), strict=True):
                assert result.block.items[x.item] == both.items[y.item] and replace(y, item=x.item) == x
        for x, y in zip(own.prompts, found.prompts, strict=True):
            assert result.block.items[x.item] == both.items[y.item] and x.positions == y.positions
    rows = [torch.nn.functional.normalize(l3d.v_out.matrix(), dim=1) for l3d in (left, right)]
    assert len(both.matches) == 3
    for i, j, cosine in both.matches:
        assert cosine == pytest.approx(float(rows[0][i] @ rows[1][j]), rel=1e-3, abs=1e-6)


def test_what_cannot_stand_side_by_side_is_refused(tmp_path):
    case, other = cases.mlp(n=8), cases.mlp(n=8, seed=5)
    l3d = decomposed(case)
    explore(l3d, case.inputs, tmp_path / "a", settings=SETTINGS)
    before = (tmp_path / "a.html").read_bytes()
    ways = {
        "model": (decomposed(other), other.inputs, {}),
        "inputs": (l3d, case.inputs + 1, {}),
        "samples, names and labels": (l3d, case.inputs, {"names": ["a", "b", "c"]}),
    }
    for what, (one, inputs, options) in ways.items():
        with pytest.raises(ValueError, match=f"the two results differ in their {what}"):
            explore(one, inputs, tmp_path / "b", settings=SETTINGS, against=tmp_path / "a", **options)
    part = decomposed(case, parameters="0.*")
    with pytest.raises(ValueError, match="expected the same ones"):
        explore(part, case.inputs, tmp_path / "b", settings=SETTINGS, against=tmp_path / "a")
    assert not (tmp_path / "b").exists() and not (tmp_path / "b.html").exists()
    assert (tmp_path / "a.html").read_bytes() == before


@pytest.fixture
def components():
    """A target of APD and three made-up components of it, the last one nothing; and L3D on the same weights."""
    target = subject("tms_5-2", 0)
    w = target.network.w[0]
    parts = torch.stack([torch.cat([w[:1], 0 * w[1:]]), torch.cat([0 * w[:1], w[1:]]), 0 * w])
    factors = Factors(parts.transpose(0, 1)[None].contiguous(), torch.eye(2).expand(1, 3, 2, 2).contiguous())
    zero = torch.zeros(1, 1)
    config = APDConfig(n_components=3, n_terms=2, steps=1, top_k=0.5)
    apd = APD({"W": factors}, Losses(*[zero] * len(Losses._fields)), zero, config, (0,))
    assert torch.equal(factors.each()[0], parts)
    return target, apd, parts


def test_components_of_apd_by_hand(components):
    target, apd, parts = components
    x = torch.zeros(4, 5)
    x[0, 0], x[1, 3], x[2, 2] = 0.5, 1.0, 0.2
    one = of_apd(apd, target, x)
    assert torch.equal(one.v_out.dense()["W_in"], parts)
    # Half of four samples, two entries, are active; those of the two strongest inputs.
    assert one.p_active.tolist() == [0.25, 0.25, 0.0]
    found = one.score(x, None, 10, 0, 32, None, False)
    assert torch.equal(found.absolute, found.signed) and (found.absolute[3] == 0).all()
    # The root of the mean over outputs of the squared derivatives along a component (APD Eq. 8).
    w, b, h = target.network.w[0].double(), target.network.b[0].double(), 1e-6
    for c in range(2):
        ahead, behind = (torch.relu(x.double() @ v @ v.mT + b) for v in (w + h * parts[c], w - h * parts[c]))
        slope = (ahead - behind) / (2 * h)
        assert torch.allclose(found.absolute[:, c].double(), slope.square().mean(1).sqrt(), atol=1e-4)
    # Taken away, the first component leaves what is the same without its row.
    y = outputs_along(one.alone(0), x, torch.zeros(4, dtype=torch.long), -1.0, 2)
    left = torch.cat([0 * w[:1], w[1:]])
    assert torch.allclose(y.double(), torch.relu(x.double() @ left @ left.mT + b), atol=1e-6)


def test_apd_beside_l3d(components, tmp_path):
    target, apd, _ = components
    x = target.draw(30, seed=1)
    config = L3DConfig(n_v=3, rank=1, k_fraction=0.3, epochs=2, batch_size=8)
    l3d = decompose(target.module, x, "mse", config, parameters=target.parameters)
    explore(l3d, x, tmp_path / "l3d", settings=SETTINGS)
    explore(of_apd(apd, target, x), x, tmp_path / "apd", settings=SETTINGS, against=tmp_path / "l3d")
    one = load_result(tmp_path / "apd")
    both = beside(one, load_result(tmp_path / "l3d"))
    first, second = both.decompositions
    assert (first.method, second.method) == ("APD", "L3D")
    assert first.deltas == list(GRID) and second.deltas is None
    assert all(s.deltas is None and len(s.top[0].real) == len(GRID) for s in first.subnetworks)
    assert all(s.history == [] for s in first.subnetworks) and first.subnetworks[2].impact == 0
    assert 2 not in [i for i, _, _ in both.matches]
    assert "-1 takes it away" in dict(first.terms)["delta"] and "v_out" in dict(second.terms)["delta"]
    assert (first.along, second.along, first.signs, second.signs) == ("the component", "v_out", False, True)


def test_any_tensors_are_directions_of_full_rank():
    named = {"a": cases.normal(3, 4), "b": cases.normal(3, 2, 5, 3), "c": cases.normal(3, 1)}
    dense = whole_tensors(named).dense()
    assert all(torch.allclose(dense[name], t) for name, t in named.items())

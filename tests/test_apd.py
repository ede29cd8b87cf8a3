"""APD: its attribution, losses, top-k and training, by hand, against loops, and side by side against alone."""

import math
from dataclasses import replace

import pytest
import reference_apd as slow
import torch

from l3d_core.baselines import apd_losses as losses_of
from l3d_core.baselines.apd import APDConfig, losses, start, weighted
from l3d_core.baselines.apd_networks import Chain, Factors, ResidualMLP, TiedSuperposition, applied
from l3d_core.baselines.apd_training import along_sphere_, decompose_apd, unit_columns_

CONFIG = APDConfig(n_components=3, n_terms=2, steps=4, batch_size=5, top_k=0.8, p=0.9, hidden=0.5, lr=0.01)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_of(kind: str):
    """Two networks of each kind, with inputs."""
    if kind == "tied":
        return TiedSuperposition(drawn(2, 4, 2), drawn(2, 4, seed=1)), drawn(2, 5, 4, seed=2)
    if kind == "chain":
        w, b = (drawn(2, 4, 3), drawn(2, 3, 2, seed=1)), (drawn(2, 3, seed=2), drawn(2, 2, seed=3))
        return Chain(w, b, ("gelu", "elu")), drawn(2, 5, 4, seed=4)
    w_in, w_out = (tuple(drawn(2, *s, seed=i) for i in range(2)) for s in ((6, 3), (3, 6)))
    b = (drawn(2, 3, seed=5), drawn(2, 3, seed=6))
    return ResidualMLP(drawn(2, 4, 6, seed=7), w_in, b, w_out, drawn(2, 6, 4, seed=8)), drawn(2, 5, 4, seed=9)


KINDS = ("tied", "chain", "residual")


def components_of(network, config: APDConfig = CONFIG, scale: float = 30.0):
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    return start(network, replace(config, init_scale=scale), generators)


# --- factors and networks ---------------------------------------------------------------------------------------


def test_factors_by_hand():
    # Two components of a 2 x 1 matrix with one term each: U_0 = (1, 2), V_0 = 3; U_1 = (0, 1), V_1 = -1.
    own = Factors(torch.tensor([[[[1.0], [0.0]], [[2.0], [1.0]]]]), torch.tensor([[[[3.0]], [[-1.0]]]]))
    assert own.each()[0, :, :, 0].tolist() == [[3, 6], [0, -1]]
    assert own.total()[0, :, 0].tolist() == [3, 5]
    assert own.inner(torch.tensor([[[1.0, 1.0]]]))[0, :, 0, 0].tolist() == [3, 1]
    assert own.transposed().each()[0, :, 0].tolist() == [[3, 6], [0, -1]]


@pytest.mark.parametrize("kind", KINDS)
def test_effects_are_derivatives_along_components(kind):
    network, x = two_of(kind)
    components = components_of(network)
    found = network.effects(x, network.weights, components)
    assert found.shape == (2, 3, 5, network.forward(x, applied(network.weights))[0].shape[-1])
    for c in range(3):
        along = tuple(own.each()[:, c] for own in components.values())

        def outputs(*w):
            return network.forward(x, applied(dict(zip(components, w, strict=True))))[0]

        _, slope = torch.autograd.functional.jvp(outputs, tuple(network.weights.values()), along)
        torch.testing.assert_close(found[:, c], slope)


def test_a_residual_mlp_has_the_same_outputs_in_either_form():
    network, x = two_of("residual")
    torch.testing.assert_close(network.outputs(x), network.forward(x, applied(network.weights))[0])


def test_a_residual_mlp_by_hand():
    # Stream (x, 0); z W_in + b = 2 x - 1; out = relu(2 x - 1) * (0, 3); read from the second axis plus the first.
    one = ResidualMLP(
        torch.tensor([[[1.0, 0.0]]]), (torch.tensor([[[2.0], [5.0]]]),), (torch.tensor([[-1.0]]),),
        (torch.tensor([[[0.0, 3.0]]]),), torch.tensor([[[1.0], [1.0]]]),
    )  # fmt: skip
    x = torch.tensor([[[1.0], [0.25]]])
    assert one.forward(x, applied(one.weights))[0].flatten().tolist() == [4, 0.25]
    assert one.forward(x, applied(one.weights))[1][0].flatten().tolist() == [1, 0]


# --- attribution and losses -------------------------------------------------------------------------------------


def test_attribution_by_hand():
    # f(x) = relu(x w w^T + 0) with one feature and one hidden axis, w = 2: f = 4 x. Along P = 0.5 it moves by
    # 2 w P x = 2 x, so that A = |2 x|; with the sum of the components, w = 0.5 + 1, by 2 * 1.5 * 0.5 x = 1.5 x.
    one = TiedSuperposition(torch.tensor([[[2.0]]]), torch.zeros(1, 1))
    own = {"W": Factors(torch.tensor([[[[0.5], [1.0]]]]), torch.ones(1, 2, 1, 1))}
    x = torch.tensor([[[3.0]]])
    assert losses_of.attributions(one, x, one.weights, own).flatten().tolist() == [6, 12]
    assert losses_of.attributions(one, x, {"W": own["W"].total()}, own).flatten().tolist() == [4.5, 9]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", ["target", "components"])
def test_attributions_against_loops(kind, at):
    network, x = two_of(kind)
    components = components_of(network)
    where = network.weights if at == "target" else {name: own.total() for name, own in components.items()}
    found = losses_of.attributions(network, x, where, components)
    for run in range(2):
        at_run = {name: w[run] for name, w in where.items()}
        for c, p in enumerate(slow.matrices(components, run)):
            for s in range(5):
                expected = slow.attribution(network, run, at_run, p, x[run, s])
                assert float(found[run, s, c]) == pytest.approx(expected, rel=1e-9)


def test_faithfulness_and_schatten_by_hand():
    # W = (1, 0); components (2, 0) + (0, 1), so the sum is off by (1, 1): mean square 1.
    one = TiedSuperposition(torch.tensor([[[1.0], [0.0]]]), torch.zeros(1, 2))
    u = torch.tensor([[[[2.0], [0.0]], [[0.0], [1.0]]]])
    own = {"W": Factors(u, torch.tensor([[[[1.0]], [[1.0]]]]))}
    assert losses_of.faithfulness(one, own).tolist() == [1]
    # One term each of length 2 and 1: to the power p/2 of the squares 4 and 1.
    torch.testing.assert_close(losses_of.schatten(own, 1.0), torch.tensor([[2.0, 1.0]]))
    torch.testing.assert_close(losses_of.schatten(own, 0.5), torch.tensor([[math.sqrt(2), 1.0]]))


def test_lists_of_active_samples():
    kept = torch.tensor([[[True, False], [False, False], [True, False]], [[False, False], [False, True], [False] * 2]])
    active = losses_of.listed(kept)
    assert active.valid.tolist() == [[[True, True], [False, False]], [[False, False], [True, False]]]
    assert active.samples[0, 0].tolist() == [0, 2] and active.samples[1, 1, 0] == 1
    none = losses_of.listed(torch.zeros(1, 2, 3, dtype=torch.bool))
    assert none.samples.shape == (1, 3, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_top_k_losses_against_loops(kind):
    network, x = two_of(kind)
    components = components_of(network)
    scores = losses_of.attributions(network, x, network.weights, components)
    found = losses_of.top_k_losses(network, x, components, scores, 4, 0.9, True)
    n_weights = sum(w[0].numel() for w in network.weights.values())
    for run in range(2):
        ps, w = slow.matrices(components, run), {name: w[run] for name, w in network.weights.items()}
        best = sorted(((float(scores[run, s, c]), s, c) for s in range(5) for c in range(3)), reverse=True)[:4]
        best = [entry for entry in best if entry[0] > 0]
        faithful = sum(float((sum(p[name] for p in ps) - w[name]).square().sum()) for name in w) / n_weights
        assert float(found.faithfulness[run]) == pytest.approx(faithful)
        errors, inside, simple = [], [], 0.0
        for s in range(5):
            on = [c for _, at, c in best if at == s]
            active = {name: sum((ps[c][name] for c in on), torch.zeros_like(w[name])) for name in w}
            y, got = (slow.output(network, run, of, x[run, s]) for of in (w, active))
            errors.append(float((y - got).square().mean()))
            pairs = zip(*(slow.hidden(network, run, of, x[run, s]) for of in (w, active)), strict=True)
            inside += [float((a - b).square().mean()) for a, b in pairs]
            for own in components.values():
                for c in on:
                    for m in range(2):
                        size = own.u[run, :, c, m].norm() * own.v[run, c, m].norm()
                        simple += float(size) ** 0.9
        assert float(found.minimality[run]) == pytest.approx(sum(errors) / 5)
        assert float(found.simplicity[run]) == pytest.approx(simple / n_weights / 5, rel=1e-6)
        assert float(found.hidden[run]) == pytest.approx(sum(inside) / len(inside) if inside else 0)


def test_the_form_with_a_penalty_by_hand_and_its_gradient():
    # A = (6, 12) as above for x = 3. p1 = 1: minimality 18. |P|^1 = (0.5, 1): simplicity 6 * 0.5 + 12 * 1 = 15, of one
    # weight. Doubling U of the first component doubles its A and its norm.
    one = TiedSuperposition(torch.tensor([[[2.0]]]), torch.zeros(1, 1))
    u = torch.tensor([[[[0.5], [1.0]]]], requires_grad=True)
    config = APDConfig(n_components=2, n_terms=1, steps=1, batch_size=1, form="l_p", p=1.0)
    found = losses(one, torch.tensor([[[3.0]]]), {"W": Factors(u, torch.ones(1, 2, 1, 1))}, config)
    assert [float(term.detach()) for term in found] == pytest.approx([0.25, 18, 15, 0])
    own = {"W": Factors(u.detach(), torch.ones(1, 2, 1, 1))}
    at_sum = losses(one, torch.tensor([[[3.0]]]), own, replace(config, attributions="components"))
    assert [float(term) for term in at_sum] == pytest.approx([0.25, 13.5, 4.5 * 0.5 + 9, 0])  # A = (4.5, 9).
    (slope,) = torch.autograd.grad(found.minimality.sum(), u)
    assert slope.flatten().tolist() == pytest.approx([12, 12])


def test_the_loss_is_the_weighted_sum_of_its_terms():
    terms = losses_of.Losses(*(torch.tensor([v]) for v in (1.0, 10.0, 100.0, 1000.0)))
    config = replace(CONFIG, faithfulness=1.0, minimality=2.0, simplicity=3.0, hidden=4.0)
    assert float(weighted(terms, config)) == 1 + 20 + 300 + 4000


# --- settings, start, training ----------------------------------------------------------------------------------


def test_numbers_of_the_paper_follow_from_the_settings():
    assert replace(CONFIG, batch_size=2048, top_k=0.211).k_count == 432
    assert replace(CONFIG, batch_size=2048, top_k=1.28).k_count == 2621
    tenth = replace(CONFIG, steps=100, warmup=0.1, lr=1.0)
    # Ten steps up, then a quarter of a cosine over 90: at half of it cos(pi / 4).
    assert [tenth.lr_at(s) for s in (0, 9, 10, 55)] == pytest.approx([0.1, 1, 1, math.sqrt(0.5)])
    assert replace(tenth, schedule="constant").lr_at(99) == 1


def test_the_start_is_as_small_as_the_authors():
    # U [12, 5, 5, 3] and V [12, 5, 3, 2] side by side: sqrt(2 / (17 * 15)) = .0886 and sqrt(2 / (17 * 6)) = .140.
    network = TiedSuperposition(torch.zeros(200, 5, 2), torch.zeros(200, 5))
    config = APDConfig(n_components=5, n_terms=3, steps=1, init_runs=12)
    own = start(network, config, [torch.Generator().manual_seed(i) for i in range(200)])["W"]
    assert (float(own.u.std()), float(own.v.std())) == pytest.approx((0.0886, 0.140), rel=0.02)
    uniform = start(network, replace(config, init="kaiming"), [torch.Generator().manual_seed(i) for i in range(200)])
    bound = math.sqrt(6 / (5 * 15))
    assert 0.99 * bound < float(uniform["W"].u.abs().max()) <= bound


def test_columns_keep_their_length():
    u = drawn(1, 4, 2, 3)
    unit_columns_(u)
    torch.testing.assert_close(u.norm(dim=1), torch.ones(1, 2, 3, dtype=torch.float64))
    slope = drawn(1, 4, 2, 3, seed=1)
    along_sphere_(slope, u)
    torch.testing.assert_close((slope * u).sum(1), torch.zeros(1, 2, 3, dtype=torch.float64))


def normal(generator: torch.Generator, n: int) -> torch.Tensor:
    return torch.randn(n, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("form", ["top_k", "l_p"])
def test_side_by_side_as_alone(form):
    network, _ = two_of("residual")
    config = replace(CONFIG, form=form, unit_norm=True, steps=7)
    both = decompose_apd(network, normal, config, (3, 5))
    for run, seed in enumerate((3, 5)):
        alone = decompose_apd(slow.one_run(network, run), normal, config, (seed,))
        for name, own in alone.components.items():
            for part, stacked in zip(own, both.components[name], strict=True):
                torch.testing.assert_close(part[0], stacked[run], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(alone.history.minimality[0], both.history.minimality[run])


def test_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    from l3d_core.baselines import apd_training

    monkeypatch.setattr(apd_training, "RECORD", 2)
    monkeypatch.setattr(apd_training, "SAVE", 1)
    network, _ = two_of("tied")
    config = replace(CONFIG, steps=7)
    whole = decompose_apd(network, normal, config, (0, 1))

    class Stopped(Exception):
        pass

    def stopping(generator, n, seen=[]):  # noqa: B006
        seen.append(n)
        if len(seen) > 10:
            raise Stopped
        return normal(generator, n)

    path = tmp_path / "state"
    with pytest.raises(Stopped):
        decompose_apd(network, stopping, config, (0, 1), checkpoint=path)
    resumed = decompose_apd(network, normal, config, (0, 1), checkpoint=path)
    for part, expected in zip(resumed.components["W"], whole.components["W"], strict=True):
        assert part.equal(expected)
    assert all(a.equal(b) for a, b in zip(resumed.history, whole.history, strict=True))
    assert resumed.first_losses.equal(whole.first_losses) and whole.first_losses.shape == (2, 7)
    few = decompose_apd(network, normal, config, (0, 1), max_steps=3)
    assert few.first_losses.equal(whole.first_losses[:, :3])
    with pytest.raises(ValueError, match="belongs to other runs"):
        decompose_apd(network, normal, config, (0, 2), checkpoint=path)


def test_a_checkpoint_is_of_one_network_activations_and_all(tmp_path):
    network, _ = two_of("chain")
    config, path = replace(CONFIG, steps=3, batch_size=8), tmp_path / "chain.safetensors"
    first = decompose_apd(network, normal, config, (0, 1), checkpoint=path)
    again = decompose_apd(network, normal, config, (0, 1), checkpoint=path)
    assert again.components["W.0"].u.equal(first.components["W.0"].u)
    with pytest.raises(ValueError, match="checkpoint"):
        decompose_apd(network._replace(activations=("gelu", "relu")), normal, config, (0, 1), checkpoint=path)


def test_planted_components_are_found():
    # Two features on hidden axes of their own: each weight row is a mechanism by itself.
    network = TiedSuperposition(torch.eye(2)[None] * 1.2, torch.zeros(1, 2))
    config = APDConfig(n_components=2, n_terms=2, steps=600, batch_size=64, top_k=0.5, simplicity=0.1, lr=0.03, p=1.0)
    found = decompose_apd(
        network, lambda g, n: torch.rand(n, 2, generator=g) * (torch.rand(n, 2, generator=g) < 0.25), config, (0,)
    )
    each = found.components["W"].each()[0]
    assert float((each.sum(0) - network.w[0]).square().mean()) < 1e-4
    rows = each.norm(dim=2)  # Of each component, the length of each feature's row.
    assert sorted(rows.argmax(1).tolist()) == [0, 1]
    assert float(rows.min(1).values.max()) < 0.1 * float(rows.max(1).values.min())


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"n_components": 0}, "n_components is 0"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"top_k": 0.1}, "top_k is 0.1, 0 active in a batch"),
        ({"top_k": 4.0}, "at most n_components"),
        ({"simplicity": -1.0}, "simplicity is -1.0"),
        ({"hidden": math.inf}, "hidden is inf"),
        ({"p": 0.0}, "p is 0.0; expected a power"),
        ({"lr": 0.0}, "lr 0.0, warmup"),
        ({"warmup": 2.0}, "warmup 2.0"),
        ({"form": "l1"}, "form is 'l1'; expected one of"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
    ],
)
def test_bad_settings_are_refused(changes, problem):
    with pytest.raises(ValueError, match=problem):
        replace(CONFIG, **changes)


def test_every_network_has_a_seed_and_losses_stay_finite():
    network, _ = two_of("tied")
    with pytest.raises(ValueError, match="got 1 seeds for 2 networks"):
        decompose_apd(network, normal, CONFIG, (0,))
    with pytest.raises(FloatingPointError, match="NaN or infinite by step 4; lower lr"):
        decompose_apd(network._replace(b=network.b * math.nan), normal, CONFIG, (0, 1))

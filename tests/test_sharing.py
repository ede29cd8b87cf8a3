"""Decompositions on disk: what is written is read back, and only beside the model it is of."""

import json

import pytest
import torch
from torch.nn import GELU, Linear, Sequential

from l3d_core import L3DConfig, decompose, impact, perturb
from l3d_core.divergences import resolve_divergence
from l3d_core.sharing import load_l3d, save_l3d


def model(seed: int = 0, width: int = 5) -> Sequential:
    torch.manual_seed(seed)
    return Sequential(Linear(4, width), GELU(), Linear(width, 3)).eval()


X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
CONFIG = L3DConfig(n_v=3, rank={"0.*": 2, "*.bias": 1, "*": (1, 2)}, epochs=2, batch_size=4, revival=0.5)


def squares(y, y_ref):
    return (y - y_ref).square().sum(-1)


@pytest.mark.parametrize(
    "config",
    [CONFIG, L3DConfig(n_v=2, form="cp", epochs=1, batch_size=4), L3DConfig(n_v=2, rank=0.5, epochs=1, batch_size=4)],
)
def test_what_is_written_is_read_back(tmp_path, config):
    l3d = decompose(model(), X, "mse", config, seed=7, parameters=["0.*", "2.weight"])
    found = load_l3d(save_l3d(l3d, tmp_path / "deep" / "mine"), model())
    assert (found.config, found.seed, found.divergence, found.parameters) == (config, 7, l3d.divergence, l3d.parameters)
    assert list(found.config.rank) == list(config.rank) if isinstance(config.rank, dict) else True
    assert found.v_in.flat.equal(l3d.v_in.flat) and found.v_out.layout == l3d.v_out.layout
    for name in ("recon_sq", "recon_norm", "p_active", "first_losses"):
        assert getattr(found.history, name).equal(getattr(l3d.history, name))
    assert found.history.wall_seconds == l3d.history.wall_seconds
    assert impact(found, X).equal(impact(l3d, X))
    assert perturb(found, {1: 0.3})(X).equal(perturb(l3d, {1: 0.3})(X))


def test_the_folder_is_readable_and_replaced_whole(tmp_path):
    folder = save_l3d(decompose(model(), X, "mse", CONFIG), tmp_path / "mine")
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json", "metrics.json", "provenance.json", "tensors.safetensors",
    ]  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["tensors"][0] == ["0.weight", [5, 4], [2, 2]] and config["divergence"] == "mse"
    assert config["settings"]["rank"] == [["0.*", 2], ["*.bias", 1], ["*", [1, 2]]]
    save_l3d(decompose(model(), X, "mse", CONFIG, seed=5), folder)
    assert load_l3d(folder, model()).seed == 5 and [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_a_divergence_of_the_readers_own_is_asked_for(tmp_path):
    l3d = decompose(model(), X, squares, CONFIG)
    folder = save_l3d(l3d, tmp_path / "mine")
    with pytest.raises(ValueError, match=r"with the divergence 'squares', no known name; expected it as divergence="):
        load_l3d(folder, model())
    torch.testing.assert_close(impact(load_l3d(folder, model(), squares), X), impact(l3d, X))
    normalised = decompose(model(), X, "normalised_mse", CONFIG)
    folder = save_l3d(normalised, tmp_path / "normalised")
    with pytest.raises(ValueError, match="'normalised_mse', no known name"):
        load_l3d(folder, model())
    again = load_l3d(folder, model(), resolve_divergence("normalised_mse", model()(X).detach()))
    torch.testing.assert_close(impact(again, X), impact(normalised, X))


def test_only_beside_the_model_it_is_of(tmp_path):
    folder = save_l3d(decompose(model(), X, "mse", CONFIG), tmp_path / "mine")
    with pytest.raises(ValueError, match=r"'0.weight' has shape \(5, 4\); got \(6, 4\). Pass the model"):
        load_l3d(folder, model(width=6))
    with pytest.raises(ValueError, match=r"'2.weight' has shape \(3, 5\); got a model without it"):
        load_l3d(folder, model()[:1])
    with pytest.raises(ValueError, match="the weights are not those that .*mine is of; expected the same"):
        load_l3d(folder, model(seed=1))
    with pytest.raises(ValueError, match="in training mode; expected evaluation mode"):
        load_l3d(folder, model().train())


def test_a_folder_that_is_not_whole(tmp_path):
    folder = save_l3d(decompose(model(), X, "mse", CONFIG), tmp_path / "mine")
    (folder / "tensors.safetensors").unlink()
    with pytest.raises(ValueError, match="is no whole result"):
        load_l3d(folder, model())

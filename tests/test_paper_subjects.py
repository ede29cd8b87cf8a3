"""The paper's own subjects with random weights: names, shapes and ranks of App. B.4, and a few steps on each."""

import pytest
import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from l3d_core import Run, fit, gradient_reconstruction, real_experiments
from l3d_core.pretrained import make_network
from l3d_core.real_experiments import LANGUAGE, LANGUAGE_VARIANTS, VISION, VISION_VARIANTS

LANGUAGE_EXPECTED = {
    f"transformer.h.4.attn.attention.{name}": (25, 25)
    for name in ("k_proj.weight", "v_proj.weight", "q_proj.weight", "out_proj.weight")
} | {"transformer.h.4.attn.attention.out_proj.bias": (25,)}
VISION_EXPECTED = {
    "features.7.block.0.0.weight": (12, 4, 1, 1), "features.7.block.0.1.weight": (12,),
    "features.7.block.0.1.bias": (12,), "features.7.block.1.0.weight": (12, 1, 5, 5),
    "features.7.block.1.1.weight": (12,), "features.7.block.1.1.bias": (12,),
    "features.7.block.2.fc1.weight": (3, 12, 1, 1), "features.7.block.2.fc1.bias": (3,),
    "features.7.block.2.fc2.weight": (12, 3, 1, 1), "features.7.block.2.fc2.bias": (12,),
    "features.7.block.3.0.weight": (4, 12, 1, 1), "features.7.block.3.1.weight": (4,),
    "features.7.block.3.1.bias": (4,),
}  # fmt: skip


def gpt_neo():
    """TinyStories-8M's architecture."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=256, num_layers=8, num_heads=16, intermediate_size=1024, vocab_size=50257)
    types = [[["global", "local"], 4]]
    return GPTNeoForCausalLM(GPTNeoConfig(**sizes, attention_types=types, max_position_embeddings=2048)).eval()


@pytest.mark.parametrize("variant", LANGUAGE_VARIANTS)
def test_the_language_model(variant):
    tokens = torch.randint(50257, (16, 16), generator=torch.Generator().manual_seed(1))
    config = LANGUAGE_VARIANTS[variant]
    assert (config.n_v, config.k_fraction, config.epochs, config.batch_size) == (100, 0.1, 100, 16)
    [l3d] = fit([Run(gpt_neo(), tokens, config, "kl", parameters=LANGUAGE.parameters)], max_steps=3)
    assert dict(sorted(l3d.v_out.layout.ranks.items())) == dict(sorted(LANGUAGE_EXPECTED.items()))
    # As counted on the authors' code: 262,400 parameters, 60,125 numbers of a subnetwork on either side.
    assert (l3d.v_out.layout.n_w, l3d.v_out.layout.n_numbers) == (262_400, 60_125)
    first = l3d.history.first_losses
    assert len(first) == 3 and first[-1] < first[0]


def test_the_vision_network():
    torch.manual_seed(0)
    network = make_network("mobilenet_v3_small", 1000)
    images = torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # Statistics of all that was seen, or what random layers give fades to nothing.
    with torch.no_grad():
        network.train()(images)
    network.eval()
    for config in VISION_VARIANTS.values():
        assert (config.n_v, config.batch_size, config.lr) == (100, 32, 0.005)
        [l3d] = fit([Run(network, images, config, "kl", parameters=VISION.parameters)], max_steps=2)
        assert l3d.v_out.layout.ranks == VISION_EXPECTED and l3d.v_out.layout.n_w == 21_968
        assert torch.isfinite(gradient_reconstruction(l3d, images[:32]).recon_sq)


def test_what_text_and_code_say_of_the_schedule():
    text, code = LANGUAGE_VARIANTS.values()
    assert [text.lr_at(epoch, 0) for epoch in (0, 9, 10, 99)] == pytest.approx([0.005, 0.005, 0.004, 0.005 * 0.8**9])
    assert {code.lr_at(epoch, 0) for epoch in range(100)} == {0.001}
    assert {VISION_VARIANTS["code"].lr_at(epoch, 0) for epoch in range(100)} == {0.005}


def test_what_stands_in_for_them_is_decomposed_alike():
    offline = real_experiments.VISION_OFFLINE
    assert offline.parameters == VISION.parameters and offline.weights.exists()
    assert (LANGUAGE.n, LANGUAGE.n_positions, VISION.n) == (10_000, 16, 10_000)
    assert real_experiments.LANGUAGE_OFFLINE.data_id == LANGUAGE.data_id

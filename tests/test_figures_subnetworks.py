"""Stored subnetworks as panels: order, titles, shapes."""

import torch

from l3d_core.chapters.studies import Study
from l3d_core.figures.networks import plot_networks
from l3d_core.figures.subnetworks import model_panel, subnetwork_panels
from l3d_core.toy_models import DeepPerceptron
from l3d_core.toys import Perceptron


def numbers(*shape, start=0.0):
    return torch.arange(start, start + torch.Size(shape).numel()).view(shape) / 10


def perceptron():
    return Perceptron(numbers(4, 2), numbers(2, 3), numbers(3)).eval()


def deep():
    return DeepPerceptron([numbers(3, 2), numbers(2, 3)], [numbers(3), numbers(2)]).eval()


def study_of(model, p_active, top_input, share=0.5):
    """Returns a study of two targets; subnetwork v of target t holds 100 t + 10 v + the place of each number."""
    n_v, n_w = len(p_active), sum(p.numel() for p in model.parameters())
    v_out = torch.arange(n_w) + 10.0 * torch.arange(n_v)[:, None] + 100.0 * torch.arange(2)[:, None, None]
    tensors = {
        "v_out": v_out, "p_active": torch.tensor([p_active[::-1], p_active]),
        "top_input": torch.tensor([[0] * n_v, top_input]), "share_in": torch.full((2, n_v), share),
    }  # fmt: skip
    return Study({f"a/{key}": t for key, t in tensors.items()}, ["a"], [3, 7], 2)


def numbered(panel):
    """Returns which subnetwork a panel shows, by its title."""
    return int(panel.title.split("$v_{")[1].split("}")[0])


def test_a_target_as_a_panel():
    model = perceptron()
    panel = model_panel(model, "the target", 2)
    assert panel.weights[0].equal(numbers(4, 2)) and panel.weights[1].equal(numbers(2, 3))
    assert panel.biases[0] is None and panel.biases[1].equal(numbers(3))
    assert (panel.title, panel.group_size, panel.dead, panel.sizes) == ("the target", 2, False, [4, 2, 3])
    assert not panel.weights[0].requires_grad
    panel = model_panel(deep(), "")
    assert panel.weights[0].equal(numbers(3, 2).T) and panel.weights[1].equal(numbers(2, 3).T)
    assert panel.biases[0].equal(numbers(3)) and panel.biases[1].equal(numbers(2))


def test_panels_come_by_top_input_then_activity_and_dead_ones_last():
    model = perceptron()
    study = study_of(model, [0.1, 0.0, 0.2, 0.3, 0.0], [2, 0, 0, 2, 1])
    panels = subnetwork_panels(study, "a", model, 1)
    order = [2, 3, 0, 1, 4]
    assert [numbered(panel) for panel in panels] == order
    assert [panel.dead for panel in panels] == [False, False, False, True, True]
    assert [panel.title.split("P_{act}$ ")[1][:4] for panel in panels] == ["0.20", "0.30", "0.10", "0.00", "0.00"]
    assert "input 0" in panels[0].title and "input 2" in panels[1].title
    assert "dead" in panels[3].title and "input" not in panels[3].title
    for v, panel in zip(order, panels, strict=True):  # Numbers in the order of the parameters: W_in, W_out, b.
        first = 100.0 + 10 * v
        assert panel.weights[0].flatten().tolist() == [first + i for i in range(8)]
        assert panel.weights[1].flatten().tolist() == [first + i for i in range(8, 14)]
        assert panel.biases[0] is None and panel.biases[1].tolist() == [first + i for i in range(14, 17)]
    assert len(subnetwork_panels(study, "a", model, 1, most=2)) == 2
    # The first target: P_act is the other way round and input 0 the top of all.
    assert [numbered(panel) for panel in subnetwork_panels(study, "a", model)] == [1, 2, 4, 0, 3]


def test_panels_of_groups_and_of_deep_networks():
    model = perceptron()
    [panel, _] = subnetwork_panels(study_of(model, [0.1, 0.2], [1, 1]), "a", model, group_size=2)
    assert panel.group_size == 2 and "group 0" in panel.title
    model = deep()
    [panel] = subnetwork_panels(study_of(model, [0.1], [1]), "a", model)
    # layers.0.weight has 6 numbers, its bias 3; layers.1.weight 6, its bias 2. Inputs come first in a panel.
    assert panel.weights[0].tolist() == [[0, 2, 4], [1, 3, 5]] and panel.biases[0].tolist() == [6, 7, 8]
    assert panel.weights[1].tolist() == [[9, 12], [10, 13], [11, 14]] and panel.biases[1].tolist() == [15, 16]


def test_panels_can_be_drawn():
    model = perceptron()
    panels = [model_panel(model, "target"), *subnetwork_panels(study_of(model, [0.1, 0.0], [1, 0]), "a", model, 1)]
    figure = plot_networks(panels)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert [panel.title for panel in panels] == titles
    figure.clear()

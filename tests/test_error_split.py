"""What the error is made of."""

import torch

from l3d_core.chapters.error_split import error_parts, split_table
from l3d_core.chapters.studies import Study
from l3d_core.chapters.toy_chapter import ToyResult


def study(seeds, **measures):
    tensors = {f"{name}/{key}": torch.tensor(t) for name, own in measures.items() for key, t in own.items()}
    return Study(tensors, list(measures), list(seeds), len(seeds))


def own(*errors):
    """Measures of one variant: errors of training, three epochs each; .1 more on fresh samples, .2 of it without k."""
    return {
        "recon_sq": [[e] * 3 for e in errors], "recon_fresh": [[e + 0.1] for e in errors],
        "recon_dense": [[e - 0.1, 9.0, 9.0] for e in errors],
    }  # fmt: skip


def test_the_parts_by_hand():
    """Target 2 alone is in all three studies: .5 in training, .6 on fresh samples, .4 with every coefficient."""
    main = study((1, 2, 3), text=own(0.3, 0.5, 0.7), tuned=own(0.2, 0.2, 0.2))
    longer = study((2, 3), text=own(0.45, 0.1), tuned=own(0.2, 0.1))
    full = study((1, 2), text=own(0.1, 0.3), tuned=own(0.1, 0.25))
    result = ToyResult(None, main, {"longer": longer, "full_rank": full})
    parts = {key: [round(float(x), 6) for x in part] for key, part in error_parts(result, "text").items()}
    assert parts == {"top-k": [0.2], "rank": [0.2], "training": [0.05]}
    table = split_table(result)
    assert table.loc["tuned"].to_list() == [
        "0.200 [0.200, 0.200], n = 1", "-0.050 [-0.050, -0.050], n = 1", "0.000 [0.000, 0.000], n = 1",
    ]  # fmt: skip


def test_a_point_of_a_sweep_has_no_parts():
    assert split_table(ToyResult(None, study((1,), text=own(0.3)), {})).empty

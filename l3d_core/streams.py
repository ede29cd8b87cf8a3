"""Where runs start and what they draw: initial values, order and references, each from its own seed."""

from __future__ import annotations

import torch
from torch import Tensor

from .references import draw_partners
from .runs import EpochDraws, Program
from .tucker import Layout, direction_norms, normalising_scale

FIRST_LOSSES = 50


def initial_state(program: Program) -> dict[str, Tensor]:
    """Returns the starting values and empty records of all runs, each drawn from its own seed.

    V_out is drawn normal (standard deviation 1 / n_v) and normalised once; V_in is a copy of it or drawn anew.
    """
    n_runs, n_v, epochs = len(program.runs), program.runs[0].config.n_v, program.epochs
    numbers = torch.zeros(2, n_runs, n_v, program.layout.n_numbers, dtype=torch.float64)
    streams = []
    for r, (run, layout) in enumerate(zip(program.runs, program.layouts, strict=True)):
        generator = torch.Generator().manual_seed(run.seed)
        where = program.layout.positions_of(layout)
        for side in (1, 0):
            drawn = layout.draw(n_v, generator)
            kind = run.config.v_out_norm
            norms = direction_norms(layout, drawn, kind)
            drawn = drawn * normalising_scale(norms, kind == "tensor_sum")[:, None] ** layout.shares()
            numbers[side, r][:, where] = drawn
        if run.config.encoder_init == "copy":
            numbers[0, r] = numbers[1, r]
        if run.batch_seed is not None:
            generator.manual_seed(run.batch_seed)
        streams.append(generator.get_state())
    numbers = numbers.to(program.device, program.dtype)
    first = min(FIRST_LOSSES, epochs * program.n_batches)
    empty = {"recon_sq": (epochs,), "recon_norm": (epochs,), "p_active": (epochs, n_v), "first_losses": (first,)}
    records = {k: torch.zeros(n_runs, *s, device=program.device, dtype=program.dtype) for k, s in empty.items()}
    counters = {name: torch.zeros((), dtype=torch.long) for name in ("step", "epoch", "batch")}
    clock = {"wall_seconds": torch.zeros((), dtype=torch.float64)}
    moments = torch.zeros(2, *numbers.shape, device=program.device, dtype=program.dtype)
    return {"numbers": numbers, "moments": moments, "streams": torch.stack(streams), **records, **counters, **clock}


def draw_epoch(program: Program, state: dict[str, Tensor]) -> EpochDraws:
    """Returns the epoch's order and partners (Alg. 1 lines 2 and 4); leaves the streams ready for the next epoch.

    An epoch resumed in its middle draws the same again: the streams advance in the state only when its first
    batch is still to be done, and `state["replay"]` keeps where they stood.
    """
    resumed = int(state["batch"]) > 0
    streams = state["replay"] if resumed else state["streams"].clone()
    orders, partners, after = [], [[] for _ in program.blocks], []
    n_shared = program.plan.sizes.n_shared
    for stream in streams[::n_shared]:
        generator = torch.Generator()
        generator.set_state(stream.clone())
        orders.append(torch.randperm(program.inputs.shape[1], generator=generator))
        full = sum(b.n_batches for b in program.blocks if b.size == program.blocks[0].size)
        drawn = draw_partners(full, program.blocks[0].size * program.n_positions, generator)
        done = 0
        for i, block in enumerate(program.blocks):
            if block.size == program.blocks[0].size:
                partners[i].append(drawn[done : done + block.n_batches])
                done += block.n_batches
            else:
                partners[i].append(draw_partners(1, block.size * program.n_positions, generator))
        after.append(generator.get_state())
    state["replay"], state["streams"] = streams, torch.stack(after).repeat_interleave(n_shared, 0)
    return EpochDraws(torch.stack(orders).to(program.device), [torch.stack(p).to(program.device) for p in partners])


def unpack(program: Program, state: dict[str, Tensor], r: int) -> tuple[Layout, Tensor]:
    """Returns run r's own layout and its encoder's and decoder's numbers `[2, n_v, n_numbers]`."""
    layout = program.layouts[r]
    return layout, state["numbers"][:, r][..., program.layout.positions_of(layout).to(program.device)].clone()

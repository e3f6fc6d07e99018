"""Radius graphs on devices where a look at a number waits: checks and sizes are read together.

The number of edges has to be read, since tensors have a size. Open boundaries need no other read as long as all pairs
of atoms are few enough to be tested; periodic ones a second one, of how many images there are. What is asked by these
reads includes whether positions, batch and cells are what they should be. Where something is not, or there are more
candidates, nothing is returned and the search that is bounded in memory is taken, which reads more often.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyg_schnet.neighbors._checks import check_batch_form, check_cell_form, check_form
from pyg_schnet.neighbors.criterion import edge_exists
from pyg_schnet.neighbors.lattice import (
    MOST_IMAGES,
    Lattice,
    count_images,
    expected_images,
    list_images,
    rounding_numbers,
)
from pyg_schnet.ops.checks import check_batch_size
from pyg_schnet.ops.dispatch import list_of, wide_dtype
from pyg_schnet.ops.radius import chunk_size


def is_waited_for(pos: Tensor) -> bool:
    """Whether a look at a number of a tensor waits for its device."""
    return isinstance(pos, Tensor) and pos.device.type not in ("cpu", "meta")


def open_graph(pos: Tensor, cutoff: float, batch: Tensor | None, batch_size: int | None) -> Tensor | None:
    """Edges with open boundaries of all pairs of atoms, in one read.

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        cutoff: Cutoff in Å.
        batch: Structure of each atom, shape ``[N]``.
        batch_size: Number of structures.

    Returns:
        Edges sorted by target, shape ``[2, E]``; ``None`` for too many pairs, no atoms, and where something is wrong.
    """
    pos = check_form(pos)
    if batch_size is not None:
        check_batch_size(batch_size)
    n = pos.size(0)
    if n == 0 or n * n > chunk_size(pos.device):
        return None
    square: Tensor | None = None
    for component in pos.unbind(1):  # the order of squared_distances, so that edges are the same
        along = component[None, :] - component[:, None]
        along *= along
        square = along if square is None else square.add_(along)
    assert square is not None
    near = square < cutoff * cutoff  # [target, source]
    good = torch.isfinite(pos).all()
    if batch is not None:
        batch = check_batch_form(pos, batch)
        near &= batch[None, :] == batch[:, None]
        good = good & _is_sorted(batch, batch_size)
    near.fill_diagonal_(False)
    ends = near.flatten().cumsum(0)
    n_edges, is_good = list_of(torch.stack([ends[-1], good.to(torch.int64)]))
    if not is_good or (batch is None and batch_size is not None and batch_size < 1):
        return None
    kept = places(ends, n_edges)
    return torch.stack([kept.remainder(n), kept.div(n, rounding_mode="floor")])


def periodic_graph(
    pos: Tensor,
    cutoff: float,
    cell: Tensor | None,
    pbc: Tensor | Sequence[bool] | None,
    batch: Tensor | None,
    batch_size: int | None,
) -> tuple[Tensor, Tensor] | None:
    """Edges of periodic structures, and of structures with some or no periodic axes among them, in two reads.

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        cutoff: Cutoff in Å.
        cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``.
        pbc: Periodic axes, shape ``[B, 3]``.
        batch: Structure of each atom, shape ``[N]``.
        batch_size: Number of structures.

    Returns:
        Edges sorted by target, shape ``[2, E]``, and their shifts, shape ``[E, 3]``; ``None`` for too many pairs, no
        atoms, and where something is wrong.
    """
    pos = check_form(pos)
    cell, pbc = check_cell_form(cell, pbc, pos)
    n_cells, n = cell.size(0), pos.size(0)
    if n == 0 or n_cells == 0 or (batch is None and n_cells != 1) or batch_size not in (None, n_cells):
        return None
    good = torch.isfinite(pos).all() & torch.isfinite(cell).all()
    owner = torch.zeros(n, dtype=torch.int64, device=pos.device)
    if batch is not None:
        batch = check_batch_form(pos, batch)
        good = good & _is_sorted(batch, n_cells)
        owner = batch.clamp(0, n_cells - 1)
    lattice = Lattice.from_cell(cell.to(wide_dtype(pos)), pbc)
    place = pos.to(lattice.cell.dtype)
    allowance, n_crossed, _ = rounding_numbers(place, owner, lattice, cutoff, pos.dtype).unbind()
    of_atom, n_atoms = expected_images(owner, lattice, cutoff)
    good = good & (lattice.orthogonality > 1e-6).all() & (allowance <= cutoff) & (n_crossed <= 2**30)
    good = good & ((of_atom * n_atoms).sum() <= max(MOST_IMAGES, 27 * n))
    counts = count_images(place, owner, lattice, cutoff + allowance)
    sizes = torch.zeros(2, n_cells, dtype=torch.int64, device=pos.device)
    sizes.scatter_add_(1, owner.expand(2, n), torch.stack([torch.ones_like(owner), counts.end.diff()]))
    n_images, n_pairs, is_good = list_of(
        torch.stack([counts.end[-1], sizes.prod(0).sum(), good.to(torch.int64)])
    )  # the first read
    if not is_good or not 0 < n_pairs <= chunk_size(pos.device):
        return None
    ptr = torch.cat([sizes.new_zeros(1), sizes[0].cumsum(0)])
    images = list_images(place, owner, ptr, lattice, counts, n_images)
    of_target = sizes[1].index_select(0, owner)
    target = torch.repeat_interleave(of_target, output_size=n_pairs)
    first = images.ptr.index_select(0, owner) - (of_target.cumsum(0) - of_target)
    image = torch.arange(n_pairs, device=pos.device) + first.index_select(0, target)
    index = torch.stack([images.atom.index_select(0, image), target])
    shift = images.shift.index_select(0, image) - images.wrap.index_select(0, target)
    near = edge_exists(pos, index, cutoff, shift, cell, owner)
    near &= image != images.own.index_select(0, target)
    ends = near.cumsum(0)
    kept = places(ends, int(ends[-1]))  # the second read
    return index.index_select(1, kept), shift.index_select(0, kept)


def _is_sorted(batch: Tensor, batch_size: int | None) -> Tensor:
    """Whether structures ascend from 0 on, as a tensor."""
    ordered = (batch[1:] >= batch[:-1]).all() & (batch[0] >= 0)
    return ordered if batch_size is None else ordered & (batch[-1] < batch_size)


def places(ends: Tensor, count: int) -> Tensor:
    """Places of the ``count`` true values of which ``ends`` are the sums so far."""
    return torch.searchsorted(ends, torch.arange(1, count + 1, device=ends.device))

"""Neighbour lists of vesin: cell lists in compiled code on the CPU, one structure after the other."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.neighbors._checks import Structures
from pyg_schnet.neighbors.criterion import edge_exists
from pyg_schnet.neighbors.lattice import Lattice


def vesin_open(structures: Structures, cutoff: float) -> Tensor:
    """Edges of open structures, ``[2, E]``, sorted by target.

    Raises:
        ImportError: If vesin is not installed.
    """
    pos, _, ptr = structures
    lists = []
    for first, last in _spans(ptr):
        one = pos[first:last].cpu()
        edges, _ = _search(one, np.eye(3), np.zeros(3, dtype=bool), cutoff, 1e-5 * cutoff, None)
        lists.append(edges + first if first else edges)
    return _join(lists, 1).to(pos.device)


def vesin_periodic(
    structures: Structures, cutoff: float, cell: Tensor, lattice: Lattice, allowance: float
) -> tuple[Tensor, Tensor]:
    """Edges ``[2, E]``, sorted by target, and shifts ``[E, 3]`` of structures with cells.

    Args:
        structures: Checked positions.
        cutoff: Cutoff in Å.
        cell: Lattice vectors as the caller gave them, shape ``[B, 3, 3]``.
        lattice: The completed cells.
        allowance: Upper bound of the rounding error of a length, in Å.

    Raises:
        ImportError: If vesin is not installed.
    """
    pos, _, ptr = structures
    boxes, periodic = lattice.cell.double().cpu().numpy(), lattice.pbc.cpu().numpy()
    lists, shifts = [], []
    for k, (first, last) in enumerate(_spans(ptr)):
        edges, shift = _search(
            pos[first:last].cpu(), boxes[k], periodic[k], cutoff, allowance + 1e-5 * cutoff, cell[k : k + 1].cpu()
        )
        lists.append(edges + first if first else edges)
        assert shift is not None
        shifts.append(shift)
    return _join(lists, 1).to(pos.device), _join(shifts, 0).to(pos.device)


def _search(
    pos: Tensor, box: np.ndarray, periodic: np.ndarray, cutoff: float, allowance: float, cell: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Search one structure on the CPU a little beyond the cutoff; the edge formula decides about pairs near it."""
    try:
        from vesin import NeighborList
    except ImportError as error:
        raise ImportError(
            "backend='vesin' needs the package vesin, which is not installed; run pip install vesin, "
            "or use backend='torch', which finds the same edges"
        ) from error
    search = NeighborList(cutoff=cutoff + allowance, full_list=True, sorted=True)
    quantities = "Pd" if cell is None else "PSd"
    # views of vesin's memory, valid as long as ``search`` lives: everything returned below is a copy
    found = search.compute(pos.double().numpy(), box, periodic, quantities, copy=False)
    pairs = torch.from_numpy(found[0].view(np.int64))  # [E, 2] holds (i, j)
    shift = None if cell is None else torch.from_numpy(found[1])
    near = torch.nonzero(torch.from_numpy(found[-1]) > cutoff - allowance).squeeze(1)
    near_shift = None if shift is None else shift.index_select(0, near)
    wrong = ~edge_exists(pos, pairs.index_select(0, near).T.flip(0), cutoff, near_shift, cell)
    return _copy_without(pairs, shift, near[wrong])


def _copy_without(pairs: Tensor, shift: Tensor | None, drop: Tensor) -> tuple[Tensor, Tensor | None]:
    """Copy pairs (i, j), ``[E, 2]``, to edges (j, i), ``[2, E']``, and their shifts, leaving out the rows ``drop``."""
    if drop.numel() > 0:
        keep = torch.ones(pairs.size(0), dtype=torch.bool, device=pairs.device)
        keep[drop] = False
        kept = torch.nonzero(keep).squeeze(1)
        edges = torch.stack([pairs[:, 1].index_select(0, kept), pairs[:, 0].index_select(0, kept)])
        return edges, None if shift is None else shift.index_select(0, kept)
    edges = torch.empty((2, pairs.size(0)), dtype=torch.int64, device=pairs.device)
    edges[0], edges[1] = pairs[:, 1], pairs[:, 0]
    return edges, None if shift is None else shift.clone()


def _join(parts: list[Tensor], dim: int) -> Tensor:
    """Concatenate without a copy of a single part."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _spans(ptr: Tensor) -> list[tuple[int, int]]:
    """First and last + 1 atom of each structure."""
    return list(itertools.pairwise(ptr.tolist()))

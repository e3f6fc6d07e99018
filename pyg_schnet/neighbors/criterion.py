"""The one formula that decides whether an edge exists.

Every backend only proposes pairs, with a slightly larger cutoff; this formula, evaluated in the dtype of the positions,
keeps those that belong to the graph. So all backends return the same edges, also when a neighbour sits on the cutoff
itself, as in a perfect crystal. Only there can a length computed in another order differ, by the last bit.

Sums are written out, because a matrix product may round differently on every device, and squares are compared,
because a square root may. Columns are processed one by one and in place, since searches spend most of their time here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_schnet.ops.radius import chunk_size, squared_distances


def lattice_translation(shift: Tensor, cell: Tensor, structure: Tensor | None = None) -> list[Tensor]:
    r"""Components of lattice translations in Å, three tensors of shape ``[E]``.

    .. math:: \mathbf{T} = (S_1 \mathbf{a}_1 + S_2 \mathbf{a}_2) + S_3 \mathbf{a}_3

    Args:
        shift: Lattice images S, integers of any dtype, shape ``[E, 3]``.
        cell: Lattice vectors in rows, in Å, shape ``[B, 3, 3]``.
        structure: Structure of each edge, shape ``[E]``; ``None`` for one cell.
    """
    s = shift.T.to(cell.dtype, memory_format=torch.contiguous_format)
    components = []
    for axis in range(3):
        a = cell[:, :, axis].T.contiguous()  # [3, B] this component of the three lattice vectors
        if structure is not None:
            a = a.index_select(1, structure)
        total = s[0] * a[0]
        total += s[1] * a[1]
        total += s[2] * a[2]
        components.append(total)
    return components


def edge_exists(
    pos: Tensor,
    edge_index: Tensor,
    cutoff: float,
    edge_shift: Tensor | None = None,
    cell: Tensor | None = None,
    batch: Tensor | None = None,
) -> Tensor:
    r"""Whether each candidate is an edge.

    .. math:: |(\mathbf{r}_j - \mathbf{r}_i) + \mathbf{S}_{ij} \mathbf{H}|^2 < r_\mathrm{cut}^2

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        edge_index: Candidates (j, i), shape ``[2, E]``.
        cutoff: Cutoff in Å.
        edge_shift: Lattice images S, shape ``[E, 3]``; ``None`` for open boundaries.
        cell: Lattice vectors in rows, in Å, shape ``[B, 3, 3]``.
        batch: Structure of each atom, shape ``[N]``; needed for more than one cell.

    Returns:
        Booleans, shape ``[E]``.

    Example:
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]])
        >>> edge_exists(pos, torch.tensor([[1], [0]]), cutoff=1.5)
        tensor([False])
    """
    points = pos.T.contiguous()
    exists = torch.empty(edge_index.size(1), dtype=torch.bool, device=pos.device)
    size = chunk_size(pos.device)
    for first in range(0, exists.numel(), size):
        chunk = slice(first, first + size)
        source, target = edge_index[:, chunk]
        translation = None
        if edge_shift is not None:
            assert cell is not None
            structure = None
            if cell.size(0) != 1:
                assert batch is not None
                structure = batch.index_select(0, target)
            translation = lattice_translation(edge_shift[chunk], cell, structure)
        exists[chunk] = squared_distances(points, points, source, target, translation) < cutoff * cutoff
    return exists

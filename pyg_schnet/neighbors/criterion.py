"""The one formula that decides whether an edge exists.

Every backend only proposes pairs, with a slightly larger cutoff; this formula, evaluated in the dtype of the positions,
keeps those that belong to the graph. So all backends return the same edges, also when a neighbour sits on the cutoff
itself, as in a perfect crystal. Sums are written out because a matrix product may round differently on every device.
Only there, in the last bit, can a length computed in another order differ.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lattice_translation(shift: Tensor, edge_cell: Tensor) -> Tensor:
    r"""Translation :math:`S_1 \mathbf{a}_1 + S_2 \mathbf{a}_2 + S_3 \mathbf{a}_3`, summed in this order.

    Args:
        shift: Lattice images, integers of any dtype, shape ``[E, 3]``.
        edge_cell: Lattice vectors in rows, in Å, shape ``[3, 3]`` or ``[E, 3, 3]``.

    Returns:
        Translations in Å, shape ``[E, 3]``, in the dtype of ``edge_cell``.
    """
    s = shift.to(edge_cell.dtype)
    a = edge_cell.unbind(-2)
    return s[:, 0:1] * a[0] + s[:, 1:2] * a[1] + s[:, 2:3] * a[2]


def within_cutoff(vec: Tensor, cutoff: float) -> Tensor:
    r"""Whether :math:`v_x^2 + v_y^2 + v_z^2 < r_\mathrm{cut}^2`, shape ``[E]``.

    Squares are compared, because a square root may differ in its last bit between devices and memory layouts.

    Args:
        vec: Edge vectors in Å, shape ``[E, 3]``.
        cutoff: Cutoff in Å.

    Example:
        >>> within_cutoff(torch.tensor([[3.0, 4.0, 0.0], [3.0, 3.9, 0.0]]), cutoff=5.0)
        tensor([False,  True])
    """
    x, y, z = vec.mul(vec).unbind(-1)
    return x + y + z < cutoff * cutoff


def edge_exists(
    pos: Tensor,
    edge_index: Tensor,
    cutoff: float,
    edge_shift: Tensor | None = None,
    cell: Tensor | None = None,
    batch: Tensor | None = None,
) -> Tensor:
    r"""Whether each candidate is an edge.

    .. math:: |\mathbf{r}_j - \mathbf{r}_i + \mathbf{S}_{ij} \mathbf{H}|^2 < r_\mathrm{cut}^2

    The difference of positions is rounded first, then the lattice translation is added.

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
    size = chunk_size(pos.device)
    parts = [
        _exists(
            pos,
            edge_index[:, k : k + size],
            cutoff,
            None if edge_shift is None else edge_shift[k : k + size],
            cell,
            batch,
        )
        for k in range(0, max(edge_index.size(1), 1), size)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def chunk_size(device: torch.device) -> int:
    """How many candidates to look at together: about 100 bytes each, which on the CPU should fit in its caches."""
    return 2**17 if device.type == "cpu" else 2**22


def _exists(
    pos: Tensor,
    edge_index: Tensor,
    cutoff: float,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    batch: Tensor | None,
) -> Tensor:
    source, target = edge_index
    vec = pos.index_select(0, source) - pos.index_select(0, target)
    if edge_shift is not None:
        if cell.size(0) == 1:
            vec += lattice_translation(edge_shift, cell[0])
        else:
            vec += lattice_translation(edge_shift, cell.index_select(0, batch.index_select(0, target)))
    return within_cutoff(vec, cutoff)

"""Brute-force neighbour search: loops over pairs and images, for tests of faster ones.

It shares no code with the other searches, only the formula of :mod:`pyg_schnet.neighbors.criterion`, evaluated by NumPy
in the dtype of the positions. So the edges must agree exactly, also for neighbours that sit on the cutoff.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.ops.checks import check_batch_size, described, positive_length

_MOST_IMAGES = 10**6  # of an atom


def brute_radius_graph(
    pos: Tensor,
    cutoff: float,
    batch: Tensor | None = None,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Try every pair of atoms of a structure and every image, one pair after the other.

    .. math:: |\mathbf{r}_j - \mathbf{r}_i + \mathbf{S} \mathbf{H}|^2 < r_\mathrm{cut}^2

    An image can only be that close if :math:`S_k` differs from :math:`f_{ik} - f_{jk}` by at most the cutoff over the
    distance of lattice planes, with :math:`f` the coordinates along the periodic lattice vectors.

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        cutoff: Cutoff in Å.
        batch: Structure of each atom, any order, shape ``[N]``; ``None`` for one structure.
        cell: Lattice vectors in rows, in Å, shape ``[B, 3, 3]`` or ``[3, 3]``; ``None`` for open boundaries.
        pbc: Periodic axes, shape ``[B, 3]`` or ``[3]``; needed with ``cell``.

    Returns:
        ``edge_index`` ``[2, E]`` with (j, i) and ``edge_shift`` ``[E, 3]``, int64, ordered by i, j and S. Without a
        cell the shifts are zero.

    Example:
        >>> brute_radius_graph(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]]), cutoff=2.0)[0]
        tensor([[1, 0],
                [0, 1]])
    """
    _check(pos, batch, cell, pbc)
    cutoff = positive_length(cutoff)
    r = pos.detach().cpu().numpy()
    structure = np.zeros(len(r), dtype=int) if batch is None else batch.cpu().numpy()
    n_cells = 1 if batch is None else int(structure.max(initial=-1)) + 1
    cells = np.zeros((n_cells, 3, 3), r.dtype) if cell is None else cell.detach().cpu().numpy().reshape(-1, 3, 3)
    periodic = np.zeros((n_cells, 3), bool) if pbc is None else pbc.cpu().numpy().reshape(-1, 3)
    edges = []
    for k in range(n_cells):
        inverse = np.linalg.pinv(np.where(periodic[k][:, None], cells[k], 0.0).astype(np.float64))
        reach = cutoff * np.linalg.norm(inverse, axis=0)  # cutoff over the distance of lattice planes; 0 if open
        if (n_images := np.prod(2 * reach + 1)) > _MOST_IMAGES or (periodic[k] & (reach == 0)).any():
            raise ValueError(
                f"structure {k} has {n_images:.3g} lattice images within the cutoff, or a cell vector of zero, "
                f"cell={cells[k].tolist()}; at most {_MOST_IMAGES:.0e} are tried"
            )
        frac = r.astype(np.float64) @ inverse
        atoms = np.flatnonzero(structure == k)
        for i, j in itertools.product(atoms, atoms):
            for shift in _shifts_within(r[j] - r[i], cells[k], cutoff, frac[i] - frac[j], reach):
                if i != j or any(shift):
                    edges.append((int(i), int(j), *shift))
    table = torch.tensor(sorted(edges), dtype=torch.int64).reshape(-1, 5)
    return table[:, [1, 0]].T.contiguous(), table[:, 2:]


def _check(pos: Tensor, batch: Tensor | None, cell: Tensor | None, pbc: Tensor | None) -> None:
    if not isinstance(pos, Tensor) or pos.dim() != 2 or pos.size(1) != 3 or not bool(torch.isfinite(pos).all()):
        raise ValueError(f"pos must be a tensor of finite positions in Å, [N, 3]; got {described(pos)}")
    if batch is not None and (batch.shape != pos.shape[:1] or (batch.numel() > 0 and int(batch.min()) < 0)):
        raise ValueError(f"batch must name the structure of each of the {pos.size(0)} atoms from 0 on, [N]")
    if batch is not None and batch.numel() > 0:
        check_batch_size(int(batch.max()) + 1)
    if (cell is None) != (pbc is None):
        raise ValueError("cell and pbc belong together; pass both, or neither for open boundaries")
    if cell is not None and not bool(torch.isfinite(cell).all()):
        raise ValueError(f"cell must be finite, in Å, got {cell.tolist()}")


def edge_tuples(edge_index: Tensor, edge_shift: Tensor | None = None) -> list[tuple[int, ...]]:
    """Edges as sorted tuples (j, i) or (j, i, S1, S2, S3), to compare graphs independently of the order of edges.

    Example:
        >>> edge_tuples(torch.tensor([[1, 0], [0, 1]]))
        [(0, 1), (1, 0)]
    """
    columns = edge_index.T if edge_shift is None else torch.cat([edge_index.T, edge_shift.to(edge_index.dtype)], dim=1)
    return sorted(map(tuple, columns.tolist()))


def _shifts_within(
    vec: np.ndarray, cell: np.ndarray, cutoff: float, offset: np.ndarray, reach: np.ndarray
) -> list[tuple[int, ...]]:
    """Lattice shifts that bring ``vec`` below the cutoff."""
    tolerance = 1e-3  # of a lattice plane distance: the range may be too wide, but never too narrow
    ranges = [
        range(math.ceil(o - m - tolerance), math.floor(o + m + tolerance) + 1) if m > 0 else range(1)
        for o, m in zip(offset, reach, strict=True)
    ]
    shifts = np.array(list(itertools.product(*ranges)), dtype=np.int64).reshape(-1, 3)
    s = shifts.astype(vec.dtype)
    moved = vec + (s[:, 0:1] * cell[0] + s[:, 1:2] * cell[1] + s[:, 2:3] * cell[2])
    square = moved[:, 0] ** 2 + moved[:, 1] ** 2 + moved[:, 2] ** 2
    return [tuple(shift) for shift in shifts[square < np.asarray(cutoff * cutoff, dtype=vec.dtype)].tolist()]

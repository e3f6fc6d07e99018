"""The program ``"potential"`` for batches: a few structures at a time, so that their activations stay in the caches."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.backends import tuning
from pyg_schnet.ops.dispatch import Backend
from pyg_schnet.ops.potential import EnergyGradients, PotentialWeights, is_small, potential
from pyg_schnet.ops.sort_edges import pointer_of_sorted


def is_grouped(num_edges: float, num_filters: int) -> bool:
    """Whether structures of this mean size are evaluated in groups: where one thread is there, and they are small.

    Args:
        num_edges: Mean number of edges of a structure, each pair counted once.
        num_filters: Number of filters.
    """
    return torch.get_num_threads() == 1 and is_small(int(num_edges), num_filters)


def run_in_groups(
    pos: Tensor,
    z: Tensor,
    batch: Tensor,
    batch_size: int,
    index: Tensor,
    ptr: Tensor,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    weights: PotentialWeights,
    *,
    strain: bool,
    backend: Backend,
) -> EnergyGradients | None:
    """The program; see :func:`pyg_schnet.ops.potential.potential`.

    Features of all blocks are kept for the gradient. Those of 4,000 atoms are 70 MB, which are written to memory and
    read again; those of a group stay in the last cache, and its dense layers have enough rows.
    """
    compute: Any = potential
    options: dict[str, Any] = {"strain": strain, "backend": backend}
    ends = _ends(batch, batch_size)
    if len(ends) <= 2:
        return compute(pos, z, batch, batch_size, index, ptr, edge_shift, cell, weights, **options)
    found = []
    for (first, begin), (last, end) in itertools.pairwise(ends):
        left, right = ptr[[begin, end]].tolist()
        part = compute(
            pos[begin:end],
            z[begin:end],
            batch[begin:end] - first,
            last - first,
            index[:, left:right] - begin,
            ptr[begin : end + 1] - left,
            None if edge_shift is None else edge_shift[left:right],
            None if edge_shift is None or cell is None else cell[first:last],
            weights,
            **options,
        )
        if part is None:
            return None
        found.append(part)
    energy, grad_pos, grad_strain = zip(*found, strict=True)
    return EnergyGradients(torch.cat(energy), torch.cat(grad_pos), torch.cat(grad_strain) if strain else None)


def _ends(batch: Tensor, batch_size: int) -> list[tuple[int, int]]:
    """Structures and atoms before each group, and after the last one."""
    most = tuning.current.atoms_of_group
    n_atoms = batch.size(0)
    ptr = pointer_of_sorted(batch, batch_size) if batch_size > 1 and n_atoms > most else None
    found = [(0, 0)]
    if ptr is not None:
        before = ptr.tolist()
        for structure, end in enumerate(before[1:-1], 1):
            if end - found[-1][1] > 0 and before[structure + 1] - found[-1][1] > most:
                found.append((structure, end))
    return [*found, (batch_size, n_atoms)]

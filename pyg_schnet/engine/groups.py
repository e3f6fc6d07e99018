"""The program ``"potential"`` for batches: a few structures at a time, so that their activations stay in the caches."""

from __future__ import annotations

import bisect
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.backends import tuning
from pyg_schnet.nn._inputs import as_edge_index
from pyg_schnet.ops.checks import MOST_ROWS
from pyg_schnet.ops.dispatch import Backend, is_at_hand
from pyg_schnet.ops.potential import EnergyGradients, PotentialWeights, num_threads, potential
from pyg_schnet.ops.sort_edges import pointer_of_sorted


def pairs_of_largest(batch: Tensor | None, batch_size: int | None, edge_index: Tensor | None) -> int | None:
    """Upper bound of the number of pairs of neighbours in the structure that has most of them.

    Args:
        batch: Structure of each atom, shape ``[N]``; ``None`` for a single structure.
        batch_size: Number of structures B; ``None`` for those that have atoms.
        edge_index: Edges ``(j, i)``, shape ``[2, E]``; ``None`` if they are not known yet.

    Returns:
        The number; ``None`` for a single structure, for atoms or edges that are not sorted, and where a look at them
        would wait for a device.

    Example:
        >>> pairs_of_largest(torch.tensor([0, 0, 0, 1]), 2, None)
        3
        >>> pairs_of_largest(torch.tensor([0, 0, 0, 1]), 2, torch.tensor([[1, 0], [0, 1]]))
        1
    """
    if not isinstance(batch, Tensor) or batch.dim() != 1 or batch.dtype != torch.int64 or not is_at_hand(batch):
        return None
    if batch_size is None:
        batch_size = int(batch[-1]) + 1 if batch.numel() > 0 else 0
    if type(batch_size) is not int or not 1 < batch_size <= MOST_ROWS:
        return None
    ptr = pointer_of_sorted(batch, batch_size)
    if ptr is None:
        return None
    if edge_index is None:
        n_atoms = int(ptr.diff().amax())
        return n_atoms * (n_atoms - 1) // 2
    target = as_edge_index(edge_index)[1].contiguous()
    return int(torch.searchsorted(target, ptr).diff().amax()) // 2 if is_at_hand(target) else None


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
    read again; those of a group stay in the last cache, and its dense layers have enough rows. Each thread takes one
    group after another.
    """
    compute: Any = potential
    threads = num_threads(index.size(1), weights.weights[0].size(0), backend=backend)
    groups = _ends(batch, batch_size, threads)
    given = pos, z, batch, batch_size, index, ptr, edge_shift, cell, weights
    return compute(*given, strain=strain, groups=groups, backend=backend)


def _ends(batch: Tensor, batch_size: int, threads: int) -> list[tuple[int, int]]:
    """Structures and atoms before each group, and after the last one: as many of about equal size for each thread."""
    n_atoms, most = batch.size(0), tuning.current.atoms_of_group
    n_groups = threads * -(-n_atoms // (threads * most))
    whole = (batch_size, n_atoms)
    ptr = pointer_of_sorted(batch, batch_size) if n_groups > 1 and batch_size > 1 else None
    if ptr is None:
        return [(0, 0), whole]
    before, found = ptr.tolist(), [(0, 0)]
    for place in (n_atoms * k / n_groups for k in range(1, n_groups)):
        structure = bisect.bisect_left(before, place)  # the nearer one of the structures about it
        structure -= place - before[structure - 1] < before[structure] - place
        if found[-1][1] < before[structure] < n_atoms:
            found.append((structure, before[structure]))
    return [*found, whole]

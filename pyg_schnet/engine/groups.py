"""How large the structures of a batch are, each of which the program ``"potential"`` computes in one thread."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_schnet.nn._inputs import as_edge_index
from pyg_schnet.ops.checks import MOST_ROWS
from pyg_schnet.ops.dispatch import is_at_hand
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

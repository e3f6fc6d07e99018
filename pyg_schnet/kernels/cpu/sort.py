"""Edges in the order of a key, by counting."""

from __future__ import annotations

import torch
from numba import njit
from torch import Tensor


@njit(cache=True)
def _sort(key, ptr, order) -> None:
    """Counting sort, stable; ``ptr`` comes in zeroed."""
    for e in range(key.shape[0]):
        ptr[key[e] + 1] += 1
    for k in range(1, ptr.shape[0]):
        ptr[k] += ptr[k - 1]
    place = ptr.copy()
    for e in range(key.shape[0]):
        order[place[key[e]]] = e
        place[key[e]] += 1


@njit(cache=True)
def _count_sorted(key, ptr) -> bool:
    last = 0
    for e in range(key.shape[0]):
        if not last <= key[e] < ptr.shape[0] - 1:
            return False
        last = key[e]
        ptr[last + 1] += 1
    for k in range(1, ptr.shape[0]):
        ptr[k] += ptr[k - 1]
    return True


def pointer_of_sorted(key: Tensor, size: int) -> Tensor | None:
    """Where the edges of each key begin and end, ``[size + 1]``; ``None`` if unsorted, or if a key lies outside."""
    ptr = torch.zeros(size + 1, dtype=torch.int64)
    return ptr if _count_sorted(key.contiguous().numpy(), ptr.numpy()) else None


def sort_edges(key: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Order of edges by a key from 0 to ``size - 1``; see :func:`pyg_schnet.kernels.graph.sort_edges`.

    Raises:
        IndexError: If a key lies outside.
    """
    if key.numel() > 0:
        low, high = torch.aminmax(key)
        if low < 0 or high >= size:
            raise IndexError(f"edges name atoms {int(low)} to {int(high)}, but there are {size}")
    ptr, order = torch.zeros(size + 1, dtype=torch.int64), torch.empty_like(key)
    _sort(key.numpy(), ptr.numpy(), order.numpy())
    return ptr, order

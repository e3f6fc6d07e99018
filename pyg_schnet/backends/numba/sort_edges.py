"""Counting sort of edges, and pairs of opposite edges."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_schnet.backends.numba.lib.buffers import arrays_of
from pyg_schnet.backends.numba.lib.compiler import njit


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


@njit(cache=True)
def _halve(source, ptr, shift, chosen, sources, targets, chosen_ptr) -> int:
    """Write one edge of each pair, its ends, and where those of each target begin; returns their number.

    It is -1 if an edge has no partner. Edges of a target are in the order of their sources, images of one source in an
    order that reversal inverts.
    """
    n_atoms = ptr.shape[0] - 1
    place, count = ptr[:-1].copy(), 0  # where the edges of each target that have no partner yet begin
    for i in range(n_atoms):
        begin, last = ptr[i], ptr[i + 1]
        while begin < last:
            j = source[begin]
            if not 0 <= j < n_atoms or (begin > ptr[i] and j <= source[begin - 1]):
                return -1
            end = begin + 1
            while end < last and source[end] == j:
                end += 1
            partner = place[j]
            if partner + end - begin > ptr[j + 1]:
                return -1
            place[j] += end - begin
            for k in range(end - begin):
                e, f = begin + k, partner + end - begin - 1 - k
                if source[f] != i:
                    return -1
                if shift is not None:
                    for d in range(3):
                        if shift[e, d] != -shift[f, d]:
                            return -1
                if e < f:
                    chosen[count], sources[count], targets[count] = e, j, i
                    count += 1
            begin = end
        chosen_ptr[i + 1] = count
    return count


def half_list(source: Tensor, ptr: Tensor, edge_shift: Tensor | None) -> tuple[Tensor, Tensor, Tensor] | None:
    """One edge of each pair of directions, its ends and their ``ptr``; see :func:`pyg_schnet.ops.half_list`."""
    room = source.size(0) // 2
    chosen, ends, chosen_ptr = source.new_empty(room), source.new_empty(2, room), torch.zeros_like(ptr)
    count = _halve(*arrays_of(source, ptr, edge_shift, chosen, ends[0], ends[1], chosen_ptr))
    return (chosen[:count], ends[:, :count], chosen_ptr) if count >= 0 else None


def pointer_of_sorted(key: Tensor, size: int) -> Tensor | None:
    """Where the edges of each key begin and end, ``[size + 1]``; ``None`` if unsorted, or if a key is out of range."""
    ptr = key.new_zeros(size + 1)
    return ptr if _count_sorted(key.contiguous().numpy(), ptr.numpy()) else None


def sort_edges(key: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Order of edges by a key from 0 to ``size - 1``, which is not checked; see :func:`pyg_schnet.ops.sort_edges`."""
    ptr, order = torch.zeros(size + 1, dtype=torch.int64), torch.empty(key.size(0), dtype=torch.int64)
    _sort(*arrays_of(key, ptr, order))
    return ptr, order

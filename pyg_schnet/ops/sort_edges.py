"""Edges in the order of a key: by target, by source, by interval of a spline."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.index import index2ptr

from pyg_schnet.ops.checks import MOST_ROWS, described, whole_number
from pyg_schnet.ops.dispatch import Backend, is_at_hand, is_followed, kernels_for

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8)


def sort_edges(key: Tensor, size: int, *, backend: Backend = "auto") -> tuple[Tensor, Tensor]:
    """Stable order of edges by a key.

    Args:
        key: Key of each edge, from 0 to ``size - 1``, shape ``[E]``.
        size: Number of keys.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Where the edges of each key begin and end, shape ``[size + 1]``, and the order, shape ``[E]``.

    Raises:
        IndexError: If a key is out of range; checked on CPUs only.

    Example:
        >>> sort_edges(torch.tensor([1, 0, 1]), 3)
        (tensor([0, 1, 3, 3]), tensor([1, 0, 2]))
    """
    _check(key, size)
    kernels = kernels_for(backend, key, needs="sort_edges")
    if is_at_hand(key):
        check_keys(key, size)
        if kernels is not None:
            return kernels.sort_edges(key, size)
    ordered, order = torch.sort(key, stable=True)
    return index2ptr(ordered, size), order


def pointer_of_sorted(key: Tensor, size: int, *, backend: Backend = "auto") -> Tensor | None:
    """Where the edges of each key begin and end, for edges that are sorted already.

    Args:
        key: Key of each edge, from 0 to ``size - 1``, shape ``[E]``.
        size: Number of keys.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Shape ``[size + 1]``; ``None`` if edges are not sorted, a key is out of range, or on other devices than CPUs.

    Example:
        >>> pointer_of_sorted(torch.tensor([0, 2, 2]), 3)
        tensor([0, 1, 1, 3])
        >>> pointer_of_sorted(torch.tensor([2, 0]), 3) is None
        True
    """
    _check(key, size)
    kernels = kernels_for(backend, key, needs="pointer_of_sorted")
    if not is_at_hand(key):
        return None
    if kernels is not None:
        return kernels.pointer_of_sorted(key, size)
    if key.numel() > 0 and (bool((key.diff() < 0).any()) or int(key[0]) < 0 or int(key[-1]) >= size):
        return None
    return index2ptr(key, size)


def _check(key: Tensor, size: int) -> None:
    if not isinstance(key, Tensor) or key.dim() != 1 or key.dtype not in _WHOLE:
        raise ValueError(f"key must hold a whole number for each edge, [E] of int64; got {described(key)}")
    if not is_followed():
        whole_number(size, "size", 0, MOST_ROWS)


def check_keys(key: Tensor, size: int, what: str = "edges name atoms") -> None:
    """Raise an IndexError unless keys lie between 0 and ``size - 1``; checked on CPUs only."""
    if is_at_hand(key) and key.numel() > 0:
        low, high = torch.aminmax(key)
        if is_at_hand(low) and (low < 0 or high >= size):  # not where shapes alone are found
            raise IndexError(f"{what} {int(low)} to {int(high)}, but there are {size}")

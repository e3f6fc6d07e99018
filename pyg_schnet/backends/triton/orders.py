"""Orders of edges by source, by target and by cell, kept as long as the edges are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class Orders(NamedTuple):
    """Where the edges of each atom begin and end, ``[N + 1]``, and which edges these are, ``[E]``, in both directions.

    Attributes:
        source_ptr: Of edges that start at an atom.
        source_order: Of edges that start at an atom.
        target_ptr: Of edges that end at an atom.
        target_order: Of edges that end at an atom.
    """

    source_ptr: Tensor
    source_order: Tensor
    target_ptr: Tensor
    target_order: Tensor


_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def orders_of(edge_index: Tensor, num_atoms: int) -> Orders:
    """Stable orders of edges by both ends; nothing waits for the device.

    Gradients of the same edges, such as forces and the gradient of a loss of forces, ask for them again, so they are
    kept until the tensor is changed or gone. A CUDA graph that is being captured sorts by itself, since other edges may
    be written into the same tensor before it is replayed.

    Args:
        edge_index: ``(j, i)``, shape ``[2, E]``.
        num_atoms: Number of atoms N.
    """
    alone = edge_index.is_inference() or is_capturing()
    key = None if alone else (num_atoms, edge_index._version)
    found, orders = _known.get(edge_index, (None, None))
    if key is None or found != key:
        orders = Orders(*_sorted(edge_index[0], num_atoms), *_sorted(edge_index[1], num_atoms))
        if key is not None:
            _known[edge_index] = key, orders
    return orders


def is_capturing() -> bool:
    """Whether a CUDA graph is being captured."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def pieces_of(structure: Tensor, num_structures: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pieces of at most ``size`` edges of one structure each.

    Their number depends on the numbers of edges and structures alone, so a few at the end may be empty.

    Args:
        structure: Structure of each edge, shape ``[E]``.
        num_structures: Number of structures B.
        size: Largest number of edges of a piece.

    Returns:
        Order of edges, ``[E]``; where the edges of each piece begin and end, ``[P + 1]``; structure of each, ``[P]``.
    """
    n_edges, device = structure.size(0), structure.device
    number = torch.arange(n_edges // size + num_structures, device=device)
    if num_structures == 1:
        ends = torch.arange(number.size(0) + 1, device=device).mul_(size).clamp_(max=n_edges)
        return torch.arange(n_edges, device=device), ends, torch.zeros_like(number)
    ptr, order = _sorted(structure, num_structures)
    ends = ptr.diff().add_(size - 1).div_(size, rounding_mode="floor").cumsum(0)  # of the pieces of each structure
    owner = torch.searchsorted(ends, number, right=True).clamp_(max=num_structures - 1)
    begins = torch.cat([ends.new_zeros(1), ends[:-1]])
    begin = ptr[owner] + size * (number - begins[owner])
    begin = torch.minimum(begin, ptr[owner + 1])
    return order, torch.cat([begin, begin.new_full((1,), n_edges)]), owner


def _sorted(key: Tensor, size: int) -> tuple[Tensor, Tensor]:
    key = key.to(torch.int32) if size < 2**31 else key  # half of the passes of a radix sort
    ordered, order = torch.sort(key, stable=True)
    return torch.searchsorted(ordered, torch.arange(size + 1, dtype=key.dtype, device=key.device)), order

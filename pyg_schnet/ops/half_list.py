"""Half lists, with one edge of each pair of directions, for the kernels that compute all interaction blocks at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyg_schnet.ops.checks import MOST_ROWS, check_edge_index, check_edge_shift, check_pointer, whole_number
from pyg_schnet.ops.dispatch import is_at_hand, kernels_for
from pyg_schnet.ops.segment_sum import MANY_EDGES, is_crowded


class HalfList(NamedTuple):
    """One edge of each pair of directions.

    Attributes:
        edges: Indices of these edges, ascending, shape ``[P]``.
        index: Their ends ``(j, i)``, sorted by i, shape ``[2, P]``.
        ptr: Begin and end of each target's edges, shape ``[N + 1]``.
    """

    edges: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    ptr: Tensor


def half_list(edge_index: Tensor, ptr: Tensor | None, edge_shift: Tensor | None, num_atoms: int) -> HalfList | None:
    """One edge of each pair of directions, of a graph that has every edge in both.

    Edges from an atom to itself, not to an image of it, belong to no pair.

    Args:
        edge_index: ``(j, i)``, shape ``[2, E]``.
        ptr: Begin and end of each target's edges, shape ``[N + 1]``; ``None`` where the order of edges is not known.
        edge_shift: Lattice images crossed by each edge, shape ``[E, 3]``; ``None`` for open boundaries.
        num_atoms: Number of atoms N.

    Returns:
        The half list; ``None`` for directed graphs, for edges that are not sorted by target and source (and images of
        one atom such that their order is reversed for the opposite direction, as in graphs of this package), for atoms
        with more than ``MANY_EDGES`` edges, and on other devices than CPUs.

    Raises:
        ValueError: If a shape or type does not fit, or ``ptr`` is not that of the edges.

    Example:
        >>> half_list(torch.tensor([[1, 2, 0, 0], [0, 0, 1, 2]]), None, None, 3).edges
        tensor([0, 1])
    """
    check_edge_index(edge_index)
    if edge_shift is not None:
        check_edge_shift(edge_shift, edge_index.size(1))
    whole_number(num_atoms, "num_atoms", 0, MOST_ROWS)
    if ptr is not None:
        check_pointer(ptr, edge_index[1], num_atoms, "ptr")
    return halve(edge_index, ptr, edge_shift, num_atoms)


def halve(edge_index: Tensor, ptr: Tensor | None, edge_shift: Tensor | None, num_atoms: int) -> HalfList | None:
    """Like :func:`half_list`, without checks, for edges that were checked or searched before."""
    kernels = kernels_for("auto", edge_index, ptr, edge_shift, needs="half_list")
    if kernels is None or edge_index.dtype != torch.int64:
        return None
    ptr = kernels.pointer_of_sorted(edge_index[1], num_atoms) if ptr is None else ptr
    found = None if ptr is None else kernels.half_list(edge_index[0], ptr, edge_shift)
    return None if found is None or is_crowded_half_list(*found[1:]) else HalfList(*found)


def is_crowded_half_list(index: Tensor, ptr: Tensor) -> bool:
    """Whether an atom has so many edges, of both directions, that their sums in float32 need more care."""
    if 2 * index.size(1) <= MANY_EDGES or not is_at_hand(ptr):
        return False
    return is_crowded(ptr, index[0])

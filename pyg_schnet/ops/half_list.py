"""Half lists, with one edge of each pair of directions, for the kernels that compute all interaction blocks at once."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from pyg_schnet.ops.checks import MOST_ROWS, check_edge_index, check_edge_shift, check_pointer, whole_number
from pyg_schnet.ops.dispatch import is_at_hand, kernels_for
from pyg_schnet.ops.segment_sum import MANY_EDGES, is_crowded
from pyg_schnet.ops.sort_edges import sort_edges


class HalfList(NamedTuple):
    """One edge of each pair of directions.

    Attributes:
        edges: Indices of these edges, shape ``[P]``; ascending, where edges came sorted.
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
        one atom such that their order is reversed for the opposite direction, as in graphs of this package; those of
        very many atoms are sorted here), for atoms with more than ``MANY_EDGES`` edges, and on other devices than CPUs.

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
    if found is None and kernels.recomputes(num_atoms):  # searches of many atoms sort by target only
        found = _halve_sorted(kernels, edge_index, edge_shift, num_atoms)
    return None if found is None or is_crowded_half_list(*found[1:]) else HalfList(*found)


def _halve_sorted(
    kernels: ModuleType, edge_index: Tensor, edge_shift: Tensor | None, num_atoms: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The half list of edges in any order; indices of the chosen edges are not ascending."""
    if edge_index.numel() == 0:
        return None
    low, high = torch.aminmax(edge_index)
    if int(low) < 0 or int(high) >= num_atoms:
        return None
    order = _order_by([*edge_index])
    ordered = edge_index.index_select(1, order)
    if edge_shift is not None:
        if bool((ordered[:, 1:] == ordered[:, :-1]).all(0).any()):  # several images of an atom
            order = _order_by([*edge_shift.T, *edge_index])
            ordered = edge_index.index_select(1, order)
        edge_shift = edge_shift.index_select(0, order)
    ptr = kernels.pointer_of_sorted(ordered[1], num_atoms)
    found = kernels.half_list(ordered[0], ptr, edge_shift)
    return None if found is None else (order.index_select(0, found[0]), *found[1:])


def _order_by(keys: list[Tensor]) -> Tensor:
    """Order of edges by whole numbers, the last of which counts most."""
    order: Tensor | None = None
    for key in keys:
        low, high = (int(end) for end in torch.aminmax(key))
        values = key.to(torch.int64) - low
        values = values if order is None else values.index_select(0, order)
        is_dense = high - low < values.size(0)
        step = sort_edges(values, high - low + 1)[1] if is_dense else values.argsort(stable=True)
        order = step if order is None else order.index_select(0, step)
    assert order is not None
    return order


def is_crowded_half_list(index: Tensor, ptr: Tensor) -> bool:
    """Whether an atom has so many edges, of both directions, that their sums in float32 need more care."""
    if 2 * index.size(1) <= MANY_EDGES or not is_at_hand(ptr):
        return False
    return is_crowded(ptr, index[0])

"""Edges of a batch and their lengths, built from the inputs of a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.index import index2ptr

from pyg_schnet.neighbors import radius_graph
from pyg_schnet.nn._inputs import as_edge_index
from pyg_schnet.nn.atomref import MAX_Z
from pyg_schnet.ops import close_pairs_once, edge_lengths
from pyg_schnet.ops.checks import check_batch_size, check_edge_shift, check_index, described
from pyg_schnet.ops.dispatch import Backend, is_at_hand, is_followed, kernels_for
from pyg_schnet.ops.half_list import halve


class Graph(NamedTuple):
    """Edges without lengths; all of them, or one of each pair of directions (a half list).

    Attributes:
        index: ``(j, i)``, shape ``[2, E]``; of a half list sorted by i.
        ptr: Begin and end of each target's edges, shape ``[N + 1]``; ``None`` if edges are not known to be sorted.
        edge_shift: Lattice images crossed by each edge, shape ``[E, 3]``; ``None`` for open boundaries.
        dist: Distances in Å from the search, not differentiable, shape ``[E]``; ``None`` if not known.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    ptr: Tensor | None = None
    edge_shift: Tensor | None = None
    dist: Tensor | None = None


class MeasuredGraph(NamedTuple):
    """Edges with their lengths; arguments of interaction blocks.

    Attributes:
        index: ``(j, i)``, shape ``[2, E]``.
        dist: Distances in Å, differentiable in positions and cell, shape ``[E]``.
        ptr: Begin and end of each target's edges, shape ``[N + 1]``; ``None`` if edges are not known to be sorted.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    dist: Tensor
    ptr: Tensor | None = None


class Edges:
    """Edges of a batch of structures.

    Args:
        index: ``(j, i)``, shape ``[2, E]``.
        dist: Distances in Å, differentiable in positions and cell, shape ``[E]``.
        ptr: Begin and end of each target's edges, shape ``[N + 1]``; ``None`` if edges are not known to be sorted.

    Attributes:
        half_list: One edge of each pair of directions, for programs that use half lists; ``None`` if it was not
            built, or an edge has no opposite one.
    """

    def __init__(self, index: Tensor, dist: Tensor, ptr: Tensor | None = None) -> None:
        self.half_list: MeasuredGraph | None = None
        self._directed: MeasuredGraph | None = MeasuredGraph(index, dist, ptr)
        self._measure: Callable[[], MeasuredGraph] | None = None

    @classmethod
    def of_half_list(cls, half_list: MeasuredGraph, measure: Callable[[], MeasuredGraph]) -> Edges:
        """Edges that all have both directions.

        Args:
            half_list: One of each pair.
            measure: Returns all of them; called when they are needed.
        """
        edges = cls.__new__(cls)
        edges.half_list, edges._directed, edges._measure = half_list, None, measure
        return edges

    @property
    def directed(self) -> MeasuredGraph:
        """All edges."""
        if self._directed is None:
            assert self._measure is not None
            self._directed = self._measure()
        return self._directed

    @property
    def index(self) -> Tensor:
        """``(j, i)``, shape ``[2, E]``."""
        return self.directed.index

    @property
    def dist(self) -> Tensor:
        """Distances in Å, shape ``[E]``."""
        return self.directed.dist

    @property
    def ptr(self) -> Tensor | None:
        """Begin and end of each target's edges, shape ``[N + 1]``."""
        return self.directed.ptr


def prepare_edges(
    z: Tensor,
    pos: Tensor,
    batch: Tensor,
    cutoff: float,
    *,
    edge_index: Tensor | None = None,
    edge_shift: Tensor | None = None,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
    batch_size: int,
    backend: Backend = "auto",
) -> Edges:
    """Edges of a batch, built unless given.

    Edges that start at padding (``z == 0``), and those from an atom to itself, are moved to the cutoff, where windows
    are zero, so that padding has no effect and sums run over j ≠ i.

    Args:
        z: Atomic numbers, shape ``[N]``.
        pos: Positions in Å, shape ``[N, 3]``.
        batch: Structure of each atom, shape ``[N]``.
        cutoff: Cutoff in Å.
        edge_index: Edges ``(j, i)``, shape ``[2, E]``, in any order; ``None`` builds the complete radius graph.
        edge_shift: Lattice images crossed by given edges, shape ``[E, 3]``.
        cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``.
        pbc: Periodic directions, shape ``[B, 3]``; needed to build the graph of periodic structures.
        batch_size: Number of structures B.
        backend: How lengths are computed; ``"reference"`` uses no half lists.

    Returns:
        The edges; graphs built here are sorted by target and have ``ptr``.

    Raises:
        ValueError: If a graph cannot be built, see :func:`pyg_schnet.neighbors.radius_graph`, or
            edges of periodic structures come without ``edge_shift``. On other devices than CPUs, where a look at
            ``pbc`` would wait, lengths are NaN then.
    """
    check_atoms(z, pos, batch)
    if not is_followed():
        check_batch_size(batch_size)
    given = {"edge_index": edge_index, "edge_shift": edge_shift, "cell": cell, "pbc": pbc}
    found, directed = find_edges(z, pos, batch, cutoff, **given, batch_size=batch_size, backend=backend)
    if pbc is not None and _needs_crossings(edge_index, edge_shift) and not is_at_hand(pbc):
        pos = torch.where(pbc.any(), torch.nan, pos)  # shifts are missing: no number instead of a wrong one
    measure = partial(_measure, pos, batch, cutoff, cell, backend)
    if found is None:
        return Edges(*_without_padding(measure(directed()), z, cutoff))
    return Edges.of_half_list(measure(found), lambda: measure(directed()))


def find_edges(
    z: Tensor,
    pos: Tensor,
    batch: Tensor,
    cutoff: float,
    *,
    edge_index: Tensor | None,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    pbc: Tensor | None,
    batch_size: int,
    backend: Backend = "auto",
) -> tuple[Graph | None, Callable[[], Graph]]:
    """Edges of a batch without lengths; arguments and errors as for ``prepare_edges``.

    Returns:
        A half list, or ``None`` if kernels do not use one or an edge has no opposite one; and a function that returns
        all edges.
    """
    edge_index, edge_shift = _check_given(pos, edge_index, edge_shift, cell, pbc, batch_size)
    use_half_list = kernels_for(backend, z, pos, needs="half_list") is not None and not _has_padding(z)
    if edge_index is not None:
        graph = Graph(edge_index, None, edge_shift)
    elif (cell is None and pbc is None) or (use_half_list and is_open(cell, pbc, batch_size)):
        search = partial(_search, pos, batch, cutoff, batch_size)
        found = close_pairs_once(pos, cutoff, batch, batch_size, backend=backend) if use_half_list else None
        if found is not None:
            index, ptr, dist = found
            return Graph(index, ptr, None, dist), search
        graph = search()
    else:
        graph = _search(pos, batch, cutoff, batch_size, cell=cell, pbc=pbc)
    half = _half_list(graph, z.size(0)) if use_half_list else None
    if edge_index is not None:
        _check_ends(edge_index if half is None else half.index, batch, batch_size, is_checked=half is not None)
    return half, lambda: graph


def is_open(cell: Tensor | None, pbc: Tensor | None, batch_size: int) -> bool:
    """Whether no structure of a batch is periodic, so that the faster search without lattice can be used."""
    if not isinstance(pbc, Tensor) or pbc.shape != (batch_size, 3) or pbc.dtype != torch.bool:
        return False
    if cell is not None and (cell.shape != (batch_size, 3, 3) or cell.requires_grad):
        return False
    return is_at_hand(pbc) and not bool(pbc.any())


def _search(pos: Tensor, batch: Tensor, cutoff: float, batch_size: int, **lattice: Any) -> Graph:
    """The complete radius graph; with ``cell`` and ``pbc`` that of periodic structures."""
    found = radius_graph(pos, cutoff, batch, batch_size=batch_size, **lattice)
    index, shift = found if lattice else (found, None)
    return Graph(index, index2ptr(index[1], pos.size(0)), shift)


def _half_list(graph: Graph, num_atoms: int) -> Graph | None:
    """One edge of each pair of directions; ``None`` if there is no half list."""
    found = halve(graph.index, graph.ptr, graph.edge_shift, num_atoms)
    if found is None:
        return None
    shift = graph.edge_shift
    return Graph(found.index, found.ptr, None if shift is None else shift.index_select(0, found.edges))


def _measure(
    pos: Tensor, batch: Tensor, cutoff: float, cell: Tensor | None, backend: Backend, graph: Graph
) -> MeasuredGraph:
    """Edges with their lengths; those from an atom to itself end at the cutoff."""
    dist = graph.dist
    if dist is None or (pos.requires_grad and torch.is_grad_enabled()):
        lattice = () if graph.edge_shift is None else (graph.edge_shift, cell, batch)
        dist = edge_lengths(pos, graph.index, *lattice, loop_length=cutoff, backend=backend)
    return MeasuredGraph(graph.index, dist, graph.ptr)


def _without_padding(graph: MeasuredGraph, z: Tensor, cutoff: float) -> MeasuredGraph:
    """Edges that start from padding are moved to the cutoff."""
    if not _has_padding(z):
        return graph
    dist = torch.where(z.index_select(0, graph.index[0]) == 0, cutoff, graph.dist)
    return MeasuredGraph(graph.index, dist, graph.ptr)  # torch 2.8 compiles no _replace


def _has_padding(z: Tensor) -> bool:
    """Whether there may be padding; assumed on other devices than CPUs, since a check would wait for them."""
    return not is_at_hand(z) or bool((z == 0).any())


def _check_given(
    pos: Tensor,
    edge_index: Tensor | None,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    pbc: Tensor | None,
    batch_size: int,
) -> tuple[Tensor | None, Tensor | None]:
    """Given edges with the types that kernels take; raises unless shapes, types and the lattice fit."""
    if cell is not None:
        _check_cell(cell, pos)
    if edge_index is None:
        if edge_shift is not None:
            raise ValueError("edge_shift belongs to given edges; pass edge_index as well, or leave both out")
        return None, None
    edge_index = as_edge_index(edge_index)
    if edge_shift is not None:
        check_edge_shift(edge_shift, edge_index.size(1))
        if cell is None:
            raise ValueError(
                "edge_shift counts lattice vectors, so it needs cell ([B, 3, 3], rows in Å); got cell=None"
            )
        if edge_shift.dtype in (torch.int8, torch.int16):  # as data sets may keep them
            edge_shift = edge_shift.to(torch.int32)
    _check_number(cell, pbc, batch_size)
    for name, value in (("edge_index", edge_index), ("edge_shift", edge_shift), ("cell", cell), ("pbc", pbc)):
        if value is not None and value.device != pos.device:
            raise ValueError(f"{name} must be on the device of pos ({pos.device}), got {value.device}")
    _check_crossings(edge_index, edge_shift, pbc)
    return edge_index, edge_shift


def _check_cell(cell: Tensor, pos: Tensor) -> None:
    """Raise unless lattice vectors have the shape and the type that they need."""
    if not isinstance(cell, Tensor) or cell.dim() not in (2, 3) or cell.shape[-2:] != (3, 3):
        raise ValueError(f"cell must hold lattice vectors in rows, [B, 3, 3] in Å; got {described(cell)}")
    if cell.dtype != pos.dtype:
        raise ValueError(f"cell and pos must have the same dtype, got {cell.dtype} and {pos.dtype}; convert one")


def _check_number(cell: Tensor | None, pbc: Tensor | None, batch_size: int) -> None:
    """Raise unless there are as many cells and boundaries as structures."""
    if pbc is not None and (not isinstance(pbc, Tensor) or pbc.dtype != torch.bool or pbc.shape[-1:] != (3,)):
        raise ValueError(
            f"pbc must be a tensor of booleans, one row of 3 for each structure, [B, 3]; got {described(pbc)}"
        )
    if is_followed():  # sizes may be symbols
        return
    for name, value, rows in (("cell", cell, 2), ("pbc", pbc, 1)):
        if value is None or (value.dim() == rows and batch_size <= 1):
            continue
        if value.dim() != rows + 1 or not 1 <= value.size(0) <= max(batch_size, 1):  # the last may have no atoms
            raise ValueError(f"{name} must have one row for each of {batch_size} structures; got {described(value)}")


def _check_ends(edge_index: Tensor, batch: Tensor, batch_size: int, *, is_checked: bool) -> None:
    """Raise unless edges connect atoms that there are, of the same structure; values are read on CPUs only.

    Args:
        edge_index: Ends of all edges, or of those of a half list, shape ``[2, E]``.
        batch: Structure of each atom, shape ``[N]``.
        batch_size: Number of structures.
        is_checked: Whether the ends are known to be atoms.
    """
    if not is_at_hand(edge_index):
        return
    if not is_checked:
        check_index(edge_index, batch.size(0), batch.size(0))
    if batch_size > 1 and is_at_hand(batch):
        first, second = (batch.index_select(0, ends) for ends in edge_index)
        if not torch.equal(first, second):
            edge = int((first != second).nonzero()[0])
            raise ValueError(
                f"edges must connect atoms of the same structure; atoms {edge_index[:, edge].tolist()} are of "
                f"structures {int(first[edge])} and {int(second[edge])}; count the atoms of structures before it"
            )


def _check_crossings(edge_index: Tensor, edge_shift: Tensor | None, pbc: Tensor | None) -> None:
    """Raise for edges of periodic structures that do not say which lattice vectors they cross; read on CPUs only."""
    if pbc is None or not _needs_crossings(edge_index, edge_shift) or not is_at_hand(pbc):
        return
    if bool(pbc.any()):
        raise ValueError(
            "edges of periodic structures need edge_shift, the lattice vectors that each crosses ([E, 3]), as "
            "radius_graph gives it with cell and pbc; pass zeros if all edges stay inside of the cell, or no pbc"
        )


def _needs_crossings(edge_index: Tensor | None, edge_shift: Tensor | None) -> bool:
    """Whether edges are given without the lattice vectors that they cross."""
    return edge_index is not None and edge_shift is None and edge_index.size(1) > 0 and not is_followed()


def check_atoms(z: Tensor, pos: Tensor, batch: Tensor | None) -> None:
    """Check shapes and types of a model's input; values are not read, so nothing waits for the device.

    Args:
        z: Atomic numbers, shape ``[N]``.
        pos: Positions in Å, shape ``[N, 3]``.
        batch: Structure of each atom, shape ``[N]``.

    Raises:
        ValueError: If a shape or type does not fit.
    """
    for name, value, meaning in (("z", z, "atomic numbers, [N] of int64"), ("pos", pos, "positions in Å, [N, 3]")):
        if not isinstance(value, Tensor):
            missing = ", the data have none" if value is None else ""
            raise ValueError(f"{name} must be a tensor of {meaning}; got {described(value)}{missing}")
    if z.dim() != 1 or z.dtype != torch.int64:
        raise ValueError(f"z must hold one atomic number for each atom, [N] of int64; got {described(z)}")
    if pos.shape != (z.size(0), 3) or not pos.is_floating_point():
        raise ValueError(
            f"pos must hold one position in Å for each of the {z.size(0)} atoms, [N, 3]; got {described(pos)}"
        )
    if batch is not None and (not isinstance(batch, Tensor) or batch.shape != z.shape or batch.dtype != torch.int64):
        raise ValueError(
            f"batch must name the structure of each of the {z.size(0)} atoms, [N] of int64; got {described(batch)}"
        )
    if z.device != pos.device or (batch is not None and batch.device != pos.device):
        others = {str(x.device) for x in (z, batch) if x is not None}
        raise ValueError(f"z and batch must be on the device of pos ({pos.device}), got {', '.join(sorted(others))}")


def embed(embedding: torch.nn.Embedding, z: Tensor) -> Tensor:
    """Look up the embeddings of atomic numbers, eq. (4) of Schütt et al. (2020), shape ``[N, F]``.

    Raises:
        ValueError: If an atomic number has no embedding; checked only after the look-up has failed.
    """
    try:
        return embedding(z)
    except IndexError as error:
        raise ValueError(
            f"z must lie between 0 (padding) and {MAX_Z}; got values from {int(z.min())} to {int(z.max())}"
        ) from error


def count_structures(batch: Tensor) -> int:
    """Number of structures up to the last one with atoms; waits for the device, so pass ``batch_size`` where known."""
    if torch.jit.is_tracing():
        raise ValueError(
            "torch.jit.trace would keep the number of structures of this batch for all others; pass batch_size"
        )
    found = int(batch.max()) + 1 if batch.numel() > 0 else 1
    check_batch_size(found)
    return found

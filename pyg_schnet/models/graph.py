"""From what the caller gives to what the layers need: the edges of a batch and their lengths."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.index import index2ptr

from pyg_schnet.neighbors import radius_graph
from pyg_schnet.neighbors.radius import radius_pairs
from pyg_schnet.nn import MAX_Z
from pyg_schnet.nn._inputs import as_edge_index
from pyg_schnet.ops import edge_lengths, half_list, is_dense_cpu
from pyg_schnet.ops._autograd import is_recorded
from pyg_schnet.ops.dispatch import is_followed
from pyg_schnet.ops.half_list import is_crowded_half_list


class UndirectedGraph(NamedTuple):
    """One edge for both directions, not yet measured in a way that can be differentiated.

    Attributes:
        index: ``(j, i)``, sorted by i, shape ``[2, P]``.
        ptr: Begin and end of each target's edges, shape ``[N + 1]``.
        edge_shift: Lattice images crossed by each edge, shape ``[P, 3]``; ``None`` for open boundaries.
        dist: Distances in Å, not differentiable, shape ``[P]``; ``None`` where they are not known.
    """

    index: Tensor
    ptr: Tensor
    edge_shift: Tensor | None = None
    dist: Tensor | None = None


class UndirectedEdges(NamedTuple):
    """One edge for both directions.

    Attributes:
        index: ``(j, i)``, sorted by i, shape ``[2, P]``.
        dist: Distances in Å, differentiable in positions and cell, shape ``[P]``.
        ptr: Begin and end of each target's edges, shape ``[N + 1]``.
    """

    index: Tensor
    dist: Tensor
    ptr: Tensor


class DirectedEdges(NamedTuple):
    """Edges as they are.

    Attributes:
        index: ``(j, i)``, shape ``[2, E]``.
        dist: Distances in Å, differentiable in positions and cell, shape ``[E]``.
        ptr: Begin and end of each target's edges, shape ``[N + 1]``; ``None`` where the order of edges is not known.
    """

    index: Tensor
    dist: Tensor
    ptr: Tensor | None = None


class Edges:
    """Edges of a batch of structures.

    Args:
        index: ``(j, i)``, shape ``[2, E]``.
        dist: Distances in Å, differentiable in positions and cell, shape ``[E]``.
        ptr: Begin and end of each target's edges, shape ``[N + 1]``; ``None`` where the order of edges is not known.

    Attributes:
        undirected: The same edges, one for both directions; ``None`` where not all are known to have both.
    """

    def __init__(self, index: Tensor, dist: Tensor, ptr: Tensor | None = None) -> None:
        self.undirected: UndirectedEdges | None = None
        self._directed: DirectedEdges | None = DirectedEdges(index, dist, ptr)
        self._find: Callable[[], DirectedEdges] | None = None

    @classmethod
    def in_pairs(cls, undirected: UndirectedEdges, find: Callable[[], DirectedEdges]) -> Edges:
        """Edges that all have both directions.

        Args:
            undirected: One edge for both.
            find: Finds all of them, in case somebody asks.
        """
        edges = cls.__new__(cls)
        edges.undirected, edges._directed, edges._find = undirected, None, find
        return edges

    @property
    def directed(self) -> DirectedEdges:
        """All edges."""
        if self._directed is None:
            self._directed = self._find()
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
) -> Edges:
    """Edges of a batch, built where they are not given.

    Edges that start at padding (``z == 0``), and those from an atom to itself, are moved to the cutoff, where windows
    are zero: padding never acts on real atoms, and j ≠ i in the sums.

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

    Returns:
        The edges; graphs built here are sorted by target and have ``ptr``.

    Raises:
        ValueError: If a graph cannot be built from what is given, see :func:`pyg_schnet.neighbors.radius_graph`, or
            edges of periodic structures come without ``edge_shift``.
    """
    graph, directed = find_edges(
        z,
        pos,
        batch,
        cutoff,
        edge_index=edge_index,
        edge_shift=edge_shift,
        cell=cell,
        pbc=pbc,
        batch_size=batch_size,
    )
    if graph is None:
        return Edges(*directed())
    dist = graph.dist
    if dist is None or is_recorded(pos):
        dist = edge_lengths(pos, graph.index, graph.edge_shift, cell, batch, loop_length=cutoff)
    return Edges.in_pairs(UndirectedEdges(graph.index, dist, graph.ptr), directed)


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
) -> tuple[UndirectedGraph | None, Callable[[], DirectedEdges]]:
    """Edges of a batch, one for both directions, not yet measured; arguments and errors of :func:`prepare_edges`.

    Returns:
        The edges, ``None`` where not all are known to have both directions; and what finds all of them.
    """
    if cell is not None and cell.dtype != pos.dtype:
        raise ValueError(f"cell and pos must have the same dtype, got {cell.dtype} and {pos.dtype}; convert one")
    if edge_index is None and edge_shift is not None:
        raise ValueError("edge_shift belongs to given edges; pass edge_index as well, or leave both out")
    if edge_index is not None:
        edge_index = as_edge_index(edge_index)
        _check_lattice(edge_index.size(1), edge_shift, cell)
        _check_crossings(edge_index, edge_shift, pbc)
    in_pairs = is_dense_cpu(pos) and not bool(
        (z == 0).any()
    )  # elsewhere than in the memory at hand, looking would wait
    ptr = None
    if edge_index is None:
        if cell is None and pbc is None:
            found = radius_pairs(pos, cutoff, batch, batch_size=batch_size) if in_pairs else None
            if found is not None and not is_crowded_half_list(found[0], found[1]):
                index, ptr, dist = found
                return UndirectedGraph(index, ptr, None, dist), partial(_radius_edges, pos, cutoff, batch, batch_size)
            edge_index = radius_graph(pos, cutoff, batch, batch_size=batch_size)
        else:
            edge_index, edge_shift = radius_graph(pos, cutoff, batch, batch_size=batch_size, cell=cell, pbc=pbc)
        ptr = index2ptr(edge_index[1], z.size(0))
    directed = partial(_directed, pos, edge_index, ptr, (edge_shift, cell, batch), cutoff)
    if not in_pairs:
        return None, partial(_without_padding, directed, z, cutoff)
    pairs = half_list(edge_index, ptr, edge_shift, z.size(0))
    if pairs is None:
        return None, directed
    crossed = None if edge_shift is None else edge_shift.index_select(0, pairs.edges)
    return UndirectedGraph(pairs.index, pairs.ptr, crossed), directed


def _check_lattice(n_edges: int, edge_shift: Tensor | None, cell: Tensor | None) -> None:
    """Raise unless shifts and cell of given edges have the shapes that they need."""
    if edge_shift is not None and edge_shift.shape != (n_edges, 3):
        raise ValueError(
            f"edge_shift must count the lattice vectors crossed by each of the {n_edges} edges, [E, 3]; "
            f"got {list(edge_shift.shape)}"
        )
    if cell is not None and (cell.dim() not in (2, 3) or cell.shape[-2:] != (3, 3)):
        raise ValueError(f"cell must hold lattice vectors in rows, [B, 3, 3] in Å; got {list(cell.shape)}")


def _check_crossings(edge_index: Tensor, edge_shift: Tensor | None, pbc: Tensor | None) -> None:
    """Raise for edges of periodic structures that do not say which lattice vectors they cross."""
    if edge_shift is not None or pbc is None or edge_index.size(1) == 0 or is_followed():
        return
    if bool(pbc.any()):
        raise ValueError(
            "edges of periodic structures need edge_shift, the lattice vectors that each crosses ([E, 3]), as "
            "radius_graph gives it with cell and pbc; pass zeros if all edges stay inside of the cell, or no pbc"
        )


def _without_padding(directed: Callable[[], DirectedEdges], z: Tensor, cutoff: float) -> DirectedEdges:
    """Edges that start from padding are moved to the cutoff."""
    index, dist, ptr = directed()
    return DirectedEdges(index, torch.where(z.index_select(0, index[0]) == 0, cutoff, dist), ptr)


def _directed(
    pos: Tensor, edge_index: Tensor, ptr: Tensor | None, lattice: tuple[Tensor | None, ...], cutoff: float
) -> DirectedEdges:
    return DirectedEdges(edge_index, edge_lengths(pos, edge_index, *lattice, loop_length=cutoff), ptr)


def _radius_edges(pos: Tensor, cutoff: float, batch: Tensor, batch_size: int) -> DirectedEdges:
    edge_index = radius_graph(pos, cutoff, batch, batch_size=batch_size)
    return _directed(pos, edge_index, index2ptr(edge_index[1], pos.size(0)), (), cutoff)


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
            raise ValueError(f"{name} must be a tensor of {meaning}; got {_kind(value)}")
    if z.dim() != 1 or z.dtype != torch.int64:
        raise ValueError(
            f"z must hold one atomic number for each atom, [N] of int64; got {tuple(z.shape)} of {z.dtype}"
        )
    if pos.shape != (z.size(0), 3) or not pos.is_floating_point():
        raise ValueError(
            f"pos must hold one position in Å for each of the {z.size(0)} atoms, [N, 3]; "
            f"got {tuple(pos.shape)} of {pos.dtype}"
        )
    if batch is not None and (batch.shape != z.shape or batch.dtype != torch.int64):
        raise ValueError(
            f"batch must name the structure of each of the {z.size(0)} atoms, [N] of int64; "
            f"got {tuple(batch.shape)} of {batch.dtype}"
        )


def _kind(value: object) -> str:
    return "None, the data have none" if value is None else f"a {type(value).__name__}"


def embed(embedding: torch.nn.Embedding, z: Tensor) -> Tensor:
    """Look up the embeddings of atomic numbers, eq. (4) of the chapter, shape ``[N, F]``.

    Raises:
        ValueError: If an atomic number has no embedding; found after the look-up failed, so the good path pays nothing.
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
    return int(batch.max()) + 1 if batch.numel() > 0 else 1

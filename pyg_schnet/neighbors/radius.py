"""Radius graphs with open boundaries, and the one entry point for open and periodic ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from pyg_schnet.neighbors._checks import check_batch, check_positions
from pyg_schnet.neighbors.backend import Backend, choose_backend
from pyg_schnet.neighbors.cluster_backend import cluster_open
from pyg_schnet.neighbors.on_device import is_waited_for, open_graph
from pyg_schnet.neighbors.periodic import periodic_radius_graph
from pyg_schnet.neighbors.search import arange_like, pairs_within
from pyg_schnet.neighbors.vesin_backend import vesin_open
from pyg_schnet.ops.checks import positive_length
from pyg_schnet.ops.dispatch import is_transformed, numbers_of


@overload
def radius_graph(
    pos: Tensor,
    cutoff: float,
    batch: Tensor | None = None,
    *,
    batch_size: int | None = None,
    cell: None = None,
    pbc: None = None,
    backend: Backend = "auto",
) -> Tensor: ...


@overload
def radius_graph(
    pos: Tensor,
    cutoff: float,
    batch: Tensor | None = None,
    *,
    batch_size: int | None = None,
    cell: Tensor,
    pbc: Tensor | Sequence[bool],
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]: ...


@overload
def radius_graph(
    pos: Tensor,
    cutoff: float,
    batch: Tensor | None = None,
    *,
    batch_size: int | None = None,
    cell: Tensor | None,
    pbc: Tensor | Sequence[bool] | None,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, Tensor]: ...


@torch.no_grad()
def radius_graph(
    pos: Tensor,
    cutoff: float,
    batch: Tensor | None = None,
    *,
    batch_size: int | None = None,
    cell: Tensor | None = None,
    pbc: Tensor | Sequence[bool] | None = None,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Connect every atom with all atoms, and periodic images, closer than the cutoff.

    .. math:: j \to i \iff |\mathbf{r}_j - \mathbf{r}_i + \mathbf{S}_{ij} \mathbf{H}| < r_\mathrm{cut}

    With lattice vectors in the rows of :math:`\mathbf{H}`, this is the neighbourhood of eq. 17 of `Schütt, Tkatchenko
    and Müller (2018) <https://arxiv.org/abs/1812.04690>`_; without them only :math:`\mathbf{S} = 0` exists. The graph
    is complete: there is no limit on the number of neighbours. An atom is a neighbour of its own images, never of
    itself. Edges are sorted by target i; their order within a target is unspecified.

    The result is ``edge_index`` without ``cell`` and ``pbc``, and the pair ``(edge_index, edge_shift)`` with them, also
    when ``pbc`` is ``False`` everywhere. The graph carries no gradient; :func:`pyg_schnet.geometry.edge_vectors` is
    differentiable with respect to positions and cell.

    Backends find the same edges: each proposes pairs and
    ``edge_exists`` decides in the dtype of ``pos``.

    - ``"torch"``: any device; batches are vectorised; linear in the number of atoms.
    - ``"vesin"``: one structure after the other on the CPU, fastest for large crystals.
    - ``"torch_cluster"``: open boundaries only; needs the optional package torch-cluster.
    - ``"auto"``: vesin for crystals of 200 to 200,000 atoms on the CPU, torch otherwise.

    On other devices than CPUs, which a read of a number waits for, ``"torch"`` and ``"auto"`` read once with open
    boundaries, the number of edges together with all checks, as long as there are at most 2048 atoms; twice with a
    cell, as long as atoms and images of the same structure make at most 4 million pairs. Larger batches are searched in
    chunks, each with a read of its own.

    Args:
        pos: Positions in Å, shape ``[N, 3]``. With a cell they may lie outside it.
        cutoff: Cutoff in Å; an atom exactly there is no neighbour.
        batch: Structure of each atom in ascending order, shape ``[N]``; ``None`` for one structure.
        batch_size: Number of structures, if empty ones may follow the last atom.
        cell: Lattice vectors in rows, in Å, shape ``[B, 3, 3]``, or ``[3, 3]`` for one structure. Rows of axes that are
            not periodic are ignored and may be zero.
        pbc: Periodic axes, booleans, shape ``[B, 3]``, or ``[3]`` for one structure; needed with ``cell``.
        backend: How to search, see above.

    Returns:
        ``edge_index``, int64, shape ``[2, E]``: j (neighbour, source) in row 0 and i (centre, target) in row 1. With
        ``cell`` and ``pbc`` also ``edge_shift``, the lattice images S crossed, int32, shape ``[E, 3]``.

    Raises:
        ValueError: If an argument has a wrong shape, dtype or value, ``batch`` is not sorted, only one of ``cell`` and
            ``pbc`` is given, or the lattice vectors of periodic axes are linearly dependent.
        ImportError: If the backend needs a package that is not installed.

    Example:
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5], [0.0, 0.0, 3.5]])
        >>> radius_graph(pos, cutoff=2.0)
        tensor([[1, 0],
                [0, 1]])
        >>> edge_index, edge_shift = radius_graph(pos[:1], 2.0, cell=1.5 * torch.eye(3), pbc=[False, False, True])
        >>> edge_index, edge_shift
        (tensor([[0, 0],
                [0, 0]]), tensor([[ 0,  0, -1],
                [ 0,  0,  1]], dtype=torch.int32))
    """
    if is_transformed():
        pos, cell = numbers_of(pos, "positions"), numbers_of(cell, "cells")
        batch = numbers_of(batch, "batches")
        pbc = numbers_of(pbc, "boundaries") if isinstance(pbc, Tensor) else pbc
    if cell is not None or pbc is not None:
        return periodic_radius_graph(pos, cutoff, cell, pbc, batch, batch_size=batch_size, backend=backend)
    cutoff = positive_length(cutoff)
    if backend in ("auto", "torch") and is_waited_for(pos):
        found = open_graph(pos, cutoff, batch, batch_size)
        if found is not None:
            return found
    structures = check_batch(check_positions(pos), batch, batch_size)
    chosen = choose_backend(backend, structures, periodic=False)
    if pos.size(0) == 0:
        return torch.empty((2, 0), dtype=torch.int64, device=pos.device)
    if chosen == "vesin":
        return vesin_open(structures, cutoff)
    if chosen == "torch_cluster":
        return cluster_open(structures, cutoff)
    pos, batch, ptr = structures
    return pairs_within(pos, ptr, pos, batch, cutoff, point_batch=batch, omit=arange_like(pos))


@torch.no_grad()
def radius(
    pos_src: Tensor,
    pos_dst: Tensor,
    cutoff: float,
    batch_src: Tensor | None = None,
    batch_dst: Tensor | None = None,
    *,
    batch_size: int | None = None,
) -> Tensor:
    """Connect every target point with all source points of the same structure closer than the cutoff.

    Open boundaries, complete, sorted by target. Equal indices are ordinary pairs here, since the two sets
    are independent, such as a molecule and a grid around it.

    Args:
        pos_src: Positions of sources in Å, shape ``[M, 3]``.
        pos_dst: Positions of targets in Å, shape ``[N, 3]``.
        cutoff: Cutoff in Å; a point exactly there is no neighbour.
        batch_src: Structure of each source in ascending order, shape ``[M]``; ``None`` for one structure.
        batch_dst: Structure of each target in ascending order, shape ``[N]``; ``None`` for one structure.
        batch_size: Number of structures; by default the larger of both.

    Returns:
        ``edge_index``, int64, shape ``[2, E]``: row 0 indexes ``pos_src``, row 1 indexes ``pos_dst``.

    Raises:
        ValueError: If an argument has a wrong shape, dtype or value, or a batch is not sorted.

    Example:
        >>> atoms = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
        >>> grid = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 2.0], [0.0, 0.0, 3.0]])
        >>> radius(atoms, grid, cutoff=1.5)
        tensor([[0, 1],
                [0, 2]])
    """
    cutoff = positive_length(cutoff)
    if is_transformed():
        pos_src, pos_dst = (numbers_of(pos, "positions") for pos in (pos_src, pos_dst))
    pos_src, pos_dst = check_positions(pos_src, "pos_src"), check_positions(pos_dst, "pos_dst")
    for what in ("dtype", "device"):
        if getattr(pos_src, what) != getattr(pos_dst, what):
            raise ValueError(
                f"pos_src and pos_dst must have the same {what}, got {getattr(pos_src, what)} and "
                f"{getattr(pos_dst, what)}; convert one with .to(...)"
            )
    sources = check_batch(pos_src, batch_src, batch_size, "batch_src")
    targets = check_batch(pos_dst, batch_dst, batch_size, "batch_dst")
    ptr = sources.ptr
    if targets.batch_size > sources.batch_size:  # the last structures have targets but no sources
        ptr = torch.cat([ptr, ptr[-1:].expand(targets.batch_size - sources.batch_size)])
    return pairs_within(pos_src, ptr, pos_dst, targets.batch, cutoff, point_batch=sources.batch)

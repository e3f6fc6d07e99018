"""Radius graphs of crystals, slabs, wires and molecules, together in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyg_schnet.neighbors._checks import (
    Structures,
    check_batch,
    check_cell,
    check_lattice,
    check_positions,
)
from pyg_schnet.neighbors.backend import Backend, choose_backend
from pyg_schnet.neighbors.criterion import edge_exists
from pyg_schnet.neighbors.lattice import Lattice, check_images, images_within, rounding_allowance
from pyg_schnet.neighbors.on_device import is_waited_for, periodic_graph
from pyg_schnet.neighbors.search import pairs_within, wide_dtype
from pyg_schnet.neighbors.vesin_backend import vesin_periodic
from pyg_schnet.ops.checks import positive_length


@torch.no_grad()
def periodic_radius_graph(
    pos: Tensor,
    cutoff: float,
    cell: Tensor | None,
    pbc: Tensor | Sequence[bool] | None,
    batch: Tensor | None = None,
    *,
    batch_size: int | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Connect every atom with all atoms and periodic images closer than the cutoff.

    This is :func:`~pyg_schnet.neighbors.radius_graph` with a cell, which calls it; see there for the formula, the
    arguments, the errors and the backends (``"torch_cluster"`` does not support cells).

    Returns:
        ``edge_index``, int64, shape ``[2, E]``, sorted by target, and ``edge_shift``, int32, shape ``[E, 3]``.

    Example:
        >>> chain = torch.tensor([[0.0, 0.0, 0.0]])
        >>> cell, pbc = torch.diag(torch.tensor([2.0, 0.0, 0.0])), torch.tensor([True, False, False])
        >>> edge_index, edge_shift = periodic_radius_graph(chain, 5.0, cell, pbc)
        >>> edge_shift[:, 0].tolist()
        [-2, -1, 1, 2]
    """
    cutoff = positive_length(cutoff)
    if backend in ("auto", "torch") and is_waited_for(pos):
        found = periodic_graph(pos, cutoff, cell, pbc, batch, batch_size)
        if found is not None:
            return found
    structures, cell, lattice = check_periodic(pos, cell, pbc, batch, batch_size)
    pos = structures.pos
    chosen = choose_backend(backend, structures, periodic=True)
    if chosen == "torch_cluster":
        raise ValueError("backend 'torch_cluster' has open boundaries only, got a cell; use 'torch', 'vesin' or 'auto'")
    if pos.size(0) == 0:
        return torch.empty((2, 0), dtype=torch.int64, device=pos.device), _no_shift(pos)
    check_images(structures.batch, lattice, cutoff, cell)
    allowance = rounding_allowance(pos.to(lattice.cell.dtype), structures.batch, lattice, cutoff, pos.dtype)
    if chosen == "vesin":
        return vesin_periodic(structures, cutoff, cell, lattice, allowance)
    return _torch_periodic(structures, cutoff, cell, lattice, allowance)


def _torch_periodic(
    structures: Structures, cutoff: float, cell: Tensor, lattice: Lattice, allowance: float
) -> tuple[Tensor, Tensor]:
    """Search the images of all structures at once; see :func:`periodic_radius_graph`."""
    pos, batch, ptr = structures
    images = images_within(pos.to(lattice.cell.dtype), batch, ptr, lattice, cutoff + allowance)
    pairs = pairs_within(images.points, images.ptr, images.wrapped, batch, cutoff + allowance, omit=images.own)
    image, target = pairs
    edge_index = torch.stack([images.atom.index_select(0, image), target])
    edge_shift = images.shift.index_select(0, image) - images.wrap.index_select(0, target)
    keep = edge_exists(pos, edge_index, cutoff, edge_shift, cell, batch)
    if bool(keep.all()):
        return edge_index, edge_shift
    kept = torch.nonzero(keep).squeeze(1)
    return edge_index.index_select(1, kept), edge_shift.index_select(0, kept)


def check_periodic(
    pos: Tensor,
    cell: Tensor | None,
    pbc: Tensor | Sequence[bool] | None,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> tuple[Structures, Tensor, Lattice]:
    """Check structures with cells; return them, the cells as given, ``[B, 3, 3]``, and the completed lattices.

    Raises:
        ValueError: If an argument has a wrong shape, dtype or value, or there is not one usable cell per structure.
    """
    pos = check_positions(pos)
    cell, pbc = check_cell(cell, pbc, pos)
    n_cells = cell.size(0)
    if batch is None and n_cells != 1:
        raise ValueError(f"{n_cells} cells need batch, the structure of each atom ([N]); got batch=None")
    if batch_size is not None and batch_size != n_cells:
        raise ValueError(f"batch_size must equal the number of cells, {n_cells}, got {batch_size}")
    if batch is not None and batch.numel() > 0 and int(batch.max()) >= n_cells:
        raise ValueError(f"cell must hold one cell for each of {int(batch.max()) + 1} structures, got {n_cells}")
    structures = check_batch(pos, batch, n_cells)
    lattice = Lattice.from_cell(cell.to(wide_dtype(pos)), pbc)
    check_lattice(lattice.orthogonality, cell, pbc)
    return structures, cell, lattice


def _no_shift(pos: Tensor) -> Tensor:
    return torch.empty((0, 3), dtype=torch.int32, device=pos.device)

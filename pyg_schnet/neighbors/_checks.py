"""Input checks of the neighbour searches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyg_schnet.ops import pointer_of_sorted
from pyg_schnet.ops.checks import check_batch_size, shown
from pyg_schnet.ops.dispatch import list_of


class Structures(NamedTuple):
    """Checked points, the structure of each, and the first point of each structure."""

    pos: Tensor  # [N, 3], detached
    batch: Tensor  # [N] int64
    ptr: Tensor  # [B + 1] int64: structure b owns points ptr[b] to ptr[b + 1] - 1

    @property
    def batch_size(self) -> int:
        """Number of structures, empty ones counted."""
        return self.ptr.numel() - 1

    @property
    def n_points(self) -> Tensor:
        """Points of each structure, shape ``[B]``."""
        return self.ptr.diff()


def check_positions(pos: Tensor, name: str = "pos") -> Tensor:
    """Return ``pos`` detached, or raise ``ValueError`` unless it is finite, ``[N, 3]``, float32 or float64."""
    pos = check_form(pos, name)
    if not math.isfinite(float(pos.sum())):  # one pass where all is well; sums of large numbers may overflow
        finite = torch.isfinite(pos)
        if bool(finite.all()):
            return pos
        atom = int(torch.nonzero(~finite)[0, 0])
        raise ValueError(
            f"{name} must be finite, got {pos[atom].tolist()} at index {atom}; check where it was computed"
        )
    return pos


def check_form(pos: Tensor, name: str = "pos") -> Tensor:
    """Like :func:`check_positions`, without a look at the values."""
    if not isinstance(pos, Tensor):
        raise ValueError(f"{name} must be a tensor of shape [N, 3] in Å, got {type(pos).__name__}; use torch.as_tensor")
    if pos.dim() != 2 or pos.size(1) != 3:
        raise ValueError(f"{name} must have shape [N, 3] in Å, got {list(pos.shape)}")
    if pos.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 or float64, got {pos.dtype}; convert it with {name}.to(...)")
    return pos.detach()


def check_batch(pos: Tensor, batch: Tensor | None, batch_size: int | None, name: str = "batch") -> Structures:
    """Complete and check the structure index of every point.

    Args:
        pos: Checked positions, shape ``[N, 3]``.
        batch: Structure of each point in ascending order, shape ``[N]``; ``None`` for one structure.
        batch_size: Number of structures; ``None`` for the last index plus one.
        name: Name of ``batch`` in messages.

    Returns:
        The points with their structures.

    Raises:
        ValueError: If ``batch`` has another length, device or a float dtype, is negative or unsorted, or if
            ``batch_size`` is too small.
    """
    n = pos.size(0)
    if batch_size is not None:
        check_batch_size(batch_size)
    if batch is None:
        n_structures = 1 if batch_size is None else batch_size
        if n_structures < 1 and n > 0:
            raise ValueError(f"batch_size must be at least 1 for {n} atoms, got {batch_size}")
        ptr = torch.full((n_structures + 1,), n, dtype=torch.int64, device=pos.device)
        ptr[0] = 0
        return Structures(pos, torch.zeros(n, dtype=torch.int64, device=pos.device), ptr)
    batch = check_batch_form(pos, batch, name)
    if n == 0:
        return Structures(pos, batch, torch.zeros(int(batch_size or 0) + 1, dtype=torch.int64, device=pos.device))
    if batch_size is not None:
        known = pointer_of_sorted(batch, int(batch_size))
        if known is not None:
            return Structures(pos, batch, known)
    # one transfer from the device instead of three
    first, last, n_descents = list_of(torch.stack([batch[0], batch[-1], (batch[1:] < batch[:-1]).sum()]))
    if n_descents > 0:
        raise ValueError(
            f"{name} must be sorted in ascending order, got {n_descents} descents; "
            f"reorder the atoms with order = {name}.argsort(stable=True)"
        )
    if first < 0:
        raise ValueError(f"{name} must not be negative, got {first}; number the structures from 0")
    if batch_size is not None and batch_size <= last:
        raise ValueError(
            f"batch_size must be at least {last + 1}, the largest index in {name} plus one, got {batch_size}"
        )
    n_structures = last + 1 if batch_size is None else int(batch_size)
    check_batch_size(n_structures)
    return Structures(pos, batch, _offsets(batch, n_structures))


def check_batch_form(pos: Tensor, batch: Tensor, name: str = "batch") -> Tensor:
    """Structure of each point as int64; raises unless its form is that of :func:`check_batch`; values are not read."""
    n = pos.size(0)
    if not isinstance(batch, Tensor):
        raise ValueError(f"{name} must be a tensor, the structure of each of {n} atoms; got a {type(batch).__name__}")
    if batch.dim() != 1 or batch.numel() != n:
        raise ValueError(f"{name} must hold one structure index for each of {n} atoms, got shape {list(batch.shape)}")
    if batch.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} must be int64, got {batch.dtype}; convert it with {name}.long()")
    if batch.device != pos.device:
        raise ValueError(f"{name} must be on the device of the positions ({pos.device}), got {batch.device}")
    return batch.long()


def check_cell(
    cell: Tensor | None,
    pbc: Tensor | Sequence[bool] | None,
    pos: Tensor,
) -> tuple[Tensor, Tensor]:
    """Check cell vectors and periodic axes against the positions, see :func:`check_lattice` for their volume."""
    cell, pbc = check_cell_form(cell, pbc, pos)
    if not bool(torch.isfinite(cell).all()):
        raise ValueError(f"cell must be finite, in Å, got {cell.tolist()}")
    return cell, pbc


def check_cell_form(
    cell: Tensor | None,
    pbc: Tensor | Sequence[bool] | None,
    pos: Tensor,
) -> tuple[Tensor, Tensor]:
    """Check everything of cell vectors and periodic axes but the values.

    Args:
        cell: Lattice vectors in rows, in Å, shape ``[B, 3, 3]`` or ``[3, 3]``.
        pbc: Periodic axes, booleans, shape ``[B, 3]`` or ``[3]``.
        pos: Checked positions.

    Returns:
        ``cell`` of shape ``[B, 3, 3]`` and ``pbc`` of shape ``[B, 3]``.

    Raises:
        ValueError: If one of the two is missing, or has another shape, dtype or device.
    """
    if cell is None:
        raise ValueError("pbc was given without cell; pass the lattice vectors, cell [B, 3, 3] with rows in Å")
    if pbc is None:
        raise ValueError(
            "cell was given without pbc; state the periodic axes, for example pbc=torch.tensor([True, True, True])"
        )
    if not isinstance(cell, Tensor):
        raise ValueError(f"cell must be a tensor [B, 3, 3], rows in Å, got a {type(cell).__name__}")
    if cell.dim() not in (2, 3) or cell.shape[-2:] != (3, 3):
        raise ValueError(f"cell must have shape [B, 3, 3] or [3, 3], rows in Å, got {list(cell.shape)}")
    if cell.dtype != pos.dtype:
        raise ValueError(
            f"cell and pos must have the same dtype, got {cell.dtype} and {pos.dtype}; use cell.to(pos.dtype)"
        )
    if cell.device != pos.device:
        raise ValueError(f"cell must be on the device of pos ({pos.device}), got {cell.device}")
    try:
        pbc = torch.as_tensor(pbc, device=pos.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"pbc must be booleans, one for each of three axes, got {shown(pbc)}") from None
    if pbc.dtype != torch.bool:
        raise ValueError(f"pbc must be boolean, got {pbc.dtype}; use pbc.bool()")
    cell = cell.detach().reshape(-1, 3, 3)
    if pbc.dim() not in (1, 2) or pbc.size(-1) != 3 or pbc.reshape(-1, 3).size(0) != cell.size(0):
        raise ValueError(
            f"pbc must have one row of 3 booleans for each of {cell.size(0)} cells ([B, 3]), got {list(pbc.shape)}"
        )
    return cell, pbc.reshape(-1, 3)


def check_lattice(height: Tensor, cell: Tensor, pbc: Tensor) -> None:
    """Raise ``ValueError`` if the lattice vectors of the periodic axes of a structure are linearly dependent.

    Args:
        height: Volume of the completed cell over the product of its edges, shape ``[B]``: 1 for a rectangular cell.
        cell: Lattice vectors as the caller gave them, shape ``[B, 3, 3]``.
        pbc: Periodic axes, shape ``[B, 3]``.
    """
    singular = ~(height > 1e-6)
    if bool(singular.any()):
        k = int(torch.nonzero(singular)[0, 0])
        raise ValueError(
            f"structure {k} has pbc={pbc[k].tolist()} but its cell vectors on these axes are zero or linearly "
            f"dependent, cell={cell[k].tolist()}; give independent vectors in Å or set pbc to False on that axis"
        )


def _offsets(batch: Tensor, batch_size: int) -> Tensor:
    """First point of each structure and the number of points, for a sorted ``batch``, shape ``[B + 1]``."""
    return torch.searchsorted(batch.contiguous(), torch.arange(batch_size + 1, device=batch.device))

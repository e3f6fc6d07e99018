"""Sums and means over the atoms of each structure, atom by atom."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.backends.numba.lib.buffers import arrays_of
from pyg_schnet.backends.numba.lib.compiler import EXACT, njit


@njit(**EXACT)
def pool_atoms(values, scale, shift, references, z, batch, out, counts) -> bool:
    """See :func:`pool`; false if an atomic number or structure is out of range."""
    for i in range(values.shape[0]):
        b, species = batch[i], z[i]
        if not (0 <= b < out.shape[0] and 0 <= species < references.shape[0]):
            return False
        if species > 0:
            counts[b] += 1
            for c in range(out.shape[1]):
                value = np.float64(scale[c]) * np.float64(values[i, c])
                out[b, c] += value + np.float64(shift[c]) + np.float64(references[species, c])
    return True


@njit(**EXACT)
def _sum_species(values, z, batch, sums, counts) -> bool:
    for i in range(z.shape[0]):
        b, species = batch[i], z[i]
        if not (0 <= b < sums.shape[0] and 0 <= species < values.shape[0]):
            return False
        if species > 0:
            counts[b] += 1
            for c in range(sums.shape[1]):
                sums[b, c] += values[species, c]
    return True


@njit(**EXACT)
def unpool_atoms(grad, scale, z, batch, out) -> None:
    """See :func:`unpool`."""
    for i in range(out.shape[0]):
        for c in range(out.shape[1]):
            out[i, c] = scale[c] * grad[batch[i], c] if z[i] > 0 else 0


def pool(
    values: Tensor, scale: Tensor, shift: Tensor, references: Tensor, z: Tensor, batch: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Sums in float64 over the atoms of each structure, and the number of atoms; padding, ``z == 0``, is not counted.

    Args:
        values: Values of atoms, shape ``[N, C]``.
        scale: Factor of each, shape ``[C]``.
        shift: Shift of each value, shape ``[C]``.
        references: Element energies, shape ``[Z, C]``.
        z: Species of each atom, shape ``[N]``.
        batch: Structure of each atom, shape ``[N]``.
        size: Number of structures B.

    Returns:
        Shapes ``[B, C]`` and ``[B]``.

    Raises:
        IndexError: If an atomic number or structure is out of range.
    """
    out = torch.zeros(size, values.size(1), dtype=torch.float64)
    counts = torch.zeros(size, dtype=torch.float64)
    if not pool_atoms(*arrays_of(values, scale, shift, references, z, batch, out, counts)):
        raise _out_of_range(z, batch, references.size(0), size)
    return out, counts


def sum_species(values: Tensor, z: Tensor, batch: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sums in float64 of values of the species, and the number of atoms; padding, ``z == 0``, is not counted.

    Args:
        values: Value of each species, shape ``[Z, C]``.
        z: Species of each atom, shape ``[N]``.
        batch: Structure of each atom, shape ``[N]``.
        size: Number of structures B.

    Returns:
        Shapes ``[B, C]`` and ``[B]``.

    Raises:
        IndexError: If an atomic number or structure is out of range.
    """
    sums = torch.zeros(size, values.size(1), dtype=torch.float64)
    counts = torch.zeros(size, dtype=torch.float64)
    if not _sum_species(*arrays_of(values, z, batch, sums, counts)):
        raise _out_of_range(z, batch, values.size(0), size)
    return sums, counts


def _out_of_range(z: Tensor, batch: Tensor, n_species: int, size: int) -> IndexError:
    return IndexError(
        f"z must lie between 0 and {n_species - 1} and batch between 0 and {size - 1}; got z from "
        f"{z.min()} to {z.max()} and batch from {batch.min()} to {batch.max()}"
    )


def unpool(grad: Tensor, scale: Tensor, z: Tensor, batch: Tensor) -> Tensor:
    """Gradient with respect to the values, ``[N, C]``, from that of the sums, ``[B, C]``; indices are not checked."""
    out = torch.empty(z.size(0), grad.size(1), dtype=grad.dtype)
    unpool_atoms(*arrays_of(grad, scale, z, batch, out))
    return out

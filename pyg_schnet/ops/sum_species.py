"""Sums over the atoms of each structure of values that depend on the element only."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.utils import scatter

from pyg_schnet.ops.checks import check_atoms_of_structures
from pyg_schnet.ops.dispatch import Backend, kernels_for, wide_dtype
from pyg_schnet.ops.sort_edges import check_keys


def sum_species(
    values: Tensor, z: Tensor, batch: Tensor, batch_size: int, *, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    r"""Sum of the values of the elements over the atoms of each structure, and the number of atoms.

    .. math:: y_b = \sum_{i \in b} v_{Z_i}

    Differentiable with respect to the values where these require a gradient.

    Args:
        values: Value of each element, one row for each atomic number from 0 on, shape ``[Z, C]``.
        z: Atomic numbers, shape ``[N]``; 0 is padding, which adds nothing.
        batch: Structure of each atom, shape ``[N]``.
        batch_size: Number of structures B.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Sums, shape ``[B, C]``, and numbers of atoms, shape ``[B]``; in float64 where the device has it.

    Raises:
        IndexError: On CPUs, if an atomic number or structure is out of range.

    Example:
        >>> sum_species(torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([1, 1, 2]), torch.tensor([0, 0, 1]), 2)[1]
        tensor([2., 1.], dtype=torch.float64)
    """
    check_atoms_of_structures(z, batch, batch_size)
    if values.dim() != 2:
        raise ValueError(f"values must hold a row for each atomic number from 0 on, [Z, C]; got {list(values.shape)}")
    kernels = kernels_for(backend, values, z, batch, needs="sum_species")
    if kernels is not None and not (values.requires_grad and torch.is_grad_enabled()):
        return kernels.sum_species(values, z, batch, batch_size)
    check_keys(z, values.size(0), "atoms have atomic numbers")
    check_keys(batch, batch_size, "atoms name structures")
    real = (z > 0).to(wide_dtype(values))
    each = values.to(real.dtype).index_select(0, z) * real.unsqueeze(-1)
    return tuple(scatter(one, batch, 0, batch_size, reduce="sum") for one in (each, real))

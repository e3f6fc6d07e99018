"""Sums and means over the atoms of each structure."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.utils import scatter

from pyg_schnet.ops.checks import check_atoms_of_structures, described
from pyg_schnet.ops.dispatch import Backend, kernels_for, wide_dtype
from pyg_schnet.ops.sort_edges import check_keys


def pool_atoms(
    values: Tensor,
    z: Tensor,
    batch: Tensor,
    batch_size: int,
    scale: Tensor,
    shift: Tensor,
    atomref: Tensor,
    *,
    mean: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    r"""Sum over the atoms of each structure of scaled and shifted values and element energies.

    .. math:: P = \sum_i \bigl( s\, v_i + t + a_{Z_i} \bigr)

    Summed in float64 where the device has it, and rounded once: element energies of thousands of eV would lose the meV
    in float32.

    Args:
        values: Values v of atoms, shape ``[N, C]``.
        z: Atomic numbers, shape ``[N]``; 0 is padding, which adds nothing.
        batch: Structure of each atom, shape ``[N]``.
        batch_size: Number of structures B.
        scale: Factor s of each value, shape ``[C]``.
        shift: Shift t, shape ``[C]``.
        atomref: Element energies a, one row for each atomic number from 0 on, shape ``[Z, C]``.
        mean: Whether sums are divided by the number of atoms (by 1 for structures without atoms).
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Sums or means in the dtype of ``values``, shape ``[B, C]``.

    Raises:
        IndexError: On CPUs, if an atomic number or structure is out of range.

    Example:
        >>> one, nothing = torch.ones(1), torch.zeros(1)
        >>> values, z, batch = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1, 1, 8]), torch.tensor([0, 0, 1])
        >>> pool_atoms(values, z, batch, 2, one, nothing, torch.zeros(9, 1))
        tensor([[3.],
                [4.]])
    """
    statistics = scale, shift, atomref
    check_atoms_of_structures(z, batch, batch_size)
    _check(values, z, *statistics)
    kernels = kernels_for(backend, values, z, batch, *statistics, needs="pool")
    if kernels is None or (torch.is_grad_enabled() and any(x.requires_grad for x in statistics)):
        check_keys(batch, batch_size, "atoms name structures")
        return _composition(values, z, batch, batch_size, *statistics, mean)
    return _Pool.apply(values, z, batch, batch_size, *statistics, mean)


def _check(values: Tensor, z: Tensor, scale: Tensor, shift: Tensor, atomref: Tensor) -> None:
    """Raise unless shapes fit, since torch would spread numbers over atoms where they do not."""
    if values.dim() != 2 or values.shape[:1] != z.shape:
        raise ValueError(f"values must hold one row for each of the {z.numel()} atoms, [N, C]; got {described(values)}")
    width = values.shape[1:]
    if not (scale.shape == shift.shape == width and atomref.dim() == 2 and atomref.shape[1:] == width):
        given = ", ".join(str(list(x.shape)) for x in (scale, shift, atomref))
        raise ValueError(
            f"scale, shift and atomref must have as many columns as the values, {values.size(1)}: [C], [C] and [Z, C]; "
            f"got {given}"
        )


def atom_values(values: Tensor, z: Tensor, scale: Tensor, shift: Tensor, atomref: Tensor) -> Tensor:
    """The summands of :func:`pool_atoms`, shape ``[N, C]``, in float64 where the device has it; zero for padding.

    Example:
        >>> atom_values(torch.ones(2, 1), torch.tensor([1, 0]), 2 * torch.ones(1), torch.ones(1), torch.zeros(2, 1))
        tensor([[3.],
                [0.]], dtype=torch.float64)
    """
    _check(values, z, scale, shift, atomref)
    check_keys(z, atomref.size(0), "atoms have atomic numbers")
    wide = wide_dtype(values)
    values, scale, shift, atomref = (x.to(wide) for x in (values, scale, shift, atomref))
    return torch.where((z > 0).unsqueeze(-1), scale * values + shift + atomref.index_select(0, z), 0.0)


def _composition(
    values: Tensor,
    z: Tensor,
    batch: Tensor,
    batch_size: int,
    scale: Tensor,
    shift: Tensor,
    atomref: Tensor,
    mean: bool,
) -> Tensor:
    """The same by plain operations of torch."""
    each = atom_values(values, z, scale, shift, atomref)
    total = scatter(each, batch, 0, batch_size, reduce="sum")
    if mean:
        total = total / _at_least_one(scatter((z > 0).to(each.dtype), batch, 0, batch_size, reduce="sum"))
    return total.to(values.dtype)


class _Pool(torch.autograd.Function):
    """The kernel, linear in the values."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        z: Tensor,
        batch: Tensor,
        batch_size: int,
        scale: Tensor,
        shift: Tensor,
        atomref: Tensor,
        mean: bool,
    ) -> Tensor:
        total, counts = kernels_for("numba").pool(values, scale, shift, atomref, z, batch, batch_size)
        counts = _at_least_one(counts) if mean else None
        ctx.save_for_backward(z, batch, scale, None if counts is None else counts.to(values.dtype))
        return (total if counts is None else total / counts).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, batch, scale, counts = ctx.saved_tensors
        grad = grad if counts is None else grad / counts
        kernels = kernels_for("auto", grad)
        if torch.is_grad_enabled() or kernels is None:
            grad_values = torch.where((z > 0).unsqueeze(-1), (scale * grad).index_select(0, batch), 0.0)
        else:
            grad_values = kernels.unpool(grad, scale, z, batch)
        return grad_values, *(None for _ in range(7))


def _at_least_one(counts: Tensor) -> Tensor:
    return counts.clamp(min=1.0).unsqueeze(-1)

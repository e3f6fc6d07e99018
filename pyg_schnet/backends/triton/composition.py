"""The functions of this backend as compositions of torch operations, for devices on which a kernel fails."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_schnet.ops import edge_lengths as lengths
from pyg_schnet.ops import spline_basis as basis_of
from pyg_schnet.ops.spline_conv_reference import spline_conv, spline_conv_grad_basis, spline_conv_grad_table

__all__ = [
    "edge_lengths",
    "edge_lengths_backward",
    "edge_lengths_double_backward",
    "spline_basis",
    "spline_conv",
    "spline_conv_grad_basis",
    "spline_conv_grad_table",
]


@torch.no_grad()
def edge_lengths(
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    batch: Tensor | None,
    loop_length: float,
) -> Tensor:
    """Lengths of edges, shape ``[E]``."""
    return lengths(pos, edge_index, edge_shift, cell, batch, loop_length=loop_length, backend="reference")


def edge_lengths_backward(
    grad: Tensor,
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    batch: Tensor | None,
    dist: Tensor,
    *,
    needs_cell: bool,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Gradients with respect to positions and cells."""
    with torch.enable_grad():
        inputs = [pos if create_graph else pos.detach().requires_grad_()]
        if needs_cell:
            inputs.append(cell if create_graph else cell.detach().requires_grad_())
        lattice = edge_shift, inputs[1] if needs_cell else cell, batch
        found = lengths(inputs[0], edge_index, *lattice, backend="reference")
        grads = torch.autograd.grad(found, inputs, grad, create_graph=create_graph, materialize_grads=True)
    return grads[0], grads[1] if needs_cell else None


def edge_lengths_double_backward(
    tangent_pos: Tensor,
    tangent_cell: Tensor | None,
    grad: Tensor,
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    batch: Tensor | None,
    dist: Tensor,
    *,
    needs_cell: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of the sum of both outputs of :func:`edge_lengths_backward`, each times a tangent."""
    with torch.enable_grad():
        grad, pos = grad.detach().requires_grad_(), pos.detach().requires_grad_()
        cell = None if cell is None else cell.detach().requires_grad_()
        first = edge_lengths_backward(
            grad, pos, edge_index, edge_shift, cell, batch, dist, needs_cell=cell is not None, create_graph=True
        )
        value = (first[0] * tangent_pos).sum()
        if tangent_cell is not None:
            value = value + (first[1] * tangent_cell).sum()
        inputs = [grad, pos] if cell is None else [grad, pos, cell]
        grads = torch.autograd.grad(value, inputs, materialize_grads=True)
    return grads[0], grads[1], grads[2] if needs_cell else None


def spline_basis(
    dist: Tensor, cutoff: float, num_intervals: int, *, with_slopes: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Interval of each distance, ``[E]``, basis ``[E, 4]`` and its derivative, ``[E, 4]`` or without rows."""
    interval, basis = basis_of(dist.detach(), cutoff, num_intervals, backend="reference")
    if not with_slopes:
        return interval, basis, basis[:0]
    inside, scale = dist < cutoff, num_intervals / cutoff
    t = torch.where(inside, dist * scale - interval, 0.0)
    s = 1.0 - t
    slopes = torch.stack([-s * s, t * (3.0 * t - 4.0), -s * (3.0 * s - 4.0), t * t], 1).mul_(0.5 * scale)
    return interval, basis, torch.where(inside.unsqueeze(1), slopes, 0.0)

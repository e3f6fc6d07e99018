"""Lengths of edges, and the spline weights that belong to them, in one pass each on CPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyg_schnet.geometry import safe_norm
from pyg_schnet.ops._autograd import gradients_of, is_recorded
from pyg_schnet.ops.bspline import bspline_basis, locate
from pyg_schnet.ops.dispatch import is_dense_cpu, wide_dtype


def edge_lengths(pos: Tensor, source: Tensor, target: Tensor, offset: Tensor | None, ignored: float) -> Tensor:
    r"""Length of every edge; those of atoms to themselves are given another one.

    .. math:: r_e = \lVert \mathbf{r}_j - \mathbf{r}_i + \mathbf{o}_e \rVert

    Differentiable any number of times; see :func:`pyg_schnet.geometry.edge_distances` for the same in separate steps.

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        source: Neighbour j of each edge, shape ``[E]``.
        target: Centre i of each edge, shape ``[E]``.
        offset: Lattice vectors crossed by each edge in Å, shape ``[E, 3]``; ``None`` for open boundaries.
        ignored: Length in Å for edges from an atom to itself, those of length zero.

    Returns:
        Lengths in Å, shape ``[E]``.

    Raises:
        IndexError: If an edge names an atom that is not there.

    Example:
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]])
        >>> edge_lengths(pos, torch.tensor([1, 0]), torch.tensor([0, 0]), None, ignored=5.0)
        tensor([1.5000, 5.0000])
    """
    if is_dense_cpu(pos):
        if is_recorded(pos) or (offset is not None and is_recorded(offset)):
            return _Lengths.apply(pos, source, target, offset, ignored)
        return _measured(pos, source, target, offset, ignored)
    return _lengths(pos, source, target, offset, ignored)


def spline_basis(dist: Tensor, cutoff: float, num_intervals: int) -> tuple[Tensor, Tensor]:
    """Interval of each distance, int64, ``[E]``, and its spline weights, ``[E, 4]``.

    What :func:`~pyg_schnet.ops.locate` and :func:`~pyg_schnet.ops.bspline_basis` give, differentiable as they
    are.

    Args:
        dist: Distances in Å, shape ``[E]``.
        cutoff: End of the grid in Å; weights are zero from there on.
        num_intervals: Number of intervals.
    """
    if is_dense_cpu(dist):
        if is_recorded(dist):
            return _Weights.apply(dist, cutoff, num_intervals)
        return _weighed(dist, cutoff, num_intervals)[:2]
    return _weights(dist, cutoff, num_intervals)


def _lengths(pos: Tensor, source: Tensor, target: Tensor, offset: Tensor | None, ignored: float) -> Tensor:
    wide = pos.to(wide_dtype(pos))  # gradients of the many edges of an atom are summed in it
    vec = wide.index_select(0, source) - wide.index_select(0, target)
    dist = safe_norm(vec if offset is None else vec + offset)
    return torch.where((source == target) & (dist == 0), ignored, dist).to(pos.dtype)


def _weights(dist: Tensor, cutoff: float, num_intervals: int) -> tuple[Tensor, Tensor]:
    interval, fraction = locate(dist, cutoff, num_intervals)
    return interval, bspline_basis(fraction, dist < cutoff)


def _measured(pos: Tensor, source: Tensor, target: Tensor, offset: Tensor | None, ignored: float) -> Tensor:
    """:func:`_lengths` in one pass, not differentiable."""
    from pyg_schnet.backends import numba as cpu

    dist = pos.new_empty(source.size(0))
    if not cpu.measure(pos, source, target, offset, ignored, dist):
        raise IndexError(
            f"edges must name atoms 0 to {pos.size(0) - 1}; got sources {source.min()} to {source.max()} and "
            f"targets {target.min()} to {target.max()}"
        )
    return dist


def _weighed(
    dist: Tensor, cutoff: float, num_intervals: int, with_slopes: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`_weights` in one pass, not differentiable, and the slopes of the weights, ``[E, 4]``, or ``[0, 4]``."""
    from pyg_schnet.backends import numba as cpu

    bins = torch.empty(dist.size(0), dtype=torch.int64)
    weights = dist.new_empty(dist.size(0), 4)
    slopes = dist.new_empty(dist.size(0) if with_slopes else 0, 4)
    cpu.weigh(dist, cutoff, num_intervals, bins, weights, slopes)
    return bins, weights, slopes


class _Lengths(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pos: Tensor, source: Tensor, target: Tensor, offset: Tensor | None, ignored: float) -> Tensor:
        dist = _measured(pos, source, target, offset, ignored)
        ctx.save_for_backward(pos, source, target, offset, dist)
        ctx.ignored = ignored
        return dist

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pos, source, target, offset, dist = ctx.saved_tensors
        if torch.is_grad_enabled():
            grad_pos, grad_offset = gradients_of(
                lambda pos, offset: _lengths(pos, source, target, offset, ctx.ignored), (pos, offset), grad
            )
            return grad_pos, None, None, grad_offset, None
        from pyg_schnet.backends import numba as cpu

        grad_pos = torch.zeros(pos.shape, dtype=torch.float64)  # an atom may have many edges
        grad_offset = (
            torch.zeros_like(offset, memory_format=torch.contiguous_format) if ctx.needs_input_grad[3] else None
        )
        cpu.push(grad, pos, source, target, offset, dist, grad_pos, grad_offset)
        return grad_pos.to(pos.dtype), None, None, grad_offset, None


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dist: Tensor, cutoff: float, num_intervals: int) -> tuple[Tensor, Tensor]:
        bins, weights, slopes = _weighed(dist, cutoff, num_intervals, with_slopes=ctx.needs_input_grad[0])
        ctx.mark_non_differentiable(bins)
        ctx.save_for_backward(dist, slopes)
        ctx.grid = cutoff, num_intervals
        return bins, weights

    @staticmethod
    def backward(ctx: Any, _: Tensor, grad: Tensor) -> tuple[Tensor, None, None]:
        dist, slopes = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *gradients_of(lambda dist: _weights(dist, *ctx.grid)[1], (dist,), grad), None, None
        return (grad * slopes).sum(1), None, None

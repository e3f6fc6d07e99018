"""Operator 2: intervals of distances on the grid of a spline, and the basis functions there."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.ops._autograd import below_autograd, gradients_of, register
from pyg_schnet.ops.bspline import bspline_basis, locate
from pyg_schnet.ops.dispatch import Backend, kernels_for

_library = torch.library.Library("pyg_schnet", "FRAGMENT")
_library.define(
    "spline_basis(Tensor dist, float cutoff, int num_intervals, bool with_slopes, str backend) "
    "-> (Tensor, Tensor, Tensor)"
)
_operator = torch.ops.pyg_schnet.spline_basis.default


def spline_basis(
    dist: Tensor, cutoff: float, num_intervals: int, *, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    r"""Interval of the grid in which each distance lies, and the four basis functions there.

    .. math:: k_e + t_e = \frac{n\, d_e}{r_c}, \qquad h_{e, m} = h_m(t_e)

    with the cubic B-splines of ``pyg_schnet.ops.bspline_basis``. The basis is differentiable any number of times;
    its third derivative jumps from interval to interval.

    Args:
        dist: Distances in Å, shape ``[E]``.
        cutoff: End of the grid in Å; the basis is zero from there on.
        num_intervals: Number n of intervals.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Interval, int64, shape ``[E]``, and basis, shape ``[E, 4]``.

    Raises:
        ValueError: If distances are no list, or there is no interval or no length to divide.

    Example:
        >>> spline_basis(torch.tensor([0.5, 5.0]), cutoff=5.0, num_intervals=5)
        (tensor([0, 0]), tensor([[0.0208, 0.4792, 0.4792, 0.0208],
                [0.0000, 0.0000, 0.0000, 0.0000]]))
    """
    if dist.dim() != 1:
        raise ValueError(f"dist must hold a distance for each edge, shape [E]; got {list(dist.shape)}")
    odd = isinstance(num_intervals, (float, str, bool)) or isinstance(cutoff, str)
    if odd or not 1 <= num_intervals <= 2**31 or not 0 < cutoff < math.inf:
        raise ValueError(f"a grid needs one interval or more and a cutoff above 0, got {num_intervals} and {cutoff}")
    unless = None if dist.is_floating_point() else f"distances must be floating-point numbers, got {dist.dtype}"
    kernels = kernels_for(backend, dist, unless=unless)
    if kernels is None:
        return _composition(dist, cutoff, num_intervals)
    if not (dist.requires_grad and torch.is_grad_enabled()):
        return kernels.spline_basis(dist, cutoff, num_intervals)[:2]
    basis, interval, _ = _operator(dist, cutoff, num_intervals, True, backend)
    return interval, basis


def _composition(dist: Tensor, cutoff: float, num_intervals: int) -> tuple[Tensor, Tensor]:
    """The same by plain operations of torch."""
    inside = dist < cutoff
    interval, fraction = locate(dist.clamp(max=cutoff), cutoff, num_intervals)  # infinity times zero is no number
    return torch.where(inside, interval, 0), bspline_basis(fraction, inside)


def _computed(
    dist: Tensor, cutoff: float, num_intervals: int, with_slopes: bool, backend: Backend
) -> tuple[Tensor, Tensor, Tensor]:
    """Kernel of the registered operator, not differentiable: basis, interval, and derivative of the basis."""
    kernels = kernels_for(backend, dist)
    if kernels is not None:
        interval, basis, slopes = kernels.spline_basis(dist, cutoff, num_intervals, with_slopes=with_slopes)
        return basis, interval, slopes
    interval, basis = _composition(dist, cutoff, num_intervals)
    return basis, interval, dist.new_empty(dist.size(0) if with_slopes else 0, 4).fill_(torch.nan)


class _SplineBasis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dist: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
        with below_autograd():
            basis, interval, slopes = _operator(dist, *options)
        ctx.mark_non_differentiable(interval, slopes)
        ctx.save_for_backward(dist, slopes)
        ctx.grid, ctx.backend = options[:2], options[-1]
        return basis, interval, slopes

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        dist, slopes = ctx.saved_tensors
        if torch.is_grad_enabled() or kernels_for(ctx.backend, grad, dist) is None:
            found = gradients_of(lambda dist: _composition(dist, *ctx.grid)[1], (dist,), grad)
        else:
            found = [(grad * slopes).sum(1)]
        return *found, None, None, None, None


def _fake(dist: Tensor, cutoff: float, num_intervals: int, with_slopes: bool, backend: str) -> tuple[Tensor, ...]:
    n_edges = dist.size(0)
    interval = dist.new_empty(n_edges, dtype=torch.int64)
    return dist.new_empty(n_edges, 4), interval, dist.new_empty(n_edges if with_slopes else 0, 4)


register(_library, "spline_basis", _computed, _SplineBasis, _fake)

"""Cubic B-splines on a uniform grid: interval and basis functions of a point, and the table of a function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyg_schnet.ops.dispatch import is_transformed

SPAN = 4
"""Rows of a table that contribute at a point: a cubic B-spline is non-zero on four intervals."""

OVERHANG = 3
"""Samples needed before the first and after the last grid point: one row and two for the prefilter on each side."""

TAPS = (1.5, -10.0 / 36.0, 1.0 / 36.0)
"""The prefilter 1 - δ²/6 + δ⁴/36: factors of a sample and of its neighbours one and two grid points away."""

MIDPOINT = tuple(weight / 65536.0 for weight in (35, -405, 2268, -8820, 39690, 39690, -8820, 2268, -405, 35))
"""Weights of ten equidistant samples in the value midway between the fifth and the sixth, exact for polynomials of
degree nine."""

REFINED_EXTRA = 9
"""Samples needed besides half of those that :func:`refine` returns."""

_POLYNOMIALS = (  # of each of the four B-splines in the fraction t of the interval: factors of 1, t, t², t³, times 6
    (1.0, -3.0, 3.0, -1.0),
    (4.0, 0.0, -6.0, 3.0),
    (1.0, 3.0, 3.0, -3.0),
    (0.0, 0.0, 0.0, 1.0),
)


def locate(dist: Tensor, cutoff: float, num_intervals: int) -> tuple[Tensor, Tensor]:
    """Interval of the grid in which each distance lies, and how far into it.

    Args:
        dist: Distances in Å, shape ``[E]``.
        cutoff: End of the grid in Å; it begins at zero.
        num_intervals: Number of intervals.

    Returns:
        Interval, int64, and fraction t, differentiable in the distance, both of shape ``[E]``. For distances
        beyond the cutoff and NaN the interval is valid but arbitrary; see ``inside`` of :func:`bspline_basis`.

    Example:
        >>> locate(torch.tensor([0.0, 2.6]), cutoff=5.0, num_intervals=10)
        (tensor([0, 5]), tensor([0.0000, 0.2000]))
    """
    position = dist * (num_intervals / cutoff)
    interval = position.detach().to(torch.int64).clamp(0, num_intervals - 1)
    return interval, position - interval


def bspline_basis(fraction: Tensor, inside: Tensor) -> Tensor:
    r"""The four basis functions around each point, factors of four rows of the table.

    .. math:: h(t) = \tfrac{1}{6} \bigl( (1 - t)^3,\; 3 t^3 - 6 t^2 + 4,\; -3 t^3 + 3 t^2 + 3 t + 1,\; t^3 \bigr)

    `de Boor, A Practical Guide to Splines (2001) <https://doi.org/10.1007/978-1-4612-6333-3>`_, chapter IX, on a
    uniform grid. They add up to one and have two continuous derivatives.

    Args:
        fraction: Fraction t of the interval, shape ``[E]``, differentiable.
        inside: Which points count, shape ``[E]``; the basis of others is zero, as are its derivatives.

    Returns:
        Basis, shape ``[E, 4]``.

    Example:
        >>> bspline_basis(torch.tensor([0.0, 0.5]), torch.tensor([True, True]))
        tensor([[0.1667, 0.6667, 0.1667, 0.0000],
                [0.0208, 0.4792, 0.4792, 0.0208]])
    """
    one = inside.to(fraction.dtype)
    linear = fraction * one
    square = linear * fraction
    powers = torch.stack((one, linear, square, square * fraction), -1)  # [E, 4]
    return powers @ torch.tensor(_POLYNOMIALS, dtype=fraction.dtype, device=fraction.device).mT.div(6.0)


def interpolate(table: Tensor, basis: Tensor, interval: Tensor) -> Tensor:
    """Spline at points given by interval ``[E]`` and basis ``[E, 4]``, shape ``[E, F]``."""
    terms = (basis[:, m : m + 1] * table.index_select(0, interval + m) for m in range(SPAN))
    return sum(terms)  # type: ignore[return-value]  # the 0 from which sum starts is not returned


def refine(samples: Tensor, n_rows: int) -> Tensor:
    r"""Samples of a smooth function on a grid of half the spacing.

    .. math:: g_{2 k} = f_{k + 4}, \qquad g_{2 k + 1} = \sum_{m=0}^{9} w_m f_{k + m}

    with the weights w of Lagrange's polynomial through ten points at their midpoint. Its remainder is of tenth order in
    the spacing.

    Args:
        samples: Function at grid points, shape ``[n_rows // 2 + 9, F]``.
        n_rows: Number of samples to return.

    Returns:
        Shape ``[n_rows, F]``; the first is the fifth of the given ones.

    Example:
        >>> refine(torch.arange(12.0).unsqueeze(1), 7).flatten()  # 4, 4.5, 5, ...
        tensor([4.0000, 4.5000, 5.0000, 5.5000, 6.0000, 6.5000, 7.0000])
    """
    n_pairs = n_rows // 2
    given = samples[4 : 4 + n_rows - n_pairs]
    between = samples[:n_pairs] * MIDPOINT[0]
    for m, weight in enumerate(MIDPOINT[1:], start=1):
        between = between + samples[m : m + n_pairs] * weight
    pairs = torch.stack([given[:n_pairs], between], 1).flatten(0, 1)
    return torch.cat([pairs, given[n_pairs:]])


def spline_table(samples: Tensor, vanishing: bool) -> Tensor:
    r"""Table of the cubic spline through samples of a smooth function, by a local prefilter.

    .. math:: C_i = \bigl( 1 - \tfrac{1}{6} \delta^2 + \tfrac{1}{36} \delta^4 \bigr)\, f_i

    with the central difference δ. These are the first terms of the inverse of :math:`1 + \delta^2 / 6`, which
    interpolation would need (`Unser (1999) <https://doi.org/10.1109/79.799930>`_, eq. 14). The remainder is of sixth
    order in the spacing, while the error of cubic splines is of fourth order.

    Args:
        samples: Function at grid points that begin three before the grid and end three after it, shape ``[G + 6, F]``.
        vanishing: Whether value and slope at the end of the grid are made exactly zero.

    Returns:
        Table, shape ``[G + 2, F]``, G grid points; rows k to k + 3 act on interval k.

    Example:
        >>> squares = torch.arange(-3.0, 8.0).square().unsqueeze(1)  # at -3 to 7, for a grid from 0 to 4
        >>> table = spline_table(squares, vanishing=False)
        >>> interval, fraction = locate(torch.tensor([1.5]), cutoff=4.0, num_intervals=4)
        >>> interpolate(table, bspline_basis(fraction, torch.tensor([True])), interval)
        tensor([[2.2500]])
    """
    if not torch.compiler.is_compiling() and is_transformed():
        return _prefilter(samples, vanishing)
    return _Prefilter.apply(samples, vanishing)


def _prefilter(samples: Tensor, vanishing: bool) -> Tensor:
    """The prefilter of :func:`spline_table`, without derivative."""
    center, near, far = TAPS
    out = samples[2:-2] * center
    out.add_(samples[1:-3], alpha=near).add_(samples[3:-1], alpha=near)
    out.add_(samples[:-4], alpha=far).add_(samples[4:], alpha=far)
    if vanishing:  # of the last three, (a + 4 b + c) / 6 is the value and (c - a) / 2 the slope at the end
        out[-2] = -0.5 * out[-3]
        out[-1] = out[-3]
    return out


def _transposed(grad: Tensor, vanishing: bool) -> Tensor:
    """Transpose of :func:`_prefilter`, from ``[G + 2, F]`` to ``[G + 6, F]``."""
    center, near, far = TAPS
    out = grad.new_zeros(grad.size(0) + 4, grad.size(1))
    rows = grad[:-2] if vanishing else grad
    n = rows.size(0)
    for offset, factor in enumerate((far, near, center, near, far)):
        out[offset : offset + n].add_(rows, alpha=factor)
    if vanishing:  # the last two rows were made from the one before
        rest = grad[-1] - 0.5 * grad[-2]
        taps = torch.tensor((far, near, center, near, far), dtype=grad.dtype, device=grad.device)
        out[n - 1 : n + 4].add_(rest * taps.unsqueeze(-1))
    return out


class _Prefilter(torch.autograd.Function):
    """Linear, so its backward is its transpose."""

    @staticmethod
    def forward(samples: Tensor, vanishing: bool) -> Tensor:
        return _prefilter(samples, vanishing)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.vanishing = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _PrefilterTransposed.apply(grad, ctx.vanishing), None


class _PrefilterTransposed(torch.autograd.Function):
    @staticmethod
    def forward(grad: Tensor, vanishing: bool) -> Tensor:
        return _transposed(grad, vanishing)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.vanishing = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Prefilter.apply(grad, ctx.vanishing), None

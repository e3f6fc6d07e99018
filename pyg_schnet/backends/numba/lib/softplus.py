"""The shifted softplus and its slope in numba, by series that compilers vectorise, for float32 and float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from pyg_schnet.backends import tuning
from pyg_schnet.backends.numba.lib.buffers import arrays_of
from pyg_schnet.backends.numba.lib.compiler import ORDERED, njit
from pyg_schnet.backends.numba.lib.parallel import evenly, run


def _make(
    real: type, integer: type, mantissa: int, bias: int, exp_terms: int, log_terms: int
) -> tuple[Callable, Callable]:
    r"""Compile :math:`\mathrm{ssp}` and :math:`\sigma = \mathrm{ssp}'` of a row of numbers in one precision.

    With :math:`q = e^{-|x|}`, both are smooth functions of a number between 0 and 1:

    .. math::
        \mathrm{ssp}(x) = \max(x, 0) + \ln \tfrac{1 + q}{2}
        = \max(x, 0) + 2 \operatorname{artanh} \tfrac{q - 1}{q + 3}, \qquad
        \sigma(|x|) = \frac{1}{1 + q}

    The exponential is :math:`2^n e^r` with :math:`|r| \le \tfrac{1}{2} \ln 2` and its Taylor series; the artanh of an
    argument between -1/3 and 0 is its Taylor series. The numbers of terms leave errors below a unit in the last place.

    Where only the softplus is known, its slope is :math:`\sigma(x) = 1 - \tfrac{1}{2} e^{-\mathrm{ssp}(x)}`.
    """
    factorials = tuple(real(1.0 / k) for k in range(1, exp_terms + 1))
    odd = tuple(real(1.0 / (2 * k + 1)) for k in range(log_terms))
    one, two, three, half, zero = real(1), real(2), real(3), real(0.5), real(0)
    log2e, lowest = real(1.0 / math.log(2.0)), real(1 - bias)
    high = real(355.0 / 512.0)  # ln 2 in two parts, the first with few digits, so that n times it is exact
    low = real(math.log(2.0) - 355.0 / 512.0)
    ln2 = real(math.log(2.0))
    shift, offset = integer(mantissa), integer(bias)

    @njit(**ORDERED)
    def decay(x: float) -> float:
        y = -abs(x)
        n = max(np.floor(y * log2e + half), lowest)
        r = (y - n * high) - n * low
        p = one
        for k in range(exp_terms - 1, -1, -1):
            p = one + r * factorials[k] * p
        bits = integer((integer(n) + offset) << shift)
        q = p * bits.view(real)  # 2^n by its exponent
        return q if n > lowest else zero

    @njit(**ORDERED)
    def value(x: float, q: float) -> float:
        s = (q - one) / (q + three)
        s2 = s * s
        series = odd[log_terms - 1]
        for k in range(log_terms - 2, -1, -1):
            series = odd[k] + s2 * series
        return max(x, zero) + two * s * series

    @njit(**ORDERED)
    def softplus(x: np.ndarray, out: np.ndarray, slope: np.ndarray) -> None:
        for i in range(x.shape[0]):  # two loops, since compilers vectorise short ones only
            slope[i] = decay(x[i])
        for i in range(x.shape[0]):
            q = slope[i]
            large = one / (one + q)
            out[i] = value(x[i], q)
            slope[i] = large if x[i] >= zero else q * large

    @njit(**ORDERED)
    def slope_of(values: np.ndarray, slope: np.ndarray) -> None:
        for i in range(values.shape[0]):
            slope[i] = one - decay(values[i] + ln2)

    return softplus, slope_of


_softplus32, _slope32 = _make(np.float32, np.int32, 23, 127, 8, 8)
_softplus64, _slope64 = _make(np.float64, np.int64, 52, 1023, 14, 16)


def softplus(x, out, slope) -> None:
    """Shifted softplus and its slope of a row of numbers, for kernels."""


@overload(softplus)
def _choose_softplus(x, out, slope) -> Callable:
    chosen = _softplus64 if x.dtype == types.float64 else _softplus32
    return lambda x, out, slope: chosen(x, out, slope)


def slope_of(values, slope) -> None:
    """Slope of the shifted softplus of a row of numbers from its values, for kernels."""


@overload(slope_of)
def _choose_slope(values, slope) -> Callable:
    chosen = _slope64 if values.dtype == types.float64 else _slope32
    return lambda values, slope: chosen(values, slope)


@njit(**ORDERED)
def _flat(begin, end, x) -> np.ndarray:
    """Rows of a matrix, one after the other."""
    return x.reshape(-1)[begin * x.shape[1] : end * x.shape[1]]


@njit(**ORDERED)
def softplus_rows(rows, x, bias, i, out, slope) -> None:
    """Add a bias to the first rows of a matrix; their shifted softplus and its slope to rows from i on."""
    for r in range(rows):
        for f in range(x.shape[1]):
            x[r, f] += bias[f]
    softplus(_flat(0, rows, x), _flat(i, i + rows, out), _flat(i, i + rows, slope))


@njit(**ORDERED)
def slope_rows(begin, end, values, slope) -> None:
    """Slopes of some rows of shifted softplus."""
    slope_of(_flat(begin, end, values), _flat(begin, end, slope))


@njit(**ORDERED)
def _softplus_range(begin, end, x, out, slope) -> None:
    softplus(x[begin:end], out[begin:end], slope[begin:end])


def shifted_softplus(x: Tensor) -> tuple[Tensor, Tensor]:
    """Shifted softplus and its slope, both of the shape of ``x``."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    slope, work = torch.empty_like(out), tuning.current.softplus_work * x.numel()
    run(_softplus_range, evenly(x.numel()), work, *(value.reshape(-1) for value in arrays_of(x, out, slope)))
    return out, slope

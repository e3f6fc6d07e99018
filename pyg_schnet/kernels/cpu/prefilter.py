"""The prefilter of splines with the window in one pass; see :func:`pyg_schnet.kernels.spline_coefficients`."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from torch import Tensor

from pyg_schnet.kernels.bspline import TAPS
from pyg_schnet.kernels.cpu.run import OPTIONS, array, evenly, run


@njit(**OPTIONS)
def _forward(begin, end, samples, window, taps, vanishing, out) -> None:
    n_rows, n_features = out.shape
    center, near, far = taps[0], taps[1], taps[2]
    for i in range(begin, end):
        k = min(i, n_rows - 3) if vanishing else i  # the last two rows are made from the one before
        w0, w1, w2, w3, w4 = window[k, 0], window[k + 1, 0], window[k + 2, 0], window[k + 3, 0], window[k + 4, 0]
        factor = taps[3] if vanishing and i == n_rows - 2 else taps[4]
        w0, w1, w2, w3, w4 = (
            far * w0 * factor,
            near * w1 * factor,
            center * w2 * factor,
            near * w3 * factor,
            far * w4 * factor,
        )
        for f in range(n_features):
            out[i, f] = (
                w0 * samples[k, f]
                + w1 * samples[k + 1, f]
                + w2 * samples[k + 2, f]
                + w3 * samples[k + 3, f]
                + w4 * samples[k + 4, f]
            )


@njit(parallel=True, **OPTIONS)
def _forward_parallel(bounds, samples, window, taps, vanishing, out) -> None:
    for part in prange(bounds.shape[0] - 1):
        _forward(bounds[part], bounds[part + 1], samples, window, taps, vanishing, out)


@njit(**OPTIONS)
def _backward(begin, end, grad, last, window, taps, out) -> None:
    """Rows of the transpose; ``last`` stands for the last row of ``grad``."""
    n_rows, n_features = grad.shape
    for i in range(begin, end):
        for f in range(n_features):
            out[i, f] = 0
        for offset in range(5):
            k = i - offset
            if not 0 <= k < n_rows:
                continue
            factor = window[i, 0] * taps[abs(offset - 2)]
            row = last if k == n_rows - 1 else grad[k]
            for f in range(n_features):
                out[i, f] += factor * row[f]


@njit(parallel=True, **OPTIONS)
def _backward_parallel(bounds, grad, last, window, taps, out) -> None:
    for part in prange(bounds.shape[0] - 1):
        _backward(bounds[part], bounds[part + 1], grad, last, window, taps, out)


def prefilter(samples: Tensor, window: Tensor, vanishing: bool) -> Tensor:
    """Coefficients of ``window * samples``, from shape ``[G + 6, F]`` to ``[G + 2, F]``."""
    out = samples.new_empty(samples.size(0) - 4, samples.size(1))
    rows, window = array(samples), array(window)
    taps = np.array([*TAPS, -0.5, 1.0], rows.dtype)
    run(_forward, _forward_parallel, evenly(out.size(0)), 5 * out.numel(), rows, window, taps, vanishing, array(out))
    return out


def prefilter_transposed(grad: Tensor, window: Tensor, vanishing: bool) -> Tensor:
    """Transpose of :func:`prefilter`, from shape ``[G + 2, F]`` to ``[G + 6, F]``."""
    out = grad.new_empty(grad.size(0) + 4, grad.size(1))
    rows, window = array(grad), array(window)
    last = rows[-1]
    if vanishing:
        rows, last = rows[:-2], rows[-3] - rows.dtype.type(0.5) * rows[-2] + rows[-1]
    taps = np.array(TAPS, rows.dtype)
    run(_backward, _backward_parallel, evenly(out.size(0)), 5 * out.numel(), rows, last, window, taps, array(out))
    return out

"""The prefilter of splines with the window in one pass, and the refinement of samples before it.

See :func:`pyg_schnet.ops.spline_table` and :func:`pyg_schnet.ops.bspline.refine`.
"""

from __future__ import annotations

from pyg_schnet.backends.numba.lib.compiler import EXACT, njit


@njit(**EXACT)
def filter_rows(samples, window, taps, vanishing, out) -> None:
    """Table of ``window * samples``, from shape ``[G + 6, F]`` to ``[G + 2, F]``."""
    n_rows, n_features = out.shape
    center, near, far = taps[0], taps[1], taps[2]
    for i in range(n_rows):
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


@njit(**EXACT)
def filter_rows_transposed(grad, window, taps, vanishing, out) -> None:
    """Transpose of :func:`filter_rows`, from shape ``[G + 2, F]`` to ``[G + 6, F]``."""
    n_features = grad.shape[1]
    n_rows = grad.shape[0] - 2 if vanishing else grad.shape[0]
    for i in range(out.shape[0]):
        for f in range(n_features):
            out[i, f] = 0
        for offset in range(5):
            k = i - offset
            if not 0 <= k < n_rows:
                continue
            factor = window[i, 0] * taps[abs(offset - 2)]
            for f in range(n_features):
                out[i, f] += factor * grad[k, f]
            if vanishing and k == n_rows - 1:  # the last two rows are made from this one
                half = grad.dtype.type(0.5) * factor
                for f in range(n_features):
                    out[i, f] += factor * grad[k + 2, f] - half * grad[k + 1, f]


@njit(**EXACT)
def refine_rows(samples, weights, out) -> None:
    """Samples on a grid of half the spacing, from shape ``[M // 2 + 9, F]`` to ``[M, F]``."""
    n_rows, n_features = out.shape
    w0, w1, w2, w3, w4 = weights[0], weights[1], weights[2], weights[3], weights[4]  # and the same backwards
    for i in range(n_rows):
        k = i // 2
        if i % 2 == 0:
            for f in range(n_features):
                out[i, f] = samples[k + 4, f]
        else:
            for f in range(n_features):
                out[i, f] = (
                    w0 * (samples[k, f] + samples[k + 9, f])
                    + w1 * (samples[k + 1, f] + samples[k + 8, f])
                    + w2 * (samples[k + 2, f] + samples[k + 7, f])
                    + w3 * (samples[k + 3, f] + samples[k + 6, f])
                    + w4 * (samples[k + 4, f] + samples[k + 5, f])
                )


@njit(**EXACT)
def refine_rows_transposed(grad, weights, out) -> None:
    """Transpose of :func:`refine_rows`, from shape ``[M, F]`` to ``[M // 2 + 9, F]``."""
    n_rows, n_features = grad.shape
    n_pairs = n_rows // 2
    for j in range(out.shape[0]):
        even = 2 * (j - 4)
        if 0 <= even < n_rows:
            for f in range(n_features):
                out[j, f] = grad[even, f]
        else:
            for f in range(n_features):
                out[j, f] = 0
        for k in range(max(0, j - 9), min(j + 1, n_pairs)):
            weight = weights[j - k]
            for f in range(n_features):
                out[j, f] += weight * grad[2 * k + 1, f]

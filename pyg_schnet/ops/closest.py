"""The closest pair of points of a small set, and whether any pair is closer than a limit of its own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyg_schnet.ops.dispatch import Backend, kernels_for


class Closest(NamedTuple):
    """What is known of the pairs of a set of points; NaN throughout, where a coordinate is not finite.

    Attributes:
        extent: Largest magnitude of a coordinate in Å.
        square: Smallest squared distance of two points in Å², infinite where there are none.
        excess: Smallest difference of a squared distance and its limit in Å², negative where one is below it.
    """

    extent: float
    square: float
    excess: float


def closest(points: np.ndarray, limits: np.ndarray, *, backend: Backend = "auto") -> Closest:
    r"""Look at all pairs of a few points; takes arrays, since for so few making tensors takes longer than looking.

    .. math:: \max_{i,a} |r_{ia}|, \qquad \min_{i<j} |\mathbf{r}_i - \mathbf{r}_j|^2, \qquad
              \min_{i<j} \bigl( |\mathbf{r}_i - \mathbf{r}_j|^2 - l_{ij} \bigr)

    Args:
        points: Points in Å, float64 in rows, shape ``[N, 3]``.
        limits: Limits of the squared distances in Å², float64, shape ``[N, N]``.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Example:
        >>> closest(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]), np.ones((2, 2)))
        Closest(extent=2.0, square=4.0, excess=3.0)
    """
    kernels = kernels_for(backend, needs="closest")
    if kernels is not None:
        return Closest(*kernels.closest(points, limits))
    if not np.isfinite(points).all():
        return Closest(np.nan, np.nan, np.nan)
    first, second = np.triu_indices(len(points), 1)
    square = np.square(points[first] - points[second]).sum(1)
    smallest = (float(x.min(initial=np.inf)) for x in (square, square - limits[first, second]))
    return Closest(float(np.abs(points).max(initial=0.0)), *smallest)

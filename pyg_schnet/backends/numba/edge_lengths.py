"""Lengths of edges, their gradient, and spline weights, edge by edge."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pyg_schnet.backends.numba.lib.buffers import array
from pyg_schnet.backends.numba.lib.compiler import REASSOCIATED, njit


@njit(**REASSOCIATED)
def component(pos, i, j, offset, e, d) -> float:
    """One component of the vector of edge e, from its target i to its source j."""
    part = pos[j, d] - pos[i, d]
    if offset is not None:
        part += offset[e, d]
    return part


@njit(**REASSOCIATED)
def length(pos, i, j, offset, e) -> float:
    """Length of that vector."""
    square = pos.dtype.type(0)
    for d in range(3):
        part = component(pos, i, j, offset, e, d)
        square += part * part
    return np.sqrt(square)


@njit(**REASSOCIATED)
def measure_edges(pos, source, target, offset, ignored, out) -> bool:
    """See :func:`measure`."""
    n_atoms = pos.shape[0]
    for e in range(out.shape[0]):
        i, j = target[e], source[e]
        if not (0 <= i < n_atoms and 0 <= j < n_atoms):
            return False
        dist = length(pos, i, j, offset, e)
        out[e] = ignored if i == j and dist == 0 else dist
    return True


@njit(**REASSOCIATED)
def push_edges(grad, pos, source, target, offset, dist, grad_pos, grad_offset) -> None:
    """See :func:`push`."""
    for e in range(grad.shape[0]):
        i, j = target[e], source[e]
        if dist[e] == 0 or (offset is None and i == j):
            continue
        slope = grad[e] / dist[e]
        for d in range(3):
            part = component(pos, i, j, offset, e, d)
            grad_pos[j, d] += slope * part
            grad_pos[i, d] -= slope * part
            if grad_offset is not None:
                grad_offset[e, d] = slope * part


@njit(**REASSOCIATED)
def weigh_edges(dist, cutoff, num_intervals, bins, weights, slopes) -> None:
    """See :func:`weigh`."""
    real = weights.dtype.type
    scale, one, two, three, half, sixth = (
        real(num_intervals / cutoff),
        real(1),
        real(2),
        real(3),
        real(0.5),
        real(1 / 6),
    )
    for e in range(dist.shape[0]):
        r = dist[e]
        inside = r < cutoff  # false for what is not a number
        position = r * scale
        k = min(max(int(position), 0), num_intervals - 1) if inside else 0
        bins[e] = k
        t = position - real(k)
        s = one - t
        weights[e, 0] = sixth * s * s * s
        weights[e, 1] = sixth * (three * t * t * (t - two) + real(4))
        weights[e, 2] = sixth * (three * s * s * (s - two) + real(4))
        weights[e, 3] = sixth * t * t * t
        if not inside:
            weights[e] = real(0) if r >= cutoff else r  # keep what is not a number
        if slopes.shape[0] == 0:
            continue
        slopes[e, 0] = -half * s * s * scale
        slopes[e, 1] = half * t * (three * t - real(4)) * scale
        slopes[e, 2] = -half * s * (three * s - real(4)) * scale
        slopes[e, 3] = half * t * t * scale
        if not inside:
            slopes[e] = 0


def measure(pos: Tensor, source: Tensor, target: Tensor, offset: Tensor | None, ignored: float, out: Tensor) -> bool:
    """Write the lengths of edges to ``out`` ``[E]``; false if an edge names an atom that is not there."""
    arrays = [array(x) for x in (pos, source, target, offset)]
    return measure_edges(*arrays, arrays[0].dtype.type(ignored), out.numpy())


def push(
    grad: Tensor,
    pos: Tensor,
    source: Tensor,
    target: Tensor,
    offset: Tensor | None,
    dist: Tensor,
    grad_pos: Tensor,
    grad_offset: Tensor | None,
) -> None:
    """Add the gradient of lengths, ``[E]``, to that of positions, ``[N, 3]``, and offsets, ``[E, 3]``."""
    push_edges(*(array(x) for x in (grad, pos, source, target, offset, dist, grad_pos, grad_offset)))


def weigh(dist: Tensor, cutoff: float, num_intervals: int, bins: Tensor, weights: Tensor, slopes: Tensor) -> None:
    """Write intervals ``[E]``, spline weights and, unless there is no room, their derivatives ``[E, 4]``."""
    weigh_edges(array(dist), cutoff, num_intervals, array(bins), array(weights), array(slopes))

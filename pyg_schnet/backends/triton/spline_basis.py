"""Intervals and spline bases of distances, edge by edge."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyg_schnet.backends.triton.launch import launch, or_composition

EDGES = 256
"""Edges of a program."""


@triton.jit(do_not_specialize=["n_edges"])
def _weigh(
    dist,
    interval,
    basis,
    slopes,
    n_edges,
    CUTOFF: tl.constexpr,
    SCALE: tl.constexpr,
    INTERVALS: tl.constexpr,
    WITH_SLOPES: tl.constexpr,
    EDGES: tl.constexpr,
):
    """Every edge: interval, basis and slopes, see :func:`spline_basis`."""
    e = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES)
    live = e < n_edges
    r = tl.load(dist + e, mask=live, other=0.0)
    real = r.dtype
    scale, one, two, three = (
        tl.full((), SCALE, real),
        tl.full((), 1.0, real),
        tl.full((), 2.0, real),
        tl.full((), 3.0, real),
    )
    four, half, sixth, zero = (
        tl.full((), 4.0, real),
        tl.full((), 0.5, real),
        tl.full((), 1.0 / 6.0, real),
        tl.full((), 0.0, real),
    )
    inside = r < tl.full((), CUTOFF, real)  # false for NaN
    position = tl.where(inside, r, zero) * scale
    k = tl.minimum(tl.maximum(position.to(tl.int32), 0), INTERVALS - 1)
    tl.store(interval + e, k.to(tl.int64), mask=live)
    t = position - k.to(real)
    s = one - t
    beyond = tl.where(r == r, zero, r)  # NaN stays
    row = 4 * e
    tl.store(basis + row, tl.where(inside, sixth * s * s * s, beyond), mask=live)
    tl.store(basis + row + 1, tl.where(inside, sixth * (three * t * t * (t - two) + four), beyond), mask=live)
    tl.store(basis + row + 2, tl.where(inside, sixth * (three * s * s * (s - two) + four), beyond), mask=live)
    tl.store(basis + row + 3, tl.where(inside, sixth * t * t * t, beyond), mask=live)
    if WITH_SLOPES:
        tl.store(slopes + row, tl.where(inside, -half * s * s * scale, zero), mask=live)
        tl.store(slopes + row + 1, tl.where(inside, half * t * (three * t - four) * scale, zero), mask=live)
        tl.store(slopes + row + 2, tl.where(inside, -half * s * (three * s - four) * scale, zero), mask=live)
        tl.store(slopes + row + 3, tl.where(inside, half * t * t * scale, zero), mask=live)


@or_composition
def spline_basis(
    dist: Tensor, cutoff: float, num_intervals: int, *, with_slopes: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Interval of each distance, ``[E]``, basis ``[E, 4]`` and its derivative, ``[E, 4]`` or without rows."""
    n_edges = dist.size(0)
    interval = torch.empty(n_edges, dtype=torch.int64, device=dist.device)
    basis, slopes = dist.new_empty(n_edges, 4), dist.new_empty(n_edges if with_slopes else 0, 4)
    arguments = {
        "dist": dist.detach().contiguous(),
        "interval": interval,
        "basis": basis,
        "slopes": slopes if with_slopes else basis,
        "n_edges": n_edges,
        "CUTOFF": float(cutoff),
        "SCALE": num_intervals / cutoff,
        "INTERVALS": num_intervals,
        "WITH_SLOPES": with_slopes,
        "EDGES": EDGES,
    }
    launch(_weigh, (triton.cdiv(n_edges, EDGES),), arguments)
    return interval, basis, slopes

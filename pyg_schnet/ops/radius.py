"""Pairs of points closer than a cutoff among candidates, the innermost step of neighbour searches; the closest pair."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.ops.checks import MOST_ROWS
from pyg_schnet.ops.dispatch import Backend, kernels_for, list_of, other_types
from pyg_schnet.ops.segment_sum import MANY_EDGES, is_crowded

MOST_CANDIDATES = 400
"""Largest mean number of atoms per structure for which all pairs are tested; bins are faster beyond."""


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


class Ranges(NamedTuple):
    """Ranges of consecutive points; target ``t`` owns the rows ``row[t]`` of ``start`` and ``count``."""

    start: Tensor  # [U, R] first point
    count: Tensor  # type: ignore[assignment]  # [U, R] number of points; hides tuple.count
    row: Tensor  # [N]
    order: Tensor | None  # [M] ranges refer to points[order]; None for the points as they are


def close_pairs(
    points: Tensor,
    targets: Tensor,
    ranges: Ranges,
    cutoff: float,
    omit: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    r"""Candidates that are closer than the cutoff, sorted by target.

    .. math:: \{ (j, i) : \lVert \mathbf{s}_j - \mathbf{t}_i \rVert^2 < r_c^2 \}

    with ``squared_distances`` in the dtype of the points. Not differentiable.

    Args:
        points: Points s in Å, shape ``[M, 3]``.
        targets: Targets t in Å, shape ``[N, 3]``.
        ranges: Candidates of each target.
        cutoff: Cutoff in Å.
        omit: For each target a candidate to leave out, shape ``[N]``; of the middle one, where targets have several
            ranges.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Points (row 0) and targets (row 1), int64, shape ``[2, E]``.

    Example:
        >>> points, zero = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 5.0]]), torch.tensor([0])
        >>> close_pairs(points, points[:1], Ranges(zero[:, None], torch.tensor([[3]]), zero, None), cutoff=2.0)
        tensor([[0, 1],
                [0, 0]])
    """
    start, count, row, _ = ranges
    tensors = points, targets, start, count, row, omit
    kernels = kernels_for(backend, *tensors, needs="close_pairs", unless=other_types(points, targets))
    if kernels is None:
        return _filter_all(points.T.contiguous(), targets.T.contiguous(), ranges, cutoff, omit)
    return kernels.close_pairs(*tensors, cutoff * cutoff)


def close_pairs_once(
    pos: Tensor, cutoff: float, batch: Tensor, batch_size: int, *, backend: Backend = "auto"
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Each pair of atoms of the same structure closer than the cutoff once, with the second one as the source.

    The result is a half list, a layout of the numba backend. Not differentiable.

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        cutoff: Cutoff in Å; an atom exactly there is no neighbour.
        batch: Structure of each atom in ascending order, int64, shape ``[N]``.
        batch_size: Number of structures B.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Sources (row 0) and targets (row 1), shape ``[2, P]``, sorted by target and source; where those of each target
        begin and end, shape ``[N + 1]``; distances in Å, shape ``[P]``. ``None`` where no backend makes half
        lists, for structures so large that bins are faster, for atoms with more than
        ``MANY_EDGES`` edges, and for input that
        :func:`pyg_schnet.neighbors.radius_graph` refuses.

    Example:
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 5.0]])
        >>> close_pairs_once(pos, 2.0, torch.zeros(3, dtype=torch.int64), 1)
        (tensor([[1],
                [0]]), tensor([0, 1, 1, 1]), tensor([1.]))
    """
    kernels = kernels_for(backend, pos, batch, needs="close_pairs_once", unless=other_types(pos))
    whole = isinstance(batch_size, int) and 0 <= batch_size <= MOST_ROWS
    if kernels is None or not whole or not cutoff > 0 or batch.dtype != torch.int64 or pos.shape != (*batch.shape, 3):
        return None
    pos = pos.detach()
    ptr = kernels.pointer_of_sorted(batch, batch_size)
    if ptr is None or not math.isfinite(float(pos.sum())):
        return None
    found = kernels.close_pairs_once(pos, ptr, cutoff * cutoff, MOST_CANDIDATES * pos.size(0))
    if found is None or (2 * found[0].size(1) > MANY_EDGES and is_crowded(found[1], found[0][0])):
        return None
    return found


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


def squared_distances(
    sources: Tensor, targets: Tensor, source: Tensor, target: Tensor, translation: list[Tensor] | None = None
) -> Tensor:
    r"""Squared lengths in Å² of the vectors from targets to sources.

    .. math:: (v_x^2 + v_y^2) + v_z^2 \quad\text{with}\quad \mathbf{v} = (\mathbf{s} - \mathbf{t}) + \mathbf{T}

    Args:
        sources: Coordinates s of sources in Å, one row for each axis, shape ``[3, M]``.
        targets: Coordinates t of targets in Å, shape ``[3, N]``.
        source: Source of each pair, shape ``[E]``.
        target: Target of each pair, shape ``[E]``.
        translation: The three components of T in Å, each of shape ``[E]``; ``None`` for none.

    Example:
        >>> points = torch.tensor([[0.0, 3.0], [0.0, 4.0], [0.0, 0.0]])  # (0, 0, 0) and (3, 4, 0)
        >>> squared_distances(points, points, torch.tensor([0, 0]), torch.tensor([0, 1]))
        tensor([ 0., 25.])
    """
    total: Tensor | None = None
    for axis in range(3):
        component = sources[axis].index_select(0, source)
        component -= targets[axis].index_select(0, target)
        if translation is not None:
            component += translation[axis]
        component *= component
        total = component if total is None else total.add_(component)
    assert total is not None
    return total


def chunk_size(device: torch.device) -> int:
    """How many candidates to look at together: about 100 bytes each, which on the CPU should fit in its caches."""
    return 2**16 if device.type == "cpu" else 2**22


def _filter_all(points: Tensor, targets: Tensor, ranges: Ranges, cutoff: float, omit: Tensor | None) -> Tensor:
    """Pairs closer than the cutoff among all candidates, by operations of torch; points are ``[3, M]``."""
    total = ranges.count.sum(1).index_select(0, ranges.row)  # candidates of each target
    pairs = [_filter(points, targets, ranges, chunk, size, cutoff, omit) for chunk, size in _chunks(total)]
    return pairs[0] if len(pairs) == 1 else torch.cat(pairs, dim=1)


def _filter(
    points: Tensor,
    targets: Tensor,
    ranges: Ranges,
    chunk: slice,
    n_candidates: int,
    cutoff: float,
    omit: Tensor | None,
) -> Tensor:
    """Pairs closer than the cutoff among the candidates of the targets in ``chunk``; points are ``[3, M]`` here."""
    row = ranges.row[chunk]
    start, count = ranges.start.index_select(0, row), ranges.count.index_select(0, row)
    n_targets, n_ranges = start.shape
    end = count.flatten().cumsum(0).view(n_targets, n_ranges)
    shift = start - end + count  # index of a point minus index of the candidate
    which = torch.repeat_interleave(count.flatten(), output_size=n_candidates)  # range of each candidate
    source = torch.arange(n_candidates, device=points.device) + shift.flatten().index_select(0, which)
    target = (which if n_ranges == 1 else which.div(n_ranges, rounding_mode="floor")) + chunk.start
    keep = squared_distances(points, targets, source, target) < cutoff * cutoff
    if omit is not None:  # the bin of the target itself is in the middle of its ranges
        keep[omit[chunk] - shift[:, n_ranges // 2]] = False
    kept = torch.nonzero(keep).squeeze(1)
    return torch.stack([source.index_select(0, kept), target.index_select(0, kept)])


def _chunks(total: Tensor) -> list[tuple[slice, int]]:
    """Split the targets so that the candidates of a chunk, ``total`` for each target, stay near the limit.

    Returns:
        Targets of each chunk, and how many candidates they have. It is read in one go, in two where there are several.
    """
    limit = chunk_size(total.device)
    end = total.cumsum(0)
    n_candidates = int(end[-1])
    n_chunks = n_candidates // limit + 1
    if n_chunks == 1:
        return [(slice(0, total.numel()), n_candidates)]
    limits = torch.arange(1, n_chunks, device=total.device) * limit
    cuts = torch.searchsorted(end, limits, right=True)
    before = torch.where(cuts > 0, end.index_select(0, (cuts - 1).clamp(min=0)), 0)  # candidates of earlier targets
    numbers = list_of(torch.cat([cuts, before]))
    found = {0: 0, **dict(zip(numbers[: n_chunks - 1], numbers[n_chunks - 1 :], strict=True))}
    found[total.numel()] = n_candidates
    pairs = itertools.pairwise(sorted(found.items()))
    return [(slice(begin, stop), last - first) for (begin, first), (stop, last) in pairs]

"""How tasks share a batch: by structures where it falls into groups of them, by features where it does not.

Groups depend on the batch alone. Sums over pairs and atoms are made for each group and then added in order, so they do
not depend on the number of threads.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pyg_schnet.backends import tuning
from pyg_schnet.backends.numba.lib.compiler import njit
from pyg_schnet.backends.numba.lib.gemm import TILE
from pyg_schnet.backends.numba.lib.parallel import by_work, evenly


class Partition(NamedTuple):
    """What each of S tasks does.

    Attributes:
        rows: Atoms whose dense layers it computes, shape ``[S + 1]``.
        pairs: Atoms whose pairs it evaluates one by one, shape ``[S + 1]``.
        parts: Group, first and last atom, first and last filter, first and last feature of what it sums over pairs
            or atoms, shape ``[S, 7]``.
        independent: Whether each task is a group of structures, so that none has to wait for what others do.
    """

    rows: np.ndarray
    pairs: np.ndarray
    parts: np.ndarray
    independent: bool


@njit(cache=True)
def _mark_borders(source, ptr, free) -> None:
    """Before which atoms a batch can be divided without parting a pair; the last one is behind all atoms."""
    n_atoms = ptr.shape[0] - 1
    crossing = np.zeros(n_atoms + 2, np.int64)  # pairs that begin minus pairs that end, before each atom
    for i in range(n_atoms):
        for p in range(ptr[i], ptr[i + 1]):
            crossing[min(i, source[p]) + 1] += 1
            crossing[max(i, source[p]) + 1] -= 1
    total = 0
    for i in range(n_atoms + 1):
        total += crossing[i]
        free[i] = total == 0


def find_groups(source: np.ndarray, ptr: np.ndarray, n_filters: int, n_features: int) -> tuple[int, ...]:
    """Atoms between which groups of structures lie that have no pair with each other, of about the same work.

    Args:
        source: Source of each pair, shape ``[P]``.
        ptr: Where the pairs of each target begin and end, shape ``[N + 1]``.
        n_filters: Number of filters, which each pair is evaluated for.
        n_features: Number of features, by which to weigh what is done for atoms against what is done for pairs.

    Returns:
        ``0, ..., N``; these two only for a batch that is not divided.
    """
    n_atoms, values = len(ptr) - 1, tuning.current
    work = ptr + max(n_features // values.features_per_pair, 1) * np.arange(n_atoms + 1)
    n_groups = 1
    while 2 * n_groups <= values.most_groups and 2 * n_groups * values.group_work <= len(source) * n_filters:
        n_groups *= 2
    if n_groups > 1:
        free = np.empty(n_atoms + 1, np.bool_)
        _mark_borders(source, ptr, free)
        places = np.flatnonzero(free)
    while n_groups > 1:
        wanted = work[-1] * np.arange(n_groups + 1) / n_groups
        after = np.searchsorted(work[places], wanted).clip(1, len(places) - 1)
        nearer = wanted - work[places[after - 1]] < work[places[after]] - wanted
        bounds = places[after - nearer]
        if np.diff(work[bounds]).max() * n_groups <= values.largest_group * work[-1]:
            return tuple(bounds.tolist())
        n_groups //= 2
    return 0, n_atoms


def divide(
    threads: int, groups: tuple[int, ...], ptr: np.ndarray, n_filters: int, n_features: int, unit: int
) -> Partition:
    """Tasks of some threads, or one for each group.

    Args:
        threads: Number of threads.
        groups: See :func:`find_groups`.
        ptr: Where the pairs of each target begin and end, shape ``[N + 1]``.
        n_filters: Number of filters.
        n_features: Number of features.
        unit: Features and filters that stay together.
    """
    if len(groups) > 2 or threads == 1:
        return by_groups(groups, n_filters, n_features)
    filters, features = evenly(n_filters, unit)(threads), evenly(n_features, unit)(threads)
    parts = [(0, *groups, *filters[k : k + 2], *features[k : k + 2]) for k in range(threads)]
    return Partition(evenly(groups[-1], TILE)(threads), by_work(ptr)(threads), np.array(parts, np.int64), False)


@lru_cache(maxsize=64)
def by_groups(groups: tuple[int, ...], n_filters: int, n_features: int) -> Partition:
    """One task for each group; remembered, since one small structure is evaluated again and again."""
    bounds, pairs = np.array(groups, np.int64), pairwise(groups)
    parts = [(k, first, last, 0, n_filters, 0, n_features) for k, (first, last) in enumerate(pairs)]
    return Partition(bounds, bounds, np.array(parts, np.int64), True)

"""Division of a batch among tasks, by groups of structures if possible, otherwise by features.

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
from pyg_schnet.backends.numba.lib.parallel import equal_work, evenly


class Partition(NamedTuple):
    """Work of each of S tasks.

    Attributes:
        rows: Bounds of the atoms whose dense layers a task computes, shape ``[S + 1]``.
        pairs: Bounds of the atoms whose pairs it evaluates one by one, shape ``[S + 1]``.
        parts: First and last group, first and last filter, first and last feature of its sums over pairs or atoms,
            shape ``[S, 6]``.
        groups: Bounds of the atoms of the groups, which are summed separately, shape ``[G + 1]``.
        independent: Whether each task has groups of its own, so that no task waits for others.
    """

    rows: np.ndarray
    pairs: np.ndarray
    parts: np.ndarray
    groups: np.ndarray
    independent: bool


@njit(cache=True)
def _mark_borders(source, ptr, free) -> None:
    """Atoms before which a batch can be divided without separating a pair; the last one is the number of atoms."""
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
    """Bounds of groups of structures of about equal work, without pairs between groups.

    Args:
        source: Source of each pair, shape ``[P]``.
        ptr: Where the pairs of each target begin and end, shape ``[N + 1]``.
        n_filters: Number of filters.
        n_features: Number of features, for the work of atoms relative to that of pairs.

    Returns:
        First atoms of the groups and ``N``; ``(0, N)`` for a batch that is not divided.
    """
    n_atoms, values = len(ptr) - 1, tuning.current
    work = ptr + max(n_features // values.features_per_pair, 1) * np.arange(n_atoms + 1)
    n_groups, least = 1, values.group_work
    while 2 * n_groups <= values.most_groups and 2 * n_groups * least <= len(source) * n_filters:
        n_groups, least = 2 * n_groups, values.group_work * values.more_groups
    if n_groups > 1:
        free = np.empty(n_atoms + 1, np.bool_)
        _mark_borders(source, ptr, free)
        places = np.flatnonzero(free)
    while n_groups > 1:
        target = work[-1] * np.arange(n_groups + 1) / n_groups
        after = np.searchsorted(work[places], target).clip(1, len(places) - 1)
        nearer = target - work[places[after - 1]] < work[places[after]] - target
        bounds = places[after - nearer]
        if np.diff(work[bounds]).max() * n_groups <= values.largest_group * work[-1]:
            return tuple(bounds.tolist())
        n_groups //= 2
    return 0, n_atoms


def divide(
    threads: int, groups: tuple[int, ...], ptr: np.ndarray, n_filters: int, n_features: int, unit: int
) -> Partition:
    """Tasks of some threads.

    Args:
        threads: Number of threads.
        groups: See :func:`find_groups`.
        ptr: Where the pairs of each target begin and end, shape ``[N + 1]``.
        n_filters: Number of filters.
        n_features: Number of features.
        unit: Number of features and filters that are not divided.
    """
    if len(groups) > 2 or threads == 1:
        return divide_groups(threads, groups, n_filters, n_features)
    filters, features = evenly(n_filters, unit)(threads), evenly(n_features, unit)(threads)
    parts = [(0, 1, *filters[k : k + 2], *features[k : k + 2]) for k in range(threads)]
    rows, pairs = evenly(groups[-1], TILE)(threads), equal_work(ptr)(threads)
    return Partition(rows, pairs, np.array(parts, np.int64), np.array(groups, np.int64), False)


@lru_cache(maxsize=64)
def divide_groups(threads: int, groups: tuple[int, ...], n_filters: int, n_features: int) -> Partition:
    """Tasks that have consecutive groups each; cached, since small structures are evaluated repeatedly."""
    n_groups, bounds = len(groups) - 1, np.array(groups, np.int64)
    cut = evenly(n_groups)(min(threads, n_groups))
    parts = [(first, last, 0, n_filters, 0, n_features) for first, last in pairwise(cut)]
    return Partition(bounds[cut], bounds[cut], np.array(parts, np.int64), bounds, True)

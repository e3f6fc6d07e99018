"""How threads share a batch of structures: by atoms where it falls into halves, by features where it does not."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from pyg_schnet.backends.numba.lib.compiler import njit
from pyg_schnet.backends.numba.lib.gemm import TILE
from pyg_schnet.backends.numba.lib.parallel import evenly, within

_WORK_OF_AN_ATOM = 8  # its dense layers take as long as a pair for each so many features
_LARGEST_HALF = 0.6  # of the work; halves that differ more are not worth it


class Shares(NamedTuple):
    """What each of S threads does.

    Attributes:
        rows: Atoms where each is on its own, shape ``[S + 1]``.
        pairs: Atoms whose pairs are evaluated one by one, shape ``[S + 1]``.
        pieces: Half, first and last atom, first and last filter, first and last feature of what is summed over pairs
            or atoms, shape ``[S, 7]``.
        apart: Whether each thread has halves of its own, so that none has to wait for what others do.
    """

    rows: np.ndarray
    pairs: np.ndarray
    pieces: np.ndarray
    apart: bool


@njit(cache=True)
def _middle(source, ptr, per_atom) -> int:
    """Where to cut atoms into halves of about the same work, but no pair; 0 or N if there is no such place."""
    n_atoms = ptr.shape[0] - 1
    crossing = np.zeros(n_atoms + 2, np.int64)  # pairs that begin minus pairs that end, before each atom
    for i in range(n_atoms):
        for p in range(ptr[i], ptr[i + 1]):
            crossing[min(i, source[p]) + 1] += 1
            crossing[max(i, source[p]) + 1] -= 1
    half, best, total = (ptr[n_atoms] + per_atom * n_atoms) / 2, 0, 0
    for i in range(n_atoms + 1):
        total += crossing[i]
        if total == 0 and abs(ptr[i] + per_atom * i - half) < abs(ptr[best] + per_atom * best - half):
            best = i
    return best


def middle(source: np.ndarray, ptr: np.ndarray, n_features: int) -> int:
    """Atom at which the second half of a batch begins; 0 for a batch that does not fall into halves.

    Args:
        source: Source of each pair, shape ``[P]``.
        ptr: Where the pairs of each target begin and end, shape ``[N + 1]``.
        n_features: Number of features, by which to weigh what is done for atoms against what is done for pairs.
    """
    per_atom = max(n_features // _WORK_OF_AN_ATOM, 1)
    cut, n_atoms = _middle(source, ptr, per_atom), len(ptr) - 1
    first, total = ptr[cut] + per_atom * cut, ptr[-1] + per_atom * n_atoms
    return cut if max(first, total - first) <= _LARGEST_HALF * total else 0


def share(threads: int, cut: int, ptr: np.ndarray, n_filters: int, n_features: int, unit: int) -> Shares:
    """Shares of some threads, or of as many as there are halves if these are more.

    Args:
        threads: Number of threads.
        cut: Where the second half begins, see :func:`middle`.
        ptr: Where the pairs of each target begin and end, shape ``[N + 1]``.
        n_filters: Number of filters.
        n_features: Number of features.
        unit: Features and filters that stay together.
    """
    groups = max(threads // (2 if cut > 0 else 1), 1)
    if groups == 1:
        return _wholes(cut, len(ptr) - 1, n_filters, n_features)
    filters, features = evenly(n_filters, unit)(groups), evenly(n_features, unit)(groups)
    rows, pairs, pieces = [0], [0], []
    for half, first, last in _halves(cut, len(ptr) - 1):
        rows.extend(first + evenly(last - first, TILE)(groups)[1:])
        pairs.extend(within(ptr, first, last)(groups)[1:])
        pieces.extend((half, first, last, *filters[g : g + 2], *features[g : g + 2]) for g in range(groups))
    return _shares(rows, pairs, pieces, apart=False)


@lru_cache(maxsize=64)
def _wholes(cut: int, n_atoms: int, n_filters: int, n_features: int) -> Shares:
    """Shares of one thread for each half; kept, since one small structure is evaluated again and again."""
    halves = _halves(cut, n_atoms)
    bounds = [0, *(last for _, _, last in halves)]
    return _shares(bounds, bounds, [(*half, 0, n_filters, 0, n_features) for half in halves], apart=True)


def _halves(cut: int, n_atoms: int) -> list[tuple[int, int, int]]:
    """Number, first and last atom of each half."""
    return [(0, 0, cut), (1, cut, n_atoms)] if cut > 0 else [(0, 0, n_atoms)]


def _shares(rows: list[int], pairs: list[int], pieces: list[tuple[int, ...]], apart: bool) -> Shares:
    return Shares(*(np.array(values, np.int64) for values in (rows, pairs, pieces)), apart)

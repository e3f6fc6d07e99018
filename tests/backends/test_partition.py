"""Threads share all of the work, and the halves of a batch have nothing to do with each other."""

import numpy as np
import pytest

from pyg_schnet.backends.numba.lib.partition import middle, share


def batch(sizes, seed=0):
    """Pairs of structures that are complete graphs, each with its smaller atom first: sources and pointer."""
    sources, counts, start = [], [], 0
    for size in sizes:
        for i in range(size):
            sources.extend(range(start + i + 1, start + size))
            counts.append(size - i - 1)
        start += size
    return np.array(sources, np.int64), np.cumsum([0, *counts])


@pytest.mark.parametrize("sizes", [[5, 5], [1] * 9, [3, 8, 2, 7, 6, 1, 9], [6, 4, 4, 6], [25, 30, 1]])
def test_no_pair_lies_in_both_halves(sizes):
    source, ptr = batch(sizes)
    cut = middle(source, ptr, 128)
    target = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
    assert cut in np.cumsum(sizes)[:-1]
    assert ((source < cut) == (target < cut)).all()
    work = np.array([ptr[i] + 16 * i for i in np.cumsum([0, *sizes])])  # 128 / 8 for each atom
    assert abs(work[np.cumsum([0, *sizes]).tolist().index(cut)] - work[-1] / 2) == abs(work - work[-1] / 2).min()


@pytest.mark.parametrize("sizes", [[12], [2, 40], [40, 2], [1, 1, 60, 1]])
def test_batches_that_do_not_fall_into_halves(sizes):
    assert middle(*batch(sizes), 128) == 0


def test_a_pair_in_the_other_direction_is_not_cut():
    # atoms 0 and 3 are bound by a pair whose source comes first
    assert middle(np.array([0]), np.array([0, 0, 0, 0, 1, 1]), 8) == 0


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("sizes", [[30, 30, 30, 30], [50]])
def test_shares_cover_everything_once(sizes, threads):
    source, ptr = batch(sizes)
    n_atoms, n_filters, n_features = len(ptr) - 1, 100, 70
    cut = middle(source, ptr, n_features)
    shares = share(threads, cut, ptr, n_filters, n_features, 16)
    halves = 2 if cut > 0 else 1
    assert len(shares.pieces) == max(threads // halves, 1) * halves
    assert shares.apart == (threads <= halves or threads // halves == 1)
    for bounds in (shares.rows, shares.pairs):
        assert (bounds[0], bounds[-1]) == (0, n_atoms)
        assert len(bounds) == len(shares.pieces) + 1
        assert (np.diff(bounds) >= 0).all()
        assert cut in bounds
    filters, features = np.zeros((2, n_atoms, n_filters)), np.zeros((2, n_atoms, n_features))
    for half, first, last, f, f_end, g, g_end in shares.pieces:
        filters[half, first:last, f:f_end] += 1
        features[half, first:last, g:g_end] += 1
    for counts in (filters, features):
        assert (counts[0, : cut or None] == 1).all()
        assert (counts[1, cut:] == (1 if cut > 0 else 0)).all()
        assert counts.sum() == n_atoms * counts.shape[2]

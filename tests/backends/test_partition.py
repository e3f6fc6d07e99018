"""Tasks share all of the work, and groups of structures have nothing to do with each other."""

import numpy as np
import pytest

from pyg_schnet.backends import tuning
from pyg_schnet.backends.numba.lib.partition import divide, find_groups


def batch(sizes, seed=0):
    """Pairs of structures that are complete graphs, each with its smaller atom first: sources and pointer."""
    sources, counts, start = [], [], 0
    for size in sizes:
        for i in range(size):
            sources.extend(range(start + i + 1, start + size))
            counts.append(size - i - 1)
        start += size
    return np.array(sources, np.int64), np.cumsum([0, *counts])


@pytest.mark.parametrize("most", [2, 4, 8])
@pytest.mark.parametrize("sizes", [[5, 5], [1] * 9, [3, 8, 2, 7, 6, 1, 9], [6, 4, 4, 6], [25, 30, 1], [9] * 40])
def test_no_pair_lies_in_two_groups(sizes, most):
    source, ptr = batch(sizes)
    with tuning.changed(most_groups=most, group_work=0):
        groups = find_groups(source, ptr, 128, 128)
    assert 2 <= len(groups) - 1 <= most
    assert set(groups) <= {0, *np.cumsum(sizes)}
    target = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
    np.testing.assert_array_equal(np.searchsorted(groups, source, "right"), np.searchsorted(groups, target, "right"))
    work = np.array([ptr[i] + 16 * i for i in groups])  # 128 / 8 for each atom
    assert np.diff(work).max() <= 1.2 * work[-1] / (len(groups) - 1)


@pytest.mark.parametrize("sizes", [[12], [2, 40], [40, 2], [1, 1, 60, 1]])
def test_batches_that_do_not_fall_into_groups(sizes):
    with tuning.changed(group_work=0):
        assert find_groups(*batch(sizes), 128, 128) == (0, sum(sizes))


def test_small_batches_are_one_group():
    assert find_groups(*batch([5] * 8), 128, 128) == (0, 40)


def test_a_pair_in_the_other_direction_is_not_parted():
    # atoms 0 and 3 are bound by a pair whose source comes first
    with tuning.changed(group_work=0):
        assert find_groups(np.array([0]), np.array([0, 0, 0, 0, 1, 1]), 8, 8) == (0, 5)


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("sizes", [[30, 30, 30, 30], [50]])
def test_tasks_cover_everything_once(sizes, threads):
    source, ptr = batch(sizes)
    n_atoms, n_filters, n_features = len(ptr) - 1, 100, 70
    with tuning.changed(group_work=0):
        groups = find_groups(source, ptr, n_filters, n_features)
    partition = divide(threads, groups, ptr, n_filters, n_features, 16)
    assert partition.independent == (len(groups) > 2 or threads == 1)
    assert len(partition.parts) == (min(threads, len(groups) - 1) if partition.independent else threads)
    assert partition.groups.tolist() == list(groups)
    for bounds in (partition.rows, partition.pairs):
        assert (bounds[0], bounds[-1]) == (0, n_atoms)
        assert len(bounds) == len(partition.parts) + 1
        assert (np.diff(bounds) >= 0).all()
    filters, features = np.zeros((n_atoms, n_filters)), np.zeros((n_atoms, n_features))
    for first_group, last_group, f, f_end, g, g_end in partition.parts:
        first, last = groups[first_group], groups[last_group]
        filters[first:last, f:f_end] += 1
        features[first:last, g:g_end] += 1
    assert (filters == 1).all()
    assert (features == 1).all()

"""Pairs of a few points, against a loop in Python."""

import itertools
import math

import numpy as np
import pytest

from pyg_schnet.ops.radius import closest

BACKENDS = ("numba", "reference")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [2, 3, 21])
def test_closest_pair_and_excess_are_those_of_a_loop(backend, count):
    rng = np.random.default_rng(count)
    points, limits = 3.0 * rng.standard_normal((count, 3)), rng.random((count, count))
    squares = {(i, j): math.dist(points[i], points[j]) ** 2 for i, j in itertools.combinations(range(count), 2)}
    found = closest(points, limits, backend=backend)
    assert found.extent == max(map(abs, points.ravel().tolist()))
    assert found.square == pytest.approx(min(squares.values()), rel=1e-12)
    assert found.excess == pytest.approx(min(square - limits[pair] for pair, square in squares.items()), rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_limits_belong_to_pairs(backend):
    points, limits = np.zeros((3, 3)), np.zeros((3, 3))
    points[:, 0], limits[0, 2] = [0.0, 1.0, 3.0], 10.0  # Å: only the first and the last are closer than their limit
    assert closest(points, limits, backend=backend) == (3.0, 1.0, -1.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_point_has_no_pair(backend):
    assert closest(np.array([[1.0, -2.0, 0.0]]), np.ones((1, 1)), backend=backend) == (2.0, math.inf, math.inf)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (2, 1), (4, 2)])
def test_what_is_no_number_is_seen_wherever_it_is(backend, value, place):
    points = np.arange(15.0).reshape(5, 3)
    points[place] = value
    assert np.isnan(closest(points, np.zeros((5, 5)), backend=backend)).all()

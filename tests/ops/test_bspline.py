"""Cubic B-splines against those of scipy, and what the prefilter promises."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from pyg_schnet.ops import SPAN, bspline_basis, locate, spline_table
from pyg_schnet.ops.bspline import OVERHANG

F64 = torch.float64
CUTOFF = 5.0
INTERVALS = 12


def evaluate(table, dist):
    """The spline at ``dist``, shape ``[E, F]``."""
    interval, fraction = locate(dist, CUTOFF, INTERVALS)
    basis = bspline_basis(fraction, dist < CUTOFF)
    return sum(basis[:, m : m + 1] * table[interval + m] for m in range(SPAN))


def grid_points():
    """All sampled grid points, those beyond both ends included."""
    return torch.arange(-OVERHANG, INTERVALS + 1 + OVERHANG, dtype=F64) * (CUTOFF / INTERVALS)


def derivatives(function, x, order):
    """Function and its derivatives, each shape ``[E]``."""
    x = x.clone().requires_grad_()
    found = [function(x)]
    for _ in range(order):
        found.append(torch.autograd.grad(found[-1].sum(), x, create_graph=True)[0])
    return [value.detach() for value in found]


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 2e-7), (F64, 1e-15)])
def test_basis_functions_add_up_to_one(dtype, tol):
    fraction = torch.rand(1000, dtype=dtype)
    basis = bspline_basis(fraction, torch.ones(1000, dtype=torch.bool))
    assert basis.dtype == dtype
    assert basis.shape == (1000, SPAN)
    assert (basis.sum(1) - 1.0).abs().max() <= 2 * tol
    assert basis.min() > -tol


def test_basis_is_that_of_scipy():
    fraction = torch.linspace(0.0, 1.0, 101, dtype=F64)[:-1]
    everywhere = torch.ones(100, dtype=torch.bool)
    for order in range(3):
        for m in range(SPAN):
            found = derivatives(lambda t, m=m: bspline_basis(t, everywhere)[:, m], fraction, order)[order]
            # row m acts from interval m - 3 to interval m
            expected = BSpline.basis_element(np.arange(m - 3, m + 2)).derivative(order)(fraction.numpy())
            np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-14)


def test_points_outside_do_not_count():
    fraction = torch.tensor([0.3, 7.0], dtype=F64, requires_grad=True)
    basis = bspline_basis(fraction, torch.tensor([True, False]))
    assert basis[0].sum() > 0.99
    assert not basis[1].any()
    (slope,) = torch.autograd.grad(basis[:, 3].sum(), fraction, create_graph=True)
    assert slope.tolist() == [pytest.approx(0.5 * 0.3**2), 0.0]
    (curvature,) = torch.autograd.grad(slope.sum(), fraction)
    assert curvature.tolist() == [pytest.approx(0.3), 0.0]


def test_derivatives_of_basis():
    inside = torch.tensor([True, True, False, True])
    fraction = torch.rand(4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: bspline_basis(t, inside), (fraction,))
    assert torch.autograd.gradgradcheck(lambda t: bspline_basis(t, inside), (fraction,))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_locate_stays_on_the_grid(dtype):
    end = torch.tensor(CUTOFF, dtype=dtype)
    below = torch.nextafter(end, torch.zeros_like(end)).item()
    awkward = [0.0, below, CUTOFF, CUTOFF + 0.1, 1e6, 1e30, math.inf, -0.1, -math.inf, math.nan]
    for n in (1, 7, 97, 629):
        interval, fraction = locate(torch.tensor(awkward, dtype=dtype), CUTOFF, n)
        assert interval.dtype == torch.int64
        assert fraction.dtype == dtype
        assert interval.min() >= 0
        assert interval.max() < n
        assert (interval[0].item(), fraction[0].item()) == (0, 0.0)
        assert interval[1] == n - 1
        assert fraction[1] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 2e-6), (F64, 1e-14)])
def test_locate_loses_nothing(dtype, tol):
    dist = torch.linspace(0.0, CUTOFF, 1001, dtype=dtype)[:-1].requires_grad_()
    interval, fraction = locate(dist, CUTOFF, INTERVALS)
    spacing = CUTOFF / INTERVALS
    assert ((interval + fraction) * spacing - dist).abs().max() < tol
    assert fraction.min() >= 0.0
    assert fraction.max() <= 1.0
    (slope,) = torch.autograd.grad(fraction.sum(), dist)
    torch.testing.assert_close(slope, torch.full_like(slope, 1.0 / spacing))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_distances_that_are_no_numbers_show(dtype):
    dist = torch.tensor([1.0, math.nan], dtype=dtype)
    value = evaluate(torch.ones(INTERVALS + 3, 2, dtype=dtype), dist)
    assert torch.isfinite(value[0]).all()
    assert torch.isnan(value[1]).all()


@pytest.mark.parametrize("degree", range(5))
def test_cubic_polynomials_are_reproduced(degree):
    polynomial = np.polynomial.Polynomial(np.random.default_rng(degree).normal(size=degree + 1), [0.0, CUTOFF], [-1, 1])
    table = spline_table(torch.from_numpy(polynomial(grid_points().numpy())).unsqueeze(1), False)
    dist = torch.linspace(0.0, CUTOFF, 200, dtype=F64)[:-1]
    found = derivatives(lambda d: evaluate(table, d)[:, 0], dist, 2)
    for order, value in enumerate(found):
        expected = polynomial.deriv(order)(dist.numpy()) if order else polynomial(dist.numpy())
        worst = np.abs(value.numpy() - expected).max()
        assert worst < 1e-12 if degree < 4 else worst > 1e-6


def test_table_is_the_stencil():
    samples = torch.randn(30, 3, dtype=F64)
    f = samples.numpy()
    second, fourth = np.diff(f, 2, axis=0), np.diff(f, 4, axis=0)
    expected = f[2:-2] - second[1:-1] / 6 + fourth / 36
    np.testing.assert_allclose(spline_table(samples, False).numpy(), expected, rtol=0, atol=1e-14)
    vanishing = spline_table(samples, True).numpy()
    np.testing.assert_allclose(vanishing[:-2], expected[:-2], rtol=0, atol=1e-14)
    assert np.abs(vanishing[-2:] - expected[-2:]).max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_value_and_slope_vanish_at_the_end(dtype):
    samples = torch.randn(INTERVALS + 1 + 2 * OVERHANG, 4, dtype=dtype)
    for vanishing in (True, False):
        c = spline_table(samples, vanishing)
        end = bspline_basis(torch.ones(1, dtype=dtype), torch.tensor([True]))
        value = end @ c[-4:]
        slope = (c[-1] - c[-3]) / 2
        assert (value.abs().max() < 1e-6) == vanishing
        assert (slope.abs().max() == 0) == vanishing


def test_samples_are_not_changed():
    samples = torch.randn(20, 2, dtype=F64)
    before = samples.clone()
    spline_table(samples, True)
    assert torch.equal(samples, before)


@pytest.mark.parametrize("n", [7, 8, 15])
@pytest.mark.parametrize("vanishing", [True, False])
def test_derivatives_of_table(vanishing, n):
    samples = torch.randn(n, 2, dtype=F64, requires_grad=True)

    def function(samples):
        return spline_table(samples, vanishing)

    assert torch.autograd.gradcheck(function, (samples,))
    assert torch.autograd.gradgradcheck(function, (samples,))


def test_two_derivatives_are_continuous():
    table = torch.randn(INTERVALS + 3, 1, dtype=F64)
    everywhere = torch.ones(INTERVALS, dtype=torch.bool)
    first = torch.arange(INTERVALS)

    def spline(fraction):
        return sum(bspline_basis(fraction, everywhere)[:, m] * table[first + m, 0] for m in range(SPAN))

    begin, end = (derivatives(spline, torch.full((INTERVALS,), t, dtype=F64), 3) for t in (0.0, 1.0))
    jumps = [(b[1:] - e[:-1]).abs().max().item() for b, e in zip(begin, end, strict=True)]
    assert max(jumps[:3]) < 1e-13
    assert jumps[3] > 0.1

"""Lengths of edges and their spline weights, edge by edge, against the formulas on whole tensors."""

import math

import pytest
import torch
from torch.autograd import forward_ad

from pyg_schnet.ops import bspline_basis, edge_lengths, locate, spline_basis

F64 = torch.float64
CUTOFF, INTERVALS, IGNORED = 5.0, 12, 9.0


@pytest.fixture(params=[torch.float32, F64])
def dtype(request):
    return request.param


def draw(dtype=F64, n_atoms=5, n_edges=14):
    random = torch.Generator().manual_seed(0)
    pos = 2.0 * torch.randn(n_atoms, 3, generator=random, dtype=F64)
    source, target = torch.randint(n_atoms, (2, n_edges), generator=random)
    target = torch.where(target == source, (target + 1) % n_atoms, target)
    return pos.to(dtype), source, target, torch.randn(n_edges, 3, generator=random, dtype=F64).to(dtype)


@pytest.mark.parametrize("periodic", [False, True])
def test_lengths(dtype, periodic):
    pos, source, target, offset = draw(dtype)
    found = edge_lengths(pos, source, target, offset if periodic else None, IGNORED)
    vec = pos[source].double() - pos[target].double() + (offset.double() if periodic else 0.0)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), vec.norm(dim=1), rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=0)


def test_atoms_themselves_are_ignored_but_not_their_images():
    pos, ends = torch.randn(3, 3, dtype=F64), torch.tensor([0, 1, 2])
    offset = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=F64)
    assert edge_lengths(pos, ends, ends, None, IGNORED).tolist() == [IGNORED] * 3
    assert edge_lengths(pos, ends, ends, offset, IGNORED).tolist() == [IGNORED, 3.0, IGNORED]
    together = torch.zeros(2, 3, dtype=F64)
    assert edge_lengths(together, torch.tensor([1]), torch.tensor([0]), None, IGNORED).tolist() == [0.0]
    assert edge_lengths(pos, ends[:0], ends[:0], None, IGNORED).shape == (0,)


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_derivatives_of_lengths(layout):
    pos, source, target, offset = draw()
    pos = pos if layout == "rows" else pos.t().contiguous().t()
    inputs = pos.requires_grad_(), offset.requires_grad_()

    def periodic(pos, offset):
        return edge_lengths(pos, source, target, offset, IGNORED)

    def open_boundaries(pos):
        return edge_lengths(pos, source, target, None, IGNORED)

    for function, chosen in ((periodic, inputs), (open_boundaries, inputs[:1])):
        assert torch.autograd.gradcheck(function, chosen)
        assert torch.autograd.gradgradcheck(function, chosen)
    for fixed in (0, 1):
        detached = [value.detach() if k == fixed else value for k, value in enumerate(inputs)]
        assert torch.autograd.gradcheck(periodic, tuple(detached))
        assert torch.autograd.gradgradcheck(periodic, tuple(detached))


def test_gradients_of_coincident_atoms_vanish():
    pos = torch.zeros(2, 3, dtype=F64, requires_grad=True)
    dist = edge_lengths(pos, torch.tensor([1, 0, 0]), torch.tensor([0, 1, 0]), None, IGNORED)
    (gradient,) = torch.autograd.grad(dist.sum(), pos, create_graph=True)
    assert not gradient.any()
    (gradient,) = torch.autograd.grad(edge_lengths(pos, *torch.tensor([[1], [0]]), None, IGNORED).sum(), pos)
    assert not gradient.any()


@pytest.mark.parametrize("bad", [-1, 5])
def test_atoms_that_are_not_there(bad):
    pos, source, target, offset = draw()
    for k in range(2):
        ends = [source.clone(), target.clone()]
        ends[k][3] = bad
        with pytest.raises(IndexError, match="edges must name atoms 0 to 4"):
            edge_lengths(pos, *ends, offset, IGNORED)


AWKWARD = [0.0, 1e-30, CUTOFF / INTERVALS, CUTOFF, CUTOFF + 0.1, 1e6, 1e30, math.inf]


def test_weights_are_those_of_the_formulas(dtype):
    end = torch.tensor(CUTOFF, dtype=dtype)
    below = torch.nextafter(end, torch.zeros_like(end)).item()
    dist = torch.cat([torch.tensor([*AWKWARD, below], dtype=dtype), CUTOFF * torch.rand(500, dtype=dtype)])
    bins, weights = spline_basis(dist, CUTOFF, INTERVALS)
    interval, fraction = locate(dist, CUTOFF, INTERVALS)
    inside = dist < CUTOFF
    assert bins.dtype == torch.int64
    assert bins.min() >= 0
    assert bins.max() < INTERVALS
    assert not weights[~inside].any()
    assert torch.equal(bins[inside], interval[inside])
    expected = bspline_basis(fraction, inside)
    torch.testing.assert_close(
        weights[inside], expected[inside], rtol=0, atol=3e-7 if dtype == torch.float32 else 1e-15
    )


def test_distances_that_are_no_numbers_show(dtype):
    bins, weights = spline_basis(torch.tensor([1.0, math.nan], dtype=dtype), CUTOFF, INTERVALS)
    assert 0 <= bins[1] < INTERVALS
    assert torch.isfinite(weights[0]).all()
    assert torch.isnan(weights[1]).any()


def test_derivatives_of_weights():
    dist = torch.tensor([0.3, 1.7, 4.9, 6.0], dtype=F64, requires_grad=True)

    def function(dist):
        return spline_basis(dist, CUTOFF, INTERVALS)[1]

    assert torch.autograd.gradcheck(function, (dist,))
    assert torch.autograd.gradgradcheck(function, (dist,))
    beyond = torch.tensor([CUTOFF, math.inf], dtype=F64, requires_grad=True)
    assert torch.autograd.grad(function(beyond).sum(), beyond)[0].tolist() == [0.0, 0.0]


def test_forward_derivatives():
    pos, index = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]], dtype=F64), torch.tensor([[1, 0], [0, 1]])
    along = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 2.0]], dtype=F64)  # 2 Å along the bond
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(pos, along)
        found = forward_ad.unpack_dual(edge_lengths(dual, *index, None, 5.0))
        assert found.primal.tolist() == [1.5, 1.5]
        assert found.tangent.tolist() == [2.0, 2.0]
        tangent = forward_ad.unpack_dual(spline_basis(dual[1:, 2], 5.0, 8)[1]).tangent
    step = 1e-6
    above, below = (spline_basis(pos[1:, 2] + sign * step * along[1:, 2], 5.0, 8)[1] for sign in (1, -1))
    torch.testing.assert_close(tangent, (above - below) / (2 * step), rtol=1e-7, atol=1e-8)

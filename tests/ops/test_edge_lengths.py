"""What is particular to lengths of edges and their spline basis; the rest is in the contract."""

import math

import pytest
import torch

from pyg_schnet.ops import bspline_basis, edge_lengths, locate, spline_basis

F64 = torch.float64
CUTOFF, INTERVALS, LOOP = 5.0, 12, 9.0

each_backend = pytest.mark.parametrize("backend", ["reference", "numba"])


@pytest.fixture(params=[torch.float32, F64])
def dtype(request):
    return request.param


@each_backend
def test_atoms_themselves_get_another_length_but_not_their_images(backend):
    pos, ends = torch.randn(3, 3, dtype=F64), torch.tensor([[0, 1, 2], [0, 1, 2]])
    shift, cell = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 0, 0]]), 3.0 * torch.eye(3, dtype=F64)
    how = {"loop_length": LOOP, "backend": backend}
    assert edge_lengths(pos, ends, **how).tolist() == [LOOP] * 3
    assert edge_lengths(pos, ends, shift, cell, **how).tolist() == [LOOP, 3.0, LOOP]
    assert edge_lengths(pos, ends, backend=backend).tolist() == [0.0] * 3
    together = torch.zeros(2, 3, dtype=F64)
    assert edge_lengths(together, torch.tensor([[1], [0]]), **how).tolist() == [0.0]


@each_backend
def test_gradients_of_coincident_atoms_vanish(backend):
    pos, ends = torch.zeros(2, 3, dtype=F64, requires_grad=True), torch.tensor([[1, 0, 0], [0, 1, 0]])
    for create_graph in (False, True):
        dist = edge_lengths(pos, ends, loop_length=LOOP, backend=backend)
        (gradient,) = torch.autograd.grad(dist.sum(), pos, create_graph=create_graph)
        assert not gradient.any()
    (curvature,) = torch.autograd.grad(gradient.square().sum(), pos, allow_unused=True, materialize_grads=True)
    assert not curvature.any()


@each_backend
@pytest.mark.parametrize("bad", [-1, 5])
@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("periodic", [False, True])
def test_atoms_that_are_not_there(periodic, end, bad, backend):
    pos, index = torch.randn(5, 3), torch.tensor([[1, 2, 3], [0, 0, 4]])
    index[end, 1] = bad
    lattice = (torch.zeros(3, 3, dtype=torch.int64), torch.eye(3)) if periodic else ()
    with pytest.raises(IndexError, match="edges must name atoms 0 to 4"):
        edge_lengths(pos, index, *lattice, backend=backend)


@pytest.mark.parametrize("bad", [-1, 2])
def test_cells_that_are_not_there(bad):
    pos, index, shift = torch.randn(3, 3), torch.tensor([[1, 2], [0, 1]]), torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(IndexError, match=r"atoms cells 0 to 1, got batch from .* to .*"):
        edge_lengths(pos, index, shift, torch.eye(3).repeat(2, 1, 1), torch.tensor([0, bad, 1]))


@each_backend
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"edge_shift": torch.zeros(1, 3, dtype=torch.int64)},
            r"edge_shift must count .* each of the 2 edges, \[E, 3\]",
        ),
        ({"edge_shift": torch.zeros(2, 2, dtype=torch.int64)}, r"edge_shift must count .* got \[2, 2\]"),
        ({"edge_index": torch.zeros(4, dtype=torch.int64)}, r"edge_index must hold \(j, i\) of each edge"),
        ({"cell": None}, "edge_shift counts lattice vectors, so it needs cell"),
        ({"cell": torch.eye(2)}, r"cell must hold lattice vectors in rows, \[B, 3, 3\] in Å; got \[2, 2\]"),
        ({"batch": None}, "2 cells need batch"),
        ({"batch": torch.tensor([0])}, "batch must name the structure of each of the 3 atoms"),
    ],
)
def test_shapes_that_do_not_fit(change, message, backend):
    """Kernels would read the memory of others."""
    given = {
        "edge_index": torch.tensor([[1, 2], [0, 1]]),
        "edge_shift": torch.zeros(2, 3, dtype=torch.int64),
        "cell": torch.eye(3).repeat(2, 1, 1),
        "batch": torch.tensor([0, 0, 1]),
    }
    with pytest.raises(ValueError, match=message):
        edge_lengths(torch.randn(3, 3), **{**given, **change}, backend=backend)


def test_gradients_of_many_edges_are_summed_in_float64():
    pos = torch.zeros(2, 3)
    pos[1, 0] = 1.0
    index = torch.tensor([[1], [0]]).expand(2, 100_000)
    factors = torch.full((100_000,), 0.1)
    for backend in ("reference", "numba"):
        x = pos.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(edge_lengths(x, index, backend=backend), x, factors)
        assert gradient[1, 0].item() == pytest.approx(factors.double().sum().item(), rel=1e-7)


AWKWARD = [0.0, 1e-30, CUTOFF / INTERVALS, CUTOFF, CUTOFF + 0.1, 1e6, 1e30, math.inf]


@each_backend
def test_basis_is_that_of_the_formulas(dtype, backend):
    end = torch.tensor(CUTOFF, dtype=dtype)
    below = torch.nextafter(end, torch.zeros_like(end)).item()
    dist = torch.cat([torch.tensor([*AWKWARD, below], dtype=dtype), CUTOFF * torch.rand(500, dtype=dtype)])
    found, basis = spline_basis(dist, CUTOFF, INTERVALS, backend=backend)
    interval, fraction = locate(dist, CUTOFF, INTERVALS)
    inside = dist < CUTOFF
    assert found.dtype == torch.int64
    assert found.min() >= 0
    assert found.max() < INTERVALS
    assert not basis[~inside].any()
    assert torch.equal(found[inside], interval[inside])
    expected = bspline_basis(fraction, inside)[inside]
    torch.testing.assert_close(basis[inside], expected, rtol=0, atol=3e-7 if dtype == torch.float32 else 1e-15)


@each_backend
def test_distances_that_are_no_numbers_show(dtype, backend):
    dist = torch.tensor([1.0, math.nan], dtype=dtype)
    interval, basis = spline_basis(dist, CUTOFF, INTERVALS, backend=backend)
    assert 0 <= interval[1] < INTERVALS
    assert torch.isfinite(basis[0]).all()
    assert torch.isnan(basis[1]).all()


@each_backend
def test_derivatives_vanish_from_the_cutoff_on(backend):
    beyond = torch.tensor([CUTOFF, math.inf], dtype=F64, requires_grad=True)
    for create_graph in (False, True):
        basis = spline_basis(beyond, CUTOFF, INTERVALS, backend=backend)[1]
        (slope,) = torch.autograd.grad(basis.sum(), beyond, create_graph=create_graph)
        assert slope.tolist() == [0.0, 0.0]

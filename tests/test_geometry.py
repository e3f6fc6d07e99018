import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list

from pyg_schnet.geometry import apply_strain, edge_distances, edge_vectors, safe_norm, volume

F64 = torch.float64


def test_safe_norm_is_the_norm():
    vec = torch.randn(7, 3, dtype=F64)
    torch.testing.assert_close(safe_norm(vec), torch.linalg.norm(vec, dim=-1), rtol=1e-15, atol=0)
    assert safe_norm(vec, dim=0, keepdim=True).shape == (1, 3)
    torch.testing.assert_close(safe_norm(vec, dim=0), torch.linalg.norm(vec, dim=0), rtol=1e-15, atol=0)


def test_safe_norm_has_zero_derivatives_at_zero():
    vec = torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0]], dtype=F64, requires_grad=True)
    norm = safe_norm(vec)
    assert norm.tolist() == [0.0, 5.0]
    (first,) = torch.autograd.grad(norm.sum(), vec, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), vec)
    assert first[0].tolist() == [0.0, 0.0, 0.0]
    assert first[1].tolist() == pytest.approx([0.6, 0.8, 0.0], rel=1e-15)
    assert second[0].tolist() == [0.0, 0.0, 0.0]
    assert torch.isfinite(second).all()


def test_safe_norm_gradients():
    vec = torch.randn(4, 3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(safe_norm, (vec,))
    assert torch.autograd.gradgradcheck(safe_norm, (vec,))


def test_vector_points_from_centre_to_neighbour():
    pos = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    vec = edge_vectors(pos, torch.tensor([[1], [0]]))  # source 1, target 0
    assert vec.tolist() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize("name", ["nacl", "triclinic", "slab", "small_cell"])
def test_vectors_of_crystals_are_those_of_ase(name, request, periodic_tensors):
    atoms = request.getfixturevalue(name)
    i, j, S, D = neighbor_list("ijSD", atoms, 4.5)
    given = periodic_tensors(atoms)
    edge_index, shift = torch.from_numpy(np.stack([j, i])), torch.from_numpy(S)
    for cell in (given["cell"], given["cell"][0]):
        vec = edge_vectors(given["pos"], edge_index, shift, cell)
        np.testing.assert_allclose(vec.numpy(), D, atol=1e-13)
    np.testing.assert_allclose(edge_distances(given["pos"], edge_index, shift, cell), np.linalg.norm(D, axis=1))


def test_each_structure_has_its_own_cell(triclinic, small_cell, periodic_tensors):
    together = periodic_tensors(triclinic, small_cell)
    i, j, S, D = zip(*(neighbor_list("ijSD", atoms, 4.0) for atoms in (triclinic, small_cell)), strict=True)
    offset = [0, len(triclinic)]
    edge_index = torch.from_numpy(
        np.stack([np.concatenate([part + o for part, o in zip(x, offset, strict=True)]) for x in (j, i)])
    )
    shift = torch.from_numpy(np.concatenate(S))
    vec = edge_vectors(together["pos"], edge_index, shift, together["cell"], together["batch"])
    np.testing.assert_allclose(vec.numpy(), np.concatenate(D), atol=1e-13)


def test_vectors_are_differentiable_in_positions_and_cell():
    pos = torch.randn(3, 3, dtype=F64, requires_grad=True)
    cell = torch.randn(2, 3, 3, dtype=F64, requires_grad=True)
    edge_index = torch.tensor([[0, 1, 2, 2], [1, 0, 2, 2]])
    shift, batch = torch.tensor([[1, 0, -1], [-1, 0, 1], [0, 2, 0], [0, -2, 0]]), torch.tensor([0, 0, 1])
    assert torch.autograd.gradcheck(lambda p, c: edge_vectors(p, edge_index, shift, c, batch), (pos, cell))
    assert torch.autograd.gradcheck(lambda p, c: edge_distances(p, edge_index, shift, c, batch), (pos, cell))


def test_shift_needs_a_cell():
    pos, edge_index, shift = torch.zeros(2, 3), torch.tensor([[1], [0]]), torch.tensor([[0, 0, 1]])
    with pytest.raises(ValueError, match="it needs cell"):
        edge_vectors(pos, edge_index, shift)
    with pytest.raises(ValueError, match="2 cells need batch"):
        edge_vectors(pos, edge_index, shift, torch.eye(3).repeat(2, 1, 1))


@pytest.mark.parametrize("name", ["nacl", "triclinic", "slab", "small_cell"])
def test_volumes_are_those_of_ase(name, request):
    atoms = request.getfixturevalue(name)
    turned = atoms.cell.array[[1, 0, 2]]  # left-handed
    cells = torch.from_numpy(np.stack([atoms.cell.array, turned, 2.0 * atoms.cell.array]))
    expected = atoms.get_volume() * np.array([1.0, 1.0, 8.0])
    np.testing.assert_allclose(volume(cells), expected, rtol=1e-13)


def test_strain_deforms_each_structure_as_ase_does(triclinic, small_cell, periodic_tensors):
    given = periodic_tensors(triclinic, small_cell)
    strain = 0.1 * np.random.default_rng(0).normal(size=(2, 3, 3))  # not symmetric
    pos, cell = apply_strain(given["pos"], given["cell"], torch.from_numpy(strain), given["batch"])
    for atoms, one, rows, vectors in zip((triclinic, small_cell), strain, pos.split([5, 2]), cell, strict=True):
        moved = atoms.copy()
        moved.set_cell(atoms.cell.array @ (np.eye(3) + one), scale_atoms=True)
        np.testing.assert_allclose(rows, moved.positions, atol=1e-12)
        np.testing.assert_allclose(vectors, moved.cell.array, atol=1e-12)


def test_integer_shifts_keep_the_precision_of_positions():
    pos, edge_index, shift = torch.zeros(1, 3), torch.tensor([[0], [0]]), torch.tensor([[1, 0, 0]])
    for dtype in (torch.float32, torch.float64):
        vec = edge_vectors(pos.to(dtype), edge_index, shift.int(), torch.eye(3, dtype=dtype))
        assert vec.dtype == dtype

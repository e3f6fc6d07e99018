"""What every model must respect in crystals, slabs and cells smaller than the cutoff."""

import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list

from pyg_schnet import radius_graph
from pyg_schnet import testing as contract

from .test_contract import CUTOFF, MODELS, build

F64 = torch.float64
CRYSTALS = ["nacl", "triclinic", "slab", "small_cell"]


@pytest.fixture(params=MODELS)
def model(request):
    return build(request.param)


@pytest.fixture(params=CRYSTALS)
def atoms(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def crystal(atoms, periodic_tensors):
    return periodic_tensors(atoms)


def alone(crystal):
    return {key: value for key, value in crystal.items() if key != "batch"}


def test_supercell(model, crystal):
    contract.check_supercell(model, **alone(crystal))
    contract.check_supercell(model, **alone(crystal), repeats=(1, 3, 1))


@pytest.mark.parametrize("name", MODELS)
def test_supercell_of_means(name, crystal):
    contract.check_supercell(build(name, "mean"), **alone(crystal), extensive=False)


def test_rewrapped_atoms(model, crystal):
    contract.check_rewrapping(model, **alone(crystal))


def test_rotation_and_reflection(model, crystal):
    contract.check_rotation(model, **crystal)
    contract.check_reflection(model, **crystal)


def test_translation(model, crystal):
    contract.check_translation(model, **crystal)


def test_permutation(model, crystal):
    contract.check_permutation(model, **crystal)


def test_batching(model, periodic_tensors, nacl, triclinic, slab, small_cell, water):
    contract.check_batching(model, **periodic_tensors(nacl, triclinic, slab, small_cell, water))


def test_another_description_of_the_lattice(model, triclinic, periodic_tensors):
    # a + b instead of a spans the same lattice
    structure = periodic_tensors(triclinic)
    other = {**structure, "cell": torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, -2, 1]], dtype=F64) @ structure["cell"]}
    torch.testing.assert_close(model(**other), model(**structure), rtol=1e-10, atol=1e-10)


def test_left_handed_cells(model, triclinic, periodic_tensors):
    structure = periodic_tensors(triclinic)
    other = {**structure, "cell": structure["cell"][:, [1, 0, 2]]}
    torch.testing.assert_close(model(**other), model(**structure), rtol=1e-10, atol=1e-10)


def test_edges_of_ase(model, atoms, crystal):
    i, j, shift = neighbor_list("ijS", atoms, CUTOFF)
    given = {"edge_index": torch.from_numpy(np.stack([j, i])), "edge_shift": torch.from_numpy(shift)}
    assert len(i) > 0
    torch.testing.assert_close(model(**crystal, **given), model(**crystal), rtol=1e-11, atol=1e-11)
    edge_index, edge_shift = radius_graph(crystal["pos"], CUTOFF, cell=crystal["cell"], pbc=crystal["pbc"])
    built = model(**crystal, edge_index=edge_index, edge_shift=edge_shift)
    torch.testing.assert_close(built, model(**crystal), rtol=1e-11, atol=1e-11)


def test_open_axes_do_not_repeat(model, slab, periodic_tensors):
    # the height of the cell means nothing to a slab
    structure = periodic_tensors(slab)
    lower = structure["cell"].clone()
    lower[:, 2] = 0.0
    torch.testing.assert_close(model(**{**structure, "cell": lower}), model(**structure), rtol=1e-12, atol=1e-12)
    everywhere = structure["pbc"].clone().fill_(True)
    lower[:, 2] = torch.tensor([0.0, 0.0, 4.6], dtype=F64)
    assert (model(**{**structure, "cell": lower, "pbc": everywhere}) - model(**structure)).abs().max() > 1e-6


def test_no_periodic_axis_is_a_molecule(model, ethanol, periodic_tensors, tensors):
    structure = periodic_tensors(ethanol)
    assert not structure["pbc"].any()
    torch.testing.assert_close(model(**structure), model(**tensors(ethanol)), rtol=1e-12, atol=1e-12)


def test_derivatives(model, small_cell, periodic_tensors):
    contract.check_derivatives(model, **periodic_tensors(small_cell), second=False)


@pytest.mark.parametrize("name", ["schnet", "schnet-spline", "dtnn-cosine"])
def test_derivatives_by_positions_and_cell(name, small_cell, periodic_tensors):
    model, structure = build(name), periodic_tensors(small_cell)
    edge_index, edge_shift = radius_graph(structure["pos"], CUTOFF, cell=structure["cell"], pbc=structure["pbc"])

    def energy(pos, cell):
        return model(structure["z"], pos, edge_index=edge_index, edge_shift=edge_shift, cell=cell)

    inputs = (structure["pos"].requires_grad_(), structure["cell"].requires_grad_())
    assert torch.autograd.gradcheck(energy, inputs)
    assert torch.autograd.gradgradcheck(energy, inputs)


def test_gradients_are_finite(model, crystal):
    contract.check_finite_gradients(model, **crystal)


def test_forces_add_up_to_zero(model, crystal):
    pos = crystal["pos"].requires_grad_()
    (gradient,) = torch.autograd.grad(model(**crystal).sum(), pos)
    assert gradient.sum(0).abs().max() < 1e-11

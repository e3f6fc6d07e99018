"""Committees on batches against single potentials, one structure after the other."""

import pytest
import torch
from ase.build import bulk

from pyg_schnet import SchNet
from pyg_schnet.interfaces.committee import Committee
from pyg_schnet.potential import Potential
from tests.interfaces.models import soft_model


def test_members_and_structures_stay_apart(periodic_tensors, triclinic, small_cell):
    models = [soft_model(0), soft_model(1)]
    given = periodic_tensors(triclinic, small_cell)
    lattice = {"cell": given["cell"], "pbc": given["pbc"]}
    committee = Committee(models, "eV")
    found = committee(given["z"], given["pos"], given["batch"], 2, **lattice, stress=True)
    for k, model in enumerate(models):
        for b, atoms in enumerate((triclinic, small_cell)):
            alone = periodic_tensors(atoms)
            expected = Potential(model, "eV")(
                alone["z"], alone["pos"], cell=alone["cell"], pbc=alone["pbc"], stress=True
            )
            rows = given["batch"] == b
            torch.testing.assert_close(found.energy[k, b], expected.energy[0], rtol=1e-12, atol=0)
            torch.testing.assert_close(found.forces[k, rows], expected.forces, rtol=0, atol=1e-12)
            torch.testing.assert_close(found.stress[k, b], expected.stress[0], rtol=0, atol=1e-12)


def test_molecules_have_no_stress(tensors, water, ethanol):
    given = tensors(water, ethanol)
    found = Committee(soft_model(), "eV")(given["z"], given["pos"], given["batch"], 2, stress=True)
    assert found.stress.shape == (1, 2, 3, 3)
    assert not found.stress.any()
    assert found.forces.abs().max() > 1e-3


def test_lists_are_reused_and_stay_exact(periodic_tensors):
    atoms = bulk("Si", cubic=True) * (2, 1, 1)
    atoms.rattle(0.1, seed=0)
    given = periodic_tensors(atoms, atoms)
    lattice = {"cell": given["cell"], "pbc": given["pbc"]}
    committee, potential = Committee(soft_model(), "eV", skin=0.5), Potential(soft_model(), "eV")
    generator = torch.Generator().manual_seed(0)
    pos = given["pos"]
    for _ in range(4):
        found = committee(given["z"], pos, given["batch"], 2, **lattice)
        expected = potential(given["z"], pos, given["batch"], **lattice, batch_size=2)
        torch.testing.assert_close(found.forces[0], expected.forces, rtol=0, atol=1e-12)
        pos = pos + 0.03 * torch.rand(pos.shape, generator=generator, dtype=pos.dtype)
    assert committee._neighbors.n_rebuilds == 1


def test_structures_are_compared_when_they_change(tensors, water, ethanol):
    model = soft_model()
    model.card["elements"] = ["H", "O"]
    committee = Committee(model, "eV")
    given = tensors(water)
    committee(given["z"], given["pos"], given["batch"], 1)
    given = tensors(ethanol)
    with pytest.raises(ValueError, match="not trained on C; it knows H, O"):
        committee(given["z"], given["pos"], given["batch"], 1)


def test_an_empty_committee_is_refused():
    with pytest.raises(ValueError, match="model is empty"):
        Committee([], "eV")


class Wrapper:
    """No module: a function that keeps the model it calls, twice its energy, and finds edges itself."""

    def __init__(self, model):
        self.model = model

    def __call__(self, z, pos, batch=None, *, cell=None, pbc=None, batch_size=None):
        return 2.0 * self.model(z, pos, batch, cell=cell, pbc=pbc, batch_size=batch_size)


class DoubledPotential(Potential):
    """A potential whose call was overridden."""

    def __call__(self, *args, **options):
        found = super().__call__(*args, **options)
        return found._replace(energy=2.0 * found.energy)


def test_a_function_with_a_model_is_called(tensors, periodic_tensors, water, ethanol, triclinic):
    model = soft_model().requires_grad_(False)
    committee = Committee([Wrapper(model), Wrapper(soft_model(0))], "eV")
    given = tensors(water, ethanol)
    found = committee(given["z"], given["pos"], given["batch"], 2)
    expected = Potential(model, "eV")(given["z"], given["pos"], given["batch"], batch_size=2)
    torch.testing.assert_close(found.energy[0], 2.0 * expected.energy, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.forces[0], 2.0 * expected.forces, rtol=0, atol=1e-7)  # splined differently
    given = periodic_tensors(triclinic)
    lattice = {"cell": given["cell"], "pbc": given["pbc"]}
    found = committee(given["z"], given["pos"], given["batch"], 1, **lattice, stress=True)
    expected = Potential(model, "eV")(given["z"], given["pos"], **lattice, stress=True)
    torch.testing.assert_close(found.stress[0], 2.0 * expected.stress, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("cutoff", [4.0, 6.0])
def test_what_replaces_a_potential_is_called(cutoff, tensors, periodic_tensors, water, triclinic):
    crystal, molecule = periodic_tensors(triclinic), tensors(water)
    lattice = {"cell": crystal["cell"], "pbc": crystal["pbc"]}
    committee = Committee([soft_model(0), soft_model(1)], "eV")
    committee(crystal["z"], crystal["pos"], crystal["batch"], 1, **lattice)  # whose list has edges up to 4 Å
    torch.manual_seed(2)
    replaced = DoubledPotential(SchNet(16, 16, 2, 12, cutoff).double().eval(), "eV")
    committee.potentials[1] = replaced
    for given, options in ((molecule, {}), (crystal, lattice)):
        found = committee(given["z"], given["pos"], given["batch"], 1, **options)
        expected = replaced(given["z"], given["pos"], **options)
        torch.testing.assert_close(found.energy[1], expected.energy, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.forces[1], expected.forces, rtol=0, atol=1e-11)


def test_a_hook_of_a_member_is_called(tensors, water):
    given, committee = tensors(water), Committee([soft_model(0), soft_model(1)], "eV")
    before = committee(given["z"], given["pos"], given["batch"], 1)
    committee.members.models[1].register_forward_hook(lambda module, inputs, energy: 2.0 * energy)
    found = committee(given["z"], given["pos"], given["batch"], 1)
    for one, other in zip(found[:2], before[:2], strict=True):
        assert torch.equal(one[0], other[0])
        torch.testing.assert_close(one[1], 2.0 * other[1], rtol=0, atol=1e-11)

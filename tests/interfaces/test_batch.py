"""Many structures in one evaluation, against one by one."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from ase.mep import NEB
from ase.optimize import FIRE

from pyg_schnet import SchNet
from pyg_schnet.interfaces import BatchCalculator, SchNetCalculator, relax
from pyg_schnet.models.domain import Domain
from pyg_schnet.nn import DipoleReadout


def schnet(seed=0, **options):
    torch.manual_seed(seed)
    return SchNet(16, 16, 2, 12, 4.0, **options).double().eval()


@pytest.fixture
def structures(ethanol, water, slab, triclinic, isolated_atom, small_cell):
    return [ethanol, slab, water, triclinic, isolated_atom, small_cell]


@pytest.mark.parametrize("models", [[schnet()], [schnet(0), schnet(1)]])
@pytest.mark.parametrize("max_atoms", [20_000, 10])
def test_results_are_those_of_single_structures(models, max_atoms, structures):
    batch = BatchCalculator(models, unit="kcal/mol", max_atoms=max_atoms)
    for _ in range(3):  # the second and third time with kept lists
        found = batch(structures, ("energy", "forces", "stress"))
        for atoms, results in zip(structures, found, strict=True):
            single = SchNetCalculator(models, unit="kcal/mol")
            single.calculate(atoms, ["forces", *(["stress"] if atoms.cell.volume > 0 else [])])
            assert results.keys() == single.results.keys()
            for name, value in single.results.items():
                np.testing.assert_allclose(results[name], value, rtol=1e-10, atol=1e-11)
            atoms.rattle(0.02, seed=5)


def test_float32_far_from_the_origin(water, ethanol):
    batch = BatchCalculator(schnet(), unit="eV", dtype=torch.float32)
    near = batch([water, ethanol])
    far = [water.copy(), ethanol.copy()]
    far[0].positions += 1e5
    for one, other in zip(near, batch(far), strict=True):
        np.testing.assert_allclose(other["forces"], one["forces"], atol=1e-4)


def test_only_what_is_asked_for(water):
    batch = BatchCalculator(schnet(), unit="eV")
    (results,) = batch([water], ["energy"])
    assert results.keys() == {"energy", "free_energy"}
    assert batch([]) == []
    with pytest.raises(ValueError, match="properties are some of energy, forces, stress, got dipole"):
        batch([water], ["dipole"])


def test_what_a_model_cannot_have_is_refused(water, ethanol, triclinic):
    model = schnet()
    model.card["elements"] = ["H", "O", "C"]
    batch = BatchCalculator(model, unit="eV")
    batch([water, ethanol])
    with pytest.raises(ValueError, match="was not trained on"):
        batch([water, triclinic])
    moved = ethanol.copy()
    moved.positions[1] = moved.positions[0]
    with pytest.raises(ValueError, match="in the same place"):
        batch([water, moved])
    moved.positions[1] = np.nan
    with pytest.raises(ValueError, match="expected finite numbers"):
        batch([water, moved])
    water.info["charge"] = 1
    with pytest.warns(UserWarning, match="charge=1"):
        batch([water])
    model.card["trained_on"] = Domain("none", False, {}, {}).as_json()
    with pytest.raises(ValueError, match="was not trained on forces"):
        BatchCalculator(model, unit="eV")([ethanol])
    with pytest.raises(ValueError, match="got one of dipoles"):
        BatchCalculator(schnet(readout=DipoleReadout(16, magnitude=False)), unit="D")
    with pytest.raises(ValueError, match="model is empty"):
        BatchCalculator([], unit="eV")


def test_atoms_of_periodic_structures_in_the_same_place_are_refused(triclinic, small_cell):
    batch = BatchCalculator(schnet(), unit="eV")
    batch([small_cell, triclinic])
    triclinic.positions[1] = triclinic.positions[0] + triclinic.cell[0]
    with pytest.raises(ValueError, match="in the same place"):
        batch([small_cell, triclinic])


def test_images_of_a_band_share_an_evaluation(ethanol):
    def band(attach):
        last = ethanol.copy()
        last.positions[0] += 0.2
        images = [ethanol.copy(), *(ethanol.copy() for _ in range(3)), last]
        attach(images)
        neb = NEB(images)
        neb.interpolate()
        return neb

    batch = BatchCalculator(schnet(), unit="eV")
    neb = band(batch.attach)
    forces = neb.get_forces()
    for step in range(3):
        neb.set_positions(neb.get_positions() + 0.01 * forces)
        forces = neb.get_forces()
        assert batch.n_evaluations == 2 + step
    one = band(lambda images: [setattr(image, "calc", SchNetCalculator(schnet(), unit="eV")) for image in images])
    for _ in range(3):
        one.set_positions(one.get_positions() + 0.01 * one.get_forces())
    np.testing.assert_allclose(forces, one.get_forces(), atol=1e-10)


def test_a_shared_calculator_serves_other_structures_too(water, ethanol):
    batch = BatchCalculator(schnet(), unit="eV")
    batch.attach([water, ethanol])
    other = ethanol.copy()
    other.rattle(0.1)
    expected = SchNetCalculator(schnet(), unit="eV").get_forces(other)
    np.testing.assert_allclose(water.calc.get_forces(other), expected, atol=1e-12)
    np.testing.assert_allclose(water.get_forces(), SchNetCalculator(schnet(), unit="eV").get_forces(water), atol=1e-12)


def test_relaxations_follow_ases_fire(ethanol, water):
    molecules = [ethanol, water, Atoms("OH", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.3]])]
    molecules[0].constraints = FixAtoms([0, 3])
    for k, atoms in enumerate(molecules):
        atoms.rattle(0.1, seed=k)
    copies = [atoms.copy() for atoms in molecules]
    batch = BatchCalculator(schnet(), unit="eV")
    found = relax(molecules, batch, fmax=0.02, steps=25)
    for k, (atoms, copy) in enumerate(zip(molecules, copies, strict=True)):
        copy.calc = SchNetCalculator(schnet(), unit="eV")
        optimiser = FIRE(copy, logfile=None)
        assert optimiser.run(fmax=0.02, steps=25) == found.converged[k]
        assert optimiser.get_number_of_steps() == found.n_steps[k]
        np.testing.assert_allclose(atoms.positions, copy.positions, atol=1e-8)
        assert atoms.get_potential_energy() == pytest.approx(copy.get_potential_energy(), abs=1e-10)
    assert found.n_steps.max() > 5
    assert found.n_evaluations == found.n_steps.max() + 1
    with pytest.raises(ValueError, match="fmax must be a positive force"):
        relax(molecules, batch, fmax=0.0)

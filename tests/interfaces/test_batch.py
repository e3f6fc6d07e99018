"""Many structures in one evaluation, against one by one."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from ase.mep import NEB
from ase.optimize import FIRE

from pyg_schnet import SchNet
from pyg_schnet.interfaces import BatchCalculator, SchNetCalculator, relax_batch
from pyg_schnet.interfaces.dynamics import Limits
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
        neb = NEB(images, method="improvedtangent")
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


def test_shared_calculators_of_ensembles_have_deviations(water, ethanol):
    batch = BatchCalculator([schnet(0), schnet(1)], unit="eV")
    batch.attach([water, ethanol])
    expected = SchNetCalculator([schnet(0), schnet(1)], unit="eV").get_property("forces_std", ethanol)
    np.testing.assert_allclose(ethanol.calc.get_property("forces_std", ethanol), expected, atol=1e-12)


def test_relaxations_follow_ases_fire(ethanol, water):
    molecules = [ethanol, water, Atoms("OH", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.3]])]
    molecules[0].constraints = FixAtoms([0, 3])
    for k, atoms in enumerate(molecules):
        atoms.rattle(0.1, seed=k)
    copies = [atoms.copy() for atoms in molecules]
    batch = BatchCalculator(schnet(), unit="eV")
    found = relax_batch(molecules, batch, fmax=0.02, steps=25)
    for k, (atoms, copy) in enumerate(zip(molecules, copies, strict=True)):
        copy.calc = SchNetCalculator(schnet(), unit="eV")
        optimiser = FIRE(copy, logfile=None)
        assert optimiser.run(fmax=0.02, steps=25) == found[k].converged
        assert optimiser.get_number_of_steps() == found[k].steps
        np.testing.assert_allclose(atoms.positions, copy.positions, atol=1e-8)
        assert atoms.get_potential_energy() == pytest.approx(copy.get_potential_energy(), abs=1e-10)
    longest = max(one.steps for one in found)
    assert longest > 5
    assert batch.n_evaluations == longest + 1
    with pytest.raises(ValueError, match="fmax must be a positive force"):
        relax_batch(molecules, batch, fmax=0.0)


def test_one_that_is_given_up_keeps_its_last_good_state_and_others_go_on(ethanol, water):
    """A water molecule, stretched, whose forces grow beyond the limit after some steps, beside an ethanol."""
    for k, atoms in enumerate((ethanol, water)):
        atoms.rattle(0.1, seed=k)
    alone = ethanol.copy()
    batch = BatchCalculator(schnet(), unit="eV")
    limit = max(float(np.linalg.norm(one["forces"], axis=1).max()) for one in batch([water, ethanol]))

    class Stopped(BatchCalculator):
        """Forces on water are too large from the fourth evaluation on."""

        def __call__(self, structures, properties=("energy", "forces")):
            found = super().__call__(structures, properties)
            for atoms, results in zip(structures, found, strict=True):
                if atoms is water and self.n_evaluations > 3:
                    results["forces"] = results["forces"] + 10.0 * limit
            return found

    third = water.copy()
    [before] = relax_batch([third], batch, steps=2, fmax=1e-9)
    stopped = Stopped(schnet(), unit="eV")
    found = relax_batch([water, ethanol], stopped, fmax=1e-9, steps=8, limits=Limits(max_force=5.0 * limit))
    assert (found[0].converged, found[0].steps, found[1].steps) == (False, 2, 8)
    assert "above" in found[0].problem
    assert found[1].problem is None
    np.testing.assert_allclose(water.positions, third.positions, atol=1e-12)
    assert water.get_potential_energy() == pytest.approx(third.get_potential_energy(), abs=1e-12)
    assert found[0].fmax == pytest.approx(before.fmax, abs=1e-12)
    relax_batch([alone], batch, fmax=1e-9, steps=8)
    np.testing.assert_allclose(ethanol.positions, alone.positions, atol=1e-8)


def test_one_that_cannot_be_evaluated_any_more_is_given_up(ethanol, water):
    class Broken(BatchCalculator):
        """Refuses water after two evaluations."""

        def __call__(self, structures, properties=("energy", "forces")):
            if self.n_evaluations >= 2 and any(atoms is water for atoms in structures):
                raise ValueError("the energy predicted by the model is not finite")
            return super().__call__(structures, properties)

    found = relax_batch([ethanol, water], Broken(schnet(), unit="eV"), fmax=1e-9, steps=6)
    assert found[1].problem == "the model cannot be evaluated: the energy predicted by the model is not finite"
    assert (found[0].steps, found[0].problem, found[1].steps) == (6, None, 1)
    assert np.isfinite(water.get_potential_energy())
    water.positions[0, 0] = np.nan
    with pytest.raises(ValueError, match="expected finite numbers"):  # as it is given, it is refused
        relax_batch([ethanol, water], BatchCalculator(schnet(), unit="eV"))


def test_relaxations_flag_where_models_differ_at_their_end(ethanol, water):
    """Between the spreads of the two at their end lies the limit."""
    batch = BatchCalculator([schnet(0), schnet(1)], unit="eV")
    relax_batch([one := ethanol.copy(), other := water.copy()], batch, fmax=1e-9, steps=3)
    spreads = [np.linalg.norm(atoms.calc.results["forces_std"], axis=1).max() for atoms in (one, other)]
    limits = Limits(max_spread=float(np.mean(spreads)), spread_action="flag")
    found = relax_batch([ethanol, water], batch, fmax=1e-9, steps=3, limits=limits)
    assert [run.beyond_max_spread for run in found] == [spread > np.mean(spreads) for spread in spreads]
    assert [(run.steps, run.problem) for run in found] == [(3, None), (3, None)]


def test_relaxations_stop_when_they_are_told_to(ethanol, water):
    calls = iter([False, False, True])
    found = relax_batch([ethanol, water], BatchCalculator(schnet(), unit="eV"), fmax=1e-9, ended=lambda: next(calls))
    assert [one.steps for one in found] == [2, 2]
    assert not any(one.converged for one in found)

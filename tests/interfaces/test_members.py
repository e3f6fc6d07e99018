"""One file with a committee through all doors: mean, spread and factors."""

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from pyg_schnet import SchNet
from pyg_schnet.engine import freeze
from pyg_schnet.interfaces import BatchCalculator, Committee, SchNetCalculator, calibrate, fractions_within
from pyg_schnet.models import SchNetCommittee, load
from pyg_schnet.potential import Potential
from tests.interfaces.models import soft_model


def schnet(seed, **options):
    torch.manual_seed(seed)
    model = SchNet(16, 16, 2, 12, 4.0, **options).double().eval()
    model.readout.set_references(torch.linspace(-30.0 - seed, 0.0, 100, dtype=torch.float64))
    model.card.update(unit="eV", target="energy")
    return model


@pytest.fixture
def labelled(ethanol, triclinic, slab):
    structures = []
    for atoms in (ethanol, triclinic, slab):
        atoms.rattle(0.05, seed=1)  # forces that are zero by symmetry are all rounding
        calc = SchNetCalculator(schnet(7))
        atoms.calc = SinglePointCalculator(
            atoms, energy=calc.get_potential_energy(atoms), forces=calc.get_forces(atoms)
        )
        structures.append(atoms)
    return structures


@pytest.fixture
def path(labelled, tmp_path):
    file = SchNetCommittee([schnet(seed) for seed in range(3)]).save(tmp_path / "three.safetensors")
    calibrate(file, labelled)
    return str(file)


def test_a_file_is_as_the_list_of_its_members(path, labelled):
    members = load(path).models()
    for atoms in labelled:
        found, expected = SchNetCalculator(path), SchNetCalculator(members)
        properties = ["energy", "energies", "forces", *(["stress", "stresses"] if atoms.pbc.all() else [])]
        for calc in (found, expected):
            calc.calculate(atoms, properties)
        assert found.results.keys() == expected.results.keys() >= {"energy_std", "energies_std", "forces_std"}
        for name, value in expected.results.items():
            np.testing.assert_allclose(found.results[name], value, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(found.get_hessian(atoms), expected.get_hessian(atoms), atol=1e-8)
        assert found.get_descriptors(atoms).shape == (len(atoms), 48)
    assert found.parameters["model"] == path
    assert isinstance(found.parameters["sha256"], str)
    assert found.parameters["unit"] == "eV"


def test_doors_give_the_mean_and_the_calibrated_spread(path, labelled):
    atoms = labelled[0]
    each = [SchNetCalculator(model) for model in load(path).models()]
    energies = np.array([calc.get_potential_energy(atoms) for calc in each])
    forces = np.stack([calc.get_forces(atoms) for calc in each])
    factors = load(path).card["calibration"]
    (batch,) = BatchCalculator(path)([atoms], ["energy", "forces"])
    single = SchNetCalculator(path)
    single.calculate(atoms, ["energy", "forces"])
    for found in (batch, single.results):
        assert found["energy"] == pytest.approx(energies.mean(), rel=1e-10)
        assert found["energy_std"] == pytest.approx(factors["energy"] * energies.std(), rel=1e-8)
        np.testing.assert_allclose(found["forces_std"], factors["forces"] * forces.std(0), atol=1e-10)
    z, pos = torch.tensor(atoms.numbers), torch.tensor(atoms.positions)
    committee = Committee(path)
    raw = committee(z, pos, torch.zeros_like(z), 1)
    np.testing.assert_allclose(raw.energy[:, 0], energies, rtol=1e-12)
    scaled = committee.calibrated(raw)  # as torch-sim and i-PI have it
    np.testing.assert_allclose(scaled.energy.mean(), energies.mean(), rtol=1e-12)
    np.testing.assert_allclose(scaled.energy.std(correction=0), factors["energy"] * energies.std(), rtol=1e-8)
    np.testing.assert_allclose(scaled.forces.mean(0), forces.mean(0), atol=1e-10)
    np.testing.assert_allclose(scaled.forces.std(0, correction=0), factors["forces"] * forces.std(0), atol=1e-10)
    mean = Potential(path)(z, pos)  # where one model is needed
    np.testing.assert_allclose(mean.energy, energies.mean(), rtol=1e-6)
    np.testing.assert_allclose(mean.forces, forces.mean(0), atol=1e-5 * np.abs(forces).max())


def test_models_of_other_cutoffs_and_filters_go_together(labelled):
    models = [soft_model(0), schnet(1, filters="exact"), SchNet(16, 16, 2, 12, 3.0).double().eval()]
    for atoms in labelled[:2]:
        expected = [SchNetCalculator(model, unit="eV").get_forces(atoms) for model in models]
        found = SchNetCalculator(models, unit="eV").get_forces(atoms)
        np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-9)


def test_wrong_inputs_are_told_as_by_one_model(path):
    z, pos = torch.tensor([1, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.8]], dtype=torch.float64)
    members = Committee(path).members
    with pytest.raises(ValueError, match="cell must hold lattice vectors in rows"):
        members(z, pos, cell=torch.eye(2), pbc=torch.ones(1, 3, dtype=torch.bool))
    edges = torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="atoms of the same structure"):
        members(z, pos, torch.tensor([0, 1]), edge_index=edges, batch_size=2)


def test_the_card_says_how_many_errors_lie_within(path, labelled):
    noted = load(path).card["calibration"]
    assert noted["within"]["structures"] == 3
    errors, spreads = {"energy": [], "forces": []}, {"energy": [], "forces": []}
    for atoms in labelled:
        calc = SchNetCalculator(path)
        calc.calculate(atoms, ["energy", "forces"])
        for name in errors:
            errors[name].append(np.abs(calc.results[name] - atoms.calc.results[name]).ravel())
            spreads[name].append(np.ravel(calc.results[f"{name}_std"]))
    for name in errors:
        ratio = np.concatenate(errors[name]) / np.concatenate(spreads[name])
        assert noted["within"][name] == [pytest.approx((ratio <= width).mean(), abs=1e-4) for width in (1, 2)]
        assert noted["within"][name][1] > 0.0
    assert fractions_within(path, labelled)["forces"] == noted["within"]["forces"]
    largest = max(
        np.linalg.norm(SchNetCalculator(path).get_property("forces_std", atoms), axis=1).max() for atoms in labelled
    )
    assert noted["largest"]["forces"] == pytest.approx(largest, rel=1e-8)


def test_calculators_say_where_models_disagree_as_never_before(path, labelled, recwarn):
    atoms = labelled[0].copy()
    atoms.calc = SchNetCalculator(path)
    atoms.get_forces()
    assert not [one for one in recwarn if "disagree" in str(one.message)]
    committee = load(path)
    committee.card["calibration"]["largest"]["forces"] *= 1e-3
    batch = BatchCalculator(committee)
    for ask in (SchNetCalculator(committee).get_forces, lambda atoms: batch([atoms])):
        with pytest.warns(UserWarning, match="a force on atom .* on which the models disagree by") as said:
            ask(atoms)
        atoms.rattle(1e-3)
        ask(atoms)  # which is an error if it warns again
        assert len(said) == 1


def test_crystals_reuse_their_lists(path):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.calc = SchNetCalculator(path)
    each = [SchNetCalculator(model) for model in load(path).models()]
    for _ in range(3):
        stress = np.mean([calc.get_stress(atoms.copy()) for calc in each], axis=0)
        np.testing.assert_allclose(atoms.get_stress(), stress, atol=1e-12)
        atoms.rattle(0.01, seed=1)
    assert atoms.calc.neighbors.n_rebuilds == 1


@pytest.mark.parametrize("max_atoms", [1, 1000])  # each structure by itself; all in one evaluation
@pytest.mark.parametrize("place", [0, 1, 2])
def test_warnings_name_the_structure_and_its_atom(place, max_atoms, path, ethanol, water):
    """Of three structures one has a larger spread than what is known, the others a smaller one."""
    images = [water.copy() for _ in range(3)]
    images[place] = ethanol
    each = [np.linalg.norm(one["forces_std"], axis=1) for one in BatchCalculator(path)(images)]
    largest = [spread.max() for spread in each]
    assert largest[place] > 1.2 * max(largest[:place] + largest[place + 1 :])
    worst = each[place].argmax()
    assert worst > 0
    committee = load(path)
    committee.card["calibration"]["largest"]["forces"] = largest[place] / 2.2  # twice as much is unusual
    with pytest.warns(UserWarning, match=f"the structure at index {place} has a force on atom {worst} on which"):
        BatchCalculator(committee, max_atoms=max_atoms)(images)
    one = Committee(committee)
    z, pos = (
        torch.tensor(np.concatenate([getattr(atoms, name) for atoms in images])) for name in ("numbers", "positions")
    )
    batch = torch.arange(3).repeat_interleave(torch.tensor([len(atoms) for atoms in images]))
    found = one(z, pos, batch, 3)
    with pytest.warns(UserWarning, match=f"the structure at index {place} has a force on atom {worst} on which"):
        one.calibrated(found)
    with pytest.warns(UserWarning, match=f"the structure has a force on atom {worst} on which"):
        SchNetCalculator(committee).get_forces(ethanol)


def test_notes_have_the_unit_of_each_source(path):
    other = schnet(5)
    other.card["unit"] = "kcal/mol"
    for sources, units in (
        ([path, other], ["eV", "kcal/mol"]),
        ([other, path], ["kcal/mol", "eV"]),
        ([path], "eV"),
        ([other, schnet(6)], ["kcal/mol", "eV"]),
    ):
        notes = SchNetCalculator(sources).parameters
        assert notes["unit"] == units
        assert np.shape(notes["model"]) == np.shape(units)


@pytest.mark.parametrize("door", [SchNetCalculator, BatchCalculator, Committee, Potential])
def test_a_frozen_committee_is_refused_in_words(door, path):
    frozen = freeze(load(path))
    for given in (frozen, [frozen, path]) if door is not Potential else (frozen,):
        with pytest.raises(TypeError, match=r"got a frozen SchNetCommittee.*give the committee itself"):
            door(given)

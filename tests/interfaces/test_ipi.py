"""i-PI with models of this package: beads in one batch, through i-PI's own reading of the driver's file."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from pyg_schnet.interfaces import SchNetCalculator, calibrate
from pyg_schnet.interfaces.ipi import SchNetDriver, pes_file
from pyg_schnet.models import SchNetCommittee
from tests.interfaces.models import soft_model

BOHR = 0.529177210903


@pytest.fixture
def template(tmp_path):
    """A function that writes a template and gives its name."""
    pytest.importorskip("ipi")

    def write(atoms):
        path = tmp_path / "template.xyz"
        atoms.write(path, format="extxyz")
        return str(path)

    return write


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "pyg_schnet\[ipi\]"'):
        SchNetDriver("template.xyz", soft_model(), unit="eV")


def test_ipi_reads_the_driver(template, tmp_path):
    from ipi.pes import load_pes
    from ipi.utils.io.inputs import read_args_kwargs

    atoms = molecule("H2O")
    file = soft_model().save(tmp_path / "model.safetensors", target="energy", unit="eV")
    driver_class = load_pes("custom", pes_file())
    arguments, keywords = read_args_kwargs(f"template={template(atoms)}, model={file}, dtype=float64")
    energy, forces, virial, extras = driver_class(*arguments, **keywords)(np.eye(3), atoms.positions / BOHR)
    atoms.calc = SchNetCalculator(file)
    assert energy * 27.211386 == pytest.approx(atoms.get_potential_energy(), rel=1e-6)
    assert (forces.dtype, forces.shape, virial.shape, extras) == (np.float64, (3, 3), (3, 3), "")
    import ipi.engine.simulation  # the driver's file hides nothing of i-PI

    assert ipi.engine.simulation.Simulation


def test_beads_are_one_batch(template, monkeypatch):
    atoms = bulk("Si", cubic=True)
    driver = SchNetDriver(template(atoms), soft_model(), unit="eV")
    sizes, potential = [], driver.committee.potentials[0]
    call = type(potential).__call__
    monkeypatch.setattr(
        type(potential), "__call__", lambda self, *a, **k: (sizes.append(k["batch_size"]), call(self, *a, **k))[1]
    )
    random, cell = np.random.default_rng(0), atoms.cell.array.T / BOHR
    beads = [(atoms.positions + random.normal(scale=0.1, size=(8, 3))) / BOHR for _ in range(4)]
    answers = driver([cell] * 4, beads)
    assert sizes == [4]
    for bead, answer in zip(beads, answers, strict=True):
        for together, alone in zip(answer[:3], driver(cell, bead)[:3], strict=True):
            np.testing.assert_allclose(together, alone, rtol=1e-10, atol=1e-12)


def test_each_bead_has_its_cell(template):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=0)
    driver = SchNetDriver(template(atoms), soft_model(), unit="eV")
    larger = atoms.copy()
    larger.set_cell(1.02 * atoms.cell.array, scale_atoms=True)
    pair = [(each.cell.array.T / BOHR, each.positions / BOHR) for each in (atoms, larger)]
    answers = driver([cell for cell, _ in pair], [pos for _, pos in pair])
    for each, answer in zip((atoms, larger), answers, strict=True):
        each.calc = SchNetCalculator(soft_model(), unit="eV")
        virial = -each.get_stress(voigt=False) * each.get_volume() / 27.211386
        np.testing.assert_allclose(answer[2], virial, rtol=0, atol=1e-6 * abs(virial).max())


def test_committees_tell_ipi_what_each_says(template):
    atoms, models = molecule("H2O"), [soft_model(0), soft_model(1)]
    driver = SchNetDriver(template(atoms), models, unit="eV")
    energy, forces, virial, extras = driver(np.eye(3), atoms.positions / BOHR)
    each = [SchNetDriver(template(atoms), one, unit="eV")(np.eye(3), atoms.positions / BOHR) for one in models]
    told = json.loads(extras)
    np.testing.assert_allclose(told["committee_pot"], [one[0] for one in each], rtol=1e-12)
    np.testing.assert_allclose(told["committee_force"], [one[1] for one in each], rtol=0, atol=1e-12)
    assert energy == pytest.approx(np.mean(told["committee_pot"]), rel=1e-12)
    np.testing.assert_allclose(forces, np.mean(told["committee_force"], axis=0), rtol=0, atol=1e-14)
    assert not np.any(told["committee_virial"])
    assert not virial.any()


def test_deviations_of_calibrated_committees_have_the_size_of_errors(template, tmp_path):
    atoms, committee = molecule("H2O"), SchNetCommittee([soft_model(0), soft_model(1)])
    path = committee.save(tmp_path / "two.safetensors", unit="eV")
    raw = json.loads(SchNetDriver(template(atoms), str(path))(np.eye(3), atoms.positions / BOHR)[3])
    labelled = atoms.copy()
    labelled.calc = SinglePointCalculator(labelled, energy=-3.0, forces=np.ones((3, 3)))
    factors = calibrate(path, [labelled])
    energy, forces, _, extras = SchNetDriver(template(atoms), str(path))(np.eye(3), atoms.positions / BOHR)
    told = json.loads(extras)
    assert energy == pytest.approx(np.mean(raw["committee_pot"]), rel=1e-10)
    np.testing.assert_allclose(forces, np.mean(raw["committee_force"], axis=0), atol=1e-12)
    assert np.std(told["committee_pot"]) == pytest.approx(factors["energy"] * np.std(raw["committee_pot"]), rel=1e-6)
    spread = np.std(told["committee_force"], axis=0)
    np.testing.assert_allclose(spread, factors["forces"] * np.std(raw["committee_force"], axis=0), atol=1e-10)


def test_what_does_not_fit_is_refused(template):
    name = template(molecule("H2O"))
    with pytest.raises(ValueError, match="dtype must be float64 or float32, got half"):
        SchNetDriver(name, soft_model(), unit="eV", dtype="half")
    driver = SchNetDriver(name, soft_model(), unit="eV")
    with pytest.raises(ValueError, match="the template has 3 atoms, i-PI sent 4"):
        driver(np.eye(3), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="lists both, or arrays both"):
        driver([np.eye(3)], np.zeros((3, 3)))


@pytest.mark.parametrize(("word", "value"), [("False", False), ("true", True), (True, True)])
def test_words_of_inputs_are_truth_values(template, word, value):
    driver = SchNetDriver(template(molecule("H2O")), soft_model(), unit="eV", untrained_forces=word)
    assert driver.committee.check.untrained_forces is value


def test_charges_of_templates_are_warned_about(template):
    atoms = molecule("OH")
    atoms.info["charge"] = -1
    with pytest.warns(UserWarning, match="charge=-1"):
        SchNetDriver(template(atoms), soft_model(), unit="eV")


def test_float32_is_a_choice(template):
    atoms = molecule("H2O")
    driver = SchNetDriver(template(atoms), soft_model(), unit="eV", dtype="float32")
    assert driver.committee.dtype == torch.float32
    assert driver(np.eye(3), atoms.positions / BOHR)[1].dtype == np.float64

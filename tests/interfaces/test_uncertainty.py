"""Spread of ensembles: calibrated, and watched."""

import copy

import numpy as np
import pytest
import torch
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.verlet import VelocityVerlet

from pyg_schnet import SchNet
from pyg_schnet.engine import freeze
from pyg_schnet.interfaces import (
    BatchCalculator,
    DeviationError,
    DeviationLimit,
    SchNetCalculator,
    calibrate,
    fractions_within,
)
from pyg_schnet.models import join_ensemble, load


def schnet(seed=0):
    torch.manual_seed(seed)
    model = SchNet(16, 16, 2, 12, 4.0).double().eval()
    model.card.update(unit="eV", target="energy")
    return model


@pytest.fixture
def labelled(ethanol, triclinic, slab):
    structures = []
    for k, atoms in enumerate([ethanol, triclinic, slab]):
        calc = SchNetCalculator(schnet(7))
        results = {"energy": calc.get_potential_energy(atoms), "forces": calc.get_forces(atoms)}
        if k == 1:
            results["stress"] = calc.get_stress(atoms)
        atoms.calc = SinglePointCalculator(atoms, **results)
        structures.append(atoms)
    return structures


def test_the_calibrated_spread_has_the_size_of_the_error(labelled, tmp_path):
    models = [schnet(seed) for seed in range(3)]
    before = [SchNetCalculator(models) for _ in labelled]
    raw = [calc.get_property("forces_std", atoms) for calc, atoms in zip(before, labelled, strict=True)]
    factors = calibrate(models, labelled)
    error, spread = {"energy": 0.0, "forces": 0.0, "stress": 0.0}, {"energy": 0.0, "forces": 0.0, "stress": 0.0}
    for k, atoms in enumerate(labelled):
        calc = SchNetCalculator(models)
        calc.calculate(atoms, ["forces"])
        np.testing.assert_allclose(calc.results["forces_std"], factors["forces"] * raw[k], rtol=1e-9)
        (together,) = BatchCalculator(models)([atoms], ["energy", "forces"])
        np.testing.assert_allclose(together["forces_std"], calc.results["forces_std"], rtol=1e-8)
        assert together["energy_std"] == pytest.approx(calc.results["energy_std"], rel=1e-8)
        for name in error:
            if name in atoms.calc.results:
                error[name] += np.square(atoms.calc.results[name] - calc.results[name]).sum()
                spread[name] += np.square(calc.results[f"{name}_std"]).sum()
    for name, value in error.items():
        assert spread[name] == pytest.approx(value, rel=1e-8)
    paths = [model.save(tmp_path / f"{k}.safetensors") for k, model in enumerate(models)]
    assert SchNetCalculator(paths).get_property("energy_std", labelled[0]) == pytest.approx(
        SchNetCalculator(models).get_property("energy_std", labelled[0]), rel=1e-12
    )


def test_factors_hold_for_the_same_models_only(labelled):
    models = [schnet(seed) for seed in range(3)]
    factors = calibrate(models, labelled)
    with pytest.warns(UserWarning, match="not scaled; give all models that were calibrated"):
        fewer = SchNetCalculator(models[:2])
    energies = [SchNetCalculator(model).get_potential_energy(labelled[0]) for model in models[:2]]
    assert fewer.get_property("energy_std", labelled[0]) == pytest.approx(np.std(energies), rel=1e-9)
    assert factors["energy"] != 1.0
    frozen = SchNetCalculator([freeze(model) for model in models])  # their element energies are float64 already
    assert frozen.members.factors == factors
    with torch.no_grad():
        models[0].embedding.weight.mul_(1.1)
    energies = [SchNetCalculator(model).get_potential_energy(labelled[0]) for model in models]
    with pytest.warns(UserWarning, match="unfrozen and as they were"):
        changed = SchNetCalculator(models)
    assert changed.get_property("energy_std", labelled[0]) == pytest.approx(np.std(energies), rel=1e-9)
    calibrate(models, labelled)  # and says nothing
    assert SchNetCalculator(models).get_property("energy_std", labelled[0]) != pytest.approx(np.std(energies), rel=1e-2)
    assert "calibration" not in join_ensemble(models).card


def test_files_are_calibrated_in_place(labelled, tmp_path):
    paths = [schnet(seed).save(tmp_path / f"{seed}.safetensors") for seed in range(2)]
    factors = calibrate(paths, labelled[:1])
    assert sorted(factors) == ["energy", "forces"]
    assert load(paths[0]).card["calibration"]["forces"] == factors["forces"]
    assert torch.equal(load(paths[1]).embedding.weight, schnet(1).embedding.weight)


def test_what_cannot_be_calibrated_is_refused(labelled, water):
    with pytest.raises(ValueError, match="at least two models"):
        calibrate([schnet()], labelled)
    with pytest.raises(ValueError, match="no structure has a label"):
        calibrate([schnet(0), schnet(1)], [water])
    with pytest.raises(ValueError, match="agree exactly in energy, forces, stress"):
        calibrate([schnet(0), schnet(0)], labelled)


def test_a_call_that_fails_leaves_cards_as_they_were(labelled, water, tmp_path):
    models = [schnet(0), schnet(1)]
    path = models[1].save(tmp_path / "second.safetensors")
    calibrate([models[0], path], labelled)
    cards, content = copy.deepcopy(models[0].card), path.read_bytes()
    unknown = labelled[0].copy()
    unknown.calc = SinglePointCalculator(unknown, energy=1.0)
    unknown.positions[1] = unknown.positions[0]
    unknown.calc.atoms = unknown.copy()
    for structures, test, message in (
        ([water], (), "no structure has a label"),
        ([unknown], (), "in the same place"),
        (labelled, [unknown], "in the same place"),
    ):
        with pytest.raises(ValueError, match=message):
            calibrate([models[0], path], structures, test=test)
        assert models[0].card == cards
        assert path.read_bytes() == content
    with pytest.raises(ValueError, match="at least two models"):
        calibrate(models[:1], labelled)
    assert models[0].card == cards


def test_factors_do_not_depend_on_earlier_ones(labelled):
    models = [schnet(seed) for seed in range(3)]
    first = calibrate(models, labelled)
    noted = copy.deepcopy(models[0].card["calibration"])
    assert calibrate(models, labelled) == first
    assert models[0].card["calibration"] == noted


def test_a_stress_needs_a_volume(labelled, water):
    water.calc = SinglePointCalculator(water, energy=1.0, stress=np.zeros(6))
    models = [schnet(0), schnet(1)]
    for structures in ([water], [*labelled, water]):
        message = f"structure {len(structures) - 1} has a label of stress, but a cell without a volume"
        with pytest.raises(ValueError, match=message):
            calibrate(models, structures)
        with pytest.raises(ValueError, match=message):
            calibrate(models, labelled, test=structures)
        with pytest.raises(ValueError, match=message):
            fractions_within(models, structures)
    assert "calibration" not in models[0].card


def test_dynamics_stop_or_are_flagged(water):
    water.calc = SchNetCalculator([schnet(0), schnet(1)])
    spread = np.linalg.norm(water.calc.get_property("forces_std", water), axis=1).max()
    water.get_forces()
    assert DeviationLimit(forces=1.01 * spread).outside(water) == []
    (reason,) = DeviationLimit(forces=0.99 * spread).outside(water)
    assert "disagree on the force on atom" in reason
    per_atom = water.calc.get_property("energy_std", water) / 3
    assert DeviationLimit(energy_per_atom=1.01 * per_atom).outside(water) == []
    (reason,) = DeviationLimit(forces=10 * spread, energy_per_atom=0.99 * per_atom).outside(water)
    assert "eV/atom" in reason

    limit, dynamics = DeviationLimit(forces=0.9 * spread), VelocityVerlet(water, 0.1 * units.fs)
    dynamics.attach(limit.observer(water), interval=1)
    with pytest.raises(DeviationError, match="outside of what the models have learned"):
        dynamics.run(5)
    limit, dynamics = DeviationLimit(forces=0.9 * spread, action="warn"), VelocityVerlet(water, 0.1 * units.fs)
    dynamics.attach(limit.observer(water), interval=1)
    with pytest.warns(UserWarning, match="may be wrong") as said:
        dynamics.run(3)
    assert len(said) == 1
    assert limit.n_flagged == 4  # the first state, and three steps


def test_limits_need_an_ensemble_and_numbers(water):
    water.calc = SchNetCalculator(schnet())
    with pytest.raises(ValueError, match="make it of several models"):
        DeviationLimit(forces=1.0).outside(water)
    for options in ({}, {"forces": -1.0}, {"forces": 1.0, "energy_per_atom": 0.0}):
        with pytest.raises(ValueError, match="give positive limits"):
            DeviationLimit(**options)
    with pytest.raises(ValueError, match="'stop' or 'warn'"):
        DeviationLimit(forces=1.0, action="go on")

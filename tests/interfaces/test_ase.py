"""The ASE calculator against direct calls of the model and ASE's own numerical derivatives."""

import numpy as np
import pytest
import torch
from ase import units as ase_units
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from pyg_schnet import SchNet
from pyg_schnet.data import to_data
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.nn import DipoleReadout, respond
from pyg_schnet.units import factor


def schnet(seed=0, **options):
    torch.manual_seed(seed)
    return SchNet(16, 16, 2, 12, 4.0, **options).double()


@pytest.mark.parametrize("name", ["ethanol", "slab", "triclinic", "small_cell"])
def test_results_are_those_of_the_model(name, request):
    atoms, model = request.getfixturevalue(name), schnet()
    model.readout.set_references(torch.linspace(-30.0, 0.0, 100))
    periodic = bool(atoms.pbc.all())
    data = to_data(atoms, dtype=torch.float64)
    expected = respond(model, data.z, data.pos, cell=data.cell, pbc=data.pbc, stress=periodic)
    atoms.calc = SchNetCalculator(model, unit="eV")
    assert atoms.get_potential_energy() == pytest.approx(expected.energy.item(), rel=1e-12)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-12)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    if periodic:
        np.testing.assert_allclose(atoms.get_stress(voigt=False), expected.stress[0], atol=1e-12)


@pytest.mark.parametrize("name", ["ethanol", "slab", "triclinic"])
def test_derivatives_are_ases_numerical_ones(name, request):
    atoms = request.getfixturevalue(name)
    atoms.rattle(0.05, seed=4)
    atoms.calc = SchNetCalculator(schnet(), unit="eV")
    forces = atoms.get_forces()
    np.testing.assert_allclose(forces, calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6 * abs(forces).max())
    if atoms.pbc.all():
        stress = atoms.get_stress()
        np.testing.assert_allclose(stress, calculate_numerical_stress(atoms, eps=1e-5), atol=1e-6 * abs(stress).max())


def test_large_references_lose_nothing(ethanol):
    model = schnet().float()
    small = SchNetCalculator(model, unit="eV", dtype=torch.float32)
    ethanol.calc = small
    difference = ethanol.get_potential_energy()
    references = torch.zeros(100)
    references[[1, 6, 8]] = torch.tensor([-13.571, -1035.203, -2041.877])
    model.readout.set_references(references)
    ethanol.calc = SchNetCalculator(model, unit="eV", dtype=torch.float32)
    exact = references[ethanol.numbers].double().sum().item()
    assert ethanol.get_potential_energy() - exact == pytest.approx(difference, abs=1e-9)


def test_units_are_converted(ethanol, tmp_path):
    model = schnet()
    path = model.save(tmp_path / "model.safetensors", target="energy", unit="kcal/mol")
    ethanol.calc = SchNetCalculator(model, unit="eV")
    energy, forces = ethanol.get_potential_energy(), ethanol.get_forces()
    ethanol.calc = SchNetCalculator(path)
    assert ethanol.get_potential_energy() == pytest.approx(energy * factor("kcal/mol", "eV"), rel=1e-12)
    np.testing.assert_allclose(ethanol.get_forces(), forces * factor("kcal/mol", "eV"), atol=1e-14)


def test_energies_per_atom_are_multiplied(triclinic):
    model = schnet(readout="mean")
    model.readout.set_references(torch.linspace(-3.0, 0.0, 100))
    triclinic.calc = SchNetCalculator(model, unit="eV/atom")
    data = to_data(triclinic, dtype=torch.float64)
    value = model(data.z, data.pos, cell=data.cell, pbc=data.pbc).item()
    assert triclinic.get_potential_energy() == pytest.approx(5 * value, rel=1e-12)
    stress = triclinic.get_stress()
    np.testing.assert_allclose(stress, calculate_numerical_stress(triclinic, eps=1e-5), atol=1e-6 * abs(stress).max())


def test_dipoles(water):
    model = schnet(readout=DipoleReadout(16, magnitude=False, scale=factor("e·Å", "D")))
    water.calc = SchNetCalculator(model, unit="D")
    data = to_data(water, dtype=torch.float64)
    expected = model(data.z, data.pos)[0].detach().numpy() * factor("D", "e·Å")
    np.testing.assert_allclose(water.get_dipole_moment(), expected, atol=1e-12)
    with pytest.raises(PropertyNotImplementedError):
        water.get_potential_energy()


def test_ensembles_give_mean_and_deviation(ethanol):
    models = [schnet(seed) for seed in range(3)]
    single = []
    for model in models:
        ethanol.calc = SchNetCalculator(model, unit="eV")
        single.append((ethanol.get_potential_energy(), ethanol.get_forces()))
    ethanol.calc = SchNetCalculator(models, unit="eV")
    energies, forces = np.array([e for e, _ in single]), np.array([f for _, f in single])
    assert ethanol.get_potential_energy() == pytest.approx(energies.mean(), rel=1e-12)
    np.testing.assert_allclose(ethanol.get_forces(), forces.mean(0), atol=1e-12)
    assert ethanol.calc.results["energy_std"] == pytest.approx(energies.std(), rel=1e-10)
    np.testing.assert_allclose(ethanol.calc.results["forces_std"], forces.std(0), atol=1e-12)


def test_the_given_model_does_not_change(ethanol):
    model = schnet().float().train()
    model.readout.set_references(torch.ones(100))
    SchNetCalculator(model, unit="eV")
    assert model.training
    assert model.readout.atomref.any()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in model.parameters())


def test_the_list_with_skin_is_exact_while_atoms_wrap_and_the_cell_changes(triclinic):
    triclinic.calc = calculator = SchNetCalculator(schnet(), unit="eV", skin=0.6)
    generator = np.random.default_rng(0)
    for step in range(30):
        triclinic.positions += 0.03 * generator.normal(size=(5, 3))
        triclinic.wrap()
        triclinic.set_cell(triclinic.cell * (1.0 + 0.001 * (-1) ** step), scale_atoms=True)
        energy, stress = triclinic.get_potential_energy(), triclinic.get_stress()
        fresh = triclinic.copy()
        fresh.calc = SchNetCalculator(schnet(), unit="eV")
        assert energy == pytest.approx(fresh.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(stress, fresh.get_stress(), atol=1e-12)
    assert calculator.neighbors.n_rebuilds < 30


def soft_potential():
    """A smooth potential of random weights, weak enough that atoms oscillate instead of falling together."""
    model = schnet(seed=3)
    model.readout.scale.fill_(0.05)
    return SchNetCalculator(model, unit="eV")


@pytest.mark.parametrize("name", ["ethanol", "copper"])
def test_energy_is_conserved(name, request):
    atoms = bulk("Cu", cubic=True) * (2, 2, 2) if name == "copper" else request.getfixturevalue(name)
    if name == "copper":
        atoms.positions += 0.05  # so that atoms at the boundary cross it
        atoms.rattle(0.05, seed=0)
    atoms.calc = soft_potential()
    speed = np.sqrt(ase_units.kB * 100 / atoms.get_masses())[:, None]
    atoms.set_velocities(speed * np.random.default_rng(1).normal(size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, 0.5 * ase_units.fs)
    energies = []
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    for _ in range(200):
        dynamics.run(1)
        atoms.wrap()
    energies = 1e3 * (np.array(energies) - energies[0]) / len(atoms)  # meV/atom
    kinetic = 1e3 * 1.5 * ase_units.kB * 100
    assert abs(energies).max() < 0.02 * kinetic


def test_optimisers_relax_atoms_and_cell(triclinic):
    triclinic.calc = soft_potential()
    start, force = triclinic.get_potential_energy(), abs(triclinic.get_forces()).max()
    optimiser = BFGS(FrechetCellFilter(triclinic), logfile=None, maxstep=0.05)
    optimiser.run(fmax=0.2 * force, steps=40)
    assert triclinic.get_potential_energy() < start


def test_only_what_is_asked_for_is_calculated(triclinic):
    triclinic.calc = calculator = SchNetCalculator(schnet(), unit="eV")
    triclinic.get_potential_energy()
    assert "forces" not in calculator.results
    triclinic.get_forces()
    assert "stress" not in calculator.results


@pytest.mark.parametrize(
    ("model", "unit", "message"),
    [
        (schnet(), None, "state it, for example unit="),
        (schnet(), "D", "needs energies"),
        (schnet(), "eV/atom", "needs energies"),
        (schnet(readout="mean"), "eV", "needs energies"),
        (schnet(readout="dipole"), "D", "magnitude=False"),
        (schnet(out_channels=2), "eV", "needs energies"),
        (schnet(), "furlong", "unknown unit"),
        ([], "eV", "model is empty"),
        ([schnet(), schnet(readout=DipoleReadout(16, magnitude=False))], "eV", "needs energies"),
    ],
)
def test_models_that_do_not_fit_are_refused(model, unit, message):
    with pytest.raises(ValueError, match=message):
        SchNetCalculator(model, unit=unit)


def test_stress_of_molecules_and_slabs_is_refused(water, slab):
    for atoms in (water, slab):
        atoms.calc = SchNetCalculator(schnet(), unit="eV")
        with pytest.raises(PropertyNotImplementedError, match="periodic in three directions"):
            atoms.get_stress()


def test_bad_structures_are_refused(water):
    water.calc = SchNetCalculator(schnet(), unit="eV")
    water.positions[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"(?i)finite"):
        water.get_forces()
    water.positions[0, 0] = 0.0
    water.numbers[0] = 110
    with pytest.raises(ValueError, match="at most 99, got 110"):
        water.get_forces()

"""The ASE calculator against direct calls of the model and ASE's own numerical derivatives."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase import units as ase_units
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.phonons import Phonons
from ase.vibrations import Vibrations
from torch_geometric.nn.models import SchNet as PyGSchNet

import pyg_schnet.interfaces.ase
from pyg_schnet import InteractionGraph, SchNet
from pyg_schnet.data import to_data
from pyg_schnet.derivatives import energy_forces_stress, hessian
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.models.domain import Domain
from pyg_schnet.nn import DipoleReadout
from pyg_schnet.potential import Potential
from pyg_schnet.units import factor


@pytest.fixture
def numerical():
    """ASE's numerical derivatives."""
    return pytest.importorskip("ase.calculators.fd", reason="needs ASE 3.24 or newer")


def schnet(seed=0, **options):
    torch.manual_seed(seed)
    return SchNet(16, 16, 2, 12, 4.0, **options).double().eval()


@pytest.mark.parametrize("name", ["ethanol", "slab", "triclinic", "small_cell"])
def test_results_are_those_of_the_model(name, request):
    atoms, model = request.getfixturevalue(name), schnet()
    model.readout.set_references(torch.linspace(-30.0, 0.0, 100))
    periodic = bool(atoms.pbc.any())
    data = to_data(atoms, dtype=torch.float64)
    expected = energy_forces_stress(model, data.z, data.pos, cell=data.cell, pbc=data.pbc, stress=periodic)
    atoms.calc = SchNetCalculator(model, unit="eV")
    assert atoms.get_potential_energy() == pytest.approx(expected.energy.item(), rel=1e-12)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-12)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    if periodic:
        np.testing.assert_allclose(atoms.get_stress(voigt=False), expected.stress[0], atol=1e-12)


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
def test_small_molecules_need_no_list(precision, ethanol, monkeypatch):
    ethanol.calc = SchNetCalculator(schnet(), unit="eV", dtype=precision)
    forces, parts = ethanol.get_forces(), ethanol.get_potential_energies()
    assert ethanol.calc.neighbors.n_rebuilds == 0
    monkeypatch.setattr(pyg_schnet.interfaces.ase, "_FEW_ATOMS", len(ethanol) - 1)
    ethanol.calc.reset()
    tolerance = 1e-12 if precision == torch.float64 else 1e-5
    np.testing.assert_allclose(ethanol.get_forces(), forces, atol=tolerance * abs(forces).max())
    np.testing.assert_allclose(ethanol.get_potential_energies(), parts, rtol=tolerance)
    assert ethanol.calc.neighbors.n_rebuilds == 1


@pytest.mark.parametrize("name", ["ethanol", "slab", "triclinic"])
def test_derivatives_are_ases_numerical_ones(name, request, numerical):
    atoms = request.getfixturevalue(name)
    atoms.rattle(0.05, seed=4)
    atoms.calc = SchNetCalculator(schnet(), unit="eV")
    forces = atoms.get_forces()
    expected = numerical.calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(forces, expected, rtol=0, atol=1e-6 * abs(forces).max())
    if atoms.pbc.any():
        stress = atoms.get_stress()
        expected = numerical.calculate_numerical_stress(atoms, eps=1e-5)
        np.testing.assert_allclose(stress, expected, rtol=0, atol=1e-6 * abs(stress).max())


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


def test_large_shifts_lose_nothing():
    # 84 atoms of -210 eV are -17,640 eV, where float32 numbers are 2 meV apart
    atoms = bulk("Cu", cubic=True) * (3, 7, 1)
    model = schnet().float()
    energies = []
    for shift in (0.0, -210.125):
        model.readout.shift.fill_(shift)
        atoms.calc = SchNetCalculator(model, unit="eV", dtype=torch.float32)
        energies.append(atoms.get_potential_energy())
        assert atoms.get_potential_energies().sum() == pytest.approx(energies[-1], rel=1e-6, abs=1e-4)
    assert energies[1] - 84 * -210.125 == pytest.approx(energies[0], abs=1e-9)


def test_units_are_converted(ethanol, tmp_path):
    model = schnet()
    ethanol.calc = SchNetCalculator(model, unit="eV")
    energy, forces = ethanol.get_potential_energy(), ethanol.get_forces()
    ethanol.calc = SchNetCalculator(model.save(tmp_path / "model.safetensors", target="energy", unit="kcal/mol"))
    in_ev = ase_units.kcal / ase_units.mol  # of an older CODATA
    assert ethanol.get_potential_energy() == pytest.approx(energy * in_ev, rel=1e-7)
    np.testing.assert_allclose(ethanol.get_forces(), forces * in_ev, rtol=1e-6, atol=1e-9)


def test_elements_without_training_are_refused(ethanol):
    model = schnet()
    model.card["elements"] = ["H", "C"]
    ethanol.calc = SchNetCalculator(model, unit="eV")
    with pytest.raises(ValueError, match="not trained on O; it knows H, C"):
        ethanol.get_potential_energy()


def test_energies_per_atom_are_multiplied(triclinic, numerical):
    model = schnet(readout="mean")
    model.readout.set_references(torch.linspace(-3.0, 0.0, 100))
    triclinic.calc = SchNetCalculator(model, unit="eV/atom")
    data = to_data(triclinic, dtype=torch.float64)
    value = model(data.z, data.pos, cell=data.cell, pbc=data.pbc).item()
    assert triclinic.get_potential_energy() == pytest.approx(5 * value, rel=1e-12)
    stress = triclinic.get_stress()
    expected = numerical.calculate_numerical_stress(triclinic, eps=1e-5)
    np.testing.assert_allclose(stress, expected, rtol=0, atol=1e-6 * abs(stress).max())


def test_dipoles(water):
    model = schnet(readout=DipoleReadout(16, magnitude=False, scale=factor("e·Å", "D")))
    water.calc = SchNetCalculator(model, unit="D")
    data = to_data(water, dtype=torch.float64)
    expected = model(data.z, data.pos)[0].detach().numpy() * ase_units.Debye
    np.testing.assert_allclose(water.get_dipole_moment(), expected, rtol=1e-7, atol=1e-12)
    assert abs(expected).max() > 1e-3
    with pytest.raises(PropertyNotImplementedError):
        water.get_potential_energy()


def test_dipoles_of_periodic_structures_are_refused(slab):
    slab.calc = SchNetCalculator(schnet(readout=DipoleReadout(16, magnitude=False)), unit="D")
    with pytest.raises(PropertyNotImplementedError, match=r"atoms.pbc is \[True, True, False\]"):
        slab.get_dipole_moment()
    with pytest.raises(PropertyNotImplementedError, match=r"set atoms\.pbc = False"):
        slab.calc.calculate(slab)


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


def test_members_of_an_ensemble_keep_their_cutoff_and_unit(triclinic, tmp_path):
    torch.manual_seed(1)
    others = [SchNet(16, 16, 2, 12, 5.0), SchNet(16, 16, 1, 12, 3.0, window="hard", normalize=True)]
    units = ["kcal/mol", "meV"]
    paths = [
        model.save(tmp_path / f"{unit[:3]}.safetensors", unit=unit) for model, unit in zip(others, units, strict=True)
    ]
    single = []
    for path in paths:
        triclinic.calc = SchNetCalculator(path)
        single.append((triclinic.get_potential_energy(), triclinic.get_stress()))
    triclinic.calc = SchNetCalculator(paths)
    energies, stresses = np.array([e for e, _ in single]), np.array([s for _, s in single])
    np.testing.assert_allclose(triclinic.get_stress(), stresses.mean(0), rtol=1e-10)
    np.testing.assert_allclose(triclinic.calc.results["stress_std"], stresses.std(0), rtol=1e-10)
    assert triclinic.get_potential_energy() == pytest.approx(energies.mean(), rel=1e-12)
    assert triclinic.get_potential_energies().sum() == pytest.approx(energies.mean(), rel=1e-12)
    assert triclinic.calc.get_property("energy_std", triclinic) == pytest.approx(energies.std(), rel=1e-12)


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


def thermalise(atoms, temperature):
    speed = np.sqrt(ase_units.kB * temperature / atoms.get_masses())[:, None]
    atoms.set_velocities(speed * np.random.default_rng(1).normal(size=(len(atoms), 3)))


def run(dynamics, steps):
    """Total energies in eV, one each step, and how often an atom was wrapped through the boundary."""
    atoms, energies, crossings = dynamics.atoms, [], 0
    for _ in range(steps):
        dynamics.run(1)
        before = atoms.positions.copy()
        atoms.wrap()
        crossings += int((abs(atoms.positions - before) > 1e-6).any(1).sum())
        energies.append(atoms.get_total_energy())
    return np.array(energies), crossings


@pytest.mark.parametrize("name", ["ethanol", "ethanol with a list", "copper"])
def test_energy_is_conserved(name, request, monkeypatch):
    if "list" in name:
        monkeypatch.setattr(pyg_schnet.interfaces.ase, "_FEW_ATOMS", 0)
    if name == "copper":
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.rattle(0.05, seed=0)  # atoms at the boundary cross it
    else:
        atoms = request.getfixturevalue("ethanol")
    atoms.calc = soft_potential()
    temperature = 100.0
    thermalise(atoms, temperature)
    energies, crossings = run(VelocityVerlet(atoms, 0.5 * ase_units.fs), 500)
    thermal = 1.5 * ase_units.kB * temperature * len(atoms)
    assert abs(energies - energies[0]).max() < 0.02 * thermal
    drift = np.polyfit(np.arange(500), energies, 1)[0] * 500
    assert abs(drift) < 0.005 * thermal
    assert (crossings > 0) == (name == "copper")
    rebuilds = atoms.calc.neighbors.n_rebuilds
    assert rebuilds == 0 if name == "ethanol" else 0 < rebuilds < 50


def test_a_thermostat_holds_the_temperature():
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.calc = soft_potential()
    thermalise(atoms, 300.0)
    random = np.random.default_rng(0)
    dynamics = Langevin(
        atoms, 1.0 * ase_units.fs, temperature_K=300.0, friction=0.05 / ase_units.fs, rng=random, fixcm=False
    )
    temperatures = []
    dynamics.attach(lambda: temperatures.append(atoms.get_temperature()))
    run(dynamics, 300)
    assert np.mean(temperatures[100:]) == pytest.approx(300.0, abs=60.0)


def test_vibrations_are_those_of_the_hessian(water, tmp_path):
    model = schnet()
    water.calc = SchNetCalculator(model, unit="eV")
    # steps so small that no distance crosses a grid point of the splined filters, where the third derivative jumps
    vibrations = Vibrations(water, name=str(tmp_path / "vib"), delta=1e-4, nfree=4)
    vibrations.run()
    data = to_data(water, dtype=torch.float64)
    expected = hessian(model, data.z, data.pos).reshape(9, 9).numpy()
    found = vibrations.get_vibrations().get_hessian_2d()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * abs(expected).max())


def test_phonons_have_three_acoustic_branches(tmp_path):
    atoms = bulk("Cu")
    atoms.calc = soft_potential()
    phonons = Phonons(atoms, atoms.calc, supercell=(3, 3, 3), delta=0.01, name=str(tmp_path / "phonon"))
    phonons.run()
    phonons.read(acoustic=False)  # no correction needed: the forces add up to zero
    at_gamma, at_x = phonons.band_structure([[0, 0, 0], [0.5, 0.0, 0.5]], verbose=False)
    assert abs(at_gamma).max() < 1e-3 * abs(at_x).max()


def test_optimisers_relax_atoms_and_cell(triclinic):
    triclinic.calc = soft_potential()
    start, force = triclinic.get_potential_energy(), abs(triclinic.get_forces()).max()
    optimiser = BFGS(FrechetCellFilter(triclinic), logfile=None, maxstep=0.05)
    optimiser.run(fmax=0.2 * force, steps=40)
    assert triclinic.get_potential_energy() < start


def test_nothing_is_calculated_twice(ethanol, monkeypatch):
    ethanol.calc = calculator = SchNetCalculator(schnet(), unit="eV")
    calls = []
    calculate = calculator.calculate
    monkeypatch.setattr(calculator, "calculate", lambda *args: (calls.append(args[1]), calculate(*args)))
    ethanol.get_forces()
    ethanol.get_forces()
    ethanol.get_potential_energy()
    assert calls == [["forces"]]
    ethanol.positions[0] += 0.1
    ethanol.get_potential_energy()
    assert calls[1:] == [["energy"]]
    assert "forces" not in calculator.results


def test_results_of_another_structure_are_not_kept(water):
    water.calc = calculator = SchNetCalculator(schnet(), unit="eV")
    water.get_forces()
    other = water.copy()
    other.positions[1] *= 1.2
    calculator.calculate(other, ["energy"])
    fresh = other.copy()
    fresh.calc = SchNetCalculator(schnet(), unit="eV")
    np.testing.assert_allclose(calculator.get_forces(other), fresh.get_forces(), atol=1e-12)


def test_one_calculator_serves_different_structures(ethanol, triclinic, slab, isolated_atom):
    shared = SchNetCalculator(schnet(), unit="eV")
    for atoms in (ethanol, triclinic, slab, isolated_atom, triclinic, ethanol):
        fresh = SchNetCalculator(schnet(), unit="eV")
        assert shared.get_potential_energy(atoms) == pytest.approx(fresh.get_potential_energy(atoms), abs=1e-12)
        np.testing.assert_allclose(shared.get_forces(atoms), fresh.get_forces(atoms), atol=1e-12)
    assert not shared.get_forces(isolated_atom).any()


def test_only_what_is_asked_for_is_calculated(ethanol):
    ethanol.calc = calculator = SchNetCalculator(schnet(), unit="eV")
    ethanol.get_potential_energy()
    assert "forces" not in calculator.results
    ethanol.get_forces()
    assert "stress" not in calculator.results


def in_kcal_mol():
    model = schnet()
    model.card["unit"] = "kcal/mol"
    return model


@pytest.mark.parametrize(
    ("model", "unit", "message"),
    [
        (schnet(), None, "state it, for example unit="),
        (in_kcal_mol(), "eV", "unit='eV' contradicts the model, which says 'kcal/mol'"),
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


def test_what_is_no_model_is_refused(tmp_path):
    theirs = PyGSchNet(16, 16, 1, 12, 4.0, interaction_graph=InteractionGraph(4.0))
    with pytest.raises(TypeError, match=r"got SchNet; SchNet.from_pyg converts"):
        SchNetCalculator(theirs, unit="eV")
    with pytest.raises(TypeError, match="or the path of a model file, got int"):
        SchNetCalculator([schnet(), 3], unit="eV")
    with pytest.raises(FileNotFoundError, match="no model file at"):
        SchNetCalculator(tmp_path / "nothing.safetensors")
    with pytest.raises(ValueError, match=r"float64 or torch.float32, got torch.float16"):
        SchNetCalculator(schnet(), unit="eV", dtype=torch.float16)
    with pytest.raises(ValueError, match="skin must be a positive length"):
        SchNetCalculator(schnet(), unit="eV", skin=0.0)


def test_stress_is_refused_where_the_cell_has_no_volume(water, slab):
    slab.cell[2] = 0.0
    for atoms in (water, slab):
        atoms.calc = SchNetCalculator(schnet(), unit="eV")
        for ask in (atoms.get_stress, atoms.get_stresses):
            with pytest.raises(PropertyNotImplementedError, match="cell has no volume is not defined"):
                ask()
    assert slab.get_forces().shape == (len(slab), 3)
    assert "stress" not in slab.calc.results


def test_bad_structures_are_refused(water):
    water.calc = SchNetCalculator(schnet(), unit="eV")
    water.positions[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"(?i)finite"):
        water.get_forces()
    water.positions[0, 0] = 0.0
    water.numbers[0] = 110
    with pytest.raises(ValueError, match="at most 99, got 110"):
        water.get_forces()
    water.numbers[0] = 0
    with pytest.raises(ValueError, match="got 0"):
        water.get_forces()
    with pytest.raises(ValueError, match="no atoms"):
        SchNetCalculator(schnet(), unit="eV").get_potential_energy(Atoms())


@pytest.mark.parametrize("first", ["get_potential_energy", "get_forces", "get_stress"])
@pytest.mark.parametrize("name", ["triclinic", "slab"])
def test_periodic_structures_take_one_evaluation_a_step(name, first, request, monkeypatch):
    atoms = request.getfixturevalue(name)
    atoms.calc = SchNetCalculator(schnet(), unit="eV")
    calls = []
    evaluate = Potential.__call__
    monkeypatch.setattr(
        Potential, "__call__", lambda self, *args, **kw: calls.append(kw) or evaluate(self, *args, **kw)
    )
    for _ in range(3):
        atoms.rattle(0.01)
        getattr(atoms, first)()
        atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energy()
    assert len(calls) == 3


def test_a_model_of_energies_alone_still_gives_those_of_crystals(triclinic):
    model = schnet()
    model.card["trained_on"] = Domain("none", False, {}, {}).as_json()
    triclinic.calc = SchNetCalculator(model, unit="eV")
    with pytest.warns(UserWarning, match="periodic boundaries"):
        triclinic.get_potential_energy()
    assert "forces" not in triclinic.calc.results
    with pytest.raises(ValueError, match="was not trained on forces"):
        triclinic.get_stress()


@pytest.mark.parametrize(
    "info", [{"charge": 1}, {"total_charge": -1.0}, {"spin": 2}, {"multiplicity": 3}, {"uhf": 1}, {"Charge": 1}]
)
def test_charge_and_spin_are_warned_about_whenever_they_come(info, ethanol):
    ethanol.calc = SchNetCalculator(schnet(), unit="eV")
    ethanol.get_forces()
    ethanol.info.update(info)
    ethanol.rattle(0.01)
    with pytest.warns(UserWarning, match="models know neither charge nor spin"):
        ethanol.get_forces()


@pytest.mark.parametrize("name", ["initial_charges", "initial_magmoms"])
def test_charges_of_atoms_are_warned_about(name, ethanol):
    ethanol.calc = SchNetCalculator(schnet(), unit="eV")
    ethanol.get_forces()
    ethanol.set_array(name, np.eye(len(ethanol))[0])
    with pytest.warns(UserWarning, match="has initial"):
        ethanol.get_forces()


def test_charges_that_come_in_place_are_seen(ethanol):
    """Keys that were looked at are not looked at again, unless their values may be a charge."""
    ethanol.info.update(name="ethanol", data={})
    ethanol.calc = SchNetCalculator(schnet(), unit="eV")
    for _ in range(3):
        ethanol.get_forces()
        ethanol.rattle(0.01)
    ethanol.info["data"]["charge"] = 1
    with pytest.warns(UserWarning, match="charge=1"):
        ethanol.get_forces()


@pytest.mark.parametrize("name", ["numbers", "cell", "pbc", "positions"])
def test_what_changes_in_place_is_seen(name, ethanol):
    ethanol.cell = [9.0, 9.0, 9.0]
    ethanol.calc = SchNetCalculator(schnet(), unit="eV")
    for _ in range(2):
        ethanol.get_forces()
        ethanol.rattle(0.01)
    ethanol.get_forces()
    if name == "cell":
        ethanol.cell[0, 0] = 5.0
        assert ethanol.calc.check_state(ethanol) == ["cell"]
        return
    values = ethanol.pbc if name == "pbc" else ethanol.arrays[name]
    values[0] = {"numbers": 1, "pbc": True, "positions": 0.1}[name]
    assert ethanol.calc.check_state(ethanol) == [name]
    fresh = ethanol.copy()
    fresh.calc = SchNetCalculator(schnet(), unit="eV")
    np.testing.assert_array_equal(ethanol.get_forces(), fresh.get_forces())

"""OpenMM with models of this package: dynamics, constant pressure, and molecules in a classical surrounding."""

import importlib.metadata

import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet

from pyg_schnet.interfaces import SchNetCalculator, SchNetPotentialFactory
from pyg_schnet.interfaces import openmm as door
from pyg_schnet.units import factor
from tests.interfaces.models import soft_model


@pytest.fixture
def potential():
    """A function that makes the potential of a model, or of several."""
    openmmml = pytest.importorskip("openmmml")
    openmmml.MLPotential.registerImplFactory("pyg_schnet", SchNetPotentialFactory())
    return lambda model, **options: openmmml.MLPotential("pyg_schnet", model=model, unit="eV", **options)


def topology_of(atoms):
    from openmm import app, unit

    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for symbol in atoms.get_chemical_symbols():
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    if atoms.pbc.any():
        topology.setPeriodicBoxVectors((0.1 * atoms.cell.array).tolist() * unit.nanometer)
    return topology


def context_of(system, atoms, integrator=None):
    import openmm

    integrator = openmm.VerletIntegrator(0.0005) if integrator is None else integrator
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(0.1 * atoms.positions)
    return context


def energy_and_forces(context, **groups):
    """In eV and eV/Å."""
    state = context.getState(energy=True, forces=True, **groups)
    kj_mol = factor("kJ/mol", "eV")
    return kj_mol * state.getPotentialEnergy()._value, 0.1 * kj_mol * state.getForces(asNumpy=True)._value


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(door, "_IS_THERE", False)
    with pytest.raises(ImportError, match=r'pip install "pyg_schnet\[openmm\]"'):
        door.SchNetPotential(soft_model(), unit="eV")


def test_the_entry_point_leads_here():
    found = [point for point in importlib.metadata.entry_points(group="openmmml.potentials") if "pyg" in point.name]
    if not found:
        pytest.skip("the package was installed before it had this entry point")
    assert found[0].name == "pyg_schnet"
    assert found[0].load() is SchNetPotentialFactory


def test_molecules_move_as_in_ase(potential):
    import openmm

    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.1, seed=0)
    system = potential(soft_model()).createSystem(topology_of(atoms), removeCMMotion=False)
    assert not system.usesPeriodicBoundaryConditions()
    step = 0.5 * units.fs
    integrator = openmm.CustomIntegrator(step / (1000 * units.fs))  # velocity Verlet, as ASE has it
    for line in ("v=v+0.5*dt*f/m", "x=x+dt*v", "v=v+0.5*dt*f/m"):
        integrator.addComputePerDof(*line.split("=", 1))
    masses = np.array([system.getParticleMass(k)._value for k in range(len(atoms))])
    context = context_of(system, atoms, integrator)
    context.setVelocities(np.zeros((len(atoms), 3)))
    integrator.step(20)
    moved = 10 * context.getState(positions=True).getPositions(asNumpy=True)._value
    start = atoms.positions.copy()
    atoms.set_masses(masses)
    atoms.calc = SchNetCalculator(soft_model(), unit="eV")
    VelocityVerlet(atoms, step).run(20)
    # unit constants of two packages differ in the eighth digit
    np.testing.assert_allclose(moved, atoms.positions, rtol=0, atol=1e-6 * abs(atoms.positions - start).max())


def test_a_barostat_finds_the_pressure_of_the_model(potential):
    # energies at other volumes are what a Monte Carlo barostat asks for
    import openmm
    from openmm import unit

    atoms = bulk("Si", cubic=True) * (2, 2, 1)
    atoms.rattle(0.05, seed=0)
    system = potential(soft_model()).createSystem(topology_of(atoms))
    system.addForce(openmm.MonteCarloBarostat(1.0 * unit.bar, 300 * unit.kelvin, 1))
    assert system.usesPeriodicBoundaryConditions()
    context = context_of(system, atoms)
    context.setVelocitiesToTemperature(300, 1)
    before = context.getState().getPeriodicBoxVolume()._value
    context.getIntegrator().step(30)
    state = context.getState(positions=True, energy=True)
    assert state.getPeriodicBoxVolume()._value != before
    moved = atoms.copy()
    moved.set_cell(10 * state.getPeriodicBoxVectors(asNumpy=True)._value)
    moved.positions = 10 * state.getPositions(asNumpy=True)._value
    moved.calc = SchNetCalculator(soft_model(), unit="eV")
    energy, _ = energy_and_forces(context)
    assert energy == pytest.approx(moved.get_potential_energy(), rel=1e-9)
    scaled = moved.copy()
    scaled.set_cell(1.001 * moved.cell.array, scale_atoms=True)
    scaled.calc = moved.calc
    expected = scaled.get_potential_energy()
    context.setPeriodicBoxVectors(*(0.1 * scaled.cell.array))
    context.setPositions(0.1 * scaled.positions)
    assert energy_and_forces(context)[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("periodic", [True, False])
def test_mixed_systems_are_the_sum_of_their_parts(potential, periodic):
    import openmm

    atoms = molecule("CH3CH2OH")
    inside = len(atoms)
    atoms.set_cell(np.diag([14.0, 15.0, 16.0]))
    atoms.center()
    atoms.pbc = True
    others = bulk("Ar", "fcc", a=7.0, cubic=True)
    others.positions += [0.5, 0.4, 0.3]
    atoms += others
    topology = topology_of(atoms)
    classical = openmm.System()
    classical.setDefaultPeriodicBoxVectors(*(0.1 * atoms.cell.array))
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.6)
    for number, mass in zip(atoms.numbers, atoms.get_masses(), strict=True):
        classical.addParticle(mass)
        force.addParticle(0.0, 0.3 + 0.001 * number, 0.5)
    classical.addForce(force)
    model = soft_model()
    mixed = potential(model).createMixedSystem(topology, classical, range(inside), forceGroup=1, periodic=periodic)
    context = context_of(mixed, atoms)
    learned, learned_forces = energy_and_forces(context, groups={1})
    alone = atoms[:inside]
    alone.pbc = False
    alone.calc = SchNetCalculator(model, unit="eV")
    assert learned == pytest.approx(alone.get_potential_energy(), rel=1e-9)
    np.testing.assert_allclose(learned_forces[:inside], alone.get_forces(), rtol=0, atol=1e-9)
    assert not learned_forces[inside:].any()
    total, forces = energy_and_forces(context)
    rest, rest_forces = energy_and_forces(context, groups={0})
    assert total == pytest.approx(learned + rest, rel=1e-12)
    np.testing.assert_allclose(forces, learned_forces + rest_forces, rtol=0, atol=1e-12)
    whole = context_of(classical, atoms)  # the force field has pairs inside of the molecule too
    assert abs(energy_and_forces(whole)[0] - rest) > 1e-3


def test_committees_are_means(potential):
    atoms, models = molecule("H2O"), [soft_model(0), soft_model(1)]
    found = energy_and_forces(context_of(potential(models).createSystem(topology_of(atoms)), atoms))
    each = [energy_and_forces(context_of(potential(one).createSystem(topology_of(atoms)), atoms)) for one in models]
    assert found[0] == pytest.approx((each[0][0] + each[1][0]) / 2, rel=1e-12)
    np.testing.assert_allclose(found[1], (each[0][1] + each[1][1]) / 2, rtol=0, atol=1e-12)


def test_charges_are_not_ignored(potential):
    atoms = molecule("OH")
    system = potential(soft_model()).createSystem(topology_of(atoms), charge=-1)
    with pytest.warns(UserWarning, match="charge=-1"):
        energy_and_forces(context_of(system, atoms))


def test_wrong_arguments_are_refused(potential):
    import openmmml
    from openmm import app

    topology = topology_of(molecule("H2O"))
    with pytest.raises(TypeError, match="needs a model"):
        openmmml.MLPotential("pyg_schnet")
    with pytest.raises(TypeError, match="no further arguments are known, got cutoff"):
        potential(soft_model()).createSystem(topology, cutoff=3.0)
    with pytest.raises(ValueError, match="periodic=True needs box vectors"):
        potential(soft_model()).createSystem(topology, periodic=True)
    topology.addAtom("X", None, next(topology.residues()))
    with pytest.raises(ValueError, match="atom 3 has none"):
        potential(soft_model()).createSystem(topology)
    assert isinstance(topology, app.Topology)

"""A molecule of a trained model in a classical surrounding, by OpenMM: aspirin in liquid argon at constant pressure.

The molecule itself is a SchNet; argon and what is between both is a Lennard-Jones force field (mechanical embedding).

Run: python examples/09_openmm.py --steps 5000          (needs: pip install "pyg_schnet[openmm]")
"""

import argparse

import ase.io
import numpy as np
import openmm
from ase.build import bulk
from openmm import app, unit
from openmmml import MLPotential

LENNARD_JONES = {"H": (2.42, 0.126), "C": (3.55, 0.293), "O": (2.96, 0.711), "Ar": (3.405, 0.996)}
"""Diameter in Å and depth in kJ/mol of each element; usual values of all-atom force fields and of liquid argon."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="rmd17-aspirin", help="model file of energies, or a pretrained one")
    parser.add_argument("--structure", default="examples/aspirin.xyz", help="the molecule, in a file that ASE reads")
    parser.add_argument("--cells", type=int, default=5, help="edge of the box in cells of solid argon")
    parser.add_argument("--temperature", type=float, default=90.0, help="temperature in K")
    parser.add_argument("--pressure", type=float, default=1.0, help="pressure in bar")
    parser.add_argument("--timestep", type=float, default=0.5, help="time step in fs")
    parser.add_argument("--steps", type=int, default=200, help="number of steps")
    parser.add_argument("--platform", default="CPU", help="OpenMM's platform for the classical part")
    parser.add_argument("--seed", type=int, default=0, help="of velocities and noise")
    options = parser.parse_args()

    molecule = ase.io.read(options.structure, index=0)
    topology, positions = surrounded(molecule, options.cells)
    classical = force_field(topology)
    inside = range(len(molecule))
    # the molecule is smaller than the box and has no images near it, so that it is a molecule to the model
    potential = MLPotential("pyg_schnet", model=options.model)
    system = potential.createMixedSystem(topology, classical, inside, forceGroup=1, periodic=False)
    system.addForce(openmm.MonteCarloBarostat(options.pressure * unit.bar, options.temperature * unit.kelvin, 25))

    step = options.timestep * unit.femtosecond
    integrator = openmm.LangevinMiddleIntegrator(options.temperature * unit.kelvin, 1 / unit.picosecond, step)
    integrator.setRandomNumberSeed(options.seed + 1)
    simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName(options.platform))
    simulation.context.setPositions(positions * unit.angstrom)
    simulation.minimizeEnergy(maxIterations=20)
    simulation.context.setVelocitiesToTemperature(options.temperature * unit.kelvin, options.seed + 1)
    report(simulation, len(molecule))
    for _ in range(4):
        simulation.step(options.steps // 4)
        report(simulation, len(molecule))


def surrounded(molecule, cells):
    """Topology and positions in Å of the molecule in the middle of a box of argon, where it leaves room for atoms."""
    argon = bulk("Ar", "fcc", a=5.4, cubic=True) * (cells, cells, cells)
    inside = molecule.positions - molecule.positions.mean(0) + argon.cell.lengths() / 2
    far = np.linalg.norm(argon.positions[:, None] - inside, axis=2).min(1) > 3.2
    topology = app.Topology()
    chain = topology.addChain()
    residue = topology.addResidue("MOL", chain)
    for symbol in molecule.get_chemical_symbols():
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    for _ in range(int(far.sum())):
        topology.addAtom("Ar", app.Element.getBySymbol("Ar"), topology.addResidue("AR", chain))
    topology.setUnitCellDimensions(0.1 * argon.cell.lengths() * unit.nanometer)
    return topology, np.concatenate([inside, argon.positions[far]])


def force_field(topology):
    """Lennard-Jones particles without charges, between all pairs."""
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.9 * unit.nanometer)
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
        diameter, depth = LENNARD_JONES[atom.element.symbol]
        force.addParticle(0.0, diameter * unit.angstrom, depth * unit.kilojoule_per_mole)
    system.addForce(force)
    return system


def report(simulation, inside):
    """Print energies of both parts, temperature of the molecule, and the volume."""
    context = simulation.context
    state = context.getState(velocities=True, energy=True)
    parts = [context.getState(energy=True, groups={group}).getPotentialEnergy() for group in (0, 1)]
    classical, learned = (part.value_in_unit(unit.kilojoule_per_mole) for part in parts)
    velocities = state.getVelocities(asNumpy=True)[:inside].value_in_unit(unit.nanometer / unit.picosecond)
    masses = [simulation.system.getParticleMass(k).value_in_unit(unit.dalton) for k in range(inside)]
    gas_constant = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)
    temperature = (masses @ (velocities**2).sum(1)) / (3 * inside * gas_constant)
    volume = state.getPeriodicBoxVolume().value_in_unit(unit.nanometer**3)
    print(
        f"step {simulation.currentStep}: model {learned:.1f} kJ/mol, classical {classical:.1f} kJ/mol, molecule at "
        f"{temperature:.0f} K, box of {volume:.2f} nm³"
    )


if __name__ == "__main__":
    main()

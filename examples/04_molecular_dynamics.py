"""Dynamics with a trained potential: is the energy conserved, and does a thermostat hold its temperature?

It has to be one that was trained on forces, of such molecules, as rmd17-aspirin was, by
examples/recipes/rmd17_aspirin.yaml.

Run: python examples/04_molecular_dynamics.py --model rmd17-aspirin --structure examples/aspirin.xyz
"""

import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase import units
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet

from pyg_schnet.interfaces import SchNetCalculator


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model",
        required=True,
        help="model file of energies, as trained with pyg-schnet train --config examples/recipes/rmd17_aspirin.yaml",
    )
    parser.add_argument("--structure", required=True, help="any file that ASE reads; its first structure is taken")
    parser.add_argument("--repeat", type=int, default=1, help="copies of a crystal's cell along each vector")
    parser.add_argument("--ensemble", choices=["nve", "nvt"], default="nve", help="constant energy or temperature")
    parser.add_argument("--temperature", type=float, default=300.0, help="temperature in K")
    parser.add_argument("--timestep", type=float, default=0.5, help="time step in fs")
    parser.add_argument("--steps", type=int, default=20_000, help="number of steps")
    parser.add_argument("--seed", type=int, default=0, help="of the velocities")
    parser.add_argument("--output", type=Path, default=Path("dynamics"), help="name of the files, without ending")
    options = parser.parse_args()

    random = np.random.default_rng(options.seed)
    atoms = ase.io.read(options.structure, index=0).repeat(options.repeat)
    atoms.calc = SchNetCalculator(options.model)
    thermalise(atoms, options.temperature, random)
    step = options.timestep * units.fs
    if options.ensemble == "nve":
        dynamics = VelocityVerlet(atoms, step)
    else:
        dynamics = Langevin(
            atoms, step, temperature_K=options.temperature, friction=0.02 / units.fs, rng=random, fixcm=False
        )
    times, energies, temperatures, crossings = [], [], [], 0
    interval = max(options.steps // 1000, 1)
    for done in range(0, options.steps, interval):
        dynamics.run(min(interval, options.steps - done))
        if atoms.pbc.any():
            before = atoms.positions.copy()
            atoms.wrap()
            crossings += int((np.abs(atoms.positions - before) > 1e-6).any(1).sum())
        times.append(dynamics.get_time() / (1000 * units.fs))
        energies.append(atoms.get_total_energy())
        temperatures.append(atoms.get_temperature())
    report(options, atoms, np.array(times), np.array(energies), np.array(temperatures), crossings)


def thermalise(atoms, temperature, random):
    """Velocities of the Maxwell-Boltzmann distribution, without motion of the whole."""
    speed = np.sqrt(units.kB * temperature / atoms.get_masses())[:, None]
    atoms.set_velocities(speed * random.normal(size=(len(atoms), 3)))
    momenta = atoms.get_momenta()
    atoms.set_momenta(momenta - atoms.get_masses()[:, None] * momenta.sum(0) / atoms.get_masses().sum())


def report(options, atoms, times, energies, temperatures, crossings):
    per_atom = 1e3 * (energies - energies[0]) / len(atoms)  # meV/atom
    drift = np.polyfit(times, per_atom, 1)[0] if len(times) > 1 else 0.0
    print(f"{len(atoms)} atoms, {options.ensemble.upper()}, {times[-1]:.2f} ps in steps of {options.timestep} fs")
    if options.ensemble == "nve":
        print(f"energy drift {drift:+.4f} meV/atom/ps, fluctuation {per_atom.std():.4f} meV/atom")
    late = temperatures[len(temperatures) // 2 :]
    print(f"temperature {late.mean():.0f} K on average, {late.std():.0f} K fluctuation, in the second half")
    print(f"neighbour list built {atoms.calc.neighbors.n_rebuilds} times, {crossings} crossings of the boundary")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    draw(options.output.with_suffix(".png"), times, per_atom, temperatures)


def draw(path, times, per_atom, temperatures):
    """Total energy and temperature over time."""
    try:
        import matplotlib
    except ImportError:
        print("no picture without matplotlib: pip install pyg_schnet[plot]")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.plot(times, per_atom)
    left.set(xlabel="time [ps]", ylabel="change of total energy [meV/atom]")
    right.plot(times, temperatures)
    right.set(xlabel="time [ps]", ylabel="temperature [K]")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    print(f"picture in {path}")


if __name__ == "__main__":
    main()

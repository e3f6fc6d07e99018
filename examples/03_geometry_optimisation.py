"""Relax a molecule with a trained potential, and look at how energy and forces go down.

It has to be one that was trained on forces, of such molecules, as rmd17-aspirin was, by
examples/recipes/rmd17_aspirin.yaml.

Run: python examples/03_geometry_optimisation.py --model rmd17-aspirin --structure examples/aspirin.xyz
"""

import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase.optimize import BFGS

from pyg_schnet.interfaces import SchNetCalculator


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model",
        required=True,
        help="model file of energies, as trained with pyg-schnet train --config examples/recipes/rmd17_aspirin.yaml",
    )
    parser.add_argument("--structure", required=True, help="any file that ASE reads; its first structure is taken")
    parser.add_argument("--fmax", type=float, default=0.005, help="largest force at the end in eV/Å")
    parser.add_argument("--steps", type=int, default=300, help="largest number of steps")
    parser.add_argument("--output", type=Path, default=Path("relaxed"), help="name of the files, without ending")
    options = parser.parse_args()

    atoms = ase.io.read(options.structure, index=0)
    start = atoms.positions.copy()
    atoms.calc = SchNetCalculator(options.model)
    energies, forces = [], []

    def record():
        energies.append(atoms.get_potential_energy())
        forces.append(np.linalg.norm(atoms.get_forces(), axis=1).max())

    optimiser = BFGS(atoms, logfile=None)
    optimiser.attach(record)
    converged = optimiser.run(fmax=options.fmax, steps=options.steps)
    moved = np.linalg.norm(atoms.positions - start, axis=1).max()
    state = "converged" if converged else "not converged"
    print(f"{state} after {len(energies) - 1} steps: energy {energies[0]:.4f} -> {energies[-1]:.4f} eV")
    print(f"largest force {forces[0]:.3f} -> {forces[-1]:.4f} eV/Å, largest displacement {moved:.2f} Å")
    print(f"neighbour list built {atoms.calc.neighbors.n_rebuilds} times in {len(energies)} steps")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    atoms.write(options.output.with_suffix(".xyz"), format="extxyz")
    draw(options.output.with_suffix(".png"), energies, forces)


def draw(path, energies, forces):
    """Energy and largest force over the steps."""
    try:
        import matplotlib
    except ImportError:
        print("no picture without matplotlib: pip install pyg_schnet[plot]")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.plot(1e3 * (np.array(energies) - energies[-1]))
    left.set(xlabel="step", ylabel="energy above the end [meV]", yscale="symlog")
    right.semilogy(forces)
    right.set(xlabel="step", ylabel="largest force [eV/Å]")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    print(f"picture in {path}")


if __name__ == "__main__":
    main()

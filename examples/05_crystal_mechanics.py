"""Equation of state and elastic constants of a cubic crystal from a trained potential.

Run: python examples/05_crystal_mechanics.py --model mlearn-li --element Li --lattice bcc --a 3.44
"""

import argparse
from pathlib import Path

import numpy as np
from ase import units
from ase.build import bulk
from ase.eos import EquationOfState
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from pyg_schnet.interfaces import SchNetCalculator


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model",
        default="mlearn-mo",
        help="a pretrained model, or a file, as of pyg-schnet train --config examples/recipes/mlearn_mo.yaml",
    )
    parser.add_argument("--element", default="Mo", help="chemical symbol")
    parser.add_argument("--lattice", default="bcc", choices=["fcc", "bcc", "diamond", "sc"], help="cubic lattice")
    parser.add_argument("--a", type=float, default=3.16, help="lattice constant to start from in Å")
    parser.add_argument("--output", type=Path, default=Path("crystal.png"), help="file of the picture")
    options = parser.parse_args()

    crystal = bulk(options.element, options.lattice, a=options.a, cubic=True)
    crystal.calc = SchNetCalculator(options.model)
    converged = BFGS(FrechetCellFilter(crystal), logfile=None).run(fmax=1e-4, steps=200)
    state = "relaxed" if converged else "not converged: give an --a that is nearer;"
    print(f"{state} lattice constant {crystal.cell.lengths().mean():.4f} Å")

    volumes, energies = equation_of_state(crystal)
    fit = EquationOfState(volumes, energies, eos="birchmurnaghan")
    volume, _, modulus = fit.fit()
    print(f"Birch-Murnaghan: volume {volume:.3f} Å³/cell, bulk modulus {modulus / units.GPa:.1f} GPa")

    strains, stresses, (c11, c12, c44) = elastic_constants(crystal)
    print(f"elastic constants: C11 {c11:.1f}, C12 {c12:.1f}, C44 {c44:.1f} GPa")
    print(f"bulk modulus from them, (C11 + 2 C12) / 3: {(c11 + 2 * c12) / 3:.1f} GPa")
    draw(options.output, volumes, energies, fit, strains, stresses)


def equation_of_state(crystal):
    """Volumes in Å³ and energies in eV of cells up to 4 % larger and smaller in volume."""
    volumes, energies = [], []
    for scale in np.linspace(0.96, 1.04, 9) ** (1 / 3):
        strained = deformed(crystal, scale * np.eye(3))
        volumes.append(strained.get_volume())
        energies.append(strained.get_potential_energy())
    return np.array(volumes), np.array(energies)


def elastic_constants(crystal, largest=0.005):
    """Slopes of the stress over small strains: one along x, one shear. Returns the curves and C11, C12, C44 in GPa."""
    strains = np.linspace(-largest, largest, 7)
    stretch, shear = np.zeros((3, 3)), np.zeros((3, 3))
    stretch[0, 0] = 1.0
    shear[1, 2] = shear[2, 1] = 0.5  # an engineering strain of one
    along = [deformed(crystal, np.eye(3) + size * stretch).get_stress() / units.GPa for size in strains]
    across = [deformed(crystal, np.eye(3) + size * shear).get_stress() / units.GPa for size in strains]
    curves = {
        "C11": [stress[0] for stress in along],
        "C12": [stress[1] for stress in along],
        "C44": [stress[3] for stress in across],
    }
    return strains, curves, tuple(np.polyfit(strains, curve, 1)[0] for curve in curves.values())


def deformed(crystal, deformation):
    """Copy of a crystal in a deformed cell, its atoms relaxed, with the same calculator.

    In fcc, bcc and simple cubic lattices no atom has to move, by symmetry; in diamond a shear moves the two sublattices
    against each other, without which C44 is far too large.
    """
    copy = crystal.copy()
    copy.set_cell(crystal.cell @ deformation, scale_atoms=True)
    copy.calc = crystal.calc
    BFGS(copy, logfile=None).run(fmax=1e-4, steps=100)
    return copy


def draw(path, volumes, energies, fit, strains, stresses):
    """Equation of state and stresses over strain."""
    try:
        import matplotlib
    except ImportError:
        print("no picture without matplotlib: pip install pyg_schnet[plot]")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    line = np.linspace(volumes.min(), volumes.max(), 100)
    left.plot(line, 1e3 * (fit.func(line, *fit.eos_parameters) - energies.min()))
    left.plot(volumes, 1e3 * (energies - energies.min()), "o")
    left.set(xlabel="volume [Å³]", ylabel="energy [meV/cell]")
    for name, curve in stresses.items():
        right.plot(100 * strains, curve, "o-", label=name)
    right.set(xlabel="strain [%]", ylabel="stress [GPa]")
    right.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    print(f"picture in {path}")


if __name__ == "__main__":
    main()

r"""Conformers, vibrations, a torsion scan and dynamics of an organic molecule, each with an error bar.

The potential `organic-gfn2` is a committee that learned the energies and forces of GFN2-xTB for molecules of H, C, N, O
and F; where its models disagree, it is not to be trusted.

Run: python examples/11_organic_molecule.py --structure examples/dopamine.xyz
     python examples/11_organic_molecule.py --method GFN2-xTB  (and the method; pip install pyg_schnet[reference])
"""

import argparse
import itertools
from pathlib import Path

import ase.io
import numpy as np
from ase import units
from ase.md.langevin import Langevin

from pyg_schnet.analysis import normal_modes
from pyg_schnet.data.reference import Method
from pyg_schnet.data.reference.moves import turned
from pyg_schnet.data.reference.topology import Topology
from pyg_schnet.interfaces import BatchCalculator, DeviationLimit, SchNetCalculator, relax_batch
from pyg_schnet.units import factor

EXAMPLES = Path(__file__).parent
KCAL = factor("kcal/mol", "eV")
SAME = 0.01  # kcal/mol between minima that are taken for one


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="organic-gfn2", help="file of a model or a committee, or a pretrained one")
    parser.add_argument("--structure", default=EXAMPLES / "dopamine.xyz", help="any file that ASE reads")
    parser.add_argument("--method", help="GFN2-xTB, of tblite, or the path of a calculator of ASE, to compare with")
    parser.add_argument("--conformers", type=int, default=60, help="most combinations of torsions to begin with")
    parser.add_argument("--points", type=int, default=25, help="of the torsion scan")
    parser.add_argument("--steps", type=int, default=4000, help="of dynamics at 300 K, of half a femtosecond")
    parser.add_argument("--limit", type=float, default=1.0, help="largest spread of a force in dynamics, in eV/Å")
    parser.add_argument("--output", type=Path, default=Path("organic"), help="name of the files, without ending")
    options = parser.parse_args()

    atoms = ase.io.read(options.structure, index=0)
    reference = Method(options.method).of(atoms.numbers) if options.method else None
    bonds = Topology(atoms.numbers, atoms.positions).rotatable_bonds()
    minima = conformers(atoms, bonds, options, reference)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(options.output.with_suffix(".xyz"), minima, format="extxyz")
    modes = normal_modes(options.model, minima[0])
    print(f"\n{len(modes.frequencies)} vibrations from {modes.frequencies[0]:.0f} to {modes.frequencies[-1]:.0f} cm⁻¹")
    scan = torsion_scan(minima[0], bonds, options, reference) if bonds else None
    spreads = dynamics(minima[0], options)
    draw(options.output.with_suffix(".png"), minima, modes, scan, spreads)


def conformers(atoms, bonds, options, reference):
    """Minima that are reached from all combinations of torsions in steps of 120°, the lowest first."""
    turns = list(itertools.product((0, 120, 240), repeat=len(bonds)))
    chosen = np.random.default_rng(0).permutation(len(turns))[: options.conformers]
    starts = []
    for number in sorted(chosen):
        start = atoms.copy()
        for (i, j, part), angle in zip(bonds, turns[number], strict=True):
            start.positions = turned(start.positions, i, j, part, angle)
        starts.append(start)
    calculator = BatchCalculator(options.model)
    ends = relax_batch(starts, calculator, fmax=0.01)
    minima = [one for one, end in zip(starts, ends, strict=True) if end.converged]
    if not minima:
        raise SystemExit("no structure has reached a minimum; is the model one of such molecules?")
    minima.sort(key=lambda one: one.get_potential_energy())
    different = [minima[0]]
    for one in minima[1:]:
        if one.get_potential_energy() - different[-1].get_potential_energy() > SAME * KCAL:
            different.append(one)
    print(f"{len(starts)} combinations of torsions, {len(minima)} minima, {len(different)} different energies")
    print("conformer  energy [kcal/mol]  spread" + ("  by the method, there" if reference else ""))
    lowest = different[0].get_potential_energy()
    of_method = [reference(one.positions)[0] for one in different[:10]] if reference else []
    for k, one in enumerate(different[:10]):
        energy = (one.get_potential_energy() - lowest) / KCAL
        spread = one.calc.results.get("energy_std", 0.0) / KCAL
        further = f"  {(of_method[k] - of_method[0]) / KCAL:>21.2f}" if reference else ""
        print(f"{k + 1:>9}  {energy:>17.2f}  {spread:>6.2f}{further}")
    return different


def torsion_scan(atoms, bonds, options, reference):
    """Angles in degrees, and energies of a turn about the bond with most atoms on both sides, in kcal/mol."""
    i, j, part = max(bonds, key=lambda bond: min(len(bond[2]), len(atoms) - len(bond[2])))
    angles = np.linspace(0.0, 360.0, options.points)
    images = [atoms.copy() for _ in angles]
    for image, angle in zip(images, angles, strict=True):
        image.positions = turned(image.positions, i, j, part, angle)
    results = BatchCalculator(options.model)(images, ("energy",))
    energies = np.array([one["energy"] for one in results]) / KCAL
    spreads = np.array([one.get("energy_std", 0.0) for one in results]) / KCAL
    of_method = np.array([reference(image.positions)[0] for image in images]) / KCAL if reference else None
    barrier = energies.max() - energies.min()
    print(f"turn about the bond of atoms {i} and {j}: {barrier:.1f} kcal/mol, spread up to {spreads.max():.2f}", end="")
    print(f"; {np.ptp(of_method):.1f} by the method" if reference else "")
    return angles, energies - energies[0], spreads, None if of_method is None else of_method - of_method[0]


def dynamics(atoms, options):
    """Largest spreads of a force in eV/Å in Langevin dynamics at 300 K."""
    atoms, random = atoms.copy(), np.random.default_rng(0)
    atoms.calc = SchNetCalculator(options.model)
    kick = random.standard_normal((len(atoms), 3))
    atoms.set_momenta(kick * np.sqrt(atoms.get_masses() * units.kB * 300.0)[:, None])
    motion = Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs, rng=random, fixcm=False)
    temperatures, spreads = [], []

    def record():
        temperatures.append(atoms.get_temperature())
        spreads.append(np.linalg.norm(atoms.calc.results.get("forces_std", np.zeros((1, 3))), axis=1).max())

    motion.attach(record, interval=10)
    if len(atoms.calc.members) > 1:
        motion.attach(DeviationLimit(forces=options.limit).observer(atoms), interval=10)  # ends it beyond
    motion.run(options.steps)
    print(
        f"{options.steps / 2000:g} ps of dynamics: {np.mean(temperatures):.0f} K, largest spread of a force "
        f"{max(spreads):.3f} eV/Å"
    )
    return spreads


def draw(path, minima, modes, scan, spreads):
    """Conformers, vibrations, torsion scan and dynamics."""
    try:
        import matplotlib
    except ImportError:
        print("no picture without matplotlib: pip install pyg_schnet[plot]")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), layout="constrained")
    energies = np.array([one.get_potential_energy() for one in minima])
    axes[0, 0].plot((energies - energies[0]) / KCAL, "_", ms=12)
    axes[0, 0].set(xlabel="conformer", ylabel="energy [kcal/mol]")
    axes[0, 1].vlines(modes.frequencies, 0, 1, lw=1)
    axes[0, 1].set(xlabel="vibration [cm⁻¹]", yticks=[])
    if scan is not None:
        angles, values, errors, of_method = scan
        axes[1, 0].errorbar(angles, values, errors, label="model")
        if of_method is not None:
            axes[1, 0].plot(angles, of_method, "--", label="method")
        axes[1, 0].legend()
    axes[1, 0].set(xlabel="torsion [°]", ylabel="energy [kcal/mol]")
    axes[1, 1].plot(0.005 * np.arange(len(spreads)), spreads)
    axes[1, 1].set(xlabel="time [ps]", ylabel="largest spread of a force [eV/Å]")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    print(f"picture in {path}")


if __name__ == "__main__":
    main()

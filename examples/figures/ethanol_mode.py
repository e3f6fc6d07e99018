"""A vibration of ethanol, learned from dynamics: is the normal mode at 874 cm⁻¹ found, and its energies?

Not a figure of the paper. The model has seen frames of dynamics (PBE/def2-SVP), and none of them follows a mode. Its
normal modes are computed at its own minimum, and the one nearest to the reference is looked at. The reference is a scan
in that level of theory along a mode of the gauche conformer; the curvature of its energies is 874.7 cm⁻¹. With
--data FOLDER, which has test_norm_mode_874.xyz.gz of https://github.com/davkovacs/BOTNet-datasets, that number is
computed again, and motions and energies are compared as well.

models/ethanol.safetensors was trained with examples/recipes/ethanol.yaml; its header has its errors.

Run: python examples/figures/ethanol_mode.py
"""

from pathlib import Path

import ase.io
import numpy as np
from ase import units
from ase.build import minimize_rotation_and_translation, molecule
from ase.optimize import BFGS
from common import finish, parse
from matplotlib import pyplot

from pyg_schnet.analysis import normal_modes
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.plotting import plot_normal_modes, style
from pyg_schnet.plotting.style import COLORS

MODEL = Path(__file__).parent / "models" / "ethanol.safetensors"
REFERENCE = 874.7  # cm⁻¹
NEAR, FAR = 0.5, 1.0  # Å √u; the reference has gained 0.3 to 0.4 eV and 1.3 to 1.9 eV there
WAVENUMBER = units._hbar * units.J * units.s / units.invcm  # of an eigenvalue of 1 eV/(Å² u), in cm⁻¹


def main():
    folder = {"type": Path, "help": "folder of test_norm_mode_874.xyz.gz, to compare motions and energies"}
    options = parse(__doc__, "ethanol_mode.png", data=folder)
    scan = None if options.data is None else Scan(options.data / "test_norm_mode_874.xyz.gz")
    minimum = relax(gauche_ethanol() if scan is None else scan.center)
    modes = normal_modes(MODEL, minimum)
    nearest = int(np.abs(modes.frequencies - REFERENCE).argmin())
    frequency = modes.frequencies[nearest]
    motion = modes.modes[nearest] / np.sqrt(modes.reduced_masses[nearest])  # for 1 Å √u
    print(f"learned mode at {frequency:.1f} cm⁻¹, {frequency - REFERENCE:+.1f} cm⁻¹ from {REFERENCE} cm⁻¹")
    print(f"its neighbours at {modes.frequencies[nearest - 1]:.1f} and {modes.frequencies[nearest + 1]:.1f} cm⁻¹")
    holds = abs(frequency - REFERENCE) < 10.0
    claim = "the mode is learned within 10 cm⁻¹"
    if scan is not None:
        holds = compare(scan, minimum, motion) and holds
        claim += f", with its motion and 5 meV within {NEAR} Å √u"
    with style():
        left, right = pyplot.subplots(1, 2, figsize=(7.0, 2.6))[1]
        draw_energies(left, scan, minimum, motion)
        plot_normal_modes(modes, right)
        line = right.axvline(REFERENCE, color=COLORS["vermillion"], linewidth=0.8, zorder=0, label="reference")
        right.legend(handles=[line])
    finish(left, options, claim, holds)


class Scan:
    """The scan: displacements from its centre in Å √u, energies in eV, and the structures."""

    def __init__(self, file):
        self.frames = ase.io.read(file, ":")
        self.displacements = np.array([atoms.info["displacement"] for atoms in self.frames])
        middle = np.abs(self.displacements).argmin()
        self.center = self.frames[middle]
        energies = np.array([atoms.get_potential_energy() for atoms in self.frames])
        self.energies = energies - energies[middle]
        self.learned = learned_energies(self.frames) - learned_energies([self.center])
        step = self.displacements[-1] - self.displacements[0]
        self.motion = (self.frames[-1].positions - self.frames[0].positions) / step


def gauche_ethanol():
    """ASE's molecule is the other conformer; here the hydroxyl is turned to where the scan has it."""
    atoms = molecule("CH3CH2OH")  # C C O H(O) ...
    atoms.set_dihedral(3, 2, 1, 0, 60.0, indices=[3])
    return atoms


def relax(atoms):
    """The nearest minimum of the learned potential, turned and moved onto what was given."""
    relaxed = atoms.copy()
    relaxed.calc = SchNetCalculator(MODEL)
    BFGS(relaxed, logfile=None).run(fmax=1e-4, steps=500)
    minimize_rotation_and_translation(atoms, relaxed)
    return relaxed


def learned_energies(frames):
    """Energies of the model in eV."""
    calculator = SchNetCalculator(MODEL)
    return np.array([calculator.get_potential_energy(atoms) for atoms in frames])


def compare(scan, minimum, motion):
    """Print how far the learned mode is from the scan, and whether that is near enough."""
    masses = minimum.get_masses()[:, None]
    overlap = abs(float((masses * motion * scan.motion).sum()))  # both of length 1 when weighted by masses
    curvatures = []
    for name, energies in (("reference", scan.energies), ("learned", scan.learned)):
        inside = np.abs(scan.displacements) <= 0.8 + 1e-9
        curvature = 2 * np.polynomial.Polynomial.fit(scan.displacements[inside], energies[inside], 6).convert().coef[2]
        curvatures.append(WAVENUMBER * np.sqrt(curvature))
        print(f"curvature of the {name} energies along the scan: {curvatures[-1]:.1f} cm⁻¹")
    print(f"overlap of the learned with the scanned motion: {overlap:.4f}")
    errors = []
    for reach in (NEAR, FAR):
        inside = np.abs(scan.displacements) <= reach + 1e-9
        errors.append(1e3 * np.abs(scan.learned - scan.energies)[inside])
        print(
            f"energies to {reach} Å √u to both sides, up to {scan.energies[inside].max():.2f} eV: mean absolute "
            f"deviation {errors[-1].mean():.2f} meV, largest {errors[-1].max():.2f} meV"
        )
    return abs(curvatures[0] - REFERENCE) < 0.1 and overlap > 0.99 and errors[0].max() < 5.0


def draw_energies(ax, scan, minimum, motion):
    """Energies along the scan, or where it is not given along the learned mode, beside the parabola."""
    if scan is None:
        x = np.linspace(-FAR, FAR, 41)
        frames = [minimum.copy() for _ in x]
        for atoms, step in zip(frames, x, strict=True):
            atoms.positions += step * motion
        learned = learned_energies(frames) - learned_energies([minimum])
    else:
        x, learned = scan.displacements, scan.learned
        ax.plot(x, scan.energies, ".", color=COLORS["black"], markersize=4.0, label="reference, PBE")
    ax.plot(x, learned, color=COLORS["blue"], label="learned")
    parabola = 0.5 * (REFERENCE / WAVENUMBER * x) ** 2
    ax.plot(x, parabola, color="0.6", linestyle="--", linewidth=0.8, zorder=0, label=f"{REFERENCE} cm$^{{-1}}$")
    ax.set(xlabel="displacement [Å √u]", ylabel="energy [eV]")
    ax.legend()


if __name__ == "__main__":
    main()

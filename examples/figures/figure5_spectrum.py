"""Figure 5: vibrations of aspirin by dynamics with and without a cutoff, beside normal modes.

With a cutoff of 5 Å an atom does not see all of the molecule in one convolution; does that cost vibrations? The paper
shows the spectra of both models beside the harmonic one. Here the harmonic reference are the normal modes of each model
at its own minimum. Sixteen copies of the molecule move in one batch (ASE would move them one by one), at 300 K by a
Langevin thermostat until they are in equilibrium, then at constant energy; the spectrum is the Fourier transform of the
autocorrelation of their velocities. Two things are asked:

- Do spectra with and without cutoff differ no more than those of two halves of the copies with the same model?
- Is the mean of every band within 2 % of that of its normal modes? Anharmonicity shifts it, most of all the stretches
  of CH and OH; the shift is printed.

Dynamics of 2.5 ps resolve 26 cm⁻¹, so that many of the 57 modes merge. How far the area of a band is from the number of
its modes shows how well it is sampled; four times the --steps halve that noise. Random numbers are the same with both
models, and the overlap of models is that of different copies. Each model was trained once, and part of what they differ
by may be chance.

Run: python examples/figures/figure5_spectrum.py
"""

import dataclasses
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import units
from ase.optimize import BFGS
from common import finish, parse
from matplotlib import pyplot
from scipy.integrate import trapezoid

from pyg_schnet import SchNet
from pyg_schnet.analysis import normal_modes, power_spectrum
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.plotting import style
from pyg_schnet.plotting.style import COLORS

MODELS = {"5 Å": "rmd17-aspirin", "no cutoff": "rmd17-aspirin-no-cutoff"}
COPIES = 16
TIMESTEP = 1.0  # fs
THERMAL = units.kB * 300.0  # eV
ACCELERATION = units.fs**2  # of 1 eV/(Å u), in Å/fs²
BANDS = {  # cm⁻¹, from gap to gap
    "deformations": (200.0, 1530.0),
    "ring": (1530.0, 1700.0),
    "C=O": (1700.0, 2000.0),
    "CH": (2800.0, 3400.0),
    "OH": (3400.0, 3900.0),
}


def main():
    length = {"type": int, "default": 2500, "help": "steps of 1 fs at constant energy, at least 1000"}
    options = parse(__doc__, "figure5_spectrum.png", steps=length)
    if options.steps < 1000:
        raise SystemExit(f"--steps must be at least 1000, got {options.steps}")
    torch.set_num_threads(1)  # a step is so short that threads would wait for each other
    modes, spectra = {}, {}
    for name, model in MODELS.items():
        atoms = aspirin()
        atoms.calc = SchNetCalculator(model)
        BFGS(atoms, logfile=None).run(fmax=1e-3, steps=500)
        modes[name] = normal_modes(model, atoms).frequencies
        velocities = dynamics(SchNet.from_pretrained(model), atoms, options.steps)  # [steps, copies, N, 3]
        spectra[name] = [spectrum(half, atoms.get_masses()) for half in np.split(velocities, 2, axis=1)]
        kinetic = (atoms.get_masses()[:, None] * velocities**2).sum((2, 3)).mean() / ACCELERATION
        print(f"{name}: {kinetic / (3 * len(atoms) * units.kB):.0f} K on average")
    same = np.mean([overlap(*halves) for halves in spectra.values()])
    other = np.mean([overlap(first, second) for first, second in cross(*spectra.values())])
    print(f"resolution {spectra['5 Å'][0].resolution:.0f} cm⁻¹")
    print(f"overlap of halves with the same model {same:.3f}, with another {other:.3f}")
    report_modes(*modes.values())
    shifts = [report_bands(name, modes[name], mean(spectra[name])) for name in MODELS]
    holds = other > same - 0.05 and max(shifts) < 0.02
    with style():
        ax = draw(modes, {name: mean(halves) for name, halves in spectra.items()})
    claim = "spectra with and without cutoff are the same, and bands are within 2 % of the normal modes"
    finish(ax, options, claim, holds)


def dynamics(model, atoms, steps, equilibration=700, friction=0.02, seed=0):
    """Velocities in Å/fs of copies of a molecule at constant energy, after a thermostat, by velocity Verlet.

    The thermostat acts between two halves of the drift (BAOAB). Forces are in float32, all else in float64.
    """
    model.eval().requires_grad_(False)
    random = torch.Generator().manual_seed(seed)
    z = torch.tensor(atoms.numbers).repeat(COPIES)
    batch = torch.arange(COPIES).repeat_interleave(len(atoms))
    pos = torch.tensor(atoms.positions).repeat(COPIES, 1)
    mass = torch.tensor(atoms.get_masses()).repeat(COPIES).unsqueeze(1)
    speed = (THERMAL * ACCELERATION / mass).sqrt()
    keep = np.exp(-friction * TIMESTEP)

    def noise():
        return speed * torch.randn(pos.shape, generator=random, dtype=pos.dtype)

    def kick():
        forces = energy_forces_stress(model, z, pos.float(), batch, batch_size=COPIES).forces
        return 0.5 * TIMESTEP * ACCELERATION * forces.double() / mass

    velocity, change = noise(), kick()
    frames = torch.empty(steps, *pos.shape, dtype=pos.dtype)
    for step in range(-equilibration, steps):
        velocity = velocity + change
        pos = pos + 0.5 * TIMESTEP * velocity
        if step < 0:
            velocity = keep * velocity + (1 - keep**2) ** 0.5 * noise()
        pos = pos + 0.5 * TIMESTEP * velocity
        change = kick()
        velocity = velocity + change
        if step >= 0:
            frames[step] = velocity
    return frames.view(steps, COPIES, len(atoms), 3).numpy()


def spectrum(velocities, masses):
    """Modes per cm⁻¹ of one molecule, from the copies ``[steps, copies, N, 3]``.

    Equipartition gives kT/2 to each mode. Verlet's steps raise a frequency ω to ω' with sin(ω'Δt/2) = ωΔt/2, by
    42 cm⁻¹ at 3000 cm⁻¹, which is taken back.
    """
    steps, copies = velocities.shape[:2]
    longest = min(2000.0, 0.75 * TIMESTEP * steps)
    result = power_spectrum(velocities.reshape(steps, -1, 3), TIMESTEP, masses=np.tile(masses, copies), max_lag=longest)
    phase = np.pi * units._c * 1e2 * 1e-15 * TIMESTEP  # half a step, over the wave number
    wavenumbers = np.sin(phase * result.wavenumbers) / phase
    density = 2 / (THERMAL * copies) * result.intensity / np.cos(phase * result.wavenumbers)
    kept = slice(np.searchsorted(wavenumbers, 5000.0))
    return dataclasses.replace(result, wavenumbers=wavenumbers[kept], intensity=density[kept])


def mean(halves):
    """The spectrum of all copies."""
    return dataclasses.replace(halves[0], intensity=np.mean([half.intensity for half in halves], 0))


def cross(first, second):
    """Pairs of halves with different copies and different models."""
    return (first[0], second[1]), (first[1], second[0])


def overlap(first, second):
    """Common part of two spectra above 50 cm⁻¹, where motions of the whole have ended; 1 if they are equal."""
    a, b = (each.intensity[first.wavenumbers > 50.0] for each in (first, second))
    return 2 * np.minimum(a, b).sum() / (a + b).sum()


def report_modes(cutoff, none):
    """Print how far normal modes are from each other, in order."""
    difference = np.abs(cutoff - none)
    for start, end in ((0.0, 200.0), (200.0, 600.0), (600.0, 2000.0), (2000.0, 4000.0)):
        inside = (none >= start) & (none < end)
        relative = (difference / none)[inside].mean()
        print(
            f"{inside.sum():2d} normal modes from {start:.0f} to {end:.0f} cm⁻¹: with and without cutoff differ by "
            f"{difference[inside].mean():.1f} cm⁻¹ on average, {relative:.1%}"
        )


def report_bands(name, modes, result):
    """Print how far the mean of each band is from that of its normal modes, and its temperature; the largest shift."""
    largest = 0.0
    for band, (start, end) in BANDS.items():
        inside = (result.wavenumbers >= start) & (result.wavenumbers < end)
        harmonic = modes[(modes >= start) & (modes < end)]
        x, weight = result.wavenumbers[inside], result.intensity[inside]
        area = trapezoid(weight, x)
        shift = trapezoid(weight * x, x) / area - harmonic.mean()
        largest = max(largest, abs(shift) / harmonic.mean())
        print(
            f"{name}: {band} at {harmonic.mean() + shift:.0f} cm⁻¹ in dynamics, {shift:+.0f} from normal modes; "
            f"area of {area:.1f} modes for {len(harmonic)}"
        )
    return largest


def draw(modes, spectra):
    """Spectra as lines, normal modes as sticks below."""
    panels = ((0.0, 2000.0), (2800.0, 3800.0))
    axes = pyplot.subplots(1, 2, figsize=(7.0, 2.8), sharey=True, width_ratios=(2, 1))[1]
    for ax, limits in zip(axes, panels, strict=True):
        for row, (name, color) in enumerate(zip(modes, (COLORS["blue"], COLORS["vermillion"]), strict=True)):
            shown = spectra[name].wavenumbers > 30.0
            ax.plot(spectra[name].wavenumbers[shown], 100 * spectra[name].intensity[shown], color=color, label=name)
            top = -0.4 - 0.9 * row
            ax.vlines(modes[name], top - 0.7, top, color=color, linewidth=0.7)
        ax.axhline(0.0, color="0.6", linewidth=0.6, zorder=0)
        ax.set_xlim(limits)
        ax.set_xlabel("wave number [cm$^{-1}$]")
    axes[0].set(ylabel="modes per 100 cm$^{-1}$", ylim=(-2.3, 9.5))
    axes[1].legend(loc="upper right", title="dynamics at 300 K;\nsticks: normal modes", title_fontsize=7.0)
    return axes[0]


def aspirin():
    """The conformer of MD17, near its minimum."""
    return ase.io.read(Path(__file__).parents[1] / "aspirin.xyz")


if __name__ == "__main__":
    main()

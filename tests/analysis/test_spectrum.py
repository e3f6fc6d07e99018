"""Spectra of known motions, sums done by brute force, and intensities against formulas of quantum chemistry."""

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase import units as ase_units
from ase.build import molecule
from ase.calculators.morse import MorsePotential
from ase.md.verlet import VelocityVerlet
from scipy.integrate import trapezoid

from pyg_schnet import SchNet
from pyg_schnet.analysis import infrared_spectrum, normal_modes, power_spectrum, trajectory_dipoles
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.nn import DipoleReadout

C = 2.99792458e-5  # cm/fs
KINETIC = ase_units.fs**2  # Å²/fs² u in eV is 1 over that
BOLTZMANN = ase_units.kB


def oscillation(wavenumber, frames, timestep, amplitude=0.01, phase=0.3):
    """Velocities of one atom in Å/fs, shape ``[frames, 1, 3]``."""
    time = timestep * np.arange(frames)
    velocities = np.zeros((frames, 1, 3))
    velocities[:, 0, 1] = amplitude * np.cos(2 * np.pi * C * wavenumber * time + phase)
    return velocities


@pytest.mark.parametrize("wavenumber", [50.0, 1000.0, 3657.05, 15000.0])
@pytest.mark.parametrize("max_lag", [None, 1000.0])
def test_a_harmonic_oscillator_peaks_at_its_frequency(wavenumber, max_lag):
    spectrum = power_spectrum(oscillation(wavenumber, 12_000, 0.5), 0.5, masses=[2.0], max_lag=max_lag)
    lag = 3000.0 if max_lag is None else max_lag
    assert spectrum.resolution == pytest.approx(1.2756 / (C * lag), rel=0.1)  # of a sinc⁴, and the end of the data
    peak = spectrum.wavenumbers[spectrum.intensity.argmax()]
    assert abs(peak - wavenumber) < 0.1 * spectrum.resolution
    half = spectrum.wavenumbers[spectrum.intensity > 0.5 * spectrum.intensity.max()]
    spacing = spectrum.wavenumbers[1]
    assert abs(np.ptp(half) - spectrum.resolution) < 2 * spacing < 0.3 * spectrum.resolution
    far = abs(spectrum.wavenumbers - wavenumber) > 2.5 * spectrum.resolution
    assert spectrum.intensity[far].max() < 0.01 * spectrum.intensity.max()
    assert spectrum.intensity.min() >= 0.0


def test_lines_closer_than_the_resolution_merge_and_others_do_not():
    velocities = oscillation(1000.0, 8000, 0.5) + oscillation(1060.0, 8000, 0.5)
    for max_lag, count in ((1800.0, 2), (500.0, 1)):
        spectrum = power_spectrum(velocities, 0.5, masses=[1.0], max_lag=max_lag)
        inner = spectrum.intensity[1:-1]
        peaks = (inner > spectrum.intensity[:-2]) & (inner > spectrum.intensity[2:])
        assert (inner[peaks] > 0.2 * inner.max()).sum() == count


def test_area_is_the_kinetic_energy():
    velocities = 0.01 * np.random.default_rng(0).normal(size=(501, 4, 3))
    masses = np.array([12.0, 1.0, 16.0, 1.0])
    spectrum = power_spectrum(velocities, 2.0, masses=masses, max_lag=300.0)
    mean = 0.5 * (masses[:, None] * velocities**2).sum((1, 2)).mean() / KINETIC
    assert trapezoid(spectrum.intensity, spectrum.wavenumbers) == pytest.approx(mean, rel=1e-7)
    assert spectrum.autocorrelation[0] == pytest.approx(2 * mean, rel=1e-7)
    assert spectrum.wavenumbers[-1] == pytest.approx(1 / (2 * 2.0 * C), rel=1e-12)


def test_correlation_and_transform_are_those_of_loops():
    frames, timestep, max_lag = 40, 1.5, 30.0
    velocities = np.random.default_rng(1).normal(size=(frames, 2, 3))
    masses = np.array([3.0, 5.0])
    spectrum = power_spectrum(velocities, timestep, masses=masses, max_lag=max_lag)
    lags = np.arange(21)
    np.testing.assert_allclose(spectrum.lags, lags * timestep)
    correlation = []
    for lag in lags:
        products = [
            masses[i] * velocities[t, i] @ velocities[t + lag, i] for t in range(frames - lag) for i in range(2)
        ]
        correlation.append(sum(products) / frames / KINETIC)
    np.testing.assert_allclose(spectrum.autocorrelation, correlation, rtol=1e-7)
    x = lags / 21
    window = np.where(x < 0.5, 1 - 6 * x**2 + 6 * x**3, 2 * (1 - x) ** 3)
    for k in (0, 7, 100, len(spectrum.wavenumbers) - 1):
        phase = 2 * np.pi * C * spectrum.wavenumbers[k] * lags * timestep
        terms = window * correlation * np.cos(phase) * timestep * C
        assert spectrum.intensity[k] == pytest.approx(2 * terms.sum() - terms[0], rel=1e-6)


def test_dynamics_of_two_atoms_has_the_frequency_of_their_normal_mode():
    """With ASE's own potential and integrator."""
    depth, length, decay = 4.0, 1.2, 3.0

    def morse(z, pos, batch):
        stretch = torch.exp(-decay * ((pos[1] - pos[0]).norm() / length - 1.0))
        return (depth * (stretch**2 - 2 * stretch)).view(1)

    atoms = Atoms("CO", positions=[[0, 0, 0], [0, 0, length]])
    (harmonic,) = normal_modes(morse, atoms, unit="eV").frequencies
    atoms.calc = MorsePotential(epsilon=depth, r0=length, rho0=decay, rcut1=50.0, rcut2=60.0)
    atoms.positions[1, 2] += 0.002  # so small that it hardly feels the anharmonicity
    frames, dynamics = [], VelocityVerlet(atoms, 1.0 * ase_units.fs)
    dynamics.attach(lambda: frames.append(atoms.copy()))
    dynamics.run(1500)
    spectrum = power_spectrum(frames, 1.0, max_lag=750.0)
    peak = spectrum.wavenumbers[spectrum.intensity.argmax()]
    assert abs(peak - harmonic) < 0.5 * spectrum.resolution
    kinetic = np.mean([frame.get_kinetic_energy() for frame in frames])
    assert trapezoid(spectrum.intensity, spectrum.wavenumbers) == pytest.approx(kinetic, rel=1e-6)
    velocities = np.array([frame.get_velocities() for frame in frames]) * ase_units.fs
    plain = power_spectrum(velocities, 1.0, masses=atoms.get_masses(), max_lag=750.0)
    np.testing.assert_allclose(plain.intensity, spectrum.intensity, rtol=1e-12)


def test_trajectory_files_of_ase(tmp_path):
    frames = [molecule("H2O") for _ in range(20)]
    for k, atoms in enumerate(frames):
        atoms.set_velocities(0.05 * np.cos(0.7 * k + np.arange(9).reshape(3, 3)))
    ase.io.write(tmp_path / "run.traj", frames)
    with ase.io.Trajectory(tmp_path / "run.traj") as reader:
        found = power_spectrum(reader, 0.5)
    np.testing.assert_array_equal(found.intensity, power_spectrum(frames, 0.5).intensity)
    heavy = power_spectrum(frames, 0.5, masses=2 * frames[0].get_masses())
    np.testing.assert_allclose(heavy.intensity, 2 * found.intensity, rtol=1e-12)


@pytest.mark.parametrize("wavenumber", [200.0, 1500.0, 6000.0])
@pytest.mark.parametrize("temperature", [100.0, 300.0])
def test_infrared_area_is_the_intensity_of_the_double_harmonic_approximation(wavenumber, temperature):
    mass, charge, timestep = 2.0, 0.4, 1.0
    speed = np.sqrt(2 * BOLTZMANN * temperature / mass * KINETIC)  # so that the mean of mv²/2 is kT/2
    time = timestep * np.arange(20_000)
    angular = 2 * np.pi * C * wavenumber
    dipoles = np.zeros((len(time), 3))
    dipoles[:, 0] = charge * speed / angular * np.sin(angular * time)
    spectrum = infrared_spectrum(dipoles, timestep, temperature=temperature, max_lag=4000.0)
    # 42.255 km/mol for (D/Å)²/u: Porezag and Pederson (1996), as in ase.vibrations.infrared
    expected = 42.255 * (charge * 4.80320471) ** 2 / mass
    assert trapezoid(spectrum.intensity, spectrum.wavenumbers) == pytest.approx(expected, rel=2e-3)
    assert abs(spectrum.wavenumbers[spectrum.intensity.argmax()] - wavenumber) < 0.1 * spectrum.resolution
    assert spectrum.temperature == temperature
    assert spectrum.intensity.min() >= 0.0


def test_five_frames_are_enough():
    velocities = np.random.default_rng(0).normal(size=(5, 1, 3))
    assert len(power_spectrum(velocities, 0.5, masses=[1.0]).lags) == 3
    assert len(infrared_spectrum(np.vstack([velocities[:, 0], np.zeros(3)]), 0.5, temperature=1.0).lags) == 3


def test_a_permanent_dipole_absorbs_nothing():
    dipoles = np.tile([0.3, -0.1, 2.0], (100, 1))
    assert not infrared_spectrum(dipoles, 0.5, temperature=300.0).intensity.any()


def dipole_model(**options):
    torch.manual_seed(0)
    return SchNet(16, 16, 2, 12, 4.0, readout=DipoleReadout(16, magnitude=False, **options))


def test_dipoles_of_a_trajectory_are_those_of_the_calculator():
    generator = np.random.default_rng(0)
    frames = []
    for name in ("H2O", "H2O", "CH3OH", "H2O", "CH3OH"):
        atoms = molecule(name)
        atoms.positions += 0.05 * generator.normal(size=atoms.positions.shape)
        frames.append(atoms)
    model = dipole_model(scale=4.80320471)
    expected = []
    for atoms in frames:
        atoms.calc = SchNetCalculator(model, unit="D")
        expected.append(atoms.get_dipole_moment())
    for batch_size in (2, 100):
        found = trajectory_dipoles(model, frames, unit="D", batch_size=batch_size)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, atol=1e-12)
    assert trajectory_dipoles(model, [], unit="D").shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.zeros((50, 3)), 0.5), {"masses": [1.0]}, r"\[frames, N, 3\]; got shape \[50, 3\]"),
        ((np.zeros((50, 1, 3)), 0.5), {}, "needs masses"),
        ((np.zeros((50, 1, 3)), 0.5), {"masses": [1.0, 2.0]}, "masses must be 1 numbers in u"),
        ((np.zeros((50, 1, 3)), 0.0), {"masses": [1.0]}, "timestep must be the positive time"),
        ((np.zeros((4, 1, 3)), 0.5), {"masses": [1.0]}, "at least 5 velocities"),
        ((np.zeros((50, 1, 3)), 0.5), {"masses": [1.0], "max_lag": 30.0}, r"the trajectory's 24.5 fs; got 30"),
        ((np.full((50, 1, 3), np.nan), 0.5), {"masses": [1.0]}, "velocities must be finite, but those of frame 0"),
        (([molecule("H2O")] * 5, 0.5), {}, "no momenta in frame 0"),
        (([], 0.5), {}, "it is empty"),
    ],
)
def test_bad_trajectories_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        power_spectrum(*arguments, **options)


def test_bad_dipoles_are_refused(slab):
    with pytest.raises(ValueError, match=r"\[frames, 3\]; got shape \[50\]"):
        infrared_spectrum(np.zeros(50), 0.5, temperature=300.0)
    with pytest.raises(ValueError, match="differences of dipoles, got 4"):
        infrared_spectrum(np.zeros((5, 3)), 0.5, temperature=300.0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        infrared_spectrum(np.zeros((50, 3)), 0.5, temperature=0.0)
    with pytest.raises(ValueError, match="dipoles must be finite"):
        infrared_spectrum(np.full((50, 3), np.inf), 0.5, temperature=300.0)
    with pytest.raises(ValueError, match="timestep"):
        infrared_spectrum(np.zeros((50, 3)), -1.0, temperature=300.0)
    with pytest.raises(ValueError, match=r"frame 1 has pbc=\[True, True, False\]"):
        trajectory_dipoles(dipole_model(), [molecule("H2O"), slab], unit="D")
    with pytest.raises(ValueError, match="a model of dipole vectors is needed"):
        trajectory_dipoles(SchNet(16, 16, 1, 12, 4.0), [molecule("H2O")], unit="eV")
    with pytest.raises(TypeError, match="trajectory_dipoles needs a model of this package, got function"):
        trajectory_dipoles(lambda z, pos, batch: pos, [molecule("H2O")], unit="D")

"""Vibrational spectra of trajectories: power spectrum of velocities, infrared spectrum of dipoles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyg_schnet.analysis._model import Source, check_of, own_atomistic_copy, place_of, to_numpy, unit_of
from pyg_schnet.data import to_data
from pyg_schnet.nn import DipoleReadout
from pyg_schnet.units import dimension, factor

if TYPE_CHECKING:
    from ase import Atoms

# CODATA 2018
_CHARGE = 1.602176634e-19  # C
_MASS_UNIT = 1.66053906660e-27  # kg
_LIGHT = 299792458.0  # m/s
_BOLTZMANN = 1.380649e-23  # J/K
_AVOGADRO = 6.02214076e23  # 1/mol
_PERMITTIVITY = 8.8541878128e-12  # F/m

_CM_PER_FS = 100.0 * _LIGHT * 1e-15  # times a wave number in cm⁻¹ is a frequency in fs⁻¹
_SIDE_LOBES = 0.01  # of the height of a line, at most
_KINETIC = _MASS_UNIT * 1e10 / _CHARGE  # from u Å²/fs² to eV


@dataclass(frozen=True, eq=False)
class PowerSpectrum:
    """Kinetic energy of a trajectory over wave number.

    Attributes:
        wavenumbers: From zero to half the sampling rate in cm⁻¹, shape ``[K]``.
        intensity: Kinetic energy per wave number in eV/cm⁻¹, not negative, shape ``[K]``; the integral by the
            trapezoidal rule is the mean kinetic energy of the trajectory.
        resolution: Full width at half maximum of a sharp line in cm⁻¹.
        lags: Time differences in fs, shape ``[L]``.
        autocorrelation: Mass-weighted autocorrelation of velocities before the window in eV, twice the mean kinetic
            energy at lag zero, shape ``[L]``.
    """

    wavenumbers: np.ndarray
    intensity: np.ndarray
    resolution: float
    lags: np.ndarray
    autocorrelation: np.ndarray

    @property
    def peaks(self) -> np.ndarray:
        """Wave numbers in cm⁻¹ of the maxima of the intensity, the highest one first, shape ``[number of maxima]``.

        What is at zero, motion of the whole, is none, nor are its side lobes.
        """
        return _peaks(self.wavenumbers, self.intensity)


@dataclass(frozen=True, eq=False)
class InfraredSpectrum:
    """Infrared absorption over wave number.

    Attributes:
        wavenumbers: From zero to half the sampling rate in cm⁻¹, shape ``[K]``.
        intensity: Molar absorption coefficient (to base e) in km/mol per cm⁻¹, not negative, shape ``[K]``; the
            integral over a band is the intensity in km/mol that programs of quantum chemistry print.
        resolution: Full width at half maximum of a sharp line in cm⁻¹.
        lags: Time differences in fs, shape ``[L]``.
        autocorrelation: Autocorrelation of the time derivative of the dipole before the window in (e·Å/fs)², shape
            ``[L]``.
        temperature: Temperature in K that the intensity is for.
    """

    wavenumbers: np.ndarray
    intensity: np.ndarray
    resolution: float
    lags: np.ndarray
    autocorrelation: np.ndarray
    temperature: float

    @property
    def peaks(self) -> np.ndarray:
        """Wave numbers in cm⁻¹ of the maxima of the intensity, the highest one first, shape ``[number of maxima]``.

        What is at zero, motion of the whole, is none, nor are its side lobes.
        """
        return _peaks(self.wavenumbers, self.intensity)


def power_spectrum(
    trajectory: np.ndarray | Sequence[Atoms],
    timestep: float,
    *,
    masses: np.ndarray | Sequence[float] | None = None,
    max_lag: float | None = None,
) -> PowerSpectrum:
    r"""Vibrational power spectrum from the mass-weighted autocorrelation of velocities.

    .. math::
        C(\tau) = \sum_i m_i \langle \mathbf{v}_i(t) \cdot \mathbf{v}_i(t + \tau) \rangle_t, \qquad
        P(\tilde\nu) = c \int_{-\infty}^{\infty} w(\tau)\, C(\tau) \cos(2 \pi c \tilde\nu \tau)\, \mathrm{d}\tau,
        \qquad \int_0^\infty P\, \mathrm{d}\tilde\nu = \tfrac{1}{2} C(0) = \langle E_\mathrm{kin} \rangle

    (`Thomas et al. (2013) <https://doi.org/10.1039/C3CP44302G>`_ describe the practice). In equilibrium every vibration
    has the area kT/2, so ``2 / kT`` times P is the density of vibrational states. Motions of the whole appear at and
    near zero.

    The correlation is computed from the Fourier transform of the velocities (Wiener-Khinchin theorem), with zeros
    appended, and divided by the number of frames at every lag. The window w is that of `Parzen (1961)
    <https://doi.org/10.1080/00401706.1961.10489939>`_: its transform is a sinc⁴, which is nowhere negative, and with
    this correlation the spectrum is not either; the side lobes of a sharp line are less than 1 %.

    Args:
        trajectory: Velocities in Å/fs, shape ``[frames, N, 3]``, or structures with momenta such as an ASE trajectory.
        timestep: Time between two frames in fs.
        masses: Masses in u, shape ``[N]``; needed with an array of velocities. Structures have their own, which these
            replace.
        max_lag: Longest lag of the window in fs; ``None`` takes half of the trajectory. A sharp line becomes
            42,600 fs/cm / ``max_lag`` wide, 21 cm⁻¹ with 2 ps, or slightly wider in a short trajectory; shorter lags
            average more.

    Returns:
        Arrays in float64.

    Raises:
        ValueError: If shapes do not fit, the masses of an array or the momenta of structures are missing, a number is
            not finite, or the trajectory is shorter than ``max_lag``.

    Example:
        >>> time = 0.5 * np.arange(8000)  # fs
        >>> velocities = np.zeros((8000, 1, 3))
        >>> velocities[:, 0, 0] = 0.01 * np.cos(2 * np.pi * time / 20.0)  # 20 fs are 1668 cm⁻¹
        >>> spectrum = power_spectrum(velocities, 0.5, masses=[1.0])
        >>> bool(abs(spectrum.wavenumbers[spectrum.intensity.argmax()] - 1667.8) < spectrum.resolution / 2)
        True
    """
    velocities, masses = _velocities(trajectory, masses)
    n_lags = _number_of_lags(velocities, timestep, max_lag)
    correlation = _KINETIC * _autocorrelation(velocities, masses)[:n_lags]
    wavenumbers, density, resolution = _transform(correlation, len(velocities), timestep)
    return PowerSpectrum(wavenumbers, _CM_PER_FS * density, resolution, timestep * np.arange(n_lags), correlation)


def infrared_spectrum(
    dipoles: np.ndarray, timestep: float, *, temperature: float, max_lag: float | None = None
) -> InfraredSpectrum:
    r"""Infrared absorption of a molecule from the dipole along a trajectory of classical dynamics.

    .. math::
        \kappa(\tilde\nu) = \frac{N_A}{6 \varepsilon_0 c\, k_B T} \int_{-\infty}^{\infty} w(\tau)\,
        \langle \dot{\boldsymbol\mu}(t) \cdot \dot{\boldsymbol\mu}(t + \tau) \rangle_t
        \cos(2 \pi c \tilde\nu \tau)\, \mathrm{d}\tau

    This is the linear response of a classical system times the harmonic quantum correction (`Ramírez et al. (2004)
    <https://doi.org/10.1063/1.1774986>`_), for one molecule in vacuum. A harmonic vibration gets the area
    :math:`N_A\, |\partial \boldsymbol\mu / \partial Q|^2 / (12 \varepsilon_0 c^2)`, the intensity of the double
    harmonic approximation at any temperature, 42.256 km/mol for 1 (D/Å)²/u. `Thomas et al. (2013)
    <https://doi.org/10.1039/C3CP44302G>`_ describe the practice.

    Derivatives are differences of neighbouring frames, which damp the frequency ν by sinc²(ν Δt); the intensity is
    divided by that. Window and correlation are those of :func:`power_spectrum`.

    Args:
        dipoles: Dipole moments in e·Å, shape ``[frames, 3]``; see :func:`trajectory_dipoles`.
        timestep: Time between two frames in fs.
        temperature: Temperature of the dynamics in K.
        max_lag: Longest lag of the window in fs, as in :func:`power_spectrum`.

    Returns:
        Arrays in float64.

    Raises:
        ValueError: If the shape does not fit, a number is not finite, the temperature is not positive, or the
            trajectory is shorter than ``max_lag``.

    Example:
        >>> dipoles = np.zeros((8000, 3))
        >>> dipoles[:, 2] = 0.1 * np.cos(2 * np.pi * 0.5 * np.arange(8000) / 20.0)
        >>> spectrum = infrared_spectrum(dipoles, 0.5, temperature=300.0)
        >>> bool(abs(spectrum.wavenumbers[spectrum.intensity.argmax()] - 1667.8) < spectrum.resolution / 2)
        True
    """
    dipoles = np.asarray(dipoles, dtype=np.float64)
    if dipoles.ndim != 2 or dipoles.shape[1] != 3:
        raise ValueError(f"dipoles must be vectors in e·Å, [frames, 3]; got shape {list(dipoles.shape)}")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive, in K; got {temperature!r}")
    _check_finite(dipoles, "dipoles")
    _check_timestep(timestep)
    rates = np.diff(dipoles, axis=0)[:, None] / timestep  # [frames - 1, 1, 3] in e·Å/fs, those half a step later
    n_lags = _number_of_lags(rates, timestep, max_lag)
    correlation = _autocorrelation(rates, np.ones(1))[:n_lags]
    wavenumbers, density, resolution = _transform(correlation, len(rates), timestep)
    # from (e·Å)²/fs to km/mol per cm⁻¹, which is 10 m²/mol
    absorption = (
        _AVOGADRO / (6 * _PERMITTIVITY * _LIGHT * _BOLTZMANN * temperature) * (_CHARGE * 1e-10) ** 2 * 1e15 / 10
    )
    damping = np.sinc(_CM_PER_FS * timestep * wavenumbers) ** 2
    return InfraredSpectrum(
        wavenumbers,
        absorption * density / damping,
        resolution,
        timestep * np.arange(n_lags),
        correlation,
        float(temperature),
    )


def trajectory_dipoles(
    model: Source, trajectory: Sequence[Atoms], *, unit: str | None = None, batch_size: int = 100
) -> np.ndarray:
    """Dipole moment of every frame by a model of dipole vectors, for :func:`infrared_spectrum`.

    Args:
        model: Model with a :class:`pyg_schnet.nn.DipoleReadout` of vectors, its file, or the name of a pretrained one.
        trajectory: Structures, such as an ASE trajectory, with open boundaries.
        unit: Unit of the model's output, where the model does not know it.
        batch_size: Frames that are evaluated together.

    Returns:
        Dipoles in e·Å, shape ``[frames, 3]``.

    Raises:
        TypeError: If the model is not one of this package.
        ValueError: If the unit is missing, the model does not predict dipole vectors or was not trained on an element,
            or a structure is periodic, where dipoles are not defined.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import SchNet
        >>> model = SchNet(16, 16, 2, 20, 5.0, readout=DipoleReadout(16, magnitude=False))
        >>> trajectory_dipoles(model, [molecule("H2O")] * 5, unit="e·Å").shape
        (5, 3)
    """
    network = own_atomistic_copy(model, "trajectory_dipoles")
    unit = unit_of(network.card, unit)
    readout = network.readout
    if not isinstance(readout, DipoleReadout) or readout.magnitude or dimension(unit) != "dipole":
        raise ValueError(
            f"a model of dipole vectors is needed, DipoleReadout(magnitude=False) in e·Å or D; this one has {readout} "
            f"in {unit}"
        )
    device, dtype = place_of(network)
    check = check_of(network)
    parts = []
    for start in range(0, len(trajectory), batch_size):
        frames = [trajectory[k] for k in range(start, min(start + batch_size, len(trajectory)))]
        periodic = [k for k, atoms in enumerate(frames, start) if atoms.pbc.any()]
        if periodic:
            raise ValueError(
                f"the dipole of a periodic structure is not defined; frame {periodic[0]} has pbc="
                f"{frames[periodic[0] - start].pbc.tolist()}, for a molecule in a box set atoms.pbc = False"
            )
        for atoms in frames:
            check.atoms(atoms, distances=True)
        data = [to_data(atoms, dtype=dtype) for atoms in frames]
        z, pos = (torch.cat([frame[key] for frame in data]).to(device) for key in ("z", "pos"))
        sizes = torch.tensor([len(frame.z) for frame in data])
        batch = torch.arange(len(data)).repeat_interleave(sizes).to(device)
        with torch.no_grad():
            parts.append(network(z, pos, batch, batch_size=len(data)))
    return factor(unit, "e·Å") * to_numpy(torch.cat(parts)) if parts else np.zeros((0, 3))


def _velocities(
    trajectory: np.ndarray | Sequence[Atoms], masses: np.ndarray | Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Velocities in Å/fs ``[frames, N, 3]`` and masses in u ``[N]``."""
    if not isinstance(trajectory, np.ndarray):
        from ase import units as ase_units

        frames = list(trajectory)
        without = [k for k, atoms in enumerate(frames) if not atoms.has("momenta")]
        if without or not frames:
            raise ValueError(
                f"the trajectory has no momenta{f' in frame {without[0]}' if without else ', it is empty'}; write them "
                "with the frames, as ase.io.Trajectory does, or give an array of velocities in Å/fs"
            )
        masses = frames[0].get_masses() if masses is None else masses
        trajectory = ase_units.fs * np.stack([atoms.get_velocities() for atoms in frames])
    elif masses is None:
        raise ValueError("an array of velocities needs masses (u, [N]), for example atoms.get_masses()")
    velocities, masses = np.asarray(trajectory, dtype=np.float64), np.asarray(masses, dtype=np.float64)
    if velocities.ndim != 3 or velocities.shape[2] != 3:
        raise ValueError(f"velocities must be given in Å/fs as [frames, N, 3]; got shape {list(velocities.shape)}")
    if masses.shape != velocities.shape[1:2] or not (masses >= 0).all():
        raise ValueError(f"masses must be {velocities.shape[1]} numbers in u, got {masses.tolist()}")
    _check_finite(velocities, "velocities")
    return velocities, masses


def _check_finite(values: np.ndarray, name: str) -> None:
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(1)
    if bad.any():
        raise ValueError(f"{name} must be finite, but those of frame {int(bad.argmax())} are not")


def _check_timestep(timestep: float) -> None:
    if not (math.isfinite(timestep) and timestep > 0):
        raise ValueError(f"timestep must be the positive time between two frames in fs, got {timestep!r}")


def _number_of_lags(series: np.ndarray, timestep: float, max_lag: float | None) -> int:
    """Lags of the window, zero included."""
    _check_timestep(timestep)
    if len(series) < 5:
        raise ValueError(f"a spectrum needs at least 5 velocities or differences of dipoles, got {len(series)}")
    duration = timestep * (len(series) - 1)
    lag = duration / 2 if max_lag is None else max_lag
    if not 2 * timestep <= lag <= duration:
        raise ValueError(
            f"max_lag must lie between two time steps, {2 * timestep} fs, and the trajectory's "
            f"{duration} fs; got {max_lag!r}"
        )
    return int(lag / timestep * (1 + 1e-12)) + 1


def _autocorrelation(series: np.ndarray, weights: np.ndarray) -> np.ndarray:
    r"""Weighted sum over atoms, :math:`\frac{1}{T} \sum_t \sum_i w_i\, v_i(t) \cdot v_i(t + \tau)`, shape ``[T]``.

    Not divided by the shrinking number T - τ of pairs: so it is the transform of a power, which is never negative.
    """
    n_frames = len(series)
    size = _even_fft_size(2 * n_frames)  # as many zeros as frames, or the end would meet the beginning
    power = np.zeros(size // 2 + 1)
    for atom, weight in enumerate(weights):  # one by one, as the transform is larger than the trajectory
        power += weight * (np.abs(np.fft.rfft(series[:, atom], size, axis=0)) ** 2).sum(1)
    return np.fft.irfft(power, size)[:n_frames] / n_frames


def _transform(correlation: np.ndarray, n_frames: int, timestep: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Wave numbers in cm⁻¹, transform of the windowed correlation (its unit times fs), and resolution in cm⁻¹."""
    window = _parzen(len(correlation))
    # at least eight points within the width of a line, so that its maximum is on the grid
    size = _even_fft_size(16 * len(correlation))
    signal = np.zeros(size)
    signal[: len(correlation)] = window * correlation
    density = timestep * (2 * np.fft.rfft(signal).real - signal[0])  # both signs of the lag
    wavenumbers = np.fft.rfftfreq(size, timestep) / _CM_PER_FS
    line = window * (1 - np.arange(len(window)) / n_frames)  # what remains of the correlation of a line
    return wavenumbers, np.maximum(density, 0.0), _full_width(line, timestep)  # below zero is rounding


def _peaks(wavenumbers: np.ndarray, intensity: np.ndarray) -> np.ndarray:
    """Places of the maxima between the ends, the highest first; parabolas go through three points of the grid."""
    left, middle, right = intensity[:-2], intensity[1:-1], intensity[2:]
    places = 1 + np.flatnonzero((middle > left) & (middle >= right) & (middle > _SIDE_LOBES * intensity[0]))
    places = places[np.argsort(-intensity[places], kind="stable")]
    before, at, after = (intensity[places + k] for k in (-1, 0, 1))
    return wavenumbers[places] + 0.5 * wavenumbers[1] * (before - after) / (before - 2.0 * at + after)


def _parzen(n_lags: int) -> np.ndarray:
    """Parzen's window from lag zero, where it is 1, to just before it is zero."""
    x = np.arange(n_lags) / n_lags
    return np.where(x < 0.5, 1 - 6 * x**2 * (1 - x), 2 * (1 - x) ** 3)


def _full_width(window: np.ndarray, timestep: float) -> float:
    """Full width at half maximum in cm⁻¹ of the transform of a window, by bisection."""
    lags = np.arange(len(window))

    def height(frequency: float) -> float:  # in units of the sampling rate
        return 2 * float(window @ np.cos(2 * np.pi * frequency * lags)) - window[0]

    low, high = 0.0, min(0.5, 2.0 / len(window))  # sinc⁴ is down to half at 0.64 over the longest lag
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if height(middle) > 0.5 * height(0.0) else (low, middle)
    return (low + high) / timestep / _CM_PER_FS


def _even_fft_size(least: int) -> int:
    """An even length of at least ``least`` that transforms fast."""
    from scipy.fft import next_fast_len

    return 2 * next_fast_len((least + 1) // 2, real=True)

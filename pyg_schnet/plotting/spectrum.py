"""Pictures of spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_schnet.plotting.style import axes_or_new, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyg_schnet.analysis import InfraredSpectrum, PowerSpectrum


def plot_power_spectrum(result: PowerSpectrum, ax: Axes | None = None, *, end: float = 4000.0) -> Axes:
    """Draw kinetic energy over wave number.

    Args:
        result: From :func:`pyg_schnet.analysis.power_spectrum`.
        ax: Where to draw; ``None`` makes a new figure.
        end: Largest wave number in cm⁻¹ that is shown.

    Returns:
        The axes.

    Example:
        >>> import numpy as np
        >>> from matplotlib.figure import Figure
        >>> from pyg_schnet.analysis import power_spectrum
        >>> velocities = 0.01 * np.cos(0.3 * np.arange(1000)).reshape(-1, 1, 1) * np.ones(3)
        >>> spectrum = power_spectrum(velocities, 0.5, masses=[1.0])
        >>> plot_power_spectrum(spectrum, ax=Figure().subplots()).get_ylabel()
        'kinetic energy [eV/cm$^{-1}$]'
    """
    return _plot(result, ax, end, "kinetic energy [eV/cm$^{-1}$]")


def plot_infrared_spectrum(result: InfraredSpectrum, ax: Axes | None = None, *, end: float = 4000.0) -> Axes:
    """Draw infrared absorption over wave number.

    Args:
        result: From :func:`pyg_schnet.analysis.infrared_spectrum`.
        ax: Where to draw; ``None`` makes a new figure.
        end: Largest wave number in cm⁻¹ that is shown.

    Returns:
        The axes.

    Example:
        >>> import numpy as np
        >>> from matplotlib.figure import Figure
        >>> from pyg_schnet.analysis import infrared_spectrum
        >>> dipoles = 0.1 * np.cos(0.3 * np.arange(1000)).reshape(-1, 1) * np.ones(3)
        >>> spectrum = infrared_spectrum(dipoles, 0.5, temperature=300.0)
        >>> plot_infrared_spectrum(spectrum, ax=Figure().subplots()).get_ylabel()
        'absorption [km/mol per cm$^{-1}$]'
    """
    return _plot(result, ax, end, "absorption [km/mol per cm$^{-1}$]")


def _plot(result: PowerSpectrum | InfraredSpectrum, ax: Axes | None, end: float, label: str) -> Axes:
    with style():
        ax = axes_or_new(ax)
        ax.plot(result.wavenumbers, result.intensity)
        ax.set(xlabel="wave number [cm$^{-1}$]", ylabel=label)
        ax.set_xlim(0.0, min(end, result.wavenumbers[-1]))
        ax.set_ylim(bottom=0.0)
    return ax

"""Pictures of normal modes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_schnet.plotting.style import COLORS, axes_or_new, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyg_schnet.analysis import NormalModes


def plot_normal_modes(result: NormalModes, ax: Axes | None = None) -> Axes:
    """Draw a stick for every vibration at its wave number, all of one height.

    How much light a vibration absorbs is not known from energies; spectra of dipoles tell
    (:func:`pyg_schnet.analysis.infrared_spectrum`). Imaginary ones are drawn at negative wave numbers in another
    colour, and named in a legend. Motions of the whole are left out.

    Args:
        result: From :func:`pyg_schnet.analysis.normal_modes`.
        ax: Where to draw; ``None`` makes a new figure.

    Returns:
        The axes.

    Example:
        >>> from ase import Atoms
        >>> from matplotlib.figure import Figure
        >>> from pyg_schnet.analysis import normal_modes
        >>> spring = lambda z, pos, batch: 15.0 * ((pos[1] - pos[0]).norm() - 0.75).square().view(1)
        >>> modes = normal_modes(spring, Atoms("H2", [[0, 0, 0], [0, 0, 0.75]]), unit="eV")
        >>> plot_normal_modes(modes, ax=Figure().subplots()).get_xlabel()
        'wave number [cm$^{-1}$]'
    """
    with style():
        ax = axes_or_new(ax)
        for mask, color, label in (
            (~result.imaginary & ~result.rigid, COLORS["blue"], "real"),
            (result.imaginary, COLORS["vermillion"], "imaginary"),
        ):
            if mask.any():
                ax.vlines(result.frequencies[mask], 0.0, 1.0, color=color, label=label)
        if result.imaginary.any():
            ax.axvline(0.0, color="0.6", linewidth=0.6, zorder=0)
            ax.legend()
        ax.set(xlabel="wave number [cm$^{-1}$]", ylabel="vibrations", yticks=[])
        ax.set_ylim(0.0, 1.2)
    return ax

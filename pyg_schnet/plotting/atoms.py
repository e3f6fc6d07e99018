"""Pictures of what a model says about single atoms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyg_schnet.plotting.style import axes_or_new, colors_of_elements, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyg_schnet.analysis import AtomContributions, Locality


def plot_atom_contributions(result: AtomContributions, ax: Axes | None = None, *, references: bool = False) -> Axes:
    """Draw the latent energy of every atom as a bar in the colour of its element.

    Args:
        result: From :func:`pyg_schnet.analysis.atom_contributions`.
        ax: Where to draw; ``None`` makes a new figure.
        references: Whether the references of the elements are included, which often hide everything else.

    Returns:
        The axes.

    Example:
        >>> from ase.build import molecule
        >>> from matplotlib.figure import Figure
        >>> from pyg_schnet import SchNet
        >>> from pyg_schnet.analysis import atom_contributions
        >>> parts = atom_contributions(SchNet(16, 16, 2, 20, 5.0), molecule("H2O"), unit="eV")
        >>> plot_atom_contributions(parts, ax=Figure().subplots()).get_ylabel()
        'atom energy [eV]'
    """
    symbols = _symbols(result.numbers)
    values = result.energies if references else result.without_references
    colors = colors_of_elements(symbols)
    with style():
        ax = axes_or_new(ax)
        ax.axhline(0.0, color="0.6", linewidth=0.6, zorder=0)
        ax.bar(np.arange(len(values)), values, color=[colors[symbol] for symbol in symbols])
        if len(symbols) <= 30:
            ax.set_xticks(np.arange(len(values)), [f"{symbol}\n{k}" for k, symbol in enumerate(symbols)])
        elif len(colors) > 1:  # names would overlap
            ax.legend(handles=_handles(colors), ncols=len(colors), loc="lower left", bbox_to_anchor=(0.0, 1.0))
        ax.set(xlabel="atom", ylabel="atom energy with reference [eV]" if references else "atom energy [eV]")
    return ax


def plot_locality(result: Locality, ax: Axes | None = None) -> Axes:
    """Draw how the energy of each atom changes when all others beyond a radius are removed.

    Dotted lines mark multiples of the cutoff: up to that distance atoms act through one interaction, two, and so on.

    Args:
        result: From :func:`pyg_schnet.analysis.locality`.
        ax: Where to draw; ``None`` makes a new figure.

    Returns:
        The axes.

    Example:
        >>> from ase.build import molecule
        >>> from matplotlib.figure import Figure
        >>> from pyg_schnet import SchNet
        >>> from pyg_schnet.analysis import locality
        >>> found = locality(SchNet(16, 16, 2, 20, 5.0), molecule("H2O"), [1.0, 2.0], unit="eV")
        >>> plot_locality(found, ax=Figure().subplots()).get_xlabel()
        'radius [Å]'
    """
    symbols = _symbols(result.numbers)
    colors = colors_of_elements(symbols)
    order = np.argsort(result.radii, kind="stable")
    with style():
        ax = axes_or_new(ax)
        ax.axhline(0.0, color="0.6", linewidth=0.6, zorder=0)
        for symbol, changes in zip(symbols, result.changes, strict=True):
            ax.plot(result.radii[order], changes[order], color=colors[symbol], linewidth=0.8)
        steps = np.arange(1, round(result.horizon / result.cutoff) + 1) * result.cutoff
        for step in steps[steps <= result.radii.max()]:
            ax.axvline(step, color="0.6", linewidth=0.6, linestyle=":", zorder=0)
        ax.set(xlabel="radius [Å]", ylabel="change of atom energy [eV]")
        if len(colors) > 1:
            ax.legend(handles=_handles(colors))
    return ax


def _symbols(numbers: np.ndarray) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[number] for number in numbers]


def _handles(colors: dict[str, str]) -> list:
    """Entries of a legend of elements."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=color, label=symbol) for symbol, color in colors.items()]

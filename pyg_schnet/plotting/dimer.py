"""Pictures of dimer scans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pyg_schnet.plotting.style import COLORS, axes_or_new, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyg_schnet.analysis import DimerScan


def plot_dimer_scan(
    result: DimerScan, ax: Axes | None = None, *, quantity: Literal["energy", "force"] = "energy"
) -> Axes:
    """Draw the mean over models and a band of one standard deviation to both sides.

    Args:
        result: From :func:`pyg_schnet.analysis.dimer_scan`.
        ax: Where to draw; ``None`` makes a new figure.
        quantity: ``"energy"``, or ``"force"`` along the bond.

    Returns:
        The axes.

    Raises:
        ValueError: If the quantity is neither of the two.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from pyg_schnet.analysis import dimer_scan
        >>> spring = lambda z, pos, batch: (pos[::2] - pos[1::2]).square().sum(1)
        >>> scan = dimer_scan(spring, "C", "C", [1.0, 2.0], unit="eV")
        >>> plot_dimer_scan(scan, ax=Figure().subplots()).get_xlabel()
        'distance C–C [Å]'
    """
    labels = {"energy": "energy [eV]", "force": "force [eV/Å]"}
    if quantity not in labels:
        raise ValueError(f"quantity must be 'energy' or 'force', got {quantity!r}")
    order = np.argsort(result.distances, kind="stable")
    x = result.distances[order]
    mean, deviation = getattr(result, quantity)[order], getattr(result, f"{quantity}_std")[order]
    with style():
        ax = axes_or_new(ax)
        ax.axhline(0.0, color="0.6", linewidth=0.6, zorder=0)
        ax.plot(x, mean, color=COLORS["blue"], label=f"mean of {len(result.energies)} models")
        if len(result.energies) > 1:
            band: dict[str, Any] = {
                "color": COLORS["blue"],
                "alpha": 0.25,
                "linewidth": 0.0,
                "label": "± standard deviation",
            }
            ax.fill_between(x, mean - deviation, mean + deviation, **band)
            ax.legend()
        ax.set(xlabel=f"distance {result.elements[0]}–{result.elements[1]} [Å]", ylabel=labels[quantity])
        ax.set_xlim(x[0], x[-1])
    return ax

"""Pictures of learned filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyg_schnet.plotting.style import DIVERGING, axes_or_new, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyg_schnet.analysis import RadialFilters


def plot_radial_filters(result: RadialFilters, ax: Axes | None = None, *, interaction: int = 0) -> Axes:
    """Draw the filters of one interaction, one row each, their values in colour.

    Rows are sorted by the distance at which a filter is largest in magnitude, so those alike lie together.

    Args:
        result: From :func:`pyg_schnet.analysis.radial_filters`.
        ax: Where to draw; ``None`` makes a new figure.
        interaction: Which one, from zero on.

    Returns:
        The axes, to which a colour bar was added.

    Raises:
        IndexError: If there is no such interaction.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from pyg_schnet import SchNet
        >>> from pyg_schnet.analysis import radial_filters
        >>> filters = radial_filters(SchNet(16, 32, 2, 20, 5.0))
        >>> plot_radial_filters(filters, ax=Figure().subplots()).get_xlabel()
        'distance [Å]'
    """
    count = len(result.values)
    if not -count <= interaction < count:
        raise IndexError(f"there are {count} interactions, numbered from 0; got {interaction}")
    along = np.argsort(result.distances, kind="stable")
    values = result.values[interaction][along]  # [D, F]
    rows = np.abs(values).argmax(0).argsort(kind="stable")
    limit = max(float(np.abs(values).max(initial=0.0)), 1e-12)
    with style():
        ax = axes_or_new(ax)
        mesh = ax.pcolormesh(
            result.distances[along],
            np.arange(len(rows)),
            values[:, rows].T,
            cmap=DIVERGING,
            vmin=-limit,
            vmax=limit,
            shading="nearest",
            rasterized=True,  # thousands of cells are a heavy vector graphic
        )
        ax.figure.colorbar(mesh, ax=ax, label="filter (dimensionless)")
        locator: Any = ax.yaxis.get_major_locator()
        locator.set_params(integer=True)
        ax.set(xlabel="distance [Å]", ylabel="filter, sorted by position")
    return ax

"""Pictures of the map of elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyg_schnet.plotting.style import COLORS, axes_or_new, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyg_schnet.analysis import EmbeddingMap

_MARKERS = "os^Dv<>P"


def plot_embedding_map(result: EmbeddingMap, ax: Axes | None = None, *, others: bool = False) -> Axes:
    """Draw the elements on the first two principal components, main groups by colour and mark.

    Args:
        result: From :func:`pyg_schnet.analysis.embedding_map`.
        ax: Where to draw; ``None`` makes a new figure.
        others: Whether to draw hydrogen and the elements of no main group too, in grey.

    Returns:
        The axes.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from pyg_schnet import SchNet
        >>> from pyg_schnet.analysis import embedding_map
        >>> result = embedding_map(SchNet(8, 8, 1), ["Li", "Na", "F", "Cl"], shuffles=10)
        >>> [text.get_text() for text in plot_embedding_map(result, ax=Figure().subplots()).texts]
        ['Li', 'Na', 'F', 'Cl']
    """
    groups = [group for group in np.unique(result.groups) if group > 0 or others]
    colors = list(COLORS.values())
    with style():
        ax = axes_or_new(ax)
        for k, group in enumerate(groups):
            rows = np.flatnonzero(result.groups == group)
            x, y = result.components[rows, 0], result.components[rows, 1]
            color = "#999999" if group == 0 else colors[k % len(colors)]
            label = "others" if group == 0 else f"group {group}"
            ax.plot(x, y, _MARKERS[k % len(_MARKERS)], color=color, markersize=3.5, label=label)
            for row in rows:
                ax.annotate(
                    result.symbols[row],
                    tuple(result.components[row, :2]),
                    xytext=(2, 2),
                    textcoords="offset points",
                    fontsize="small",
                    color=color,
                )
        first, second = 100.0 * result.explained[:2]
        ax.set(xlabel=f"component 1 ({first:.0f} % of variance)", ylabel=f"component 2 ({second:.0f} % of variance)")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small", handletextpad=0.2)
    return ax

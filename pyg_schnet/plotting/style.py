"""How pictures look: settings for print that hold inside a ``with`` block and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

try:
    import matplotlib
except ImportError as error:
    raise ImportError(
        "pyg_schnet.plotting draws with matplotlib; install it with `pip install pyg_schnet[plot]`"
    ) from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
}
"""Colours that are told apart with any kind of colour vision, of `Okabe and Ito (2008)
<https://jfly.uni-koeln.de/color/>`_; their yellow is left out, which is faint on white."""

SEQUENTIAL = "cividis"
"""Colour map for amounts, made for all kinds of colour vision (`Nuñez et al. (2018)
<https://doi.org/10.1371/journal.pone.0199239>`_)."""

DIVERGING = "PuOr_r"
"""Colour map for signed numbers, zero in white; purple to orange is told apart with any kind of colour vision."""

_SETTINGS: dict[str, Any] = {
    "figure.figsize": (3.5, 2.6),  # inches; one column of a journal
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    "savefig.bbox": "tight",
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "image.cmap": SEQUENTIAL,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
}


@contextmanager
def style() -> Iterator[None]:
    """Settings for print, until the end of the ``with`` block; every function of this package draws inside one.

    Figures that are made and saved inside have them too.

    Example:
        >>> import matplotlib
        >>> before = matplotlib.rcParams["font.size"]
        >>> with style():
        ...     matplotlib.rcParams["font.size"]
        8.0
        >>> matplotlib.rcParams["font.size"] == before
        True
    """
    mpl: Any = matplotlib
    cycle = mpl.cycler(color=list(COLORS.values()))
    with mpl.rc_context({**_SETTINGS, "axes.prop_cycle": cycle}):
        yield


def axes_or_new(ax: Axes | None) -> Axes:
    """The given axes, or those of a new figure of pyplot."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots()[1]


def colors_of_elements(symbols: list[str]) -> dict[str, str]:
    """A colour for each element, in the order in which they come; after seven they are repeated.

    Example:
        >>> colors_of_elements(["O", "H", "H"])
        {'O': '#0072B2', 'H': '#D55E00'}
    """
    colors = list(COLORS.values())
    return {symbol: colors[k % len(colors)] for k, symbol in enumerate(dict.fromkeys(symbols))}

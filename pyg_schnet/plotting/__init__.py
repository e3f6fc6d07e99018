"""Pictures of what :mod:`pyg_schnet.analysis` finds: one function for each result, ``plot_x(result, ax=None) -> Axes``.

Needs matplotlib, ``pip install pyg_schnet[plot]``. Nothing global is changed: the settings of :func:`style` hold while
a function draws, and in your own ``with style():``.
"""

from pyg_schnet.plotting.activation import plot_activation_curves
from pyg_schnet.plotting.atoms import plot_atom_contributions, plot_locality
from pyg_schnet.plotting.dimer import plot_dimer_scan
from pyg_schnet.plotting.embedding import plot_embedding_map
from pyg_schnet.plotting.filters import plot_radial_filters
from pyg_schnet.plotting.spectrum import plot_infrared_spectrum, plot_power_spectrum
from pyg_schnet.plotting.style import COLORS, DIVERGING, SEQUENTIAL, style
from pyg_schnet.plotting.surfaces import plot_probe_potential, write_probe_html
from pyg_schnet.plotting.vibration import plot_normal_modes

__all__ = [
    "plot_activation_curves",
    "plot_atom_contributions",
    "plot_dimer_scan",
    "plot_embedding_map",
    "plot_infrared_spectrum",
    "plot_locality",
    "plot_normal_modes",
    "plot_power_spectrum",
    "plot_probe_potential",
    "plot_radial_filters",
    "style",
    "write_probe_html",
]

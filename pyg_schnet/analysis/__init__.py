"""Looking inside models: functions that return small frozen dataclasses of numpy arrays, with units; nothing is drawn.

Pictures of the results are made by ``pyg_schnet.plotting``.
"""

from pyg_schnet.analysis.activation import ActivationCurves, activation_curves
from pyg_schnet.analysis.atoms import AtomContributions, Locality, atom_contributions, locality
from pyg_schnet.analysis.dimer import DimerScan, dimer_scan
from pyg_schnet.analysis.embedding import EmbeddingMap, embedding_map
from pyg_schnet.analysis.filters import RadialFilters, radial_filters
from pyg_schnet.analysis.probe import ProbePotential, probe_potential
from pyg_schnet.analysis.spectrum import (
    InfraredSpectrum,
    PowerSpectrum,
    infrared_spectrum,
    power_spectrum,
    trajectory_dipoles,
)
from pyg_schnet.analysis.surface import Surface, molecular_surface
from pyg_schnet.analysis.vibration import NormalModes, normal_modes

__all__ = [
    "ActivationCurves",
    "AtomContributions",
    "DimerScan",
    "EmbeddingMap",
    "InfraredSpectrum",
    "Locality",
    "NormalModes",
    "PowerSpectrum",
    "ProbePotential",
    "RadialFilters",
    "Surface",
    "activation_curves",
    "atom_contributions",
    "dimer_scan",
    "embedding_map",
    "infrared_spectrum",
    "locality",
    "molecular_surface",
    "normal_modes",
    "power_spectrum",
    "probe_potential",
    "radial_filters",
    "trajectory_dipoles",
]

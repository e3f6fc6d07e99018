"""Interfaces to simulation programs."""

import pyg_schnet.ops._pyg  # PyTorch Geometric comes first, without its warnings
from pyg_schnet.interfaces.ase import SchNetCalculator
from pyg_schnet.interfaces.ase_properties import database_entries
from pyg_schnet.interfaces.batch import BatchCalculator
from pyg_schnet.interfaces.relaxation import Relaxation, relax
from pyg_schnet.interfaces.uncertainty import DeviationError, DeviationLimit, calibrate

__all__ = [
    "BatchCalculator",
    "DeviationError",
    "DeviationLimit",
    "Relaxation",
    "SchNetCalculator",
    "calibrate",
    "database_entries",
    "relax",
]

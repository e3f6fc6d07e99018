"""Interfaces to simulation programs."""

import pyg_schnet.ops._pyg  # PyTorch Geometric comes first, without its warnings
from pyg_schnet.interfaces.ase import SchNetCalculator
from pyg_schnet.interfaces.ase_properties import database_entries
from pyg_schnet.interfaces.batch import BatchCalculator
from pyg_schnet.interfaces.relaxation import Relaxation, relax

__all__ = ["BatchCalculator", "Relaxation", "SchNetCalculator", "database_entries", "relax"]

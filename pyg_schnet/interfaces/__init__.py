"""Interfaces to simulation programs."""

import pyg_schnet.ops._pyg  # PyTorch Geometric comes first, without its warnings
from pyg_schnet.interfaces.ase import SchNetCalculator
from pyg_schnet.interfaces.replay import ReplayedForces

__all__ = ["ReplayedForces", "SchNetCalculator"]

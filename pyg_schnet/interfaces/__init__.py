"""Interfaces to simulation programs."""

from pyg_schnet.interfaces.ase import SchNetCalculator

__all__ = ["SchNetCalculator"]

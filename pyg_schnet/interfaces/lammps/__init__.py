"""Models in LAMMPS over MPI: each rank computes the atoms of its own domain.

LAMMPS and mpi4py are imported when they are used.
"""

import pyg_schnet.ops._pyg  # PyTorch Geometric comes first, without its warnings
from pyg_schnet.interfaces.lammps.callback import DomainForces
from pyg_schnet.interfaces.lammps.domain import DomainModel
from pyg_schnet.interfaces.lammps.exchange import ExchangePlan
from pyg_schnet.interfaces.lammps.halo import collect, extend
from pyg_schnet.interfaces.lammps.input import parse_input
from pyg_schnet.interfaces.lammps.runner import attach, run_file

__all__ = ["DomainForces", "DomainModel", "ExchangePlan", "attach", "collect", "extend", "parse_input", "run_file"]

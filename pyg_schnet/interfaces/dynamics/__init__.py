"""Molecular dynamics and relaxations through ASE: restarts to the last bit, limits, trajectories and logs.

.. code-block:: text

    structure --run_dynamics(Settings, Limits)--> trajectory, log, checkpoint
    structures --relax--> relaxed structures
"""

import pyg_schnet.ops._pyg  # PyTorch Geometric comes first, without its warnings
from pyg_schnet.interfaces.dynamics.limits import Limits
from pyg_schnet.interfaces.dynamics.relaxation import Relaxed, relax
from pyg_schnet.interfaces.dynamics.settings import Settings
from pyg_schnet.interfaces.dynamics.simulation import Files, Outcome, run_dynamics

__all__ = ["Files", "Limits", "Outcome", "Relaxed", "Settings", "relax", "run_dynamics"]

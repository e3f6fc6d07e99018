"""Interfaces to simulation programs, each imported when it is asked for: ASE is needed by its own alone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pyg_schnet.ops._pyg  # PyTorch Geometric comes first, without its warnings

if TYPE_CHECKING:
    from pyg_schnet.interfaces._openmm_factory import SchNetPotentialFactory
    from pyg_schnet.interfaces.ase import SchNetCalculator
    from pyg_schnet.interfaces.ase_properties import database_entries
    from pyg_schnet.interfaces.batch import BatchCalculator
    from pyg_schnet.interfaces.committee import Committee
    from pyg_schnet.interfaces.ipi import SchNetDriver
    from pyg_schnet.interfaces.openmm import SchNetPotential
    from pyg_schnet.interfaces.relaxation import relax_batch
    from pyg_schnet.interfaces.replay import ReplayedForces
    from pyg_schnet.interfaces.torchsim import TorchSimModel
    from pyg_schnet.interfaces.uncertainty import DeviationError, DeviationLimit, calibrate, fractions_within

__all__ = [
    "BatchCalculator",
    "Committee",
    "DeviationError",
    "DeviationLimit",
    "ReplayedForces",
    "SchNetCalculator",
    "SchNetDriver",
    "SchNetPotential",
    "SchNetPotentialFactory",
    "TorchSimModel",
    "calibrate",
    "database_entries",
    "fractions_within",
    "relax_batch",
]

_HOMES = {
    "BatchCalculator": "batch",
    "Committee": "committee",
    "DeviationError": "uncertainty",
    "DeviationLimit": "uncertainty",
    "ReplayedForces": "replay",
    "SchNetCalculator": "ase",
    "SchNetDriver": "ipi",
    "SchNetPotential": "openmm",
    "SchNetPotentialFactory": "_openmm_factory",
    "TorchSimModel": "torchsim",
    "calibrate": "uncertainty",
    "fractions_within": "uncertainty",
    "database_entries": "ase_properties",
    "relax_batch": "relaxation",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first access."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

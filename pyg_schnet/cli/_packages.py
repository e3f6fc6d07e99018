"""What a command needs, imported when it runs."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

from pyg_schnet.cli._quick import import_quickly, without_collection

EXTRAS = {
    "train": "train",
    "test": "train",
    "predict": "train",
    "md": "train",
    "relax": "train",
    "merge": "train",
    "lammps": "train,lammps",
    "audit": "train",
    "analyze": "train,analysis",
    "report": "train,plot",
    "reference-data": "train,reference",
    "doctor": "train",
}
"""Commands, and the optional packages of each."""


def import_for(command: str, name: str, *, quickly: bool = False) -> ModuleType:
    """Import a module that a command needs.

    Args:
        command: One of :data:`EXTRAS`.
        name: Name of the module.
        quickly: Whether it needs PyTorch Geometric and ASE's readers, but neither torch's compiler nor PyTorch
            Geometric's data sets.

    Raises:
        SystemExit: If it cannot be imported; the message says what to do.

    Example:
        >>> import_for("predict", "pyg_schnet.units").factor("eV", "meV")
        1000.0
    """
    try:
        with without_collection():
            if quickly:
                import_quickly()
            return import_module(name)
    except ValueError as error:  # a variable of the environment that a library cannot read
        sys.exit(f"pyg-schnet {command}: a package cannot be imported ({error}); check the environment variables")
    except ImportError as error:
        sys.exit(f"pyg-schnet {command} needs more packages ({error}): pip install 'pyg_schnet[{EXTRAS[command]}]'")

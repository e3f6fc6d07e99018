"""Standard deviations of ensembles as properties that ASE's files keep.

ASE's trajectories, extended XYZ files and JSON databases keep those results of calculators that ``ase.outputs`` knows
by name and shape. :func:`register` adds standard deviations to it, when ``SchNetCalculator`` is imported. A program that
reads such files has to import it as well, or to call ``register``; otherwise the deviations come in ``atoms.info`` and
``atoms.arrays`` (extended XYZ) or not at all (``.traj``). A database in SQLite has fixed columns, see
:func:`database_entries`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.outputs import ArrayProperty, ScalarProperty, all_outputs

DEVIATIONS: dict[str, tuple[Any, ...]] = {
    "energy_std": (),
    "energies_std": ("natoms",),
    "forces_std": ("natoms", 3),
    "stress_std": (6,),
    "dipole_std": (3,),
}
"""Names of the standard deviations and their shapes, as ASE writes them."""

_COLUMNS = ("energy", "free_energy", "forces", "stress", "dipole", "magmoms", "magmom", "charges")  # of SQLite


def register() -> None:
    """Tell ASE names and shapes of standard deviations; done once, names that ASE has are left as they are."""
    from ase.io import extxyz

    for name, shape in DEVIATIONS.items():
        if name not in all_outputs:
            all_outputs[name] = ArrayProperty(name, float, shape) if shape else ScalarProperty(name, float)
        known = [all_properties, extxyz.per_atom_properties if "natoms" in shape else extxyz.per_config_properties]
        for names in known:
            if name not in names:
                names.append(name)


def database_entries(atoms: Atoms) -> dict[str, dict[str, Any]]:
    """Results that a database of ASE in SQLite has no column for, as keywords of its ``write``.

    Numbers become key-value pairs, which can be searched for; arrays go to ``data``.

    Args:
        atoms: Structure with a calculator; results of other positions are left out.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import SchNet
        >>> from pyg_schnet.interfaces import SchNetCalculator
        >>> water = molecule("H2O")
        >>> water.calc = SchNetCalculator([SchNet(16, 16, 2, 20, 5.0), SchNet(16, 16, 2, 20, 5.0)], unit="eV")
        >>> energy = water.get_potential_energy()
        >>> sorted(database_entries(water)["key_value_pairs"])
        ['energy_std']
    """
    calc = atoms.calc
    results: Mapping[str, Any] = {} if calc is None or calc.check_state(atoms) else calc.results
    others = {name: value for name, value in results.items() if name not in _COLUMNS}
    return {
        "key_value_pairs": {name: float(value) for name, value in others.items() if np.ndim(value) == 0},
        "data": {name: np.array(value) for name, value in others.items() if np.ndim(value) > 0},
    }

"""What has changed between two calls of a calculator, and what need not be looked at again."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import all_changes
from torch import Tensor

from pyg_schnet.data.check import StructureCheck

_NEAR = 100.0  # Å from the origin, where float32 is spaced by 8e-6 Å
_APART = 1e-6**2  # Å², of atoms in different places
_OPTIONAL = ("initial_charges", "initial_magmoms")


def changes_of(old: Atoms | None, new: Atoms) -> list[str]:
    """Names of what differs, as ASE calls it; values are compared exactly, in a fifth of the time of ASE's own.

    Args:
        old: Structure of the last calculation; ``None`` if there was none.
        new: The present one.

    Example:
        >>> water = Atoms("OH2", [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        >>> changes_of(water, water.copy()), changes_of(water, Atoms("H"))
        ([], ['positions', 'numbers'])
    """
    if old is None:
        return list(all_changes)
    before, now = old.arrays, new.arrays
    found = [name for name in ("positions", "numbers") if _differs(before[name], now[name])]
    if _differs(old.cell.array, new.cell.array):
        found.append("cell")
    if _differs(old.pbc, new.pbc):
        found.append("pbc")
    for name in _OPTIONAL:
        if name in before or name in now:
            one, other = before.get(name), now.get(name)
            if one is None or other is None or _differs(one, other):
                found.append(name)
    return found


def _differs(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape != other.shape or not (one == other).all()


class SmallMolecule:
    """A small molecule that was checked once, of which only the positions change.

    Args:
        atoms: Molecule that was checked.
        dtype: Of positions.
        device: Where they are needed.

    Attributes:
        z: Atomic numbers, shape ``[N]``.
    """

    def __init__(self, atoms: Atoms, dtype: torch.dtype, device: torch.device) -> None:
        self._checked = atoms.copy()
        self._dtype, self._device = dtype, device
        self.z: Tensor = torch.from_numpy(np.array(atoms.numbers, dtype=np.int64)).to(device)

    def positions(self, atoms: Atoms, check: StructureCheck) -> Tensor | None:
        """Positions in Å, shape ``[N, 3]``; ``None`` where the structure has to be looked at in full.

        Args:
            atoms: The structure.
            check: Warns of atoms that are closer than in training.
        """
        changed = changes_of(self._checked, atoms)
        if (changed and changed != ["positions"]) or atoms.info.keys() != self._checked.info.keys():
            return None
        positions = atoms.positions
        if not np.abs(positions).max() <= _NEAR or not check.few_atoms(atoms.numbers, positions) > _APART:
            return None  # nor for NaN
        return torch.tensor(positions, dtype=self._dtype, device=self._device)

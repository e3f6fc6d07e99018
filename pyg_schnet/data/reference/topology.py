"""Which atoms of a molecule are bonded, and what falls apart when a bond is cut."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from ase.data import covalent_radii

BOND = 1.2
"""Atoms are bonded when they are closer than this times the sum of their covalent radii, most of them."""

BOND_OF_CARBON = 1.15
"""The same of two carbon atoms: across the rings of bicyclo[1.1.1]pentane and its kin they are 1.16 to 1.3 apart."""

BOND_WITHOUT_CARBON = 1.3
"""The same of two hydrogen atoms, and of two other atoms that are no carbon: F2 has 1.25, and so has H2 by GFN2-xTB."""

SINGLE = 0.9
"""Bonds between heavy atoms that are shorter than this times the sum of their covalent radii do not turn: they are
double ones. Amides, at 0.93, do turn."""


class Topology:
    """The bonds of a molecule, from distances; in QM9 they are those of the SMILES, with rare exceptions.

    Args:
        numbers: Atomic numbers, shape ``[N]``.
        positions: Positions in Å, shape ``[N, 3]``.

    Attributes:
        numbers: Atomic numbers, shape ``[N]``.
        bonds: Pairs of bonded atoms ``i < j``, in rising order, shape ``[B, 2]``.
        neighbors: Bonded atoms of each atom.

    Example:
        >>> from ase.build import molecule
        >>> water = molecule("H2O")
        >>> Topology(water.numbers, water.positions).bonds.tolist()
        [[0, 1], [0, 2]]
    """

    def __init__(self, numbers: np.ndarray, positions: np.ndarray) -> None:
        self.numbers = np.asarray(numbers)
        radii = covalent_radii[self.numbers]
        distance = np.linalg.norm(positions[:, None] - positions, axis=-1)
        sums = radii[:, None] + radii
        self.bonds = np.argwhere(np.triu(distance < _factors(self.numbers) * sums, k=1))
        self.neighbors: list[list[int]] = [[] for _ in self.numbers]
        for i, j in self.bonds.tolist():
            self.neighbors[i].append(j)
            self.neighbors[j].append(i)
        self._relative = distance / sums

    def side(self, i: int, j: int) -> list[int] | None:
        """Atoms that stay with ``j`` when the bond between ``i`` and ``j`` is cut; ``None`` for a bond in a ring.

        Args:
            i: One end of the bond.
            j: The other one.
        """
        found, waiting = {j}, [j]
        while waiting:
            here = waiting.pop()
            for atom in self.neighbors[here]:
                if atom == i and here != j:
                    return None
                if atom not in found and not (here == j and atom == i):
                    found.add(atom)
                    waiting.append(atom)
        return sorted(found)

    def open_bonds(self) -> list[tuple[int, int, list[int]]]:
        """Bonds in no ring: two ends, of which the second one is in the smaller part, and the atoms of that part."""
        found = []
        for i, j in self.bonds.tolist():
            first, second = self.side(j, i), self.side(i, j)
            if first is not None and second is not None:
                found.append((j, i, first) if len(first) < len(second) else (i, j, second))
        return found

    def rotatable_bonds(self) -> list[tuple[int, int, list[int]]]:
        """Those of :meth:`open_bonds` about which a part turns: single bonds between atoms with other neighbours."""
        return [
            (i, j, part)
            for i, j, part in self.open_bonds()
            if len(self.neighbors[i]) > 1 and len(self.neighbors[j]) > 1 and self._relative[i, j] > SINGLE
        ]

    def single_heavy_bonds(self) -> list[tuple[int, int, list[int]]]:
        """Those of :meth:`open_bonds` that are single ones between atoms heavier than hydrogen."""
        return [
            (i, j, part)
            for i, j, part in self.open_bonds()
            if min(self.numbers[i], self.numbers[j]) > 1 and self._relative[i, j] > SINGLE
        ]

    def key(self) -> str:
        """Name of the molecule as a graph of elements, the same for any order of its atoms and any geometry.

        Colours of atoms are refined by those of their neighbours as often as there are atoms, but 12 times at most.
        Two molecules with the same name are the same but for stereochemistry, or so much alike that what is within 12
        bonds of each atom does not tell them apart.

        Example:
            >>> from ase.build import molecule
            >>> one, other = molecule("H2O"), molecule("H2O")[[2, 0, 1]]
            >>> Topology(one.numbers, one.positions).key() == Topology(other.numbers, other.positions).key()
            True
        """
        colors = [str(number) for number in self.numbers.tolist()]
        for _ in range(min(len(colors), 12)):
            colors = [
                _hash([color, *sorted(colors[j] for j in near)])
                for color, near in zip(colors, self.neighbors, strict=True)
            ]
        return _hash(sorted(colors))


def _factors(numbers: np.ndarray) -> np.ndarray:
    """Longest bonds in units of the sum of covalent radii, shape ``[N, N]``."""
    is_carbon, is_hydrogen = numbers == 6, numbers == 1
    is_other = ~is_carbon & ~is_hydrogen
    found = np.full((len(numbers), len(numbers)), BOND)
    for one, factor in (
        (is_carbon, BOND_OF_CARBON),
        (is_hydrogen, BOND_WITHOUT_CARBON),
        (is_other, BOND_WITHOUT_CARBON),
    ):
        found[one[:, None] & one] = factor
    return found


def _hash(words: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:16]

"""Parts of molecules, with hydrogen where a bond was."""

from __future__ import annotations

import numpy as np
from ase.data import covalent_radii

from pyg_schnet.data.reference.topology import Topology


def fragment(
    numbers: np.ndarray, positions: np.ndarray, random: np.random.Generator, least: int = 3
) -> tuple[np.ndarray, np.ndarray] | None:
    """One side of a single bond between heavy atoms, with a hydrogen atom in the place of the other side.

    Args:
        numbers: Atomic numbers, shape ``[N]``.
        positions: Positions in Å, shape ``[N, 3]``.
        random: Source of random numbers, by which the bond and the side are chosen.
        least: Number of atoms below which a fragment is not taken.

    Returns:
        Atomic numbers and positions in Å of the fragment, the new hydrogen last; ``None`` where no bond can be cut.

    Example:
        >>> from ase.build import molecule
        >>> ethane = molecule("C2H6")
        >>> sorted(fragment(ethane.numbers, ethane.positions, np.random.default_rng(0))[0].tolist())
        [1, 1, 1, 1, 6]
    """
    choices = []
    for i, j, part in Topology(numbers, positions).single_heavy_bonds():
        rest = sorted(set(range(len(numbers))) - set(part))
        choices += [(i, j, part)] * (len(part) + 1 >= least)
        choices += [(j, i, rest)] * (len(rest) + 1 >= least)
    if not choices:
        return None
    gone, kept, part = choices[random.integers(len(choices))]
    along = positions[gone] - positions[kept]
    length = covalent_radii[1] + covalent_radii[numbers[kept]]
    cap = positions[kept] + along * (length / np.linalg.norm(along))
    return np.append(numbers[part], 1), np.vstack([positions[part], cap])

"""Molecules in which elements take the place of lighter ones of their groups."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from pyg_schnet.data.reference.frames import Molecule
from pyg_schnet.data.reference.topology import Topology

MOST = 3
"""Most atoms of a molecule that are exchanged."""

_STIFFNESS = {1: 1.0, 2: 0.3}  # of bonds, and of atoms with a common neighbour
_OTHERS = 0.001


def exchanged(molecules: Sequence[Molecule], elements: Mapping[str, str], seed: int = 0) -> list[Molecule]:
    """Molecules with one to ``MOST`` atoms exchanged, such as O by S; those without such atoms are left out.

    How many and which ones is drawn for each molecule by its name. Bonds grow in the ratio of covalent radii, and
    angles stay, as far as rings let them; the geometry is one to relax from.

    Args:
        molecules: Some molecules.
        elements: Symbols of elements, and of those that take their place.
        seed: Of random numbers, together with the name.

    Returns:
        The molecules, with names such as ``"gdb_21 S4"``: its atom 4, counted from zero, is now sulfur.

    Raises:
        ValueError: If there is no element of a symbol, or none to exchange.

    Example:
        >>> from ase.build import molecule
        >>> water = molecule("H2O")
        >>> (found,) = exchanged([Molecule("water", water.numbers, water.positions)], {"O": "S"})
        >>> found.name, found.numbers.tolist()
        ('water S0', [16, 1, 1])
    """
    if not elements or not all(atomic_numbers.get(one, 0) for pair in elements.items() for one in pair):
        raise ValueError(f"expected elements and what takes their place, such as O: S, got {dict(elements)}")
    numbers = {atomic_numbers[one]: atomic_numbers[other] for one, other in elements.items()}
    return [found for one in molecules if (found := _exchanged(one, numbers, seed)) is not None]


def _exchanged(molecule: Molecule, elements: Mapping[int, int], seed: int) -> Molecule | None:
    where = np.flatnonzero(np.isin(molecule.numbers, list(elements)))
    if len(where) == 0:
        return None
    random = np.random.default_rng([seed, zlib.crc32(molecule.name.encode())])
    chosen = np.sort(random.permutation(where)[: random.integers(1, min(MOST, len(where)) + 1)])
    numbers = np.array(molecule.numbers)
    numbers[chosen] = [elements[one] for one in numbers[chosen].tolist()]
    name = "-".join(f"{chemical_symbols[numbers[atom]]}{atom}" for atom in chosen)
    return molecule._replace(
        name=f"{molecule.name} {name}", numbers=numbers, positions=placed(molecule.numbers, numbers, molecule.positions)
    )


def placed(before: np.ndarray, numbers: np.ndarray, positions: np.ndarray, steps: int = 20) -> np.ndarray:
    r"""Positions in which bonds have the lengths of other elements, and angles are kept.

    By Gauss and Newton: :math:`\sum_{ij} k_{ij} (|\mathbf r_i - \mathbf r_j| - d_{ij})^2` is made smallest, where
    :math:`d` of a bond is its length in the ratio of covalent radii, that of two atoms with a common neighbour follows
    from their angle, and that of all others, which count little, is what it was.

    Args:
        before: Atomic numbers to which the positions belong, shape ``[N]``.
        numbers: The others, shape ``[N]``.
        positions: In Å, shape ``[N, 3]``.
        steps: Number of steps.

    Returns:
        Positions in Å, shape ``[N, 3]``.
    """
    n_atoms = len(numbers)
    wanted, stiffness = _springs(before, positions, _sums(numbers) / _sums(before))
    i, j = np.triu_indices(n_atoms, 1)
    rows, weights, pos = np.arange(len(i)), np.sqrt(stiffness[i, j]), np.array(positions, dtype=float)
    for _ in range(steps):
        along = pos[i] - pos[j]
        length = np.linalg.norm(along, axis=1)
        slopes = np.zeros((len(i), n_atoms, 3))
        slopes[rows, i], slopes[rows, j] = along / length[:, None], -along / length[:, None]
        change = np.linalg.lstsq(
            weights[:, None] * slopes.reshape(len(i), -1), weights * (wanted[i, j] - length), rcond=1e-8
        )[0]
        pos += change.reshape(pos.shape) * min(1.0, 0.3 / max(np.abs(change).max(), 1e-12))
    return pos


def _springs(numbers: np.ndarray, positions: np.ndarray, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wanted distances and stiffness of all pairs, shape ``[N, N]``, for bonds that change in some ratio."""
    topology = Topology(numbers, positions)
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1)
    wanted, stiffness = distance.copy(), np.full(distance.shape, _OTHERS)
    for middle, near in enumerate(topology.neighbors):
        for i, j in itertools.permutations(near, 2):
            first, second = distance[middle, i], distance[middle, j]
            cosine = (first**2 + second**2 - distance[i, j] ** 2) / (2 * first * second)
            first, second = first * ratio[middle, i], second * ratio[middle, j]
            wanted[i, j] = np.sqrt(max(first**2 + second**2 - 2 * first * second * cosine, 0.0))
            stiffness[i, j] = _STIFFNESS[2]
    for i, j in topology.bonds.tolist():
        wanted[i, j], stiffness[i, j] = distance[i, j] * ratio[i, j], _STIFFNESS[1]
    return wanted, stiffness


def _sums(numbers: np.ndarray) -> np.ndarray:
    """Sums of covalent radii of all pairs, shape ``[N, N]``."""
    radii = covalent_radii[numbers]
    return radii[:, None] + radii

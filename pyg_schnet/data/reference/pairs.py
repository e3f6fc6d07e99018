"""Molecules beside each other, and pairs of atoms."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
from ase.data import chemical_symbols, covalent_radii, vdw_radii

Molecule = tuple[np.ndarray, np.ndarray]
"""Atomic numbers ``[N]`` and positions in Å ``[N, 3]``."""

FARTHEST = 6.0
"""Largest distance of the atoms of a dimer in Å."""


def random_rotation(random: np.random.Generator) -> np.ndarray:
    """Rotation matrix that favours no direction, shape ``[3, 3]``: that of a quaternion of normal numbers.

    Args:
        random: Source of random numbers.
    """
    w, x, y, z = (lambda q: q / np.linalg.norm(q))(random.standard_normal(4))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def contact(first: Molecule, second: Molecule, closeness: float, random: np.random.Generator) -> Molecule:
    r"""Two molecules in random orientation that touch.

    The second one is turned, and moved along a random direction :math:`\mathbf u` through the first one's centre, to
    the farthest place where a pair of atoms has a distance :math:`D_{ij}` of ``closeness`` times the sum of its van der
    Waals radii. From :math:`|\mathbf b_j + t \mathbf u - \mathbf a_i| = D_{ij}` follows

    .. math:: t = \mathbf w \cdot \mathbf u + \sqrt{D_{ij}^2 - |\mathbf w|^2 + (\mathbf w \cdot \mathbf u)^2}, \quad
        \mathbf w = \mathbf a_i - \mathbf b_j.

    Args:
        first: Atomic numbers and positions in Å.
        second: The other molecule.
        closeness: Where they touch, in units of van der Waals contacts; hydrogen bonds are at 0.65 to 0.75.
        random: Source of random numbers.

    Example:
        >>> from ase.build import molecule
        >>> water = (molecule("H2O").numbers, molecule("H2O").positions)
        >>> contact(water, water, 1.0, np.random.default_rng(0))[0].tolist()
        [8, 1, 1, 8, 1, 1]
    """
    a = first[1] - first[1].mean(0)
    b = (second[1] - second[1].mean(0)) @ random_rotation(random).T
    along = random.standard_normal(3)
    along /= np.linalg.norm(along)
    radii = [np.nan_to_num(vdw_radii[numbers], nan=2.0) for numbers in (first[0], second[0])]
    reach = closeness * (radii[0][:, None] + radii[1])
    vec = a[:, None] - b
    projected = vec @ along
    inside = reach**2 - (vec**2).sum(-1) + projected**2
    places = projected + np.sqrt(np.maximum(inside, 0.0))
    distance = places[inside >= 0].max() if (inside >= 0).any() else places.max()
    return np.concatenate([first[0], second[0]]), np.vstack([a, b + distance * along])


def dimers(elements: Iterable[int], count: int) -> list[tuple[str, Molecule]]:
    """Pairs of atoms of all pairs of elements, each at some distances, with names such as ``C-O``.

    Distances grow by the same factor each, from half the sum of the covalent radii to :data:`FARTHEST`.

    Args:
        elements: Atomic numbers.
        count: Number of distances of each pair.

    Example:
        >>> [name for name, _ in dimers([1, 8], 1)]
        ['H-H', 'H-O', 'O-O']
    """
    found = []
    for one, other in itertools.combinations_with_replacement(sorted(set(elements)), 2):
        name = f"{chemical_symbols[one]}-{chemical_symbols[other]}"
        shortest = 0.5 * (covalent_radii[one] + covalent_radii[other])
        for distance in np.geomspace(shortest, FARTHEST, count):
            found.append((name, (np.array([one, other]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, distance]]))))
    return found

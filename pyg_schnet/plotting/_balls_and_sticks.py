"""Atoms and bonds as a triangle mesh, for pictures in three dimensions."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors

_BOND = 0.1  # radius in Å
_LARGEST = 0.35  # radius of balls in Å, well inside the surface around single atoms
_AT_BORDER = 0.01  # parts of a lattice vector: atoms this near to a side of the cell are drawn on the opposite one too


class Mesh(NamedTuple):
    """Triangles with a colour at each vertex."""

    vertices: np.ndarray  # [V, 3] Å
    faces: np.ndarray  # [F, 3] counter-clockwise from outside
    colors: np.ndarray  # [V, 3] red, green and blue, 0 to 1


def balls_and_sticks(
    numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, sides: int = 12
) -> Mesh:
    """Mesh of a structure: balls in Jmol's colours of the elements, sticks where covalent radii (ASE) nearly touch.

    Args:
        numbers: Atomic numbers, shape ``[N]``.
        positions: In Å, shape ``[N, 3]``.
        cell: Lattice vectors in rows in Å, shape ``[3, 3]``.
        pbc: Periodic axes, shape ``[3]``; along these, atoms are moved into the cell.
        sides: Of the polygons that stand for circles.

    Example:
        >>> from ase.build import molecule
        >>> water = molecule("H2O")
        >>> mesh = balls_and_sticks(water.numbers, water.positions, water.cell.array, water.pbc)
        >>> mesh.vertices.shape == mesh.colors.shape
        True
    """
    numbers, positions = _in_cell(numbers, positions, cell, pbc)
    parts = [_ball(position, min(0.12 + 0.15 * covalent_radii[z], _LARGEST), jmol_colors[z], sides)
             for z, position in zip(numbers, positions, strict=True)]  # fmt: skip
    for i, j in _bonds(numbers, positions):
        middle = 0.5 * (positions[i] + positions[j])
        parts += [_stick(positions[k], middle, jmol_colors[numbers[k]], sides) for k in (i, j)]
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    return Mesh(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + offset for part, offset in zip(parts, offsets, strict=True)]),
        np.concatenate([part.colors for part in parts]),
    )


def cell_edges(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Edges of the cell that the periodic axes span; of layers and chains amid the atoms.

    Args:
        positions: In Å, shape ``[N, 3]``.
        cell: Lattice vectors in rows in Å, shape ``[3, 3]``.
        pbc: Periodic axes, shape ``[3]``.

    Returns:
        Begin and end of each edge in Å, shape ``[edges, 2, 3]``; no edges without periodic axes.
    """
    axes, center = cell[pbc], positions.mean(0)
    origin = center - center @ np.linalg.pinv(axes) @ axes  # what of it is perpendicular to the periodic axes
    edges = []
    for k in range(len(axes)):
        others = np.delete(axes, k, 0)
        for corner in itertools.product((0.0, 1.0), repeat=len(others)):
            begin = origin + np.array(corner) @ others if len(others) else origin
            edges.append([begin, begin + axes[k]])
    return np.array(edges).reshape(-1, 2, 3)


def _in_cell(
    numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Atoms in the cell, those at its sides on both."""
    if not pbc.any():
        return numbers, positions
    frac = positions @ np.linalg.pinv(
        np.where(pbc[:, None], cell, 0.0)
    )  # [N, 3], zero along axes that are not periodic
    wrapped = positions - np.floor(frac + _AT_BORDER) @ np.where(pbc[:, None], cell, 0.0)
    frac = frac - np.floor(frac + _AT_BORDER)
    found = [(numbers, wrapped)]
    for shift in itertools.product(*((0, 1) if periodic else (0,) for periodic in pbc)):
        if any(shift):
            also = (frac[:, np.array(shift) == 1] < _AT_BORDER).all(1)
            found.append((numbers[also], wrapped[also] + np.array(shift) @ cell))
    return np.concatenate([z for z, _ in found]), np.concatenate([r for _, r in found])


def _bonds(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Pairs of atoms that are no farther apart than 1.2 times the sum of their covalent radii, shape ``[bonds, 2]``."""
    from scipy.spatial import KDTree

    radii = covalent_radii[numbers]
    pairs = KDTree(positions).query_pairs(2.4 * radii.max(), output_type="ndarray")
    dist = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    return pairs[dist < 1.2 * radii[pairs].sum(1)]


def _ball(center: np.ndarray, radius: float, color: np.ndarray, sides: int) -> Mesh:
    polar = np.linspace(0.0, np.pi, sides // 2 + 1)
    azimuth = 2 * np.pi * np.arange(sides) / sides
    rings = np.stack(
        [
            np.outer(np.sin(polar), np.cos(azimuth)),
            np.outer(np.sin(polar), np.sin(azimuth)),
            np.outer(np.cos(polar), np.ones(sides)),
        ],
        axis=-1,
    )  # [rings, sides, 3]; those of the poles are points
    vertices = center + radius * rings.reshape(-1, 3)
    return Mesh(vertices, _strips(len(polar), sides), np.tile(color, (len(vertices), 1)))


def _stick(begin: np.ndarray, end: np.ndarray, color: np.ndarray, sides: int) -> Mesh:
    axis = (end - begin) / np.linalg.norm(end - begin)
    side = np.cross(axis, np.eye(3)[np.abs(axis).argmin()])
    side /= np.linalg.norm(side)
    azimuth = (2 * np.pi * np.arange(sides) / sides)[:, None]
    ring = _BOND * (np.cos(azimuth) * side + np.sin(azimuth) * np.cross(axis, side))
    vertices = np.concatenate([end + ring, begin + ring])
    return Mesh(vertices, _strips(2, sides), np.tile(color, (len(vertices), 1)))


def _strips(rings: int, sides: int) -> np.ndarray:
    """Triangles between consecutive rings, each of which is below the one before."""
    ring, side = np.meshgrid(np.arange(rings - 1), np.arange(sides), indexing="ij")
    a, b = (ring * sides + side).ravel(), (ring * sides + (side + 1) % sides).ravel()
    return np.concatenate([np.stack([a, a + sides, b], 1), np.stack([b, a + sides, b + sides], 1)])

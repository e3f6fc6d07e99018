r"""Internal coordinates of molecules, and their derivatives: bonds, angles, planes and torsions.

Each is a function of positions of some atoms; arrays have any leading dimensions for several geometries at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyg_schnet.data.reference.topology import Topology

LINEAR = 170.0
"""Angles above this, in degrees, bend in two directions and have no torsion about their arms."""


@dataclass(frozen=True)
class Internal:
    r"""Internal coordinates of one molecule, of redundant number.

    * bonds :math:`|\mathbf r_j - \mathbf r_i|` in Å,
    * angles :math:`\angle(i, j, k)` in radians, with the vertex :math:`j`,
    * bends of linear angles, :math:`\mathbf w \cdot (\mathbf u_{ji} + \mathbf u_{jk})` with unit vectors along the arms
      and two fixed directions :math:`\mathbf w` across them, dimensionless,
    * planes: how far an atom with three neighbours is from their plane, :math:`\mathbf u_1 \cdot (\mathbf u_2 \times
      \mathbf u_3)` of unit vectors to them, dimensionless,
    * torsions :math:`(i, j, k, l)` in radians, with the sign of IUPAC.

    Args:
        bonds: Atoms, shape ``[B, 2]``.
        angles: Atoms, the vertex in the middle, shape ``[A, 3]``.
        bends: Atoms of linear angles, each twice, shape ``[L, 3]``.
        axes: Their directions, shape ``[L, 3]``.
        planes: Atoms, the central one first, shape ``[P, 4]``.
        torsions: Atoms, shape ``[T, 4]``.
    """

    bonds: np.ndarray
    angles: np.ndarray
    bends: np.ndarray
    axes: np.ndarray
    planes: np.ndarray
    torsions: np.ndarray

    @classmethod
    def of(cls, topology: Topology, positions: np.ndarray) -> Internal:
        """All of a molecule.

        Args:
            topology: Its bonds.
            positions: Positions in Å, which tell linear angles from others, shape ``[N, 3]``.
        """
        near = topology.neighbors
        angles, bends, axes, linear = [], [], [], set()
        for j, around in enumerate(near):
            for a, i in enumerate(around):
                for k in around[a + 1 :]:
                    first, second = (_unit(positions[end] - positions[j]) for end in (i, k))
                    if np.degrees(np.arccos(np.clip(first @ second, -1.0, 1.0))) < LINEAR:
                        angles.append((i, j, k))
                        continue
                    linear.update([(i, j, k), (k, j, i)])
                    across = _unit(np.cross(first, np.eye(3)[np.argmin(np.abs(first))]))
                    bends += [(i, j, k)] * 2
                    axes += [across, _unit(np.cross(first, across))]
        planes = [(j, *around) for j, around in enumerate(near) if len(around) == 3]
        torsions = [
            (i, j, k, m)
            for j, k in topology.bonds.tolist()
            for i in near[j]
            for m in near[k]
            if i != k and m != j and i != m and (i, j, k) not in linear and (j, k, m) not in linear
        ]
        return cls(
            topology.bonds.reshape(-1, 2),
            _integers(angles, 3),
            _integers(bends, 3),
            np.array(axes, dtype=float).reshape(-1, 3),
            _integers(planes, 4),
            _integers(torsions, 4),
        )

    @property
    def sizes(self) -> list[int]:
        """Number of coordinates of each kind, in their order."""
        return [len(one) for one in (self.bonds, self.angles, self.bends, self.planes, self.torsions)]

    def values(self, positions: np.ndarray) -> np.ndarray:
        """The coordinates, bonds first, shape ``[..., C]``.

        Args:
            positions: Positions in Å, shape ``[..., N, 3]``.
        """
        return self._evaluate(positions, derivatives=False)[0]

    def gradients(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The coordinates, shape ``[..., C]``, and their derivatives by positions, shape ``[..., C, 3 N]``.

        Args:
            positions: Positions in Å, shape ``[..., N, 3]``.
        """
        return self._evaluate(positions, derivatives=True)

    def difference(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """First minus second values, torsions from -π to π, shape ``[..., C]``."""
        found = first - second
        turns = found[..., sum(self.sizes[:4]) :]
        turns -= 2.0 * np.pi * np.rint(turns / (2.0 * np.pi))
        return found

    def _evaluate(self, positions: np.ndarray, *, derivatives: bool) -> tuple[np.ndarray, np.ndarray]:
        *lead, n_atoms, _ = positions.shape
        found, rows = [], []
        for function, atoms, more in (
            (_bond, self.bonds, ()),
            (_angle, self.angles, ()),
            (_bend, self.bends, (self.axes,)),
            (_plane, self.planes, ()),
            (_torsion, self.torsions, ()),
        ):
            points = [positions[..., column, :] for column in atoms.T]
            value, slopes = function(*points, *more)
            found.append(value)
            if derivatives:
                full = np.zeros((*lead, len(atoms), n_atoms, 3))
                for column, slope in zip(atoms.T, slopes, strict=True):
                    full[..., np.arange(len(atoms)), column, :] = slope
                rows.append(full.reshape(*lead, len(atoms), 3 * n_atoms))
        together = np.concatenate(rows, axis=-2) if derivatives else np.empty(0)
        return np.concatenate(found, axis=-1), together


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def _integers(rows: list, width: int) -> np.ndarray:
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def _dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.einsum("...i,...i->...", first, second)


def _bond(i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    vec = j - i
    length = np.sqrt(_dot(vec, vec))
    slope = vec / length[..., None]
    return length, [-slope, slope]


def _angle(i: np.ndarray, j: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    (a, first), (b, second) = (_arm(end - j) for end in (i, k))
    cosine = np.clip(_dot(first, second), -1.0, 1.0)
    sine = np.maximum(np.sqrt(1.0 - cosine**2), 0.05)[..., None]  # a pole at 180 degrees, which nothing comes near
    at_i = (cosine[..., None] * first - second) / (a[..., None] * sine)
    at_k = (cosine[..., None] * second - first) / (b[..., None] * sine)
    return np.arccos(cosine), [at_i, -at_i - at_k, at_k]


def _bend(i: np.ndarray, j: np.ndarray, k: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    (a, first), (b, second) = (_arm(end - j) for end in (i, k))
    at_i, at_k = _across(axis, first, a), _across(axis, second, b)
    return _dot(axis, first + second), [at_i, -at_i - at_k, at_k]


def _plane(center: np.ndarray, i: np.ndarray, j: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    (a, first), (b, second), (c, third) = (_arm(end - center) for end in (i, j, k))
    slopes = [
        _across(np.cross(second, third), first, a),
        _across(np.cross(third, first), second, b),
        _across(np.cross(first, second), third, c),
    ]
    return _dot(first, np.cross(second, third)), [-sum(slopes[1:], slopes[0]), *slopes]


def _torsion(i: np.ndarray, j: np.ndarray, k: np.ndarray, m: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    before, middle, after = j - i, k - j, m - k
    first, second = np.cross(before, middle), np.cross(middle, after)
    length = np.sqrt(_dot(middle, middle))
    value = np.arctan2(length * _dot(before, second), _dot(first, second))
    at_i = -(length / np.maximum(_dot(first, first), 1e-6))[..., None] * first
    at_m = (length / np.maximum(_dot(second, second), 1e-6))[..., None] * second
    one = (_dot(before, middle) / length**2)[..., None]
    two = (_dot(after, middle) / length**2)[..., None]
    at_j = -(1.0 + one) * at_i + two * at_m
    at_k = -(1.0 + two) * at_m + one * at_i
    return value, [at_i, at_j, at_k, at_m]


def _arm(vec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length = np.sqrt(_dot(vec, vec))
    return length, vec / length[..., None]


def _across(weight: np.ndarray, unit: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Derivative of ``weight · unit`` by the end of the vector whose direction is ``unit``."""
    return (weight - _dot(weight, unit)[..., None] * unit) / length[..., None]

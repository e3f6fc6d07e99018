r"""Geometries as they are at a temperature, without a single energy: displacements along the modes of a model.

The model is harmonic in internal coordinates, :math:`E = \frac12 \sum_c k_c (q_c - q_c^0)^2`, with constants that
follow from bond lengths alone (:func:`force_constants`). Its Cartesian Hessian is :math:`\mathbf H = \mathbf B^T
\mathbf K \mathbf B` with :math:`\mathbf B = \partial \mathbf q / \partial \mathbf x`. Positions of the canonical
ensemble are normally distributed along its eigenvectors, with variance :math:`k_B T / \lambda_m`; masses do not count.
On a straight line, atoms that turn about a bond would leave their bond lengths behind, so a displacement is made one of
internal coordinates, :math:`\Delta\mathbf q = \mathbf B \Delta\mathbf x`, and geometries that have these are searched.
"""

from __future__ import annotations

import numpy as np
from ase.data import covalent_radii
from ase.units import kB

from pyg_schnet.data.reference.internal import Internal
from pyg_schnet.data.reference.topology import Topology

SOFTEST = 0.05
"""Lowest eigenvalue in eV/Å²; softer modes are displaced as if they had it."""

_ITERATIONS = 3
_DAMPING = 1e-2  # eV/Å², of steps along what no coordinate measures


def force_constants(topology: Topology, internal: Internal, positions: np.ndarray) -> np.ndarray:
    r"""Constants of the model, shape ``[C]``, in eV/Å² for bonds and in eV for the other coordinates.

    With :math:`s`, the length of a bond over the sum of the covalent radii of its ends: bonds
    :math:`28\, e^{-6.5 (s - 1)}`, by which a double or triple bond is stiffer than a single one, 31 for those of
    hydrogen with carbon, 42 for those with nitrogen, oxygen and fluorine; angles 6, 4 and 3.4 with no, one or two
    hydrogens at their ends; linear ones 2; planes 1.2; all torsions about one bond together :math:`0.5\, e^{-18 (s -
    1)}`, between 0.35 and 4. The numbers are from Hessians of GFN2-xTB for molecules of QM9, by least squares along the
    modes of the model.

    Args:
        topology: Bonds of the molecule.
        internal: Its coordinates.
        positions: Where the energy is lowest, in Å, shape ``[N, 3]``.
    """
    radii, is_hydrogen = covalent_radii[topology.numbers], topology.numbers == 1

    def relative(pairs: np.ndarray) -> np.ndarray:
        ends = pairs.T
        return np.linalg.norm(positions[ends[0]] - positions[ends[1]], axis=-1) / (radii[ends[0]] + radii[ends[1]])

    with_hydrogen = is_hydrogen[internal.bonds].any(1)
    is_polar = np.isin(topology.numbers, (7, 8, 9))[internal.bonds].any(1)
    bonds = np.where(
        with_hydrogen, np.where(is_polar, 42.0, 31.0), 28.0 * np.exp(-6.5 * (relative(internal.bonds) - 1.0))
    )
    angles = np.array([6.0, 4.0, 3.4])[is_hydrogen[internal.angles[:, [0, 2]]].sum(1)]
    middle = internal.torsions[:, 1:3]
    turns = np.clip(0.5 * np.exp(-18.0 * (relative(middle) - 1.0)), 0.35, 4.0)
    about = np.sort(middle, axis=1) @ np.array([len(radii), 1])
    same = (about[:, None] == about).sum(1)
    return np.concatenate(
        [
            np.clip(bonds, 10.0, 130.0),
            angles,
            np.full(len(internal.bends), 2.0),
            np.full(len(internal.planes), 1.2),
            turns / np.maximum(same, 1),
        ]
    )


class ThermalModel:
    """Harmonic model of a molecule about a geometry.

    Args:
        numbers: Atomic numbers, shape ``[N]``.
        positions: Where its energy is lowest, in Å, shape ``[N, 3]``.

    Attributes:
        hessian: Second derivatives of its energy in eV/Å², shape ``[3 N, 3 N]``.

    Example:
        >>> from ase.build import molecule
        >>> water = molecule("H2O")
        >>> model = ThermalModel(water.numbers, water.positions)
        >>> model.displaced(np.array([300.0, 1000.0]), np.random.default_rng(0)).shape
        (2, 3, 3)
    """

    def __init__(self, numbers: np.ndarray, positions: np.ndarray) -> None:
        self.positions = np.array(positions, dtype=float)
        self.topology = Topology(numbers, self.positions)
        self.internal = Internal.of(self.topology, self.positions)
        self.constants = force_constants(self.topology, self.internal, self.positions)
        self.reference, slopes = self.internal.gradients(self.positions)
        self.hessian = slopes.T @ (self.constants[:, None] * slopes)
        self._slopes = slopes
        values, vectors = np.linalg.eigh(self.hessian)
        moving = values > 1e-6 * max(values[-1], 1.0)
        self._stiffness, self._modes = np.maximum(values[moving], SOFTEST), vectors[:, moving]

    def straight(self, temperatures: np.ndarray, random: np.random.Generator) -> np.ndarray:
        r"""Displacements in Å with the covariance :math:`k_B T \mathbf H^{+}`, shape ``[F, N, 3]``.

        Args:
            temperatures: In K, shape ``[F]``.
            random: Source of random numbers.
        """
        drawn = random.standard_normal((len(temperatures), len(self._stiffness)))
        along = drawn * np.sqrt(kB * np.asarray(temperatures)[:, None] / self._stiffness)
        return (along @ self._modes.T).reshape(len(temperatures), -1, 3)

    def displaced(self, temperatures: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Positions in Å at some temperatures, shape ``[F, N, 3]``; arguments of :meth:`straight`."""
        moves = self.straight(temperatures, random)
        if not len(self.reference):  # a single atom
            return self.positions + moves
        wanted = self.reference + np.einsum("ck,fk->fc", self._slopes, moves.reshape(len(moves), -1))
        return self.with_coordinates(wanted, self.positions + moves)

    def with_coordinates(self, wanted: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Positions in Å whose internal coordinates are nearest to some values, shape ``[F, N, 3]``.

        Squares of differences are weighed by the constants of the model and lowered in a few steps of Gauss and
        Newton; redundant coordinates cannot all have any value.

        Args:
            wanted: Internal coordinates, shape ``[F, C]``.
            start: Positions to begin with, in Å, shape ``[F, N, 3]``.
        """
        pos = start.copy()
        damping = _DAMPING * np.eye(pos[0].size)
        for _ in range(_ITERATIONS):
            found, slopes = self.internal.gradients(pos)
            missing = self.constants * self.internal.difference(wanted, found)
            weighed = np.swapaxes(slopes, -1, -2)
            matrix = weighed @ (self.constants[:, None] * slopes) + damping
            step = np.linalg.solve(matrix, (weighed @ missing[..., None]))
            longest = np.abs(step).max(axis=(-1, -2), keepdims=True)
            pos += (step * np.minimum(1.0, 0.3 / np.maximum(longest, 1e-9))).reshape(pos.shape)
        return pos

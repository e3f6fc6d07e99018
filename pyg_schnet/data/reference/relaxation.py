"""Where the energy of a molecule is lowest, in few calculations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyg_schnet.data.reference.labelling import Evaluate

_SHIFT = 0.02  # eV/Å², so that the molecule does not drift along what the Hessian does not hold


class Visited(NamedTuple):
    """One geometry on the way.

    Attributes:
        positions: In Å, shape ``[N, 3]``.
        energy: In eV.
        forces: In eV/Å, shape ``[N, 3]``.
    """

    positions: np.ndarray
    energy: float
    forces: np.ndarray


def relaxed(
    evaluate: Evaluate, positions: np.ndarray, hessian: np.ndarray, fmax: float = 0.02, steps: int = 60
) -> tuple[list[Visited], bool]:
    r"""Move atoms to a minimum by the method of Broyden, Fletcher, Goldfarb and Shanno.

    It begins with the Hessian of a model instead of a multiple of the identity, which saves most of the steps:
    :math:`\Delta\mathbf x = (\mathbf H + \epsilon)^{-1} \mathbf F`, no component longer than 0.2 Å.

    Args:
        evaluate: Energy and forces.
        positions: Where to begin, in Å, shape ``[N, 3]``.
        hessian: Second derivatives to begin with, in eV/Å², shape ``[3 N, 3 N]``.
        fmax: Largest force at the end, in eV/Å.
        steps: Largest number of steps.

    Returns:
        All geometries on the way, the last one with the lowest forces if it has converged; and whether it has.

    Example:
        >>> def spring(positions):
        ...     return float(2.0 * (positions**2).sum()), -4.0 * positions
        >>> way, converged = relaxed(spring, np.full((1, 3), 0.1), 4.0 * np.eye(3))
        >>> bool(np.abs(way[-1].positions).max() < 1e-2), converged
        (True, True)
    """
    pos, hessian = np.array(positions, dtype=float), hessian.copy()
    way = [Visited(pos, *evaluate(pos))]
    for _ in range(steps):
        here = way[-1]
        if np.square(here.forces).sum(1).max() < fmax**2:
            return way, True
        values, vectors = np.linalg.eigh(hessian)
        step = vectors @ ((vectors.T @ here.forces.ravel()) / (np.abs(values) + _SHIFT))
        step *= min(1.0, 0.2 / np.abs(step).max())
        pos = here.positions + step.reshape(pos.shape)
        there = Visited(pos, *evaluate(pos))
        change = (here.forces - there.forces).ravel()
        if (curvature := float(step @ change)) > 1e-8:
            pushed = hessian @ step
            hessian += np.outer(change, change) / curvature - np.outer(pushed, pushed) / float(step @ pushed)
        way.append(there)
    return way, bool(np.square(way[-1].forces).sum(1).max() < fmax**2)

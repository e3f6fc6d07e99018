"""Large moves of parts of a molecule: a bond that is stretched, a part that turns about one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stretched(positions: np.ndarray, i: int, j: int, part: Sequence[int], factor: float) -> np.ndarray:
    """Positions with a bond of another length; the part of its second end moves along it, as a whole.

    Args:
        positions: Positions in Å, shape ``[N, 3]``.
        i: End of the bond that stays.
        j: End that moves.
        part: Atoms that move.
        factor: New length over the old one.

    Example:
        >>> stretched(np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), 0, 1, [1], 1.5).tolist()
        [[0.0, 0.0, 0.0], [1.5, 0.0, 0.0]]
    """
    moved = np.array(positions, dtype=float)
    moved[list(part)] += (factor - 1.0) * (moved[j] - moved[i])
    return moved


def turned(positions: np.ndarray, i: int, j: int, part: Sequence[int], angle: float) -> np.ndarray:
    """Positions with a part that has turned about a bond, by the formula of Rodrigues.

    All bonds and angles stay as they are, and torsions about the bond grow by the angle.

    Args:
        positions: Positions in Å, shape ``[N, 3]``.
        i: End of the bond that stays.
        j: End of the part that turns.
        part: Atoms that turn.
        angle: In degrees, counterclockwise seen from ``j`` to ``i``.

    Example:
        >>> corner = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
        >>> turned(corner, 0, 1, [1, 2], 90.0).round(6)[2].tolist()
        [0.0, 1.0, 1.0]
    """
    moved = np.array(positions, dtype=float)
    axis = (moved[j] - moved[i]) / np.linalg.norm(moved[j] - moved[i])
    arms = moved[list(part)] - moved[j]
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    along = (arms @ axis)[:, None] * axis
    moved[list(part)] = moved[j] + cosine * (arms - along) + sine * np.cross(axis, arms) + along
    return moved

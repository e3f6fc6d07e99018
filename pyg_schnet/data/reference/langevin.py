r"""Walks at a temperature, of which every few steps are kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase.data import atomic_masses
from ase.units import fs, kB

from pyg_schnet.data.reference.labelling import Evaluate
from pyg_schnet.data.reference.relaxation import Visited


def walk(
    evaluate: Evaluate,
    numbers: np.ndarray,
    start: Visited,
    temperature: float | np.ndarray,
    random: np.random.Generator,
    *,
    every: int = 5,
    timestep: float = 1.0,
    friction: float = 0.02,
) -> Iterator[Visited]:
    r"""Langevin dynamics without an end, in the order BAOAB.

    By `Leimkuhler and Matthews (2013) <https://doi.org/10.1093/amrx/abs010>`_: half a kick, half a drift, friction and
    noise :math:`\mathbf v \leftarrow c \mathbf v + \sqrt{k_B T (1 - c^2) / m}\, \boldsymbol\xi` with :math:`c =
    e^{-\gamma \Delta t}`, half a drift, half a kick. Velocities are drawn at the beginning, so that a walk from
    positions of this temperature needs no time to reach it.

    Args:
        evaluate: Energy and forces.
        numbers: Atomic numbers, shape ``[N]``.
        start: Where to begin.
        temperature: In K, of all atoms or of each one, shape ``[N, 1]``.
        random: Source of random numbers.
        every: Steps from one geometry to the next.
        timestep: In fs.
        friction: In 1/fs.

    Yields:
        Geometries, the first one after ``every`` steps.
    """
    mass = atomic_masses[numbers][:, None]
    spread = np.sqrt(kB * temperature / mass)
    step = timestep * fs
    kept = np.exp(-friction * timestep)
    pos, forces = np.array(start.positions, dtype=float), start.forces
    velocity = spread * random.standard_normal(pos.shape)
    while True:
        for _ in range(every):
            velocity += 0.5 * step * forces / mass
            pos += 0.5 * step * velocity
            velocity = kept * velocity + np.sqrt(1.0 - kept**2) * spread * random.standard_normal(pos.shape)
            pos += 0.5 * step * velocity
            energy, forces = evaluate(pos)
            velocity += 0.5 * step * forces / mass
        yield Visited(pos.copy(), energy, forces)

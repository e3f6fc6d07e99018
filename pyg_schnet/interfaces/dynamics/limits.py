"""When a simulation has left what is physical, or what its model can know."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from ase import Atoms
from torch_geometric.data import Batch

from pyg_schnet.data.check import edges_within
from pyg_schnet.data.convert import to_data
from pyg_schnet.models.domain import Domain
from pyg_schnet.ops.radius import closest

_FEW_ATOMS = 100  # up to so many of a molecule, all pairs are looked at


@dataclass(frozen=True)
class Limits:
    """Bounds of what is taken for physical.

    Attributes:
        max_force: Largest force on an atom in eV/Å.
        max_temperature: Largest temperature of all atoms in K; ``None`` for ten times that of the thermostat and at
            least 5,000 K.
        min_distance: Shortest distance of two atoms, as a part of the shortest one of such a pair in the training data;
            zero to allow any.
        max_spread: Largest standard deviation of a force over the models of a committee in eV/Å; ``None`` for any.
        spread_action: Whether a larger one is taken for a problem, ``"stop"``, or only noted, ``"flag"``.

    Raises:
        ValueError: If a bound is not positive, or ``min_distance`` negative.
    """

    max_force: float = 100.0
    max_temperature: float | None = None
    min_distance: float = 0.9
    max_spread: float | None = None
    spread_action: Literal["stop", "flag"] = "stop"

    def __post_init__(self) -> None:
        for name, unit in (("max_force", "eV/Å"), ("max_temperature", "K"), ("max_spread", "eV/Å")):
            value = getattr(self, name)
            if value is not None and not value > 0.0:
                raise ValueError(f"{name} must be a positive number in {unit}, got {value}")
        if self.spread_action not in ("stop", "flag"):
            raise ValueError(f"spread_action must be 'stop' or 'flag', got {self.spread_action!r}")
        if not 0.0 <= self.min_distance < math.inf:
            raise ValueError(f"min_distance must be a part of a distance, zero to allow any, got {self.min_distance}")


class StateCheck:
    """Says what is wrong with the state of a simulation.

    Args:
        limits: The bounds.
        domains: Training data of the models, where it is known.
        temperature: Of the thermostat in K.

    Attributes:
        flagged: What was wrong with the spread of the last state that was looked at, where it is only noted.

    Example:
        >>> from ase.build import molecule
        >>> water = molecule("H2O")
        >>> check = StateCheck(Limits(), [Domain("forces", False, {}, {(1, 1): 1.7, (1, 8): 0.9})])
        >>> check.distances(water)
        'H1 and H2 are 1.53 Å apart; the training data have no such pair closer than 1.70 Å, and --min_distance is 0.9'
    """

    def __init__(self, limits: Limits, domains: Sequence[Domain] = (), temperature: float = 0.0) -> None:
        self.limits = limits
        self.domains = list(domains) if limits.min_distance > 0.0 else []
        self.max_temperature = max(10.0 * temperature, 5000.0)
        if limits.max_temperature is not None:
            self.max_temperature = limits.max_temperature
        self.flagged: str | None = None
        self._squares: tuple[np.ndarray, np.ndarray] | None = None  # atomic numbers, limits of squared distances

    def is_quick(self, atoms: Atoms) -> bool:
        """Whether distances can be looked at in every step, for microseconds."""
        return not self.domains or (not atoms.pbc.any() and len(atoms) <= _FEW_ATOMS)

    def forces(self, atoms: Atoms, forces: np.ndarray) -> str | None:
        """What is wrong with forces in eV/Å, shape ``[N, 3]``, and with their spread over an ensemble."""
        self.flagged = None
        square = np.einsum("nd,nd->n", forces, forces)
        worst = int(square.argmax())
        if not square[worst] <= self.limits.max_force**2:  # nor NaN
            size = math.sqrt(square[worst])
            return (
                f"the force on {_name(atoms, worst)} is {size:.4g} eV/Å, above {self.limits.max_force:g} (--max_force)"
            )
        spread = self._spread(atoms)
        if self.limits.spread_action == "stop":
            return spread
        self.flagged = spread
        return None

    def _spread(self, atoms: Atoms) -> str | None:
        """What is wrong with the spread of forces."""
        spread = getattr(atoms.calc, "results", {}).get("forces_std")
        if self.limits.max_spread is None or spread is None:
            return None
        sizes = np.linalg.norm(spread, axis=1)
        worst = int(sizes.argmax())
        if sizes[worst] <= self.limits.max_spread:
            return None
        return (
            f"the models differ by {sizes[worst]:.4g} eV/Å in the force on {_name(atoms, worst)}, above "
            f"{self.limits.max_spread:g} (--max_spread)"
        )

    def temperature(self, kelvin: float) -> str | None:
        """What is wrong with the temperature."""
        if kelvin <= self.max_temperature:
            return None
        return f"the temperature is {kelvin:,.0f} K, above {self.max_temperature:,.0f} (--max_temperature)"

    def distances(self, atoms: Atoms) -> str | None:
        """What is wrong with the distances of atoms."""
        if not self.domains or len(atoms) == 0:
            return None
        if not atoms.pbc.any() and len(atoms) <= _FEW_ATOMS and self._are_apart(atoms):
            return None
        species = np.unique(atoms.numbers)
        table = self._table(species)
        reach = float(table.max())
        if reach <= 0.0:
            return None
        batch = Batch.from_data_list([to_data(_bare(atoms), dtype=torch.float64)])
        edge_index, dist = (value.numpy() for value in edges_within(batch, reach))
        if dist.size == 0:
            return None
        rows, columns = np.searchsorted(species, atoms.numbers[edge_index])
        ratio = dist / table[rows, columns]
        worst = int(ratio.argmin())
        if ratio[worst] >= 1.0:
            return None
        i, j = sorted(edge_index[:, worst].tolist())
        return self._too_close(atoms, i, j, float(dist[worst]))

    def _are_apart(self, atoms: Atoms) -> bool:
        """Whether no two atoms of a small molecule are too close, in microseconds."""
        known = self._squares
        if known is None or not np.array_equal(known[0], atoms.numbers):
            species, inverse = np.unique(atoms.numbers, return_inverse=True)
            known = self._squares = atoms.numbers.copy(), self._table(species)[inverse[:, None], inverse] ** 2
        return not closest(np.ascontiguousarray(atoms.positions, dtype=np.float64), known[1]).excess < 0.0

    def _table(self, species: np.ndarray) -> np.ndarray:
        """Shortest distance in Å that is allowed for each pair of elements, shape ``[K, K]``."""
        return self.limits.min_distance * np.array([[self._known(a, b) for b in species] for a in species])

    def _known(self, first: int, second: int) -> float:
        """Shortest distance in Å of two elements in the training data of all models."""
        return max(domain.shortest_of(int(first), int(second)) for domain in self.domains)

    def _too_close(self, atoms: Atoms, first: int, second: int, dist: float) -> str:
        known = self._known(atoms.numbers[first], atoms.numbers[second])
        return (
            f"{_name(atoms, first)} and {_name(atoms, second)} are {dist:.2f} Å apart; the training data have no such "
            f"pair closer than {known:.2f} Å, and --min_distance is {self.limits.min_distance:g}"
        )


def _name(atoms: Atoms, index: int) -> str:
    return f"{atoms.symbols[index]}{index}"


def _bare(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)

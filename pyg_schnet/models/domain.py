"""Training data of a model, as described in its card, and comparison of structures with it."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

ENTRY = "trained_on"
"""Entry of a model's card that holds its :class:`Domain`."""

SYSTEMS = ("molecule", "chain", "slab", "crystal")
"""Names of structures that are periodic in zero, one, two or three directions."""

REACH = 4.0
"""Distance in Å up to which the shortest distances of pairs of elements are recorded."""

SLACK = 0.05
"""Fraction by which a distance may be shorter than any in training without a warning."""

MAX_COMPOSITIONS = 20
"""Largest number of compositions that are listed; otherwise the range of each element is recorded."""

_OF_A_TRAINING = ("run", "split", "training", "test", "merged", "started_from", "calibration")
_MAX_PAIRS = 100  # of elements, that are written one by one; more are packed
_STEP = 0.02  # Å, of packed distances
_NEVER = 255  # packed: no such pair within reach

Gradients = Literal["forces", "relaxed", "none"]


@dataclass(frozen=True)
class Coverage:
    """Structures of one kind of system in the training data.

    Attributes:
        structures: Number of structures.
        atoms: Fewest and most atoms of a structure, of periodic ones in the cell.
        compositions: Chemical formulas, where there are few; those of periodic structures in lowest terms. ``None``
            where there are many.
        elements: Smallest and largest number of atoms of each element in a molecule, or part of each element in the
            atoms of a periodic structure; by chemical symbol.
    """

    structures: int
    atoms: tuple[int, int]
    compositions: tuple[str, ...] | None
    elements: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Domain:
    """Training data of a model; written by training, kept in the card of the model as JSON.

    Attributes:
        gradients: ``"forces"`` for a model that was trained on forces, ``"relaxed"`` for one that learned only that
            gradients vanish at relaxed structures, ``"none"`` for one trained without gradients.
        stress: Whether it was trained on stress.
        systems: What is known of each kind of system, one of :data:`SYSTEMS`.
        shortest: Shortest distance in Å of each pair of elements in the training data, by atomic numbers in ascending
            order; pairs that are nowhere within ``reach`` are missing.
        reach: In Å.

    Example:
        >>> water = Coverage(10, (3, 3), ("H2O",), {"H": (2, 2), "O": (1, 1)})
        >>> domain = Domain("forces", False, {"molecule": water}, {(1, 8): 0.93})
        >>> Domain.of({"trained_on": domain.as_json()}) == domain
        True
        >>> [text for _, text in domain.outside([8, 1, 1, 1], [False] * 3)]
        ['the composition H3O, but the model was trained on H2O']
    """

    gradients: Gradients
    stress: bool
    systems: Mapping[str, Coverage]
    shortest: Mapping[tuple[int, int], float]
    reach: float = REACH

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> Domain | None:
        """Domain in the card of a model; ``None`` if there is none, as in older files.

        Raises:
            ValueError: If the entry is malformed.
        """
        given = card.get(ENTRY)
        if not isinstance(given, Mapping):
            return None
        try:
            systems = {
                name: Coverage(
                    entry["structures"],
                    tuple(entry["atoms"]),
                    tuple(entry["compositions"]) if "compositions" in entry else None,
                    {symbol: tuple(limits) for symbol, limits in entry["elements"].items()},
                )
                for name, entry in given["systems"].items()
            }
            return cls(given["gradients"], given["stress"], systems, _read_pairs(given["shortest"]), given["reach"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"the card's entry {ENTRY!r} is not as training writes it ({type(error).__name__}: {error}); restore "
                f"it, or take it out with del model.card[{ENTRY!r}], then nothing is known of the training"
            ) from error

    def as_json(self) -> dict[str, Any]:
        """The domain as JSON, less than 10 kB."""
        systems = {}
        for name, found in self.systems.items():
            systems[name] = {"structures": found.structures, "atoms": list(found.atoms)}
            if found.compositions is not None:
                systems[name]["compositions"] = list(found.compositions)
            systems[name]["elements"] = {symbol: list(limits) for symbol, limits in found.elements.items()}
        return {
            "gradients": self.gradients,
            "stress": self.stress,
            "systems": systems,
            "shortest": _written_pairs(self.shortest),
            "reach": self.reach,
        }

    @property
    def elements(self) -> list[str]:
        """Chemical symbols of the elements in the training data, by atomic number."""
        found = {symbol for entry in self.systems.values() for symbol in entry.elements}
        return sorted(found, key=atomic_numbers.__getitem__)

    def outside(self, numbers: Sequence[int] | np.ndarray, pbc: Sequence[bool] | np.ndarray) -> list[tuple[str, str]]:
        """Differences of a structure from the training data, except for distances.

        Args:
            numbers: Atomic numbers, shape ``[N]``.
            pbc: Periodic axes, shape ``[3]``.

        Returns:
            Kind of each difference (``"boundary"``, ``"composition"`` or ``"size"``) and its description. The size
            of periodic structures is not compared, since a larger cell may be the same crystal.
        """
        n_periodic = int(np.count_nonzero(pbc))
        entry = self.systems.get(SYSTEMS[n_periodic])
        if entry is None:
            given = "open boundaries" if n_periodic == 0 else f"periodic boundaries, pbc={np.asarray(pbc).tolist()}"
            trained = " and ".join(f"{name}s" for name in self.systems)
            return [("boundary", f"{given}, but the model was trained on {trained}")]
        counts = _counts(numbers)
        found = []
        if entry.compositions is not None:
            name = formula(counts, lowest=n_periodic > 0)
            if name not in entry.compositions:
                trained = _some(entry.compositions)
                found.append(("composition", f"the composition {name}, but the model was trained on {trained}"))
            return found
        n_atoms = sum(counts.values())
        if n_periodic == 0 and not entry.atoms[0] <= n_atoms <= entry.atoms[1]:
            limits = f"{entry.atoms[0]} to {entry.atoms[1]}"
            found.append(("size", f"{n_atoms} atoms, but the model was trained on molecules of {limits} atoms"))
        if text := _unusual(counts, entry.elements, periodic=n_periodic > 0):
            found.append(("composition", text))
        return found

    def limits(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Distance in Å below which each pair of atoms is closer than any such pair in training, shape ``[N, N]``.

        This is 5 % shorter than the shortest one in training, to allow for vibrations.
        """
        species, inverse = np.unique(np.asarray(numbers), return_inverse=True)
        table = np.array([[self.shortest_of(a, b) for b in species.tolist()] for a in species.tolist()])
        return (1.0 - SLACK) * table[inverse[:, None], inverse[None, :]]

    def shortest_of(self, first: int, second: int) -> float:
        """Shortest distance in Å of two elements in the training data; the reach where there is no such pair."""
        if min(first, second) == 0:  # padding
            return 0.0
        return self.shortest.get((min(first, second), max(first, second)), self.reach)

    def shared_with(self, other: Domain) -> Domain:
        """Domain of the mean of two models: what both were trained on."""
        order: tuple[Gradients, ...] = ("none", "relaxed", "forces")
        gradients = order[min(order.index(self.gradients), order.index(other.gradients))]
        systems = {
            name: _both(self.systems[name], other.systems[name]) for name in self.systems if name in other.systems
        }
        pairs = {*self.shortest, *other.shortest}
        shortest = {pair: max(one.shortest.get(pair, one.reach) for one in (self, other)) for pair in sorted(pairs)}
        return Domain(gradients, self.stress and other.stress, systems, shortest, min(self.reach, other.reach))


def common_domain(cards: Sequence[Mapping[str, Any]]) -> Domain | None:
    """Domain of the mean of models with these cards; ``None`` if one of them has none."""
    domains = [Domain.of(card) for card in cards]
    known = [domain for domain in domains if domain is not None]
    if not known or len(known) < len(domains):
        return None
    shared = known[0]
    for domain in known[1:]:
        shared = shared.shared_with(domain)
    return shared


def renew(card: dict[str, Any], domain: Domain) -> None:
    """Replace the domain in a card after another training.

    Args:
        card: Card of the model; changed in place.
        domain: Domain of the training structures.
    """
    for name in _OF_A_TRAINING:
        card.pop(name, None)
    card[ENTRY] = domain.as_json()
    card["elements"] = domain.elements


def formula(counts: Mapping[str, int], *, lowest: bool = False) -> str:
    """Chemical formula in Hill's order.

    Args:
        counts: Atoms of each element by chemical symbol.
        lowest: Whether numbers are divided by their greatest common divisor.

    Example:
        >>> formula({"O": 2, "C": 2, "H": 4}), formula({"Na": 4, "Cl": 4}, lowest=True)
        ('C2H4O2', 'ClNa')
    """
    divisor = math.gcd(*counts.values()) if lowest else 1
    first = [symbol for symbol in ("C", "H") if "C" in counts and symbol in counts]
    order = [*first, *sorted(symbol for symbol in counts if symbol not in first)]
    return "".join(symbol + (str(counts[symbol] // divisor) if counts[symbol] != divisor else "") for symbol in order)


def _counts(numbers: Sequence[int] | np.ndarray) -> dict[str, int]:
    found, counts = np.unique(np.asarray(numbers), return_counts=True)
    return {chemical_symbols[z]: n for z, n in zip(found.tolist(), counts.tolist(), strict=True) if z > 0}


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} others"


def _unusual(counts: Mapping[str, int], known: Mapping[str, tuple[float, float]], *, periodic: bool) -> str | None:
    """Describe the first element whose number, or fraction in crystals, is out of the range of training."""
    n_atoms = sum(counts.values()) if periodic else 1
    for symbol in dict.fromkeys([*counts, *known]):
        low, high = known.get(symbol, (0, 0))
        amount = counts.get(symbol, 0) / n_atoms
        if low - 1e-3 <= amount <= high + 1e-3:
            continue
        name = formula(dict(counts), lowest=periodic)
        if not periodic:
            return f"the composition {name}, but the model was trained on {low:g} to {high:g} atoms of {symbol}"
        return f"the composition {name}, but the model was trained on {100 * low:.0f} to {100 * high:.0f} % of {symbol}"
    return None


def _both(first: Coverage, second: Coverage) -> Coverage:
    """Coverage shared by two models."""
    compositions = None
    if first.compositions is not None and second.compositions is not None:
        compositions = tuple(name for name in first.compositions if name in second.compositions)
    elements = {
        symbol: _overlap(limits, second.elements[symbol])
        for symbol, limits in first.elements.items()
        if symbol in second.elements
    }
    structures = min(first.structures, second.structures)
    return Coverage(structures, _overlap(first.atoms, second.atoms), compositions, elements)


def _overlap(first: tuple[Any, Any], second: tuple[Any, Any]) -> tuple[Any, Any]:
    return max(first[0], second[0]), min(first[1], second[1])


def _written_pairs(shortest: Mapping[tuple[int, int], float]) -> dict[str, Any]:
    """Distances as JSON: a list, or for many pairs a triangle of bytes in steps of 0.02 Å, as base64."""
    if len(shortest) <= _MAX_PAIRS:
        names = {f"{chemical_symbols[a]}-{chemical_symbols[b]}": dist for (a, b), dist in shortest.items()}
        return {"pairs": {name: math.floor(1e3 * dist + 1e-6) / 1e3 for name, dist in names.items()}}
    species = sorted({z for pair in shortest for z in pair})
    pairs = [(a, b) for k, a in enumerate(species) for b in species[k:]]
    steps = [min(int(shortest[p] / _STEP + 1e-9), _NEVER - 1) if p in shortest else _NEVER for p in pairs]
    symbols = " ".join(chemical_symbols[z] for z in species)
    return {"elements": symbols, "step": _STEP, "triangle": base64.urlsafe_b64encode(bytes(steps)).decode()}


def _numbers(pair: str) -> tuple[int, int]:
    first, second = pair.split("-")
    return atomic_numbers[first], atomic_numbers[second]


def _read_pairs(given: Mapping[str, Any]) -> dict[tuple[int, int], float]:
    if "pairs" in given:
        return {_numbers(name): dist for name, dist in given["pairs"].items()}
    species = [atomic_numbers[symbol] for symbol in given["elements"].split()]
    pairs = [(a, b) for k, a in enumerate(species) for b in species[k:]]
    steps = base64.urlsafe_b64decode(given["triangle"])
    return {p: n * given["step"] for p, n in zip(pairs, steps, strict=True) if n != _NEVER}

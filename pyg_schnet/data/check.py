"""Structures compared with what a model was trained on: refused, or said once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor
from torch_geometric.data import Batch

from pyg_schnet.data.charge import may_be_charge, warn_of_charge
from pyg_schnet.data.convert import to_data
from pyg_schnet.geometry import edge_distances
from pyg_schnet.models.card import check_elements
from pyg_schnet.models.domain import REACH, Domain
from pyg_schnet.neighbors import radius_graph
from pyg_schnet.nn.atomref import MAX_Z
from pyg_schnet.ops.radius import Closest, closest

if TYPE_CHECKING:
    from ase import Atoms

_OPTIONAL = ("initial_charges", "initial_magmoms")
_CHANGES = ("positions", "numbers", "cell", "pbc", *_OPTIONAL)  # as ASE calls them
_NEAR = 100.0  # Å from the origin, where float32 is spaced by 8e-6 Å
_APART = 1e-6**2  # Å², of atoms in different places
_FEW_ATOMS = 100  # up to so many of a molecule, all pairs are looked at

_WHY = {
    "none": "the model was not trained on forces but on energies alone, and gradients of such models may be off by "
    "several eV/Å even at minima",
    "relaxed": "the model was not trained on forces but on relaxed structures, and knows only that gradients vanish "
    "there",
}


def edges_within(batch: Batch, reach: float) -> tuple[Tensor, Tensor]:
    """All pairs of atoms of the structures of a batch that are closer than a distance, images included.

    Args:
        batch: With ``z``, ``pos`` and ``batch``, and ``cell`` and ``pbc`` where anything is periodic.
        reach: The distance in Å.

    Returns:
        Edges ``[2, E]``, and their lengths in Å, ``[E]``.
    """
    pos, cell, pbc = batch.pos, batch.get("cell"), batch.get("pbc")
    lattice = {"cell": cell, "pbc": pbc} if pbc is not None and bool(pbc.any()) else {}
    graph = radius_graph(pos, reach, batch.batch, batch_size=batch.num_graphs, **lattice)
    edge_index, edge_shift = graph if lattice else (graph, None)
    return edge_index, edge_distances(pos, edge_index, edge_shift, cell if lattice else None, batch.batch)


class _Limits(NamedTuple):
    """Squared distances in Å² of all pairs of a small molecule below which they are unusual, ``[N, N]``."""

    numbers: bytes
    squares: np.ndarray


class StructureCheck:
    """Whether a model is made for a structure: one for each calculator, and for each analysis.

    Elements that a model has not seen are refused, and so are derivatives of models that have seen no forces.
    Differences in composition, boundary, size and distances, and charges, are warned about, each kind once. Models
    whose cards say nothing of their training, as those of older files, are taken as they are.

    Args:
        cards: Cards of one model, or of those of an ensemble.
        untrained_forces: Whether to allow forces of models that were not trained on any.

    Example:
        >>> from ase.build import molecule
        >>> StructureCheck([{"elements": ["H", "O"]}]).atoms(molecule("H2O"))
    """

    def __init__(self, cards: Iterable[Mapping[str, Any]], *, untrained_forces: bool = False) -> None:
        self.cards = [dict(card) for card in cards]
        self.domains = [domain for domain in map(Domain.of, self.cards) if domain is not None]
        self.untrained_forces = untrained_forces
        self._said: set[str] = set()
        self._last: tuple[np.ndarray, np.ndarray] | None = None  # numbers and boundaries of the last structure
        self._limits: _Limits | None = None
        self._harmless: set[Any] = set()  # keys of a structure that say nothing of charge and spin

    def derivatives(self, what: str = "forces") -> None:
        """Raise where derivatives of energies are needed and a model has learned none.

        Args:
            what: Which ones, as the message says it.

        Raises:
            ValueError: If a model was not trained on forces, unless ``untrained_forces`` is set.
        """
        for domain in [] if self.untrained_forces else self.domains:
            if domain.gradients != "forces":
                raise ValueError(
                    f"{what} are refused: {_WHY[domain.gradients]}; take a model that was trained on forces, or insist "
                    "with untrained_forces=True (--untrained_forces true on the command line)"
                )

    def has_forces(self) -> bool:
        """Whether :meth:`derivatives` would not raise."""
        return self.untrained_forces or all(domain.gradients == "forces" for domain in self.domains)

    def atoms(self, atoms: Atoms, *, distances: bool = False) -> None:
        """Check a structure of ASE, its charge and spin included; that of the last call costs next to nothing.

        Args:
            atoms: Structure.
            distances: Whether the distances of its atoms are looked at too.

        Raises:
            ValueError: If a model was not trained on an element.
        """
        numbers, pbc = atoms.numbers, atoms.pbc
        if self._last is None or not (np.array_equal(numbers, self._last[0]) and np.array_equal(pbc, self._last[1])):
            self.structure(numbers, pbc)
            self._last = numbers.copy(), pbc.copy()
        self.charge(atoms)
        if distances and self.wants_distances():
            self.distances(atoms)

    def charge(self, atoms: Atoms) -> None:
        """Warn once of charge and spin, which models do not know.

        Args:
            atoms: Structure.
        """
        keys, arrays = atoms.info.keys(), atoms.arrays
        is_harmless = keys == self._harmless and not any([name in arrays for name in _OPTIONAL])  # noqa: C419 - faster
        if is_harmless or "charge" in self._said:
            return
        if warn_of_charge(atoms):
            self._said.add("charge")
        elif not may_be_charge(keys):
            self._harmless = set(keys)

    def structure(self, numbers: Sequence[int] | np.ndarray, pbc: Sequence[bool] | np.ndarray) -> None:
        """Raise for unknown elements; warn of another composition, boundary or size.

        Args:
            numbers: Atomic numbers, shape ``[N]``; 0 is padding.
            pbc: Periodic axes, shape ``[3]``.

        Raises:
            ValueError: If a model was not trained on an element.
        """
        species = np.unique(np.asarray(numbers)).tolist()
        for card in self.cards:
            check_elements(card, species)
        for domain in self.domains:
            self._say(domain.outside(numbers, pbc))

    def wants_distances(self) -> bool:
        """Whether distances are known of training, and no short one was warned about yet."""
        return bool(self.domains) and "distance" not in self._said

    def distances(self, atoms: Atoms) -> None:
        """Warn of atoms that are closer than any such pair in training."""
        if not atoms.pbc.any() and len(atoms) <= _FEW_ATOMS:
            self.few_atoms(atoms.numbers, np.ascontiguousarray(atoms.positions, dtype=np.float64))
            return
        batch = Batch.from_data_list([to_data(atoms, dtype=torch.float64)])
        self.edges(batch.z, *edges_within(batch, REACH))

    def batch(self, batch: Batch) -> None:
        """Check a batch of structures, distances included.

        Args:
            batch: With ``z``, ``pos``, ``batch``, ``ptr``, and ``cell`` and ``pbc`` where anything is periodic.

        Raises:
            ValueError: If a model was not trained on an element.
        """
        numbers, ends = batch.z.cpu().numpy(), batch.ptr.tolist()
        pbc = batch.get("pbc")
        boundaries = [[False] * 3] * batch.num_graphs if pbc is None else pbc.view(-1, 3).tolist()
        for k, boundary in enumerate(boundaries):
            self.structure(numbers[ends[k] : ends[k + 1]], boundary)
        if self.wants_distances():
            self.edges(batch.z, *edges_within(batch, REACH))

    def few_atoms(self, numbers: np.ndarray, positions: np.ndarray) -> Closest:
        """As :meth:`distances` for a small molecule, in microseconds.

        Args:
            numbers: Atomic numbers, shape ``[N]``.
            positions: In Å, float64 in rows, shape ``[N, 3]``.

        Returns:
            Smallest squared distance of two atoms, and the largest coordinate.
        """
        limits = self._limits
        if limits is None or limits.numbers != numbers.tobytes():
            least = np.max([np.zeros((len(numbers),) * 2), *(one.limits(numbers) for one in self.domains)], axis=0)
            limits = self._limits = _Limits(numbers.tobytes(), least**2)
        found = closest(positions, limits.squares)
        if found.excess < 0.0 and self.wants_distances():
            first, second = np.triu_indices(len(numbers), 1)
            square = np.square(positions[first] - positions[second]).sum(1)
            worst = int((square / limits.squares[first, second].clip(1e-12)).argmin())
            ends = numbers[[first[worst], second[worst]]].tolist()
            self._pair(ends[0], ends[1], float(square[worst]) ** 0.5)
        return found

    def edges(self, z: Tensor, edge_index: Tensor, dist: Tensor) -> None:
        """Warn of edges that are shorter than any such pair in training.

        Args:
            z: Atomic numbers, shape ``[N]``.
            edge_index: Pairs of atoms, shape ``[2, E]``.
            dist: Their distances in Å, shape ``[E]``.
        """
        if not dist.numel() or not self.wants_distances():
            return
        species = z.unique()
        limits = np.max([domain.limits(species.cpu().numpy()) for domain in self.domains], axis=0)
        table = dist.new_zeros(MAX_Z + 1, MAX_Z + 1)
        table[species.unsqueeze(1), species] = torch.as_tensor(limits, dtype=dist.dtype, device=dist.device)
        ends = z[edge_index]
        ratio = dist / table[ends[0], ends[1]].clamp(min=1e-6)
        shortest = int(ratio.argmin())
        if float(ratio[shortest]) < 1.0:
            first, second = ends[:, shortest].tolist()
            self._pair(first, second, float(dist[shortest]))

    def wants_spread(self) -> bool:
        """Whether no unusual spread was warned about yet."""
        return "spread" not in self._said

    def spread(self, atom: int, found: float, known: float, structure: int | None = None) -> None:
        """Warn of a force on which the models of a committee disagree more than they are known to.

        Args:
            atom: Index of the atom in its structure.
            found: Standard deviation in eV/Å.
            known: The largest one on structures that were kept aside, in eV/Å.
            structure: Index of the structure, where there may be several.
        """
        text = f"a force on atom {atom} on which the models disagree by {found:.3g} eV/Å"
        text = f"{text}, but by at most {known:.3g} on structures that none was trained on"
        self._say([("spread", text)], "the structure" if structure is None else f"the structure at index {structure}")

    def _pair(self, first: int, second: int, dist: float) -> None:
        known = max(domain.shortest_of(first, second) for domain in self.domains)
        names = f"{chemical_symbols[first]} and {chemical_symbols[second]}"
        text = f"{names} {dist:.2f} Å apart, but the model was trained on no such pair closer than {known:.2f} Å"
        self._say([("distance", text)])

    def _say(self, differences: Iterable[tuple[str, str]], structure: str = "the structure") -> None:
        """Warn of sorts of difference that were not warned about before."""
        fresh = {kind: text for kind, text in differences if kind not in self._said}
        self._said.update(fresh)
        if fresh:
            warnings.warn(
                f"{structure} has {'; it has '.join(fresh.values())}. Results may be off by far more than the test "
                "error of the model",
                UserWarning,
                stacklevel=4,
            )


def changes_of(old: Atoms | None, new: Atoms) -> list[str]:
    """Names of what differs, as ASE calls it; values are compared bit by bit, in a small part of the time of ASE's own.

    Args:
        old: Structure of the last calculation; ``None`` if there was none.
        new: The present one.

    Example:
        >>> from ase import Atoms
        >>> water = Atoms("OH2", [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        >>> changes_of(water, water.copy()), changes_of(water, Atoms("H"))
        ([], ['positions', 'numbers'])
    """
    if old is None:
        return list(_CHANGES)
    before, now = old.arrays, new.arrays
    found = [name for name in ("positions", "numbers") if _differs(before[name], now[name])]
    return found + _changes_of_rest(old, new)


def _changes_of_rest(old: Atoms, new: Atoms) -> list[str]:
    """The same of all but positions and atomic numbers."""
    found, before, now = [], old.arrays, new.arrays
    if _differs(old.cell.array, new.cell.array):
        found.append("cell")
    if _differs(old.pbc, new.pbc):
        found.append("pbc")
    for name in _OPTIONAL:
        if name in before or name in now:
            one, other = before.get(name), now.get(name)
            if one is None or other is None or _differs(one, other):
                found.append(name)
    return found


def _differs(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape != other.shape or one.dtype != other.dtype or one.tobytes() != other.tobytes()


class SmallMolecule:
    """A small molecule that was checked once, of which only the positions change.

    Args:
        atoms: Molecule that was checked.
        dtype: Of positions.
        device: Where they are needed.

    Attributes:
        atoms: The molecule as it is now, a copy.
        z: Atomic numbers, shape ``[N]``.
    """

    def __init__(self, atoms: Atoms, dtype: torch.dtype, device: torch.device) -> None:
        self.atoms = atoms.copy()
        self._dtype, self._device = dtype, device
        self.z: Tensor = torch.from_numpy(np.array(atoms.numbers, dtype=np.int64)).to(device)

    def moves_to(self, atoms: Atoms) -> bool:
        """Whether a structure is this molecule, moved; then :attr:`atoms` has its positions from here on.

        Args:
            atoms: The structure.
        """
        mine, arrays = self.atoms.arrays, atoms.arrays
        if (
            mine["positions"].shape != arrays["positions"].shape
            or _differs(mine["numbers"], arrays["numbers"])
            or atoms.info.keys() != self.atoms.info.keys()
            or _changes_of_rest(self.atoms, atoms)
        ):
            return False
        mine["positions"][:] = arrays["positions"]
        self.atoms.info = dict(atoms.info)
        return True

    def positions(self, check: StructureCheck) -> Tensor | None:
        """Positions in Å, shape ``[N, 3]``; ``None`` where the structure has to be looked at in full.

        Args:
            check: Warns of atoms that are closer than in training.
        """
        arrays = self.atoms.arrays
        positions = arrays["positions"].astype(np.float64, order="C")
        found = check.few_atoms(arrays["numbers"], positions)
        if not found.extent <= _NEAR or not found.square > _APART:
            return None  # nor for NaN
        return torch.from_numpy(positions).to(self._device, self._dtype)

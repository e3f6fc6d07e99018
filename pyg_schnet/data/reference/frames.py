"""All labelled geometries of one molecule: which kinds, how many, at which temperatures."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii

from pyg_schnet.data.reference.fragments import fragment
from pyg_schnet.data.reference.labelling import Evaluate, FailedError, Method, Tally, checked
from pyg_schnet.data.reference.langevin import walk
from pyg_schnet.data.reference.moves import stretched, turned
from pyg_schnet.data.reference.pairs import contact
from pyg_schnet.data.reference.relaxation import Visited, relaxed
from pyg_schnet.data.reference.thermal import ThermalModel
from pyg_schnet.data.reference.topology import Topology

KINDS: dict[str, float] = {
    "given": 1.0,
    "relaxed": 0.5,
    "modes": 8.0,
    "langevin": 2.0,
    "bonds": 1.0,
    "torsions": 1.5,
    "fragments": 1.5,
    "pairs": 1.5,
    "dimers": 24.0,
}
"""Kinds of geometries and their usual numbers: of each molecule, but of each pair of elements for ``dimers``."""

PATH = "path"
"""Kind of the geometries on the way of a relaxation, of which every third is kept."""

STRETCH = (0.75, 1.5)
"""Shortest and longest bond of a kind, in units of its own length."""

CLOSENESS = (0.65, 1.3)
"""Nearest and farthest contact of a pair, in units of the sum of van der Waals radii."""


class Molecule(NamedTuple):
    """A molecule to make geometries of.

    Attributes:
        name: Of which its random numbers follow.
        numbers: Atomic numbers, shape ``[N]``.
        positions: Positions in Å, shape ``[N, 3]``.
        repeat: Number by which one differs from others of the same name.
    """

    name: str
    numbers: np.ndarray
    positions: np.ndarray
    repeat: int = 0

    def key(self) -> str:
        """Its graph of elements, a hash."""
        return Topology(self.numbers, self.positions).key()


class Frame(NamedTuple):
    """A geometry with its label.

    Attributes:
        numbers: Atomic numbers, shape ``[N]``.
        positions: Positions in Å, shape ``[N, 3]``.
        energy: In eV.
        forces: In eV/Å, shape ``[N, 3]``.
        kind: One of ``KINDS``, or ``PATH``.
        molecule: Number that follows from the graph of the molecule or fragment, so that frames can be split by it.
        partner: That of the other molecule of a pair, else the same number.
    """

    numbers: np.ndarray
    positions: np.ndarray
    energy: float
    forces: np.ndarray
    kind: str
    molecule: int
    partner: int


@dataclass(frozen=True)
class Sampling:
    """How geometries are made.

    Args:
        kinds: Number of geometries of each kind for each molecule, see ``KINDS``; of 1.5 there are one or two.
        temperature: Lowest and highest in K; each geometry has one between them.
        every: Steps between kept geometries of a walk.
        timestep: Of walks, in fs.
        friction: Of walks, in 1/fs.
        fmax: Largest force of relaxed geometries in eV/Å.
        max_force: Largest force in eV/Å that is kept.
        max_energy: Largest energy above that of the given or relaxed molecule that is kept, in eV/atom.
        pair_atoms: Most atoms of a pair of molecules.
        seed: Of all random numbers, together with names of molecules.

    Raises:
        ValueError: If there is no such kind, or a number is out of range.
    """

    kinds: Mapping[str, float] = field(default_factory=lambda: dict(KINDS))
    temperature: tuple[float, float] = (300.0, 1000.0)
    every: int = 5
    timestep: float = 1.0
    friction: float = 0.02
    fmax: float = 0.02
    max_force: float = 20.0
    max_energy: float = 1.0
    pair_atoms: int = 26
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f"kinds are {', '.join(KINDS)}, got {', '.join(sorted(unknown))}")
        if not self.kinds or min(self.kinds.values()) < 0 or max(self.kinds.values()) == 0:
            raise ValueError(f"kinds must be numbers of geometries, one of them above 0, got {dict(self.kinds)}")
        if self.kinds.get("dimers", 0) % 1:
            raise ValueError(f"dimers must be a whole number, of each pair of elements, got {self.kinds['dimers']}")
        if len(self.temperature) != 2 or not 0 < self.temperature[0] <= self.temperature[1]:
            raise ValueError(f"temperature must be the lowest and the highest in K, got {list(self.temperature)}")
        for name in ("every", "timestep", "friction", "fmax", "max_force", "max_energy"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


class Surroundings(NamedTuple):
    """What is the same for all molecules.

    Attributes:
        sampling: How geometries are made.
        partners: Molecules to make pairs with.
        forbidden: Graphs that no fragment may have, as they are left for a test.
    """

    sampling: Sampling
    partners: Sequence[Molecule] = ()
    forbidden: frozenset[str] = frozenset()


def frames_of(molecule: Molecule, surroundings: Surroundings, method: Method, tally: Tally) -> list[Frame]:
    """All labelled geometries of a molecule; they depend on its name, its geometry and the options alone.

    Args:
        molecule: The molecule; ``dimers`` of :func:`dimer_frames` are no part of it.
        surroundings: Options.
        method: How energies and forces are calculated.
        tally: Counts what is done.
    """
    made = _Maker(molecule, surroundings, method, tally)
    try:
        made.run()
    except np.linalg.LinAlgError:  # what was made before is kept
        tally.left_out["no displacements can be found for a molecule"] += 1
    return made.frames


def dimer_frames(name: str, geometries: Sequence[tuple], max_force: float, method: Method, tally: Tally) -> list[Frame]:
    """Labelled dimers of atoms.

    Args:
        name: Of the pair, such as ``"C-O"``.
        geometries: Atomic numbers and positions of each distance.
        max_force: Largest force in eV/Å that is kept.
        method: How energies and forces are calculated.
        tally: Counts what is done.
    """
    found = []
    for numbers, positions in geometries:
        try:
            tally.calls += 1
            energy, forces = method.of(numbers)(positions)
            checked(energy, forces, max_force)
        except FailedError as error:
            tally.left_out[str(error)] += 1
            continue
        tally.kept["dimers"] += 1
        group = zlib.crc32(name.encode())
        found.append(Frame(numbers, positions, energy, forces, "dimers", group, group))
    return found


def number_of(key: str) -> int:
    """Number of a graph, below 2⁶⁰, by which frames are split.

    Example:
        >>> number_of("000000000000001f")
        1
    """
    return int(key[:15], 16)


class _Maker:
    """The geometries of one molecule while they are made."""

    def __init__(self, molecule: Molecule, surroundings: Surroundings, method: Method, tally: Tally) -> None:
        self.molecule, self.surroundings, self.method, self.tally = molecule, surroundings, method, tally
        self.sampling = surroundings.sampling
        self.numbers = np.asarray(molecule.numbers)
        self.groups = (number_of(molecule.key()),) * 2  # of the molecule and its partner
        self.frames: list[Frame] = []
        self.lowest: float | None = None  # energy

    def run(self) -> None:
        numbers = {kind: self._number(kind) for kind in KINDS}
        evaluate = self._counted(self.numbers)
        pos = np.asarray(self.molecule.positions, dtype=float)
        pos = pos - pos.mean(0)
        start = self._label("given", self.numbers, pos, evaluate, keep=numbers["given"] > 0)
        if start is None:
            return
        self.lowest = start.energy
        needed = any(numbers[kind] for kind in KINDS if kind not in ("given", "dimers"))
        if not needed:
            return
        model = ThermalModel(self.numbers, pos)
        if numbers["relaxed"]:
            model = self._relaxed(evaluate, model)
        self._modes(numbers["modes"], evaluate, model)
        self._walk(numbers["langevin"], evaluate, model)
        self._bonds(numbers["bonds"], evaluate, model)
        self._torsions(numbers["torsions"], evaluate, model)
        self._fragments(numbers["fragments"], model)
        self._pairs(numbers["pairs"], model)

    def _random(self, kind: str) -> np.random.Generator:
        """Random numbers of one kind, which no other kind changes."""
        name = zlib.crc32(self.molecule.name.encode())
        return np.random.default_rng([self.sampling.seed, name, self.molecule.repeat, zlib.crc32(kind.encode())])

    def _number(self, kind: str) -> int:
        """How many of a kind: the whole part, and one more with the probability of the rest."""
        wanted = float(self.sampling.kinds.get(kind, 0.0))
        whole = int(wanted)
        return whole + int(self._random(f"number of {kind}").random() < wanted - whole)

    def _temperatures(self, count: int, random: np.random.Generator) -> np.ndarray:
        return random.uniform(*self.sampling.temperature, size=count)

    def _counted(self, numbers: np.ndarray) -> Evaluate:
        evaluate = self.method.of(numbers)

        def counted(positions: np.ndarray) -> tuple[float, np.ndarray]:
            self.tally.calls += 1
            return evaluate(positions)

        return counted

    def _label(
        self, kind: str, numbers: np.ndarray, positions: np.ndarray, evaluate: Evaluate,
        groups: tuple[int, int] | None = None, *, keep: bool = True,
    ) -> Visited | None:  # fmt: skip
        """Calculate a geometry and keep it; ``None`` if that fails."""
        try:
            found = Visited(positions, *evaluate(positions))
        except FailedError as error:
            self.tally.left_out[str(error)] += 1
            return None
        return found if not keep or self._keep(kind, numbers, found, groups) else None

    def _keep(
        self, kind: str, numbers: np.ndarray, found: Visited, groups: tuple[int, int] | None = None
    ) -> bool:  # fmt: skip
        """Keep a label if it is physical; whether it is."""
        limit = self.sampling.max_energy
        try:
            checked(found.energy, found.forces, self.sampling.max_force)
            is_whole = numbers is self.numbers and self.lowest is not None
            if is_whole and found.energy - self.lowest > limit * len(numbers):  # type: ignore[operator]
                raise FailedError(f"the energy is more than {limit:g} eV/atom above that of the molecule")
        except FailedError as error:
            self.tally.left_out[str(error)] += 1
            return False
        self.tally.kept[kind] += 1
        self.frames.append(Frame(numbers, found.positions, found.energy, found.forces, kind, *(groups or self.groups)))
        return True

    def _relaxed(self, evaluate: Evaluate, model: ThermalModel) -> ThermalModel:
        """Keep the relaxed molecule and some of the way; the model about it."""
        try:
            way, converged = relaxed(evaluate, model.positions, model.hessian, self.sampling.fmax)
        except FailedError as error:
            self.tally.left_out[str(error)] += 1
            return model
        if not converged:
            self.tally.left_out["a relaxation has not converged"] += 1
        kept = way[3:-1:3] if converged else way[3::3]
        for one in kept:
            self._keep(PATH, self.numbers, one)
        self.lowest = min(one.energy for one in way)
        if not converged:
            return model
        self._keep("relaxed", self.numbers, way[-1])
        return ThermalModel(self.numbers, way[-1].positions - way[-1].positions.mean(0))

    def _modes(self, count: int, evaluate: Evaluate, model: ThermalModel) -> None:
        random = self._random("modes")
        for positions in model.displaced(self._temperatures(count, random), random) if count else ():
            self._label("modes", self.numbers, positions, evaluate)

    def _walk(self, count: int, evaluate: Evaluate, model: ThermalModel) -> None:
        if not count:
            return
        random, sampling = self._random("langevin"), self.sampling
        temperature = self._temperatures(1, random)
        start = self._label("modes", self.numbers, model.displaced(temperature, random)[0], evaluate)
        if start is None:
            return
        steps = walk(
            evaluate, self.numbers, start, float(temperature[0]), random,
            every=sampling.every, timestep=sampling.timestep, friction=sampling.friction,
        )  # fmt: skip
        bonds = model.topology.bonds
        longest = 2.0 * covalent_radii[self.numbers[bonds]].sum(1)
        try:
            for _, found in zip(range(count), steps, strict=False):
                ends = found.positions[bonds]
                if (np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1) > longest).any():
                    raise FailedError("a bond broke in a walk, which ends there")
                if not self._keep("langevin", self.numbers, found):
                    return
                found.positions[:] -= found.positions.mean(0)
        except FailedError as error:
            self.tally.left_out[str(error)] += 1

    def _bonds(self, count: int, evaluate: Evaluate, model: ThermalModel) -> None:
        bonds = model.topology.open_bonds()
        if not count or not bonds:
            return
        random = self._random("bonds")
        for positions in self._cool(count, random, model):
            i, j, part = bonds[random.integers(len(bonds))]
            moved = stretched(positions, i, j, part, random.uniform(*STRETCH))
            self._apart("bonds", moved, evaluate, model)

    def _torsions(self, count: int, evaluate: Evaluate, model: ThermalModel) -> None:
        bonds = model.topology.rotatable_bonds()
        if not count or not bonds:
            return
        random = self._random("torsions")
        i, j, part = bonds[random.integers(len(bonds))]
        first = random.uniform(0.0, 360.0)
        for number, positions in enumerate(self._cool(count, random, model)):
            moved = turned(positions, i, j, part, first + 360.0 * number / count)
            self._apart("torsions", moved, evaluate, model)

    def _cool(self, count: int, random: np.random.Generator, model: ThermalModel) -> np.ndarray:
        """Positions at the lowest temperature, to be moved further."""
        return model.displaced(np.full(count, self.sampling.temperature[0]), random)

    def _apart(self, kind: str, positions: np.ndarray, evaluate: Evaluate, model: ThermalModel) -> None:
        """Label a geometry unless atoms that are not bonded are on top of each other."""
        radii = covalent_radii[self.numbers]
        distance = np.linalg.norm(positions[:, None] - positions, axis=-1) / (radii[:, None] + radii)
        distance[tuple(model.topology.bonds.T)] = np.inf
        if np.triu(distance, k=1)[np.triu_indices_from(distance, k=1)].min(initial=np.inf) < 0.9:
            self.tally.left_out["atoms that are not bonded are too close"] += 1
            return
        self._label(kind, self.numbers, positions, evaluate)

    def _fragments(self, count: int, model: ThermalModel) -> None:
        random = self._random("fragments")
        for _ in range(count):
            found = fragment(self.numbers, model.positions, random)
            if found is not None and random.random() < 0.5:
                found = fragment(*found, random) or found
            if found is None:
                return
            key = Topology(*found).key()
            if key in self.surroundings.forbidden:
                self.tally.left_out["a fragment is a molecule that is left out"] += 1
                continue
            numbers, positions = found
            moved = ThermalModel(numbers, positions).displaced(self._temperatures(1, random), random)[0]
            groups = (number_of(key),) * 2
            self._label("fragments", numbers, moved - moved.mean(0), self._counted(numbers), groups)

    def _pairs(self, count: int, model: ThermalModel) -> None:
        most = self.sampling.pair_atoms - len(self.numbers)
        partners = [one for one in self.surroundings.partners if len(one.numbers) <= most]
        if not count or not partners:
            return
        random = self._random("pairs")
        for _ in range(count):
            partner = partners[random.integers(len(partners))]
            temperature = self._temperatures(1, random)
            first = model.displaced(temperature, random)[0]
            second = ThermalModel(partner.numbers, partner.positions).displaced(temperature, random)[0]
            numbers, positions = contact(
                (self.numbers, first), (partner.numbers, second), random.uniform(*CLOSENESS), random
            )
            groups = (self.groups[0], number_of(partner.key()))
            self._label("pairs", numbers, positions - positions.mean(0), self._counted(numbers), groups)

"""One evaluation for many structures: relaxations of molecules, images of a band, beads of a ring polymer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from scipy.spatial import KDTree
from torch import Tensor

from pyg_schnet.data.check import changes_of
from pyg_schnet.data.structure import check_distinct, check_structure, near_origin
from pyg_schnet.geometry import edge_distances, has_volume
from pyg_schnet.interfaces.members import Members
from pyg_schnet.neighbors import VerletList
from pyg_schnet.ops.checks import refuse_prediction, whole_number
from pyg_schnet.potential import Source

_SAME_PLACE = 1e-6  # Å
_LIMIT = 1e12  # Å
_PROPERTIES = ("energy", "forces", "stress")


class BatchCalculator:
    """Energies, forces and stress of many structures, from one evaluation of the model for all of them.

    Results are those of a :class:`SchNetCalculator` for each structure, up to rounding. Structures may differ in atoms,
    cell and boundaries. Elements, charges and distances are checked as there.

    Args:
        model: Model, model file, or several of them, whose mean is taken and whose standard deviations are given too.
        unit: Unit of the model's output, where the model does not know it.
        skin: Distance in Å that atoms of periodic structures may move before the neighbour list is built again.
        dtype: Precision of the network, float64 or float32.
        device: Device of the network.
        untrained_forces: Whether to give forces and stress of a model that was trained on energies alone.
        max_atoms: Number of atoms from which on structures go to another evaluation, since memory grows with it.

    Raises:
        TypeError: If something given is neither a model of this package nor a file.
        ValueError: If the model does not predict energies, or does not know its unit.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import SchNet
        >>> calculator = BatchCalculator(SchNet(16, 16, 2, 20, 5.0), unit="eV")
        >>> water, methane = calculator([molecule("H2O"), molecule("CH4")])
        >>> water["forces"].shape, methane["forces"].shape
        ((3, 3), (5, 3))
    """

    def __init__(
        self,
        model: Source | Sequence[Source],
        *,
        unit: str | None = None,
        skin: float = 0.3,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
        untrained_forces: bool = False,
        max_atoms: int = 20_000,
    ) -> None:
        self.members = Members(model, unit, dtype=dtype, device=device, untrained_forces=untrained_forces)
        if self.members.kind != "energy":
            raise ValueError("a batch calculator needs models of energies, got one of dipoles")
        self.dtype, self.device, self.skin = dtype, torch.device(device), skin
        self.max_atoms = whole_number(max_atoms, "max_atoms")
        self.check = self.members.check
        self.n_evaluations = 0
        self._lists: dict[int, VerletList] = {}
        self._known: dict[int, Atoms] = {}  # structures that were checked, by their place in the list

    def __call__(
        self, structures: Sequence[Atoms], properties: Collection[str] = ("energy", "forces")
    ) -> list[dict[str, Any]]:
        """Results of each structure, as ASE has them.

        Args:
            structures: The structures, in Å.
            properties: Which of ``energy``, ``forces`` and ``stress``.

        Returns:
            For each structure ``energy`` and ``free_energy`` in eV, ``forces`` in eV/Å, ``[N, 3]``, and ``stress`` in
            eV/Å³, ``[6]`` in the order of ASE, where it is asked for and the cell has a volume; of several models
            ``energy_std``, ``forces_std`` and ``stress_std`` too.

        Raises:
            ValueError: If a property is another one, a model cannot have a structure, or was not trained on forces.
        """
        if unknown := sorted(set(properties) - {*_PROPERTIES, "free_energy"}):
            raise ValueError(f"properties are some of {', '.join(_PROPERTIES)}, got {', '.join(unknown)}")
        if "forces" in properties or "stress" in properties:
            self.check.derivatives("forces and stress")
        for k, atoms in enumerate(structures):
            self._check(k, atoms)
        found: list[dict[str, Any]] = [{} for _ in structures]
        with_stress = [
            "stress" in properties and bool(has_volume(torch.from_numpy(atoms.cell.array))) for atoms in structures
        ]
        for stress in (True, False):
            chosen = [k for k, has_stress in enumerate(with_stress) if has_stress is stress]
            for part in self._parts(chosen, structures):
                forces = stress or "forces" in properties
                for k, results in zip(part, self._evaluate(part, structures, forces, stress), strict=True):
                    found[k] = results
        return found

    def attach(self, structures: Sequence[Atoms]) -> None:
        """Give each structure a calculator; the first that is asked evaluates all that have moved.

        So the images of a nudged elastic band, or beads that are moved together, take one evaluation a step.

        Args:
            structures: The structures; their ``calc`` is set.

        Example:
            >>> from ase.build import molecule
            >>> from pyg_schnet import SchNet
            >>> calculator = BatchCalculator(SchNet(16, 16, 2, 20, 5.0), unit="eV")
            >>> images = [molecule("H2O") for _ in range(5)]
            >>> calculator.attach(images)
            >>> energies = [image.get_potential_energy() for image in images]
            >>> calculator.n_evaluations
            1
        """
        group: list[SharedCalculator] = []
        for atoms in structures:
            group.append(SharedCalculator(self, atoms, group))
            atoms.calc = group[-1]

    def _check(self, number: int, atoms: Atoms) -> None:
        """Raise for what a model cannot have; what has only moved is not looked at in full again."""
        known = self._known.get(number)
        if known is None or [name for name in changes_of(known, atoms) if name != "positions"]:
            check_structure(atoms)
            self._known[number] = atoms.copy()
        self.check.atoms(atoms, distances=not atoms.pbc.any())

    def _parts(self, chosen: Sequence[int], structures: Sequence[Atoms]) -> Iterator[list[int]]:
        """Places of the structures of each evaluation."""
        part: list[int] = []
        size = 0
        for k in chosen:
            if part and size + len(structures[k]) > self.max_atoms:
                yield part
                part, size = [], 0
            part.append(k)
            size += len(structures[k])
        if part:
            yield part

    def _evaluate(
        self, part: Sequence[int], structures: Sequence[Atoms], forces: bool, stress: bool
    ) -> Iterator[dict[str, Any]]:
        """Results of some structures, from one evaluation of each model."""
        images = [structures[k] for k in part]
        z, pos, batch, graph = self._tensors(part[0], images)
        if stress and "cell" not in graph:
            graph |= self._lattice(images)
        found = self.members(z, pos, batch, **graph, batch_size=len(images), forces=forces, stress=stress)
        self.n_evaluations += 1
        means: dict[str, np.ndarray] = {}
        for name, values in zip(_PROPERTIES, found, strict=True):
            if values is None:
                continue
            if self.device.type != "cpu":  # those of potentials on CPUs were looked at
                refuse_prediction(values, name)
            means[name], deviation = self.members.summary(name, values.cpu().numpy())
            if deviation is not None:
                means[f"{name}_std"] = deviation
        sizes = [len(image) for image in images]
        self.members.look_at_spread(means.get("forces_std"), np.repeat(part, sizes))
        ends = np.cumsum(sizes)[:-1]
        columns = {
            name: np.split(value, ends) if name.startswith("forces") else list(value) for name, value in means.items()
        }
        for k in range(len(images)):
            results: dict[str, Any] = {name: values[k] for name, values in columns.items()}
            for name in results:
                if name.startswith("stress"):
                    results[name] = full_3x3_to_voigt_6_stress(results[name])
                elif name.startswith("energy"):
                    results[name] = float(results[name])
            yield {**results, "free_energy": results["energy"]}

    def _tensors(self, number: int, images: Sequence[Atoms]) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """Atomic numbers, positions, structure of each atom, and what belongs to the lattice."""
        sizes = [len(image) for image in images]
        batch = np.repeat(np.arange(len(images)), sizes)
        positions = np.concatenate([image.positions for image in images])
        periodic = np.stack([image.pbc for image in images])
        self._check_positions(images, positions, batch, np.asarray(periodic.any(1)))
        if self.dtype != torch.float64:
            parts = [near_origin(image.positions, self.dtype, image.cell.array, image.pbc)[0] for image in images]
            positions = np.concatenate(parts)
        numbers = np.concatenate([image.numbers for image in images]).astype(np.int64)
        z, owner = (torch.from_numpy(array).to(self.device) for array in (numbers, batch))
        pos = torch.tensor(positions, dtype=self.dtype, device=self.device)
        if not periodic.any():
            return z, pos, owner, {}
        lattice = self._lattice(images)
        neighbors = self._lists.setdefault(number, VerletList(self.members.cutoff, self.skin))
        builds = neighbors.n_rebuilds
        edge_index, edge_shift = neighbors(pos, lattice["cell"], lattice["pbc"], owner)
        if neighbors.n_rebuilds > builds and self.check.wants_distances():
            self.check.edges(z, edge_index, edge_distances(pos, edge_index, edge_shift, lattice["cell"], owner))
        return z, pos, owner, {**lattice, "edge_index": edge_index, "edge_shift": edge_shift}

    def _lattice(self, images: Sequence[Atoms]) -> dict[str, Tensor]:
        cell = torch.tensor(np.stack([image.cell.array for image in images]), dtype=self.dtype, device=self.device)
        return {"cell": cell, "pbc": torch.from_numpy(np.stack([image.pbc for image in images])).to(self.device)}

    def _check_positions(
        self, images: Sequence[Atoms], positions: np.ndarray, batch: np.ndarray, periodic: np.ndarray
    ) -> None:
        """Raise where positions are no numbers, or atoms of a structure are in the same place."""
        if not np.abs(positions).max(initial=0.0) <= _LIMIT:  # nor for NaN
            for image in images:
                check_structure(image)
        apart = np.column_stack([positions, batch.astype(np.float64)])  # structures are 1 Å apart in a fourth direction
        close = KDTree(apart).query_pairs(_SAME_PLACE) if len(apart) > 1 else set()
        suspects = {int(batch[first]) for first, _ in close} | set(np.flatnonzero(periodic).tolist())
        for k in sorted(suspects):
            check_distinct(images[k].positions, images[k].cell.array, images[k].pbc)


class SharedCalculator(Calculator):
    """Calculator of one of several structures that are evaluated together; see :meth:`BatchCalculator.attach`.

    Args:
        batch: Evaluates all.
        owner: The structure.
        group: Calculators of all structures, this one among them.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 - as ASE has it

    def __init__(self, batch: BatchCalculator, owner: Atoms, group: list[SharedCalculator]) -> None:
        super().__init__()
        self.batch, self.owner, self.group = batch, owner, group
        if len(batch.members) > 1:
            self.implemented_properties = [*self.implemented_properties, "energy_std", "forces_std", "stress_std"]

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Names of what differs from the structure of the last calculation, compared exactly by default."""
        return changes_of(self.atoms, atoms) if tol <= 1e-15 else super().check_state(atoms, tol)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate this structure, and with it all of the group that have moved."""
        atoms = self.owner if atoms is None else atoms
        properties = [name.removesuffix("_std") for name in properties]
        forces = ("forces",) if self.batch.check.has_forces() or "forces" in properties else ()
        stress = ("stress",) if "stress" in properties or (forces and atoms.pbc.any()) else ()
        others = [one for one in self.group if one is not self and one.check_state(one.owner)]
        together = [(self, atoms), *((one, one.owner) for one in others)]
        found = self.batch([image for _, image in together], ("energy", *forces, *stress))
        for (one, image), results in zip(together, found, strict=True):
            one.atoms, one.results = image.copy(), results

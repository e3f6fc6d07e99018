"""ASE calculator of the models of this package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from pyg_schnet.data.check import SmallMolecule, changes_of
from pyg_schnet.data.structure import Structure
from pyg_schnet.geometry import edge_distances, has_volume
from pyg_schnet.interfaces.ase_properties import register
from pyg_schnet.interfaces.members import Members
from pyg_schnet.models.boundaries import check_origin
from pyg_schnet.neighbors import VerletList
from pyg_schnet.nn.atomref import MAX_Z
from pyg_schnet.ops.checks import refuse_prediction
from pyg_schnet.potential import Potential, Source

_FEW_ATOMS = 50  # up to so many of a molecule, all pairs are looked at faster than a list is checked
_ENERGY_PROPERTIES = ["energy", "free_energy", "energies", "forces", "stress", "stresses"]
_OF_LATTICE = ("stress", "stresses")

register()


class SchNetCalculator(Calculator):
    """Energies, forces and stress, of the whole and of each atom, or dipoles, of a model for ASE.

    Energies, forces and stress are those of a :class:`pyg_schnet.potential.Potential`: what the network has learned, in
    its precision, plus element energies in float64, and exact derivatives. The neighbour list is built with a skin and
    reused between steps; it stays exact (:class:`pyg_schnet.neighbors.VerletList`). Small molecules need none. A model
    that predicts energies per atom (``MeanReadout`` in ``"eV/atom"``) is multiplied by the number of atoms.

    Energy, forces and stress of a periodic structure come from one evaluation, whichever is asked for first. The stress
    is defined wherever the three cell vectors have a volume; that of slabs and wires includes the vacuum
    (:func:`pyg_schnet.derivatives.energy_forces_stress`). ``stresses`` of atoms are minus their virials
    (:meth:`pyg_schnet.potential.Potential.atom_virials`) over the volume of the cell; their sum is the stress.

    Several models make an ensemble: results are means, and ``energy_std``, ``energies_std``, ``forces_std``,
    ``stress_std`` or ``dipole_std`` are the standard deviations over the models (divided by their number), times the
    factor from spread to error where the models were calibrated (:func:`pyg_schnet.interfaces.calibrate`). ASE's
    trajectories, extended XYZ files and JSON databases keep them (:mod:`pyg_schnet.interfaces.ase_properties`).

    ``parameters``, which ASE's files keep, and ``str`` name the model, the version of the package and the SHA-256 of
    the file, or of the weights.

    Args:
        model: Model, model file, or several of them; a file may hold a committee. The calculator owns a frozen copy, so
            that the given one does not change; later changes of weights need a new calculator
            (:func:`pyg_schnet.engine.freeze`).
        unit: Unit of the model's output, where the model does not know it (``model.card["unit"]``). Energies and
            energies per atom are converted to eV, dipoles to e·Å.
        skin: Distance in Å that atoms may move, half of it each, before the neighbour list is built again.
        dtype: Precision of the network, float64 or float32. float64 keeps the energy of long dynamics; float32 is
            faster.
        device: Device of the network.
        untrained_forces: Whether to give forces and stress of a model that was trained on energies alone. They are
            refused otherwise: such a model may be off by several eV/Å where its energies are right.
        **kwargs: Options of ASE's ``Calculator``.

    Raises:
        TypeError: If something given is neither a model of this package nor a file.
        ValueError: If the unit is missing, contradicts the model's own or is not one of an energy or a dipole, or
            models of an ensemble do not predict the same. When used: if positions are not finite, an element has no
            embedding or was not in the training data, or forces or stress are asked of a model that has learned none.
        PropertyNotImplementedError: When used: if a stress is asked for and the cell has no volume, or a dipole and
            any direction is periodic.

    Warns:
        UserWarning: Once for each kind, where the cards of the models say what they were trained on: if a structure has
            another composition, other boundaries or another size, or two atoms that are closer than any such pair in
            training (by more than a twentieth; of periodic and large structures this is looked at whenever the
            neighbour list is built). Once, if models that were calibrated together disagree on a force by more than
            twice what they do on any structure of the calibration. Once, if a structure has a charge or spin, which
            models do not know.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet import SchNet
        >>> water = molecule("H2O")
        >>> water.calc = SchNetCalculator(SchNet(16, 16, 2, 20, 5.0), unit="eV")
        >>> water.get_forces().shape
        (3, 3)
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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if dtype not in (torch.float64, torch.float32):
            raise ValueError(f"dtype must be torch.float64 or torch.float32, got {dtype}")
        with torch.inference_mode(False):  # weights made inside of it cannot be used for forces
            self.members = Members(model, unit, dtype=dtype, device=device, untrained_forces=untrained_forces)
        self.kind = self.members.kind
        names = ["dipole"] if self.kind == "dipole" else _ENERGY_PROPERTIES
        deviations = [f"{name}_std" for name in names if name not in ("free_energy", "stresses")]
        self.implemented_properties = [*names, *(deviations if len(self.members) > 1 else [])]
        self.dtype = dtype
        self.device = torch.device(device)
        self.check = self.members.check
        self.neighbors = VerletList(self.members.cutoff, skin)
        self._small: SmallMolecule | None = None
        self._note_parameters()

    def _note_parameters(self) -> None:
        """What files of ASE are to say of this calculator."""
        dtype = str(self.dtype).removeprefix("torch.")
        self.parameters.update(self.members.notes(), dtype=dtype, device=str(self.device))

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        return f"{type(self).__name__}({told})"

    __str__ = __repr__

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Names of what differs from the structure of the last calculation, compared exactly by default."""
        return changes_of(self.atoms, atoms) if tol <= 1e-15 else super().check_state(atoms, tol)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill ``results`` with what is asked for and what comes with it."""
        if system_changes:
            self.results = {}  # ASE does so before its own calls, but not before calls of others
        if atoms is not None:
            self._take(atoms)
        properties = [name.removesuffix("_std") for name in properties]
        z, pos, graph = self._inputs(properties)
        properties = self._with_what_comes_along(properties)
        for name, found in self.members.of_structure(z, pos, graph, properties).items():
            if self.device.type != "cpu" or name == "dipole":  # those of potentials on CPUs were looked at
                refuse_prediction(found, name)
            mean, deviation = self.members.summary(name, found.cpu().numpy())
            self._store(name, mean)
            if deviation is not None and name != "stresses":
                self._store(f"{name}_std", deviation)
        self.members.look_at_spread(self.results.get("forces_std"))
        if "energy" in self.results:
            self.results["free_energy"] = self.results["energy"]

    def get_hessian(self, atoms: Atoms | None = None) -> np.ndarray:
        """Second derivatives of the energy in eV/Å², shape ``[N, 3, N, 3]``, exact, the mean over models.

        Args:
            atoms: Structure; ``None`` takes the one of the last calculation.

        Raises:
            ValueError: If the model was not trained on forces.
            PropertyNotImplementedError: If it predicts dipoles.

        Example:
            >>> from ase.build import molecule
            >>> from ase.vibrations import VibrationsData
            >>> from pyg_schnet import SchNet
            >>> water = molecule("H2O")
            >>> hessian = SchNetCalculator(SchNet(16, 16, 2, 20, 5.0), unit="eV").get_hessian(water)
            >>> len(VibrationsData(water, hessian).get_energies())
            9
        """
        z, pos, graph = self._of_energies(atoms, "forces")
        found = [potential.hessian(z, pos, **graph) for potential in self._potentials()]
        return torch.stack(found).mean(0).cpu().numpy()

    def get_descriptors(self, atoms: Atoms | None = None) -> np.ndarray:
        """Features of each atom after all interactions, shape ``[N, hidden_channels]``; those of models side by side.

        Args:
            atoms: Structure; ``None`` takes the one of the last calculation.

        Raises:
            PropertyNotImplementedError: If the model predicts dipoles.
        """
        z, pos, graph = self._of_energies(atoms, "energy")
        found = [potential.atom_features(z, pos, **graph) for potential in self._potentials()]
        return torch.cat(found, 1).cpu().numpy()

    def _potentials(self) -> list[Potential]:
        if not self.members.potentials:
            raise PropertyNotImplementedError("the model predicts dipoles; this needs one of energies")
        return self.members.potentials

    def _of_energies(self, atoms: Atoms | None, *properties: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Inputs of models for a structure, which replaces that of the last calculation."""
        self._potentials()
        if atoms is not None and self.check_state(atoms):
            self.results = {}
            self._take(atoms)
        if self.atoms is None:
            raise ValueError("there is no structure yet; give one, or calculate something first")
        return self._inputs(properties)

    def _take(self, atoms: Atoms) -> None:
        """Keep a copy of a structure; that of a small molecule which has only moved is used again."""
        small = self._small
        is_moved = small is not None and len(atoms) <= _FEW_ATOMS and small.moves_to(atoms)
        self.atoms = small.atoms if small is not None and is_moved else atoms.copy()

    def _is_small(self) -> bool:
        """Whether the present structure is a small molecule that was checked before, and is not periodic."""
        return self._small is not None and self.atoms is self._small.atoms

    def _inputs(self, properties: Sequence[str]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Atomic numbers, positions and graph of the present structure, which is checked."""
        in_lattice = any(name in properties for name in _OF_LATTICE)
        if self._small is not None and self._is_small() and not in_lattice:
            pos = self._small.positions(self.check)
            if pos is not None:
                self.check.charge(self.atoms)
                if "forces" in properties:
                    self.check.derivatives("forces and stress")
                return self._small.z, pos, {}
        structure = Structure.of(self.atoms, self.dtype).to(self.device)
        self._check(properties)
        if in_lattice and not bool(has_volume(structure.cell)):
            raise PropertyNotImplementedError(
                f"the stress of a structure whose cell has no volume is not defined; the cell is "
                f"{self.atoms.cell.array.tolist()} Å, give three independent vectors"
            )
        if self.kind == "dipole":
            for model in self.members.models:
                check_origin(model.readout, structure.origin)
        return structure.z, structure.pos, self._graph(structure, in_lattice)

    def _check(self, properties: Sequence[str]) -> None:
        """Raise for elements without embedding and for properties that these boundaries do not have."""
        largest, pbc = int(self.atoms.numbers.max()), self.atoms.pbc
        if largest > MAX_Z:
            raise ValueError(f"atomic numbers must be at most {MAX_Z}, got {largest}")
        self.check.atoms(self.atoms)
        if any(name in properties for name in ("forces", *_OF_LATTICE)):
            self.check.derivatives("forces and stress")
        if self.kind == "dipole" and pbc.any():
            raise PropertyNotImplementedError(
                "the dipole of a periodic structure is not defined, it depends on which images of its atoms are taken; "
                f"atoms.pbc is {pbc.tolist()}, for a molecule in a box set atoms.pbc = False"
            )

    def _with_what_comes_along(self, properties: Sequence[str]) -> Sequence[str]:
        """Forces and stress with the energy of a periodic structure: simulations ask for one after the other."""
        if self.kind == "dipole" or self._is_small() or not self.atoms.pbc.any() or not self.check.has_forces():
            return properties
        volume = bool(has_volume(torch.from_numpy(self.atoms.cell.array)))
        return [*properties, "forces", *(["stress"] if volume else [])]

    def _graph(self, structure: Structure, in_lattice: bool) -> dict[str, Tensor]:
        """Edges as the models take them, none where these find them faster; no cell where nothing is periodic."""
        builds = self.neighbors.n_rebuilds
        _, pos, cell, pbc, _ = structure
        lattice = {"cell": cell, "pbc": pbc}
        if self.atoms.pbc.any():
            edge_index, edge_shift = self.neighbors(pos, cell, pbc)
            graph = {"edge_index": edge_index, "edge_shift": edge_shift, **lattice}
        elif len(self.atoms) <= _FEW_ATOMS:
            self.check.distances(self.atoms)
            self._small = SmallMolecule(self.atoms, self.dtype, self.device) if self.kind == "energy" else None
            return lattice if in_lattice else {}
        else:
            graph = {"edge_index": self.neighbors(pos), **(lattice if in_lattice else {})}
        if self.neighbors.n_rebuilds > builds and self.check.wants_distances():
            edge_index, images = graph["edge_index"], (graph.get("edge_shift"), graph.get("cell"))
            self.check.edges(structure.z, edge_index, edge_distances(pos, edge_index, *images))
        return graph

    def _store(self, name: str, value: np.ndarray) -> None:
        if name.startswith("stress"):
            value = full_3x3_to_voigt_6_stress(value)
        self.results[name] = float(value) if value.ndim == 0 else np.asarray(value, dtype=np.float64)

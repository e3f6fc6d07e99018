"""ASE calculator of the models of this package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor, nn

from pyg_schnet.data.check import StructureCheck
from pyg_schnet.data.structure import Structure
from pyg_schnet.engine.frozen import freeze
from pyg_schnet.geometry import edge_distances
from pyg_schnet.models import AtomisticModel
from pyg_schnet.models.boundaries import check_origin
from pyg_schnet.models.card import unit_of
from pyg_schnet.models.convert import like_pyg
from pyg_schnet.neighbors import VerletList
from pyg_schnet.nn import DipoleReadout
from pyg_schnet.nn.atomref import MAX_Z
from pyg_schnet.ops.checks import refuse_prediction
from pyg_schnet.potential import Potential, Source, predicts_energy, source_of
from pyg_schnet.units import dimension, factor

_FEW_ATOMS = 50  # up to so many of a molecule, all pairs are looked at faster than a list is checked


class SchNetCalculator(Calculator):
    """Energies, forces, stress and atom energies, or dipoles, of a model for ASE.

    Energies, forces and stress are those of a :class:`pyg_schnet.potential.Potential`: what the network has learned, in
    its precision, plus element energies in float64, and exact derivatives. The neighbour list is built with a skin and
    reused between steps; it stays exact (:class:`pyg_schnet.neighbors.VerletList`). Small molecules need none. A model
    that predicts energies per atom (``MeanReadout`` in ``"eV/atom"``) is multiplied by the number of atoms.

    Several models make an ensemble: results are means, and ``calc.results`` also holds the standard deviations over
    the models (divided by their number), ``energy_std``, ``forces_std`` and ``stress_std`` or ``dipole_std``. ASE's
    ``get_property`` knows no such names, so take them from ``calc.results`` after the property itself was computed.

    Args:
        model: Model, model file, or several of them. The calculator owns a frozen copy, so that the given one does not
            change; later changes of weights need a new calculator (:func:`pyg_schnet.engine.freeze`).
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
        PropertyNotImplementedError: When used: if a stress is asked for and not all three directions are periodic, or
            a dipole and any of them is.

    Warns:
        UserWarning: Once for each kind, where the cards of the models say what they were trained on: if a structure has
            another composition, other boundaries or another size, or two atoms that are closer than any such pair in
            training (by more than a twentieth; of periodic and large structures this is looked at whenever the
            neighbour list is built). Once, if a structure has a charge or spin, which models do not know.

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
        sources = list(model) if isinstance(model, Sequence) and not isinstance(model, str) else [model]
        if not sources:
            raise ValueError("model is empty; give a model, a model file, or several of them")
        with torch.inference_mode(False):  # weights made inside of it cannot be used for forces
            self.members = [_member(source, unit, dtype, device, untrained_forces) for source in sources]
        kinds = {member.kind for member in self.members}
        if len(kinds) > 1:
            raise ValueError(f"the models of an ensemble must predict the same, got {', '.join(sorted(kinds))}")
        self.kind = kinds.pop()
        self.implemented_properties = (
            ["dipole"] if self.kind == "dipole" else ["energy", "free_energy", "energies", "forces", "stress"]
        )
        self.dtype = dtype
        self.device = torch.device(device)
        self.check = StructureCheck([member.model.card for member in self.members], untrained_forces=untrained_forces)
        self._with_stress = False  # whether a stress was ever asked for
        self.neighbors = VerletList(max(member.model.cutoff for member in self.members), skin)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill ``results`` with what is asked for and what comes with it."""
        if system_changes:
            self.results = {}  # ASE does so before its own calls, but not before calls of others
        super().calculate(atoms, properties, system_changes)
        structure = Structure.of(self.atoms, self.dtype).to(self.device)
        self._check(properties)
        if self.kind == "dipole":
            for member in self.members:
                check_origin(member.model.readout, structure.origin)
        properties = self._with_what_comes_along(properties)
        graph = self._graph(structure)
        answers = [member(structure.z, structure.pos, graph, properties) for member in self.members]
        for name in answers[0]:
            values = np.stack([answer[name].cpu().numpy() for answer in answers])
            if self.device.type != "cpu" or name == "dipole":  # those of potentials on CPUs were looked at
                refuse_prediction(torch.from_numpy(values), name)
            self._store(name, values.mean(0))
            if len(answers) > 1 and name != "energies":
                self._store(f"{name}_std", values.std(0))
        if "energy" in self.results:
            self.results["free_energy"] = self.results["energy"]

    def _check(self, properties: Sequence[str]) -> None:
        """Raise for elements without embedding and for properties that these boundaries do not have."""
        largest, pbc = int(self.atoms.numbers.max()), self.atoms.pbc
        if largest > MAX_Z:
            raise ValueError(f"atomic numbers must be at most {MAX_Z}, got {largest}")
        self.check.atoms(self.atoms)
        if "forces" in properties or "stress" in properties:
            self.check.derivatives("forces and stress")
        if "stress" in properties and not pbc.all():
            raise PropertyNotImplementedError(
                f"stress is defined for structures that are periodic in three directions; atoms.pbc is {pbc.tolist()}"
            )
        if self.kind == "dipole" and pbc.any():
            raise PropertyNotImplementedError(
                "the dipole of a periodic structure is not defined, it depends on which images of its atoms are taken; "
                f"atoms.pbc is {pbc.tolist()}, for a molecule in a box set atoms.pbc = False"
            )

    def _with_what_comes_along(self, properties: Sequence[str]) -> Sequence[str]:
        """Stress with the forces where it was asked for before, since dynamics at constant pressure want both."""
        self._with_stress |= "stress" in properties
        if "forces" in properties and self._with_stress and self.atoms.pbc.all():
            return [*properties, "stress"]
        return properties

    def _graph(self, structure: Structure) -> dict[str, Tensor]:
        """Edges as the models take them, none where these find them faster; no cell where nothing is periodic."""
        builds = self.neighbors.n_rebuilds
        if self.atoms.pbc.any():
            _, pos, cell, pbc, _ = structure
            edge_index, edge_shift = self.neighbors(pos, cell, pbc)
            graph = {"edge_index": edge_index, "edge_shift": edge_shift, "cell": cell, "pbc": pbc}
        elif len(self.atoms) <= _FEW_ATOMS:
            self.check.few_atoms(self.atoms.numbers, self.atoms.positions)
            return {}
        else:
            graph = {"edge_index": self.neighbors(structure.pos)}
        if self.neighbors.n_rebuilds > builds and self.check.wants_distances():
            edge_index, lattice = graph["edge_index"], (graph.get("edge_shift"), graph.get("cell"))
            self.check.edges(structure.z, edge_index, edge_distances(structure.pos, edge_index, *lattice))
        return graph

    def _store(self, name: str, value: np.ndarray) -> None:
        if name.startswith("stress"):
            value = full_3x3_to_voigt_6_stress(value)
        self.results[name] = float(value) if value.ndim == 0 else value.astype(np.float64)


class _Energies:
    """What one model of energies says of a structure, in eV and Å."""

    kind = "energy"

    def __init__(self, model: AtomisticModel, unit: str, **options: Any) -> None:
        self.potential = Potential(model, unit, **options)
        self.model = self.potential.model

    def __call__(
        self, z: Tensor, pos: Tensor, graph: dict[str, Tensor], properties: Sequence[str]
    ) -> dict[str, Tensor]:
        """Results of a single structure, without batch dimension."""
        stress = "stress" in properties
        forces = stress or "forces" in properties
        found: Any = self.potential(z, pos, **graph, batch_size=1, forces=forces, stress=stress)
        results: dict[str, Any] = {"energy": found.energy[0]}
        if forces:
            results["forces"] = found.forces
        if stress:
            results["stress"] = found.stress[0]
        if "energies" in properties:
            results["energies"] = self.potential.atom_energies(z, pos, **graph, batch_size=1)
        return results


class _Dipole:
    """What one model of dipoles says of a structure, in e·Å."""

    kind = "dipole"

    def __init__(self, model: AtomisticModel, unit: str, dtype: torch.dtype, device: str | torch.device) -> None:
        if model.readout.magnitude:
            raise ValueError("ASE's dipole is a vector, but the model gives its magnitude; use magnitude=False")
        self.factor = factor(unit, "e·Å")
        self.model = freeze(model).to(device=device, dtype=dtype)

    @torch.no_grad()
    def __call__(
        self, z: Tensor, pos: Tensor, graph: dict[str, Tensor], properties: Sequence[str]
    ) -> dict[str, Tensor]:
        """The dipole, without batch dimension."""
        return {"dipole": self.factor * self.model(z, pos, batch_size=1, **graph)[0]}


def _member(
    source: Source, unit: str | None, dtype: torch.dtype, device: str | torch.device, untrained_forces: bool
) -> _Energies | _Dipole:
    """One model of a calculator."""
    model = _model_of(source)
    unit, readout = unit_of(model.card, unit), model.readout
    if isinstance(readout, DipoleReadout) and dimension(unit) == "dipole":
        return _Dipole(model, unit, dtype, device)
    if not predicts_energy(model, unit):
        raise ValueError(
            "a calculator needs energies (SumReadout), energies per atom (MeanReadout) or dipole vectors; this model "
            f"has {readout} in {unit}"
        )
    return _Energies(model, unit, dtype=dtype, device=device, untrained_forces=untrained_forces)


def _model_of(source: Source) -> AtomisticModel:
    """The model as it is given, or the one of a file."""
    source = source_of(source)
    if isinstance(source, AtomisticModel):
        return source
    if isinstance(source, like_pyg.SchNet):
        return source.as_schnet()
    hint = "; SchNet.from_pyg converts one of PyTorch Geometric" if isinstance(source, nn.Module) else ""
    raise TypeError(f"expected a model of this package or the path of a model file, got {type(source).__name__}{hint}")

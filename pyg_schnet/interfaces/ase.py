"""ASE calculator of the models of this package."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from pyg_schnet.data import to_data
from pyg_schnet.geometry import edge_distances
from pyg_schnet.models import AtomisticModel, Edges, load
from pyg_schnet.models.references import take_references
from pyg_schnet.neighbors import VerletList
from pyg_schnet.nn import MAX_Z, DipoleReadout, MeanReadout, SumReadout, respond, sum_references
from pyg_schnet.units import dimension, factor

Source = AtomisticModel | str | os.PathLike[str]


class SchNetCalculator(Calculator):
    """Energies, forces, stress and atom energies, or dipoles, of a model for ASE.

    The energy is the difference that the network has learned, in its precision, plus the element references in
    float64; forces and stress are its exact derivatives (:func:`pyg_schnet.nn.respond`). The neighbour list is built
    with a skin and reused between steps; it stays exact (:class:`pyg_schnet.neighbors.VerletList`).

    Several models make an ensemble: results are means, and ``calc.results`` also holds the standard deviations
    ``energy_std``, ``forces_std`` and ``stress_std`` (over the models, divided by their number).

    Args:
        model: Model, model file, or several of them; copied, so that the given one does not change.
        unit: Unit of the model's output, where the model does not know it (``model.card["unit"]``). Energies and
            energies per atom are converted to eV, dipoles to e·Å.
        skin: Distance in Å that atoms may move, half of it each, before the neighbour list is built again.
        dtype: Precision of the network. float64 keeps the energy of long dynamics; float32 is faster.
        device: Device of the network.
        **kwargs: Options of ASE's ``Calculator``.

    Raises:
        ValueError: If the unit is missing or is not one of an energy or a dipole, or models of an ensemble do not
            predict the same. When used: if positions are not finite or an element has no embedding.

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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        sources = [model] if isinstance(model, (AtomisticModel, str, os.PathLike)) else list(model)
        if not sources:
            raise ValueError("model is empty; give a model, a model file, or several of them")
        self.members = [_Member(source, unit, dtype, device) for source in sources]
        kinds = {member.kind for member in self.members}
        if len(kinds) > 1:
            raise ValueError(f"the models of an ensemble must predict the same, got {', '.join(sorted(kinds))}")
        self.kind = kinds.pop()
        self.implemented_properties = (
            ["dipole"] if self.kind == "dipole" else ["energy", "free_energy", "energies", "forces", "stress"]
        )
        self.dtype = dtype
        self.device = torch.device(device)
        self.neighbors = VerletList(max(member.model.cutoff for member in self.members), skin)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill ``results`` with what is asked for and what comes with it."""
        super().calculate(atoms, properties, system_changes)
        data = to_data(self.atoms, dtype=self.dtype).to(self.device)
        if int(data.z.max()) > MAX_Z:
            raise ValueError(f"atomic numbers must be at most {MAX_Z}, got {int(data.z.max())}")
        if "stress" in properties and not bool(data.pbc.all()):
            raise PropertyNotImplementedError(
                "stress is defined for structures that are periodic in three directions; "
                f"atoms.pbc is {self.atoms.pbc.tolist()}"
            )
        edge_index, edge_shift = self.neighbors(data.pos, data.cell, data.pbc)
        graph = {"edge_index": edge_index, "edge_shift": edge_shift, "cell": data.cell}
        answers = [member(data.z, data.pos, data.pbc, graph, properties) for member in self.members]
        for name in answers[0]:
            values = np.stack([answer[name].cpu().numpy() for answer in answers])
            self._store(name, values.mean(0))
            if len(answers) > 1 and name != "energies":
                self._store(f"{name}_std", values.std(0))
        if "energy" in self.results:
            self.results["free_energy"] = self.results["energy"]

    def _store(self, name: str, value: np.ndarray) -> None:
        if name.startswith("stress"):
            value = full_3x3_to_voigt_6_stress(value)
        self.results[name] = float(value) if value.ndim == 0 else value.astype(np.float64)


class _Member:
    """One model, its references and the factor to internal units."""

    def __init__(self, source: Source, unit: str | None, dtype: torch.dtype, device: str | torch.device) -> None:
        model = copy.deepcopy(source) if isinstance(source, AtomisticModel) else load(source)
        unit = unit or model.card.get("unit")
        if unit is None:
            raise ValueError('the model does not say the unit of its output; state it, for example unit="eV"')
        self.kind, self.per_atom, self.factor = _interpret(model, unit)
        atomref = take_references(model)
        self.atomref = None if atomref is None else atomref.to(device)
        self.model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)

    def __call__(
        self, z: Tensor, pos: Tensor, pbc: Tensor, graph: dict[str, Tensor], properties: Sequence[str]
    ) -> dict[str, Tensor]:
        """Results of this model in eV, Å and e·Å; those of a single structure, without batch dimension."""
        if self.kind == "dipole":
            with torch.no_grad():
                return {"dipole": self.factor * self.model(z, pos, batch_size=1, **graph)[0]}
        n_atoms = len(z) if self.per_atom else 1
        stress = "stress" in properties
        derivatives = stress or "forces" in properties
        response = respond(
            self.model, z, pos, pbc=pbc if stress else None, batch_size=1, forces=derivatives, stress=stress, **graph
        )
        batch = torch.zeros_like(z)
        reference = sum_references(self.atomref, z, batch, 1, mean=self.per_atom)[0, 0]
        factor = self.factor * n_atoms
        results = {"energy": factor * (response.energy[0].to(torch.float64) + reference)}
        if derivatives:
            results["forces"] = factor * response.forces
        if stress:
            results["stress"] = factor * response.stress[0]
        if "energies" in properties:
            results["energies"] = self.factor * self.atom_energies(z, pos, graph)
        return results

    def atom_energies(self, z: Tensor, pos: Tensor, graph: dict[str, Tensor]) -> Tensor:
        """Contribution of each atom in float64, shape ``[N]``; they add up to the energy."""
        with torch.no_grad():
            dist = edge_distances(pos, graph["edge_index"], graph["edge_shift"], graph["cell"])
            x = self.model.represent(z, Edges(graph["edge_index"], dist, None))
            values = self.model.readout.atom_values(x, z)[:, 0].to(torch.float64)
        return values + self.atomref.to(torch.float64)[z, 0]


def _interpret(model: AtomisticModel, unit: str) -> tuple[str, bool, float]:
    """What a model predicts, whether per atom, and the factor to eV or e·Å."""
    readout, quantity = model.readout, dimension(unit)
    if isinstance(readout, DipoleReadout) and quantity == "dipole":
        if readout.magnitude:
            raise ValueError("ASE's dipole is a vector, but the model gives its magnitude; use magnitude=False")
        return "dipole", False, factor(unit, "e·Å")
    if getattr(readout, "out_channels", 0) == 1:
        if isinstance(readout, SumReadout) and quantity == "energy":
            return "energy", False, factor(unit, "eV")
        if isinstance(readout, MeanReadout) and quantity == "energy per atom":
            return "energy", True, factor(unit, "eV/atom")
    raise ValueError(
        f"a calculator needs energies (SumReadout), energies per atom (MeanReadout) or dipole vectors; this model has "
        f"{readout} in {unit}"
    )

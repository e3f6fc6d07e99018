"""The models of a calculator: what each of them says of a structure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyg_schnet.engine.frozen import freeze
from pyg_schnet.models import AtomisticModel
from pyg_schnet.models.card import unit_of
from pyg_schnet.models.convert import like_pyg
from pyg_schnet.models.identity import Identity, hash_of_weights
from pyg_schnet.nn import DipoleReadout
from pyg_schnet.potential import Potential, Source, predicts_energy, source_of
from pyg_schnet.units import dimension, factor

CALIBRATION = "calibration"
"""Entry of a card with factors from the spread of an ensemble to its error."""


def deviation_factors(members: Sequence[EnergyMember | DipoleMember]) -> dict[str, float]:
    """Factors of standard deviations, where all models were calibrated together; none otherwise.

    Args:
        members: The models of a calculator, as :func:`pyg_schnet.interfaces.calibrate` has noted in their cards.
    """
    noted = [member.model.card.get(CALIBRATION) for member in members]
    if len(noted) < 2 or not isinstance(noted[0], dict) or any(one != noted[0] for one in noted):
        return {}
    if noted[0].get("weights") != sorted(member.weights for member in members):
        return {}
    return {name: float(noted[0][name]) for name in ("energy", "forces", "stress") if name in noted[0]}


class EnergyMember:
    """Energies and their derivatives of one model, in eV and Å.

    Args:
        model: The model.
        unit: Unit of its output.
        identity: Which model it is.
        **options: Of the :class:`~pyg_schnet.potential.Potential`.
    """

    kind = "energy"

    def __init__(self, model: AtomisticModel, unit: str, identity: Identity, **options: Any) -> None:
        self.weights = hash_of_weights(model) if CALIBRATION in model.card else ""
        self.potential = Potential(model, unit, **options)
        self.potential.identity = identity
        self.model = self.potential.model
        self.unit, self.identity = unit, identity

    def __call__(
        self, z: Tensor, pos: Tensor, graph: dict[str, Tensor], properties: Collection[str]
    ) -> dict[str, Tensor]:
        """Results of a single structure, without batch dimension.

        Args:
            z: Atomic numbers, shape ``[N]``.
            pos: Positions in Å, shape ``[N, 3]``.
            graph: Edges and lattice, as the potential takes them.
            properties: Names of ASE.
        """
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
        if "stresses" in properties:
            size = torch.linalg.det(graph["cell"].to(found.energy.dtype)).abs()
            results["stresses"] = -self.potential.atom_virials(z, pos, **graph, batch_size=1) / size
        return results


class DipoleMember:
    """Dipoles of one model in e·Å.

    Args:
        model: The model.
        unit: Unit of its output.
        identity: Which model it is.
        dtype: Precision of the network.
        device: Device of the network.
    """

    kind = "dipole"

    def __init__(
        self, model: Any, unit: str, identity: Identity, dtype: torch.dtype, device: str | torch.device
    ) -> None:
        if model.readout.magnitude:
            raise ValueError("ASE's dipole is a vector, but the model gives its magnitude; use magnitude=False")
        self.factor, self.weights = factor(unit, "e·Å"), ""
        self.model = freeze(model).to(device=device, dtype=dtype)
        self.unit, self.identity = unit, identity

    @torch.no_grad()
    def __call__(
        self, z: Tensor, pos: Tensor, graph: dict[str, Tensor], properties: Collection[str]
    ) -> dict[str, Tensor]:
        """The dipole, without batch dimension; arguments as for energies."""
        return {"dipole": self.factor * self.model(z, pos, batch_size=1, **graph)[0]}


def member_of(
    source: Source, unit: str | None, dtype: torch.dtype, device: str | torch.device, untrained_forces: bool
) -> EnergyMember | DipoleMember:
    """One model of a calculator.

    Args:
        source: Model, its file, or the name of a pretrained one.
        unit: Unit of its output, where it does not say it.
        dtype: Precision of the network.
        device: Device of the network.
        untrained_forces: Whether to give derivatives of a model that was trained on energies alone.

    Raises:
        TypeError: If it is no model of this package.
        ValueError: If it predicts neither energies nor dipoles.
    """
    model = _model_of(source)
    unit, readout = unit_of(model.card, unit), model.readout
    if isinstance(readout, DipoleReadout) and dimension(unit) == "dipole":
        return DipoleMember(model, unit, Identity.of(source), dtype, device)
    if not predicts_energy(model, unit):
        raise ValueError(
            "a calculator needs energies (SumReadout), energies per atom (MeanReadout) or dipole vectors; this model "
            f"has {readout} in {unit}"
        )
    options: dict[str, Any] = {"dtype": dtype, "device": device, "untrained_forces": untrained_forces}
    return EnergyMember(model, unit, Identity.of(source), **options)


def _model_of(source: Source) -> AtomisticModel:
    """The model as it is given, or the one of a file."""
    source = source_of(source)
    if isinstance(source, AtomisticModel):
        return source
    if isinstance(source, like_pyg.SchNet):
        return source.as_schnet()
    hint = "; SchNet.from_pyg converts one of PyTorch Geometric" if isinstance(source, nn.Module) else ""
    raise TypeError(f"expected a model of this package or the path of a model file, got {type(source).__name__}{hint}")

"""What analyses have in common: a model as it is given becomes one in float64 that answers in eV."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pyg_schnet.data import to_data
from pyg_schnet.data.check import StructureCheck
from pyg_schnet.derivatives import EnergyModel
from pyg_schnet.engine.freeze import freeze
from pyg_schnet.models import AtomisticModel, load
from pyg_schnet.models.card import unit_of
from pyg_schnet.nn import MeanReadout, SumReadout
from pyg_schnet.units import dimension, factor

if TYPE_CHECKING:
    from ase import Atoms

Source = AtomisticModel | str | os.PathLike[str]
"""A model of this package, its file, or the name of a pretrained one."""

EnergySource = Source | EnergyModel
"""One of these, or anything that gives energies, see :data:`pyg_schnet.derivatives.EnergyModel`."""


class Potential:
    """Total energies in eV of any energy model; itself an :data:`pyg_schnet.derivatives.EnergyModel`.

    Args:
        model: Model, file, name or function. Modules are copied; the copy is in float64 and frozen, so later changes
            of its weights may not be seen (:func:`pyg_schnet.engine.freeze`).
        unit: Unit of its output, where the model does not know it.
        untrained_forces: Whether derivatives are wanted of a model that was trained on energies alone.

    Attributes:
        check: Compares structures with what the model was trained on.

    Raises:
        TypeError: If the model is nothing that can be called.
        ValueError: If the unit is missing, contradicts the model's own, or is not one of an energy.
    """

    def __init__(self, model: EnergySource, unit: str | None = None, *, untrained_forces: bool = False) -> None:
        self.model = own_copy(model)
        self.check = check_of(self.model, untrained_forces=untrained_forces)
        self.device, self.dtype = place_of(self.model)
        unit = unit_of(getattr(self.model, "card", {}), unit)
        self.per_atom = dimension(unit) == "energy per atom"
        if isinstance(self.model, AtomisticModel):
            check_energy_readout(self.model, unit)
        elif not self.per_atom and dimension(unit) != "energy":
            raise ValueError(f"energies are needed, but the unit {unit!r} is one of {dimension(unit)}")
        self.factor = factor(unit, "eV/atom" if self.per_atom else "eV")

    def __call__(self, z: Tensor, pos: Tensor, batch: Tensor | None = None, **graph: Tensor) -> Tensor:
        """Energies, shape ``[B]`` or ``[B, 1]`` as the model has them; arguments as those of the model."""
        energy = self.factor * self.model(z, pos, batch, **graph)
        if self.per_atom:
            n_atoms = torch.bincount(torch.zeros_like(z) if batch is None else batch, minlength=energy.size(0))
            energy = energy * n_atoms.view(-1, *[1] * (energy.dim() - 1))
        return energy

    def structure(self, atoms: Atoms) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """A structure as this model takes it, see :func:`structure_of`; refused or warned about as by calculators."""
        self.check.atoms(atoms, distances=True)
        return structure_of(atoms, self.device, self.dtype)


@torch.inference_mode(False)  # weights made inside of it cannot be used for derivatives
def own_copy(model: EnergySource) -> EnergyModel:
    """A frozen copy of the model in evaluation mode and float64; functions as they are."""
    if isinstance(model, (str, os.PathLike)):
        model = load(model)
    elif not callable(model):
        raise TypeError(
            f"expected a model, the path of a model file, or a function of (z, pos, batch); got {type(model).__name__}"
        )
    if not isinstance(model, nn.Module):
        return model
    return freeze(model).to(dtype=place_of(model)[1])


def own_atomistic_copy(model: Source, needed_for: str) -> AtomisticModel:
    """As :func:`own_copy`, for what needs the parts of a model of this package."""
    model = own_copy(model)
    if isinstance(model, AtomisticModel):
        return model
    hint = "; SchNet.from_pyg converts one of PyTorch Geometric" if isinstance(model, nn.Module) else ""
    raise TypeError(f"{needed_for} needs a model of this package, got {type(model).__name__}{hint}")


def own_energy_model(model: Source, unit: str | None, needed_for: str) -> tuple[AtomisticModel, float]:
    """As :func:`own_atomistic_copy` for a model of energies, and the factor from its unit to eV."""
    network = own_atomistic_copy(model, needed_for)
    unit = unit_of(network.card, unit)
    check_energy_readout(network, unit)
    return network, factor(unit, "eV" if dimension(unit) == "energy" else "eV/atom")


def check_of(model: EnergyModel, *, untrained_forces: bool = False) -> StructureCheck:
    """What compares structures with the training data of a model; of functions and foreign modules nothing is known."""
    card = getattr(model, "card", None)
    return StructureCheck([card] if isinstance(card, Mapping) else [], untrained_forces=untrained_forces)


def place_of(model: EnergyModel) -> tuple[torch.device, torch.dtype]:
    """Device of a model, the CPU for functions, and the widest floating point numbers there."""
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    device = tensors[0].device if tensors else torch.device("cpu")
    return device, torch.float32 if device.type == "mps" else torch.float64


def check_energy_readout(model: AtomisticModel, unit: str) -> None:
    """Raise unless a model predicts energies by sums over atoms, or energies per atom by means."""
    readout, quantity = model.readout, dimension(unit)
    extensive = isinstance(readout, SumReadout) and quantity == "energy"
    intensive = isinstance(readout, MeanReadout) and quantity == "energy per atom"
    if not (extensive or intensive) or readout.out_channels != 1:
        raise ValueError(
            f"energies (SumReadout) or energies per atom (MeanReadout) are needed; this model has {readout} in {unit}"
        )


def structure_of(atoms: Atoms, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Atomic numbers ``[N]``, positions in Å ``[N, 3]``, and ``cell`` and ``pbc`` where anything is periodic."""
    data = to_data(atoms, dtype=dtype).to(device)
    return data.z, data.pos, {"cell": data.cell, "pbc": data.pbc} if atoms.pbc.any() else {}


def to_numpy(value: Tensor) -> np.ndarray:
    """The result of an analysis on the host, floating point numbers in float64."""
    array = value.detach().cpu().numpy()
    return array.astype(np.float64) if array.dtype.kind == "f" else array

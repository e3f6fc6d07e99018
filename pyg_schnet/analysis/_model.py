"""What analyses have in common: a model as it is given becomes one in float64, structures become tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pyg_schnet.data import to_data
from pyg_schnet.data.check import StructureCheck
from pyg_schnet.derivatives import EnergyModel
from pyg_schnet.engine.frozen import FrozenModel, freeze
from pyg_schnet.models import AtomisticModel
from pyg_schnet.models.card import unit_of
from pyg_schnet.potential import EnergySource, Potential, Source, check_energy, place_of, source_of
from pyg_schnet.units import dimension, factor

if TYPE_CHECKING:
    from ase import Atoms

__all__ = [
    "EnergySource",
    "Potential",
    "Source",
    "check_of",
    "own_atomistic_copy",
    "own_energy_model",
    "place_of",
    "structure_for",
    "structure_of",
    "to_numpy",
    "unit_of",
]


def structure_for(potential: Potential, atoms: Atoms) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """As :func:`structure_of` for a potential; the structure is refused or warned about as by calculators."""
    potential.check.atoms(atoms, distances=True)
    return structure_of(atoms, potential.device, potential.dtype)


def own_atomistic_copy(model: Source, needed_for: str) -> FrozenModel:
    """A frozen copy of a model of this package in float64, for what needs its parts."""
    return _frozen(_atomistic(model, needed_for))


def own_energy_model(model: Source, unit: str | None, needed_for: str) -> tuple[FrozenModel, float]:
    """As :func:`own_atomistic_copy` for a model of energies, and the factor from its unit to eV."""
    network = _atomistic(model, needed_for)
    unit = unit_of(network.card, unit)
    check_energy(network, unit)
    return _frozen(network), factor(unit, "eV" if dimension(unit) == "energy" else "eV/atom")


def _atomistic(model: Source, needed_for: str) -> AtomisticModel:
    """The given model, or the one of a file."""
    model = source_of(model)
    if isinstance(model, AtomisticModel):
        return model
    hint = "; SchNet.from_pyg converts one of PyTorch Geometric" if isinstance(model, nn.Module) else ""
    raise TypeError(f"{needed_for} needs a model of this package, got {type(model).__name__}{hint}")


@torch.inference_mode(False)  # weights made inside of it cannot be used for derivatives
def _frozen(model: AtomisticModel) -> FrozenModel:
    return freeze(model).to(dtype=place_of(model)[1])


def check_of(model: EnergyModel) -> StructureCheck:
    """What compares structures with the training data of a model; of functions and foreign modules nothing is known."""
    card = getattr(model, "card", None)
    return StructureCheck([card] if isinstance(card, Mapping) else [])


def structure_of(atoms: Atoms, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Atomic numbers ``[N]``, positions in Å ``[N, 3]``, and ``cell`` and ``pbc`` where anything is periodic."""
    data = to_data(atoms, dtype=dtype).to(device)
    return data.z, data.pos, {"cell": data.cell, "pbc": data.pbc} if atoms.pbc.any() else {}


def to_numpy(value: Tensor) -> np.ndarray:
    """The result of an analysis on the host, floating point numbers in float64."""
    array = value.detach().cpu().numpy()
    return array.astype(np.float64) if array.dtype.kind == "f" else array

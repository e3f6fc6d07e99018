"""Learning potential energy surfaces: energies together with forces and stress."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from pyg_schnet.data import Property, find_property, target_mask, target_values
from pyg_schnet.data.properties import properties_of
from pyg_schnet.train.datamodule import StructureDataModule
from pyg_schnet.train.derivative import DerivativeTask
from pyg_schnet.train.masks import Pair, labelled
from pyg_schnet.train.references import scale_repulsion


class PotentialTask(DerivativeTask):
    r"""Learn energies, forces and stress.

    .. math::
        \ell = w_E\, L(E, \hat E) + w_F\, L(\mathbf{F}, \hat{\mathbf{F}}) + w_\sigma\, L(\boldsymbol\sigma,
        \hat{\boldsymbol\sigma})

    with the forces and stress of :func:`pyg_schnet.derivatives.energy_forces_stress`, exact derivatives of the energy,
    and L the mean over structures, components of forces, and components of the stress. `Schütt et al. (2020)
    <https://arxiv.org/abs/1812.04690>`_ use the squared error and :math:`w_E = 0.01` (in kcal/mol; the ratio of
    weights has the unit Å⁻² and is the same in eV), :math:`w_F = 1`.

    References and units are those of :class:`PropertyTask`, but σ is the root mean square of the forces (times 1 Å)
    where the training structures have them. Structures without a label are left out of its term, so
    crystals with stress and molecules without it can be learned together.

    Args:
        network: Energy model, see :class:`PropertyTask`.
        energy_weight: Weight :math:`w_E` of energies in eV (or the unit of the data set).
        forces_weight: Weight :math:`w_F` of forces in eV/Å.
        stress_weight: Weight :math:`w_\sigma` of the stress in eV/Å³; 0 leaves it out.
        per_atom_energy: Whether the loss uses energies per atom, which weighs small and large structures equally.
        atom_weights: Name of a label of atoms, dimensionless and not negative, by which the loss of each atom's forces
            is multiplied: :math:`\sum_i w_i L_i / \sum_i w_i` instead of the mean. Atoms of structures without it
            weigh 1; errors are counted without weights.
        **kwargs: Options of :class:`PropertyTask`.

    Raises:
        ValueError: If a weight is negative, or all are zero.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        energy_weight: float = 0.01,
        forces_weight: float = 1.0,
        stress_weight: float = 0.0,
        per_atom_energy: bool = False,
        atom_weights: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        if min(energy_weight, forces_weight, stress_weight) < 0:
            raise ValueError(
                f"weights must not be negative, got energy {energy_weight}, forces {forces_weight}, "
                f"stress {stress_weight}"
            )
        if max(energy_weight, forces_weight, stress_weight) == 0:
            raise ValueError("one of energy_weight, forces_weight and stress_weight must be positive, all are 0")
        self.energy_weight = energy_weight
        self.forces_weight = forces_weight
        self.stress_weight = stress_weight
        self.per_atom_energy = per_atom_energy
        self.atom_weights = atom_weights
        self.derivatives: dict[str, Property] = {}
        self._data: StructureDataModule | None = None  # while it is learned from

    def find_targets(self, data: StructureDataModule) -> None:
        """Learn from the data module where forces and stress are."""
        super().find_targets(data)
        self._data = data
        self.derivatives = self._find_derivatives(data.dataset)
        _check_units(self.property, self.derivatives)

    def setup(self, stage: str) -> None:
        """Learn from the data module where energies, forces and stress are."""
        super().setup(stage)
        if self.property is not None and not self.derivatives:  # of data without names, in the unit of the energy
            self.derivatives = self._find_derivatives(None)

    def teardown(self, stage: str) -> None:
        """Let go of the data."""
        self._data = None

    def _find_derivatives(self, dataset: Any) -> dict[str, Property]:
        """Forces and stress of a data set; by these names where it names no targets."""
        names = ["forces", *(["stress"] if self.stress_weight > 0 else [])]
        if dataset is not None and _has_names(dataset):
            return {name: find_property(dataset, name) for name in names}
        unit = self.property.unit
        usual = {"forces": Property("forces", f"{unit}/Å", "atom"), "stress": Property("stress", f"{unit}/Å³")}
        return {name: usual[name] for name in names}

    def needed(self) -> list[Property]:
        """Energy, forces and stress, where they have a weight."""
        weights = {self.property: self.energy_weight, self.derivatives["forces"]: self.forces_weight}
        return [target for target, weight in weights.items() if weight > 0] + [
            target for name, target in self.derivatives.items() if name == "stress"
        ]

    def fit_statistics(self, counts: Tensor, target: Tensor) -> None:
        """References of the elements, and the size of the forces."""
        super().fit_statistics(counts, target)
        if self._data is not None:
            size = self._data.training_rms(self.derivatives["forces"])
            if size > 0:
                self.scale.fill_(size)
                scale_repulsion(self.network, self.property, self.scale)

    def gradient_labels(self) -> dict[str, Any]:
        """Forces, and the stress, where they have a weight."""
        weights = {"forces": self.forces_weight, "stress": self.stress_weight}
        return {name: target for name, target in self.derivatives.items() if weights[name] > 0}

    def quantities(self) -> dict[str, str]:
        """Energies of structures (and per atom, if in eV), forces, and stress where it is learned."""
        unit = self.property.unit
        per_atom = {"energy_per_atom": "eV/atom"} if unit == "eV" else {}
        return {"energy": unit, **per_atom, **{name: target.unit for name, target in self.derivatives.items()}}

    def compare(self, batch: Batch) -> dict[str, Pair]:
        """Predicted and true energies (without references), forces and stress, for what has a label."""
        found = self.energy_forces_stress(batch, stress=self.stress_weight > 0, partly=True)
        energy = self.pair(found.energy, batch)
        ones = found.energy.new_ones(batch.batch.size(0))
        n_atoms = found.energy.new_zeros(batch.num_graphs).index_add_(0, batch.batch, ones)
        mask = target_mask(batch, self.property)
        n_atoms = n_atoms if mask is None or len(energy) > 2 else n_atoms[mask]
        per_atom: Any = (energy[0] / n_atoms, energy[1] / n_atoms, *energy[2:])
        pairs = {"energy": energy, "energy_per_atom": per_atom}
        for name, derivative in self.derivatives.items():
            pairs[name] = self._labelled(getattr(found, name), batch, derivative)
        if self.atom_weights is not None:
            weights = weights_of_atoms(batch, self.atom_weights).to(found.energy.dtype).unsqueeze(1)
            mask, forces = target_mask(batch, self.derivatives["forces"]), pairs["forces"]
            if len(forces) > 2:
                weights = weights * forces[2]
            elif mask is not None:
                weights = weights[mask[batch.batch]]
            pairs["forces"] = (*forces[:2], weights)
        return pairs

    def _labelled(self, predicted: Tensor, batch: Batch, target: Property) -> Pair:
        """Predicted and true derivatives of structures with a label."""
        true, mask = target_values(batch, target).to(predicted.dtype), target_mask(batch, target)
        if mask is not None and target.level == "atom":
            mask = mask[batch.batch]
        return labelled(predicted, true, mask, training=self.training)

    def terms(self) -> dict[str, float]:
        """Weights of energies, forces and stress."""
        energy = "energy_per_atom" if self.per_atom_energy else "energy"
        stress = {"stress": self.stress_weight} if self.stress_weight > 0 else {}
        return {energy: self.energy_weight, "forces": self.forces_weight, **stress}


def weights_of_atoms(batch: Batch, name: str) -> Tensor:
    """Weight of each atom in the loss, shape ``[N]``; 1 where a structure has none.

    Args:
        batch: Structures.
        name: Name of the weights.

    Raises:
        ValueError: If no structure has such a label, it is not one number for each atom, or one is negative.

    Example:
        >>> batch = Batch(batch=torch.tensor([0, 0, 1]), w=torch.tensor([2.0, 0.5, 0.0]), num_graphs=2)
        >>> batch.has_w = torch.tensor([True, False])
        >>> weights_of_atoms(batch, "w")
        tensor([2.0000, 0.5000, 1.0000])
    """
    weights = batch.get(name)
    if not isinstance(weights, Tensor) or weights.numel() != batch.batch.numel():
        raise ValueError(
            f"atom_weights={name!r} must name a label with one number for each atom; read it by properties="
            f'{{"{name}": "1"}}'
        )
    weights = weights.reshape(-1)
    mask = batch.get(f"has_{name}")
    if mask is not None:
        weights = torch.where(mask[batch.batch], weights, 1.0)
    if weights.is_cpu and bool((weights < 0).any()):
        raise ValueError(f"weights of atoms must not be negative, {name!r} has {float(weights.min()):.6g}")
    return weights


def _has_names(dataset: Any) -> bool:
    """Whether a data set names its targets."""
    try:
        return bool(properties_of(dataset))
    except ValueError:
        return False


def _check_units(energy: Property, derivatives: dict[str, Property]) -> None:
    """Raise unless forces and stress are in the unit of the energy over Å and Å³."""
    for name, unit in (("forces", f"{energy.unit}/Å"), ("stress", f"{energy.unit}/Å³")):
        if name in derivatives and derivatives[name].unit != unit:
            raise ValueError(
                f"energies are in {energy.unit}, so {name} have to be in {unit}; the data set has them in "
                f"{derivatives[name].unit}"
            )

"""Energies, forces and stress in eV and Å from any energy model, for simulations and analyses."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyg_schnet.data.check import StructureCheck
from pyg_schnet.derivatives import EnergyForcesStress, EnergyModel, energy_forces_stress, hessian
from pyg_schnet.engine.frozen import FrozenModel, copy_of, freeze
from pyg_schnet.models import AtomisticModel, SchNetCommittee, load
from pyg_schnet.models.atomref import pop_atomref
from pyg_schnet.models.atomwise import atom_energies, atom_features, atom_virials
from pyg_schnet.models.card import unit_of
from pyg_schnet.models.committee import as_one
from pyg_schnet.models.identity import Identity
from pyg_schnet.nn import MeanReadout, SumReadout
from pyg_schnet.ops.checks import check_finite, check_prediction, described, refuse_prediction
from pyg_schnet.ops.dispatch import wide_dtype
from pyg_schnet.units import dimension, factor

Source = AtomisticModel | str | os.PathLike[str]
"""A model of this package, its file, or the name of a pretrained one."""

EnergySource = Source | EnergyModel
"""One of these, or anything that gives energies, see :data:`pyg_schnet.derivatives.EnergyModel`."""


class Potential:
    r"""Energies and their derivatives in eV and Å, as float64, from a frozen copy of a model.

    .. math::
        E = c\, \Bigl( n f(\mathbf{r}) + \sum_i a_{Z_i} \Bigr), \qquad
        \mathbf{F}_i = -c\, n\, \frac{\partial f}{\partial \mathbf{r}_i}, \qquad
        \boldsymbol\sigma = \frac{c\, n}{V} \frac{\partial f}{\partial \boldsymbol\varepsilon}

    where f is the output of the network without the element energies a (``atomref`` and shift of its readout), c is
    the factor from its unit to eV, and n = 1, or the number of atoms for models of energies per atom (``MeanReadout``
    in ``"eV/atom"``). Element energies are added in float64, since a float32 sum would lose the last digits.

    The method :meth:`energy` is differentiable and can be used as an :data:`~pyg_schnet.derivatives.EnergyModel`, for
    example for Hessians.

    Args:
        model: Model, its file, the name of a pretrained one, any module with the same call, or a function of
            ``(z, pos, batch)``. Modules are copied and frozen (:func:`pyg_schnet.engine.freeze`): later edits of the
            given one are not seen.
        unit: Unit of its output, where the model does not know it (``model.card["unit"]``).
        dtype: Precision of the network, float64 or float32; ``None`` takes float64 where the device has it.
        device: Device of the network; ``None`` takes the one of the model.
        untrained_forces: Whether to give derivatives of a model that was trained on energies alone; they are refused
            otherwise.

    Attributes:
        model: The frozen copy, without element energies; functions as they are.
        check: Compares structures with those that the model was trained on.
        identity: Name, version and hash of the model; see ``pyg_schnet.models.Identity``.
        element_energies: Energy of each element in eV, shape ``[MAX_Z + 1, 1]``; ``None`` where the model adds them.

    Raises:
        TypeError: If the model cannot be called.
        ValueError: If the unit is missing, contradicts the model's own, or is no unit of energy, or if ``dtype`` is
            neither float64 nor float32.

    Example:
        >>> from pyg_schnet import SchNet
        >>> potential = Potential(SchNet(16, 16, 2, cutoff=5.0), unit="kcal/mol", dtype=torch.float32)
        >>> z, pos = torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        >>> energy, forces, _ = potential(z, pos)
        >>> energy.shape, forces.dtype
        (torch.Size([1]), torch.float64)
    """

    model: Any  # frozen copy of a module, or a function

    @torch.inference_mode(False)  # weights made inside of it cannot be used for derivatives
    def __init__(
        self,
        model: EnergySource,
        unit: str | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        untrained_forces: bool = False,
    ) -> None:
        source, model = model, source_of(model)
        if not callable(model):
            raise TypeError(
                "expected a model, the path of a model file, or a function of (z, pos, batch); "
                f"got {type(model).__name__}"
            )
        place, widest = place_of(model, device)
        self.device, self.dtype = place, widest if dtype is None else dtype
        if self.dtype not in (torch.float64, torch.float32):
            raise ValueError(f"dtype must be torch.float64 or torch.float32, got {dtype}")
        self.identity = Identity.of(source)
        card = getattr(model, "card", None)
        card = card if isinstance(card, Mapping) else {}
        unit = unit_of(card, unit)
        check_energy(model, unit)
        self.per_atom = dimension(unit) == "energy per atom"
        self.factor = factor(unit, "eV/atom" if self.per_atom else "eV")
        self.check = StructureCheck([card] if card else [], untrained_forces=untrained_forces)
        self.element_energies: Tensor | None = None
        self.model = model
        if isinstance(model, nn.Module):
            check_finite(model.state_dict().items())
            own = copy_of(model)
            if _is_sum_of_references(own):
                self.element_energies = self.factor * cast(Tensor, pop_atomref(own)).to(self.device)
                self.element_energies[0] = 0.0  # padding
            self.model = freeze(own).to(device=self.device, dtype=self.dtype)

    def __call__(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        *,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        edge_index: Tensor | None = None,
        edge_shift: Tensor | None = None,
        batch_size: int | None = None,
        forces: bool = True,
        stress: bool = False,
    ) -> EnergyForcesStress:
        """Energies of structures, with forces and stress where requested.

        Args:
            z: Atomic numbers, shape ``[N]``.
            pos: Positions in Å, shape ``[N, 3]``, of any precision, as ``cell``.
            batch: Structure of each atom, shape ``[N]``; ``None`` for a single structure.
            cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``.
            pbc: Periodic directions, shape ``[B, 3]``.
            edge_index: Edges ``(j, i)``, shape ``[2, E]``; ``None`` builds the complete radius graph.
            edge_shift: Lattice images crossed by the given edges, shape ``[E, 3]``.
            batch_size: Number of structures B.
            forces: Whether to compute forces.
            stress: Whether to compute the stress.

        Returns:
            Energies in eV ``[B]``, forces in eV/Å ``[N, 3]``, stress in eV/Å³ ``[B, 3, 3]``, detached, in float64
            where the device has it.

        Raises:
            ValueError: If forces of a model that was not trained on them, or the stress of a structure whose cell has
                no volume are requested, or if an input does not fit.
        """
        if forces or stress:
            self.check.derivatives("forces and stress")
        z, pos, batch, given = self._inputs(z, pos, batch, cell, pbc, edge_index, edge_shift, batch_size)
        found: Any = energy_forces_stress(self.model, z, pos, batch, **given, forces=forces, stress=stress)
        _check_results(found)
        n_atoms = self._num_atoms(z, batch, found.energy.size(0))
        scale: Any = self.factor if n_atoms is None else self.factor * n_atoms  # of each structure
        of_atoms = scale if n_atoms is None or not forces else scale[_owner(z, batch)].unsqueeze(1)
        wide = wide_dtype(found.energy)
        return EnergyForcesStress(
            self._with_elements(scale * found.energy.to(wide), z, batch),
            of_atoms * found.forces.to(wide) if forces else None,
            (scale if n_atoms is None else scale.view(-1, 1, 1)) * found.stress.to(wide) if stress else None,
        )

    def energy(self, z: Tensor, pos: Tensor, batch: Tensor | None = None, **graph: Any) -> Tensor:
        """Energies in eV, shape ``[B]``, differentiable with respect to positions and cell; arguments as in the call.

        Example:
            >>> from pyg_schnet.derivatives import hessian
            >>> spring = lambda z, pos, batch: (pos[1] - pos[0]).square().sum().view(1)
            >>> hessian(Potential(spring, "eV").energy, torch.tensor([1, 1]), torch.zeros(2, 3))[0, 0, :, 0]
            tensor([ 2., -2.])
        """
        z, pos, batch, given = self._inputs(z, pos, batch, **graph)
        energy = self.model(z, pos, batch, **given)
        if not isinstance(energy, Tensor) or energy.dim() not in (1, 2):
            raise ValueError(f"the model must return energies, [B] or [B, 1]; got {described(energy)}")
        check_prediction(energy, "energy")
        energy = energy.squeeze(1) if energy.dim() == 2 else energy
        n_atoms = self._num_atoms(z, batch, energy.size(0))
        scale = self.factor if n_atoms is None else self.factor * n_atoms
        return self._with_elements(scale * energy.to(wide_dtype(energy)), z, batch)

    def hessian(self, z: Tensor, pos: Tensor, **graph: Any) -> Tensor:
        """Second derivatives of the energy of one structure in eV/Å², shape ``[N, 3, N, 3]``, as float64.

        They are exact, see :func:`pyg_schnet.derivatives.hessian`; arguments as in the call, without ``batch``.

        Raises:
            ValueError: If the model was not trained on forces.
        """
        self.check.derivatives("second derivatives")
        found = hessian(self.energy, z.to(self.device), pos.to(self.device, self.dtype), **graph)
        return found.to(wide_dtype(found))

    @torch.no_grad()
    def atom_energies(self, z: Tensor, pos: Tensor, batch: Tensor | None = None, **graph: Any) -> Tensor:
        """Contribution of each atom to the energy in eV, shape ``[N]``, as float64.

        Raises:
            TypeError: If the model is not one of this package.
        """
        z, pos, batch, given = self._inputs(z, pos, batch, **graph)
        values = atom_energies(self.model, z, pos, batch, **given)
        energies = self.factor * values.to(wide_dtype(values))
        return energies if self.element_energies is None else energies + self.element_energies[z, 0]

    @torch.no_grad()
    def atom_features(self, z: Tensor, pos: Tensor, batch: Tensor | None = None, **graph: Any) -> Tensor:
        """Features of each atom after all interactions ("descriptors"), shape ``[N, hidden_channels]``, as float64.

        They do not change when a structure is moved, turned or mirrored, and have no unit.

        Raises:
            TypeError: If the model is not one of this package.
        """
        z, pos, batch, given = self._inputs(z, pos, batch, **graph)
        features = atom_features(self.model, z, pos, batch, **given)
        return features.to(wide_dtype(features))

    def atom_virials(self, z: Tensor, pos: Tensor, batch: Tensor | None = None, **graph: Any) -> Tensor:
        """Share of each atom in the virial in eV, shape ``[N, 3, 3]``, as float64.

        Their sum is minus the stress times the volume. Half of the force along each edge times its vector goes to
        either end, see :func:`pyg_schnet.models.atomwise.atom_virials`; how a virial is divided among atoms is a
        convention, only sums are not.

        Raises:
            TypeError: If the model is not one of this package.
            ValueError: If the model was not trained on forces.
        """
        self.check.derivatives("virials of atoms")
        z, pos, batch, given = self._inputs(z, pos, batch, **graph)
        virials = atom_virials(self.model, z, pos, batch, **given)
        return self.factor * virials.to(wide_dtype(virials))

    def _inputs(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        edge_index: Tensor | None = None,
        edge_shift: Tensor | None = None,
        batch_size: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None, dict[str, Any]]:
        """Inputs of the model, on its device and in its precision, without those that are ``None``."""
        given: dict[str, Any] = {"cell": cell, "pbc": pbc, "edge_index": edge_index, "edge_shift": edge_shift}
        for name, value in (("z", z), ("pos", pos), ("batch", batch), *given.items()):
            if not isinstance(value, Tensor) and (value is not None or name in ("z", "pos")):
                raise ValueError(f"{name} must be a tensor, got {described(value)}")
        given = {name: value.to(self.device) for name, value in given.items() if value is not None}
        if cell is not None:
            given["cell"] = given["cell"].to(self.dtype)
        if batch_size is not None:
            given["batch_size"] = batch_size
        batch = None if batch is None else batch.to(self.device)
        return z.to(self.device), pos.to(self.device, self.dtype), batch, given

    def _num_atoms(self, z: Tensor, batch: Tensor | None, batch_size: int) -> Tensor | None:
        """Number of atoms of each structure without padding, for energies per atom; ``None`` otherwise."""
        if not self.per_atom:
            return None
        wide = wide_dtype(torch.empty(0, device=z.device))
        return torch.zeros(batch_size, dtype=wide, device=z.device).index_add(0, _owner(z, batch), (z > 0).to(wide))

    def _with_elements(self, energy: Tensor, z: Tensor, batch: Tensor | None) -> Tensor:
        """Energies ``[B]`` in eV with element energies added."""
        if self.element_energies is None:
            return energy
        own = self.element_energies[:, 0].index_select(0, z)
        return energy + own.sum() if batch is None else energy.index_add(0, batch, own)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, {self.dtype}, device={str(self.device)!r})"


def _check_results(found: EnergyForcesStress) -> None:
    """Raise unless energies and derivatives are finite; on other devices than CPUs where they leave for the host."""
    for name, value in zip(found._fields, found, strict=True):
        if value is None or not value.is_cpu:
            continue
        if not math.isfinite(value.item() if value.numel() == 1 else float(value.sum())):
            refuse_prediction(value, name)


def source_of(model: Any) -> Any:
    """Load a model from a file or the name of a pretrained one, unwrap frozen models; the mean of committees.

    Raises:
        TypeError: If it is a frozen committee.
    """
    model = load(model) if isinstance(model, (str, os.PathLike)) else model
    if not isinstance(model, FrozenModel):
        return as_one(model)
    if isinstance(model.model, SchNetCommittee):
        raise TypeError(
            "expected a model or a committee of models, got a frozen SchNetCommittee, whose members are no models of "
            "their own any more; give the committee itself, of which a frozen copy is made"
        )
    return model.model


def place_of(model: EnergyModel, device: str | torch.device | None = None) -> tuple[torch.device, torch.dtype]:
    """The given device or that of a model (the CPU for functions), and its widest floating point type."""
    if device is None:
        tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
        device = tensors[0].device if tensors else "cpu"
    device = torch.device(device)
    return device, torch.float32 if device.type == "mps" else torch.float64


def predicts_energy(model: EnergyModel, unit: str) -> bool:
    """Whether a model predicts energies by sums over atoms, or energies per atom by means.

    Args:
        model: Model; for models of other packages and functions only the unit counts.
        unit: Unit of its output.
    """
    quantity = dimension(unit)
    if not isinstance(model, AtomisticModel):
        return quantity in ("energy", "energy per atom")
    kind = {"energy": SumReadout, "energy per atom": MeanReadout}.get(quantity)
    return kind is not None and isinstance(model.readout, kind) and model.readout.out_channels == 1


def check_energy(model: EnergyModel, unit: str) -> None:
    """Check that :func:`predicts_energy` holds.

    Raises:
        ValueError: If the model does not predict energies.
    """
    if predicts_energy(model, unit):
        return
    if not isinstance(model, AtomisticModel):
        raise ValueError(f"energies are needed, but the unit {unit!r} is one of {dimension(unit)}")
    raise ValueError(
        f"energies (SumReadout) or energies per atom (MeanReadout) are needed; this model has {model.readout} in {unit}"
    )


def _is_sum_of_references(model: nn.Module) -> bool:
    """Whether the output of a model is a sum of element energies, shift and the rest."""
    return (
        isinstance(model, AtomisticModel)
        and type(model.readout) in (SumReadout, MeanReadout)
        and type(model).forward is AtomisticModel.forward
        and not any("forward" in vars(part) or _is_hooked(part) for part in (model, model.readout))
    )


def _is_hooked(part: nn.Module) -> bool:
    return any(value for name, value in vars(part).items() if name.endswith("_hooks") and "state_dict" not in name)


def _owner(z: Tensor, batch: Tensor | None) -> Tensor:
    return torch.zeros_like(z) if batch is None else batch

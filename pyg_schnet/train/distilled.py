"""Learning from another model besides the labels: of several runs, a network of the size of one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from pyg_schnet.models import AtomisticModel
from pyg_schnet.models.domain import Domain
from pyg_schnet.train.datamodule import StructureDataModule
from pyg_schnet.train.derivative import DerivativeTask
from pyg_schnet.train.files import name_of_model
from pyg_schnet.train.potential import PotentialTask
from pyg_schnet.train.teacher import Teacher


class _Distilled(DerivativeTask):
    """What tasks share that learn from a teacher; it is made when training begins, and is in no checkpoint."""

    teacher_weight: float
    displacement: float
    per_atom_energy: bool = False

    def _learn_from(self, teacher: str, weight: float, displacement: float) -> None:
        if weight < 0:
            raise ValueError(f"teacher_weight must not be negative, got {weight}")
        if not 0.0 <= displacement < 1.0:
            raise ValueError(f"displacement must be a length in Å, at least 0 and below 1, got {displacement}")
        self.teacher_weight, self.displacement = weight, displacement
        self.teacher = Teacher(teacher)

    def taught_weights(self) -> tuple[float, float]:
        """Weights of the property and of its gradients among what is learned from the teacher."""
        raise NotImplementedError

    def find_targets(self, data: StructureDataModule) -> None:
        """As other tasks; raises for a teacher of another property."""
        super().find_targets(data)
        self.teacher.set_target(self.property)

    def check(self, data: StructureDataModule) -> list[str]:
        """As other tasks; raises for a teacher that has learned from test structures."""
        self.teacher.check(data.split)
        return super().check(data)

    def export(self) -> AtomisticModel:
        """The trained network as a model of its own, whose card names the teacher."""
        model, teacher = super().export(), self.teacher.identity
        model.card["teacher"] = {"model": name_of_model(str(teacher.model)), "sha256": teacher.sha256}
        return model

    def _look_at(self, data: StructureDataModule) -> tuple[Domain, Any]:
        domain, loads = super()._look_at(data)
        known = Domain.of(self.teacher.card)
        learns_forces = self.teacher_weight > 0 and self.taught_weights()[1] > 0
        if learns_forces and known is not None and known.gradients == "forces":
            domain = replace(domain, gradients="forces")
        return domain, loads

    def loss_of_batch(self, batch: Batch) -> Tensor:
        """Loss of the labels, and of the difference from the teacher on displaced structures."""
        loss = super().loss_of_batch(batch)
        return loss + self.teacher_weight * self.taught(batch) if self.teacher_weight > 0 else loss

    def taught(self, batch: Batch) -> Tensor:
        """Loss of the difference from the teacher on displaced structures."""
        of_property, of_gradients = self.taught_weights()
        moved = displaced(batch, self.displacement)
        answer, wanted = self.teacher(moved, moved.pos, gradients=of_gradients > 0)
        found, forces = self(moved) if of_gradients == 0 else None, None
        if found is None:
            both: Any = self.energy_forces_stress(moved, stress=False)
            found, forces = both.energy, both.forces
        target = (answer - self.references(moved)).to(found.dtype).reshape(found.shape)
        if self.per_atom_energy:
            n_atoms = torch.bincount(batch.batch, minlength=batch.num_graphs).to(found.dtype)
            found, target = found / n_atoms, target / n_atoms
        share, of_atoms = self.shares([found.numel(), batch.num_nodes])
        loss = share * of_property * self.loss_of((found, target))
        if forces is not None and wanted is not None:
            loss = loss + of_atoms * of_gradients * self.loss_of((forces, wanted.to(forces.dtype)))
        return loss


class DistilledTask(_Distilled):
    r"""Learn a property from its labels and from a model that knows it already, such as the mean of several runs.

    .. math::
        \ell = L(P, \hat P) + w_t \Bigl[ L\bigl(P(\mathbf{r}'), T(\mathbf{r}')\bigr)
        + w_F\, L\bigl(\nabla P(\mathbf{r}'), \nabla T(\mathbf{r}')\bigr) \Bigr], \qquad
        \mathbf{r}'_i = \mathbf{r}_i + u_b\, d\, \boldsymbol\xi_i

    with the teacher T, normal random numbers ξ and a uniform one u in [0, 1] for each structure, drawn again in each
    step: from the training structures themselves up to displacements of d in each coordinate. Labels are of single
    structures, and have the noise of what the network cannot know; the teacher gives the same number to the same
    surroundings, and has it where there are no labels (`Hinton, Vinyals and Dean (2015)
    <https://arxiv.org/abs/1503.02531>`_).

    Args:
        network: See :class:`PropertyTask`; often of the size of one run.
        teacher: Model file, or name of a pretrained model, of the same property: one of ``pyg-schnet merge``, a
            committee, whose mean is taken, or any other.
        teacher_weight: Weight :math:`w_t`.
        teacher_gradients_weight: Weight :math:`w_F` of gradients with respect to positions in Å; they take three to
            five times the time.
        displacement: Standard deviation d of the largest displacements in Å; 0 leaves structures as they are.
        **kwargs: Options of :class:`PropertyTask`.

    Raises:
        ValueError: If a weight is negative or the displacement no length; in training, if the teacher predicts another
            property, or has learned from test structures.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        teacher: str,
        teacher_weight: float = 1.0,
        teacher_gradients_weight: float = 0.0,
        displacement: float = 0.05,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        if teacher_gradients_weight < 0:
            raise ValueError(f"teacher_gradients_weight must not be negative, got {teacher_gradients_weight}")
        self.teacher_gradients_weight = teacher_gradients_weight
        self._learn_from(teacher, teacher_weight, displacement)

    def taught_weights(self) -> tuple[float, float]:
        """One, and that of gradients."""
        return 1.0, self.teacher_gradients_weight


class DistilledPotentialTask(_Distilled, PotentialTask):
    """A :class:`PotentialTask` that learns energies and forces of a teacher too, see :class:`DistilledTask`.

    Args:
        network: Energy model, see :class:`PotentialTask`.
        teacher: Model file, or name of a pretrained model, of the same energies.
        teacher_weight: Weight of what is learned from it, where energies (of a structure or per atom) and forces have
            those of the labels; ``atom_weights`` are of labels alone.
        displacement: Standard deviation of the largest displacements in Å.
        **kwargs: Options of :class:`PotentialTask`.

    Raises:
        ValueError: As :class:`DistilledTask`.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        teacher: str,
        teacher_weight: float = 1.0,
        displacement: float = 0.05,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        self._learn_from(teacher, teacher_weight, displacement)

    def taught_weights(self) -> tuple[float, float]:
        """Those of energies and forces."""
        return self.energy_weight, self.forces_weight


def displaced(batch: Batch, size: float) -> Batch:
    """A batch of the same structures with displaced atoms, without edges.

    Args:
        batch: Structures.
        size: Standard deviation of the largest displacements in Å; each structure has a part of it, between 0 and 1.

    Example:
        >>> batch = Batch(z=torch.ones(4), pos=torch.zeros(4, 3), batch=torch.tensor([0, 0, 1, 1]), num_graphs=2)
        >>> moved = displaced(batch, 0.1)
        >>> 0 < moved.pos.abs().max() < 1, bool(batch.pos.any())
        (tensor(True), False)
    """
    moved = copy.copy(batch)
    for name in ("edge_index", "edge_shift"):
        if name in moved:
            del moved[name]
    if size > 0:
        pos, options = batch.pos, {"dtype": batch.pos.dtype}
        part = torch.rand(batch.num_graphs, 1, **options)[batch.batch.cpu()]  # of the CPU, whose numbers are resumed
        moved.pos = pos + (size * part * torch.randn(pos.shape, **options)).to(pos.device)
    return moved

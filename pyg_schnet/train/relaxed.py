"""Learning energies of relaxed structures, where their gradients are known without labels: they are zero."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from pyg_schnet.geometry import safe_norm
from pyg_schnet.train.task import PropertyTask


class Slopes(NamedTuple):
    """A property and its gradients.

    Attributes:
        value: Difference of the property from its references, in its unit U, shape ``[B]``.
        by_pos: Gradient by positions in U/Å, shape ``[N, 3]``.
        by_size: Gradient by the relative size of a structure, of positions and cell together, in U, shape ``[B]``.
    """

    value: Tensor
    by_pos: Tensor
    by_size: Tensor


class RelaxedTask(PropertyTask):
    r"""Learn an energy of relaxed structures, and that its gradients vanish there.

    .. math::
        \ell = L(P, \hat P) + \frac{w_F}{N} \sum_i \left\lVert \frac{\partial P}{\partial \mathbf{r}_i} \right\rVert
        + \frac{w_p}{B} \sum_b \left\lvert \frac{\partial P_b}{\partial s_b} \right\rvert_{s_b = 1}

    where s scales positions and cell of a structure. Data sets of relaxed structures have one number for each, the
    energy at the minimum. That it is one tells the network how energies depend on distances, and keeps it from telling
    structures apart by their distances alone, which helps where there are few. So do other properties that differ
    from the energy by what belongs to the elements, such as heats of formation; others (dipoles, gaps, frequencies)
    have no minimum there.

    Args:
        network: See :class:`PropertyTask`.
        forces_weight: Weight :math:`w_F` in Å.
        pressure_weight: Weight :math:`w_p`; 0 where atoms were relaxed in cells that were not.
        **kwargs: Options of :class:`PropertyTask`.

    Raises:
        ValueError: If a weight is negative.
    """

    def __init__(
        self, network: nn.Module, *, forces_weight: float = 0.05, pressure_weight: float = 0.01, **kwargs: Any
    ) -> None:
        super().__init__(network, **kwargs)
        if min(forces_weight, pressure_weight) < 0:
            raise ValueError(f"weights must not be negative, got forces {forces_weight}, pressure {pressure_weight}")
        self.forces_weight = forces_weight
        self.pressure_weight = pressure_weight

    def slopes(self, batch: Batch) -> Slopes:
        """The property of a batch and its gradients, all of which can be differentiated by weights."""
        pos, index, extra = self.inputs(batch)
        pos = pos.detach().requires_grad_(True)
        size = pos.new_ones(batch.num_graphs, 1, requires_grad=True)
        if "cell" in extra:
            extra["cell"] = extra["cell"] * size.unsqueeze(-1)
        value = self.difference(batch.z, pos * size.index_select(0, index), index, extra)
        by_pos, by_size = torch.autograd.grad(value.sum(), [pos, size], create_graph=True)
        return Slopes(value, by_pos, by_size.squeeze(-1))

    def loss_of_batch(self, batch: Batch) -> Tensor:
        """Loss of the property and of its gradients."""
        found = self.slopes(batch)
        loss = self.loss_of(self.pair(found.value, batch))
        loss = loss + self.forces_weight * safe_norm(found.by_pos).mean()
        return loss + self.pressure_weight * found.by_size.abs().mean()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients by weights alone; those by positions would be computed for nothing."""
        loss.backward(*args, inputs=[weight for weight in self.parameters() if weight.requires_grad], **kwargs)

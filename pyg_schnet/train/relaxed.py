"""Learning energies of relaxed structures, where their gradients are known without labels: they are zero."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch_geometric.data import Batch

from pyg_schnet.geometry import safe_norm
from pyg_schnet.train.derivative import DerivativeTask


class RelaxedTask(DerivativeTask):
    r"""Learn an energy of relaxed structures, and that its gradients vanish there.

    .. math::
        \ell = L(P, \hat P) + \frac{w_F}{N} \sum_i \left\lVert \frac{\partial P}{\partial \mathbf{r}_i} \right\rVert
        + \frac{w_p}{B} \sum_b \left\lvert \frac{\partial P_b}{\partial s_b} \right\rvert_{s_b = 1}

    where s scales positions and cell of a structure, so the last gradient is the trace of the virial. Data sets of
    relaxed structures have one number for each, the energy at the minimum. That it is one tells the network how
    energies depend on distances; of perovskites (``examples/recipes/perovskites.yaml``) it then learns more. The same
    holds for properties that differ from the energy by what belongs to the elements, such as heats of formation;
    others (dipoles, gaps, frequencies) have no minimum there.

    Args:
        network: See :class:`PropertyTask`.
        forces_weight: Weight :math:`w_F` in Å.
        pressure_weight: Weight :math:`w_p`; 0 for molecules, and where atoms were relaxed in cells that were not.
        **kwargs: Options of :class:`PropertyTask`.

    Raises:
        ValueError: If a weight is negative; in training, if there is a weight of the pressure and the cell of a
            structure has no volume.
    """

    def __init__(
        self, network: nn.Module, *, forces_weight: float = 0.05, pressure_weight: float = 0.01, **kwargs: Any
    ) -> None:
        super().__init__(network, **kwargs)
        if min(forces_weight, pressure_weight) < 0:
            raise ValueError(f"weights must not be negative, got forces {forces_weight}, pressure {pressure_weight}")
        self.forces_weight = forces_weight
        self.pressure_weight = pressure_weight

    def gradient_labels(self) -> dict[str, Any]:
        """That gradients vanish at the training structures."""
        return {"relaxed": max(self.forces_weight, self.pressure_weight) > 0}

    def loss_of_batch(self, batch: Batch) -> Tensor:
        """Loss of the property and of its gradients."""
        found: Any = self.energy_forces_stress(batch, stress=self.pressure_weight > 0)
        pair = self.pair(found.energy, batch)
        share, of_atoms, of_structures = self.shares([self.count_of(pair), batch.num_nodes, batch.num_graphs])
        loss = share * self.loss_of(pair) + of_atoms * self.forces_weight * safe_norm(found.forces).mean()
        if self.pressure_weight > 0:
            grad_size = found.virial(batch.cell.to(found.energy.dtype)).diagonal(dim1=1, dim2=2).sum(1)
            loss = loss + of_structures * self.pressure_weight * grad_size.abs().mean()
        return loss

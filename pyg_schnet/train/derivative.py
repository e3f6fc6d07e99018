"""What tasks share whose loss has derivatives of an energy with respect to positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ase.geometry import complete_cell
from torch import Tensor
from torch_geometric.data import Batch

from pyg_schnet.data import Property
from pyg_schnet.derivatives import EnergyForcesStress, energy_forces_stress
from pyg_schnet.neighbors.lattice import complete_cell as complete_on_device
from pyg_schnet.ops.dispatch import is_at_hand
from pyg_schnet.train.task import PropertyTask


class DerivativeTask(PropertyTask):
    """A :class:`PropertyTask` that has derivatives of the property, which can be differentiated again in training."""

    def learn(self, targets: Sequence[Property]) -> None:
        """Say which energy is learned.

        Raises:
            ValueError: If there are several, of which derivatives are not learned together.
        """
        if len(targets) > 1:
            raise ValueError(
                f"a {type(self).__name__} learns one energy with its derivatives, got {len(targets)} targets; name "
                "one, or learn several properties by PropertyTask"
            )
        super().learn(targets)

    def energy_forces_stress(self, batch: Batch, *, stress: bool, partly: bool = False) -> EnergyForcesStress:
        """Energies relative to the references, forces, and stress of a batch.

        See :func:`pyg_schnet.derivatives.energy_forces_stress`.

        Args:
            batch: Structures.
            stress: Whether to compute the stress.
            partly: Whether structures whose cells have no volume are allowed beside others, although they have no
                stress; theirs is then a number without meaning.
        """
        pos, index, extra = self.inputs(batch)
        size = batch.num_graphs
        cell, pbc = extra.get("cell"), extra.get("pbc")
        boundaries = {} if pbc is None else {"pbc": pbc}
        if stress and partly and cell is not None and pbc is not None:
            cell = with_volume(cell)

        def energy(z: Tensor, pos: Tensor, batch: Tensor, **given: Any) -> Tensor:
            given = {name: value for name, value in given.items() if name in extra}
            return self.difference(z, pos, batch, {**given, **boundaries})

        return energy_forces_stress(
            energy,
            batch.z,
            pos,
            index,
            cell=cell,
            pbc=pbc,
            edge_index=extra.get("edge_index"),
            edge_shift=extra.get("edge_shift"),
            batch_size=size,
            stress=stress,
            create_graph=self.training,
        )

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients with respect to weights alone; those with respect to positions would be computed for nothing."""
        kwargs = {"inputs": [weight for weight in self.parameters() if weight.requires_grad], **kwargs}
        loss.backward(*args, **kwargs)


def with_volume(cell: Tensor) -> Tensor:
    """Lattice vectors, with vectors of 1 Å across instead of those that are zero, so that each cell has a volume.

    Args:
        cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``.

    Example:
        >>> with_volume(torch.diag(torch.tensor([3.0, 2.0, 0.0])).unsqueeze(0))[0].diagonal()
        tensor([3., 2., 1.])
    """
    missing = (cell == 0).all(-1)  # [B, 3]
    if not is_at_hand(missing):  # nothing waits for a device
        return torch.where(missing.unsqueeze(-1), complete_on_device(cell, ~missing), cell)
    if not bool(missing.any()):
        return cell
    cell = cell.clone()
    for row in missing.any(1).nonzero().flatten().tolist():
        completed = complete_cell(cell[row].detach().cpu().double().numpy())
        cell[row] = torch.as_tensor(completed, dtype=cell.dtype, device=cell.device)
    return cell

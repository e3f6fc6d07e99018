"""What tasks share whose loss has derivatives of an energy by positions."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch_geometric.data import Batch

from pyg_schnet.nn import Response, respond
from pyg_schnet.train.task import PropertyTask


class DerivativeTask(PropertyTask):
    """A :class:`PropertyTask` that has derivatives of the property, which can be differentiated again in training."""

    def respond(self, batch: Batch, *, stress: bool) -> Response:
        """Energies relative to the references, forces, and stress of a batch; see :func:`pyg_schnet.nn.respond`."""
        pos, index, extra = self.inputs(batch)
        size = batch.num_graphs

        def energy(z: Tensor, pos: Tensor, batch: Tensor, **given: Any) -> Tensor:
            given = {name: value for name, value in given.items() if name in extra}
            return self.difference(z, pos, batch, given)

        return respond(
            energy,
            batch.z,
            pos,
            index,
            cell=extra.get("cell"),
            pbc=extra.get("pbc"),
            edge_index=extra.get("edge_index"),
            edge_shift=extra.get("edge_shift"),
            batch_size=size,
            stress=stress,
            create_graph=self.training,
        )

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients by weights alone; those by positions would be computed for nothing."""
        loss.backward(*args, inputs=[weight for weight in self.parameters() if weight.requires_grad], **kwargs)

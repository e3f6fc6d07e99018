"""Which references a network's property has, and how a network is freed of them for training."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch_geometric.nn.aggr import MeanAggregation, SumAggregation
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet.models import AtomisticModel
from pyg_schnet.nn import MaxReadout, MeanReadout, SumReadout

Pooling = Literal["sum", "mean", "max", "none"]


def pooling_of(network: nn.Module) -> Pooling:
    """How a network pools its atoms: ``"sum"``, ``"mean"``, ``"max"``, or ``"none"`` for dipoles and the like.

    Args:
        network: A model of this package or PyG's SchNet.

    Raises:
        ValueError: If the network is another one; then it has to be stated.

    Example:
        >>> from pyg_schnet import SchNet
        >>> pooling_of(SchNet(16, 16, 1, readout="mean"))
        'mean'
    """
    readout = getattr(network, "readout", None)
    if isinstance(readout, SumReadout):
        return "sum"
    if isinstance(readout, MeanReadout):
        return "mean"
    if isinstance(readout, MaxReadout):
        return "max"
    if isinstance(network, AtomisticModel):
        return "none"
    if isinstance(network, PyGSchNet):
        if network.dipole:
            return "none"
        if isinstance(readout, SumAggregation):
            return "sum"
        if isinstance(readout, MeanAggregation):
            return "mean"
    raise ValueError(
        f"it cannot be seen whether a {type(network).__name__} sums its atoms or averages them; "
        "say pooling='sum', 'mean', 'max' or 'none'"
    )


def fold_statistics(model: AtomisticModel, scale: Tensor, atomref: Tensor | None) -> None:
    """Make a model give ``scale`` times its output plus references, by its own statistics.

    Args:
        model: Model; changed in place.
        scale: Factor on the output, one number.
        atomref: References to set, shape ``[MAX_Z + 1, out_channels]``, for sums, means and maxima.
    """
    readout = model.readout
    with torch.no_grad():
        readout.scale.mul_(scale.to(readout.scale))
        if isinstance(readout, (SumReadout, MeanReadout, MaxReadout)):
            readout.shift.mul_(scale.to(readout.shift))
            readout.set_references(atomref.to(readout.atomref))

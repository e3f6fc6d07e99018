"""Which references a network's property has, and how a network is freed of them for training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn.aggr import MeanAggregation, SumAggregation
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet.data import Property, target_mask, target_values
from pyg_schnet.models import AtomisticModel
from pyg_schnet.nn import (
    ElectronicSpatialExtentReadout,
    HeadsReadout,
    MaxReadout,
    MeanReadout,
    SumReadout,
    ZBLRepulsion,
    fit_atom_references,
)
from pyg_schnet.units import dimension, factor

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
    if isinstance(network, AtomisticModel) or isinstance(readout, (SumReadout, MeanReadout, MaxReadout)):
        return pooling_of_readout(readout)
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


def pooling_of_readout(readout: Any) -> Pooling:
    """How a readout of this package pools atoms; ``"none"`` for those of charges, and for several heads together."""
    if isinstance(readout, HeadsReadout) and len(readout.columns) == 1:
        return pooling_of_readout(readout.heads[0])
    kinds: dict[type, Pooling] = {SumReadout: "sum", MeanReadout: "mean", MaxReadout: "max"}
    return next((pooling for cls, pooling in kinds.items() if isinstance(readout, cls)), "none")


def fits_itself(readout: Any) -> bool:
    """Whether a readout has references of its own, fitted to compositions and positions: those of spatial extents."""
    return isinstance(readout, ElectronicSpatialExtentReadout) and readout.own_extent


def fit_extents(readout: Any, batches: Iterable[Batch], target: Property) -> Tensor:
    """Fit the references and scales that a readout of spatial extents keeps itself.

    Args:
        readout: The readout; changed in place.
        batches: Training structures, some at a time.
        target: What is learned.

    Returns:
        Standard deviation of what references leave of the target.
    """
    terms, values = [], []
    for batch in batches:
        mask = target_mask(batch, target)
        keep = slice(None) if mask is None else mask.view(-1)
        device = readout.references.device
        inputs = [one.to(device) for one in (batch.z, batch.pos, batch.batch)]
        terms.append(readout.reference_terms(*inputs, batch.num_graphs)[keep])
        values.append(target_values(batch, target).reshape(batch.num_graphs)[keep].to(terms[-1]))
    return readout.fit(torch.cat(terms), torch.cat(values))


def fit_statistics(counts: Tensor, target: Tensor, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """References of the elements, and the scale of what they leave.

    Args:
        counts: Atoms of each element in each structure, shape ``[B, MAX_Z + 1]``.
        target: Property of each structure, shape ``[B]`` or ``[B, C]``.
        pooling: How the network pools its atoms.

    Returns:
        References ``[MAX_Z + 1, C]``, zero for ``"none"``; and standard deviations ``[C]`` of what is left, per atom
        for sums. For ``"none"`` with several numbers, which are the components of a vector, it is ``[1]``: their root
        mean square. Where references leave nothing but rounding, the scale is 1.

    Example:
        >>> counts = torch.zeros(4, 100)
        >>> counts[:, 1] = torch.tensor([1.0, 2.0, 1.0, 2.0])
        >>> atomref, scale = fit_statistics(counts, torch.tensor([2.0, 4.0, 4.0, 8.0]), "sum")
        >>> round(float(atomref[1]), 4), round(float(scale), 4)
        (3.0, 1.0)
    """
    target = target.to(torch.float64).reshape(len(target), -1)
    n_atoms = counts.sum(1, keepdim=True).clamp(min=1.0)
    atomref = torch.zeros(counts.size(1), target.size(1), dtype=torch.float64)
    residual = target
    if pooling == "max":  # the largest of atoms that are all raised by the same is raised by it
        atomref[1:] = target.mean(0)  # 0 is padding
        residual = target - target.mean(0)
    elif pooling != "none":
        weights = counts if pooling == "sum" else counts / n_atoms
        atomref = fit_atom_references(weights, target)
        residual = target - weights.to(torch.float64) @ atomref
    if pooling == "sum":
        residual, target = residual / n_atoms, target / n_atoms
    if pooling == "none" and target.size(1) > 1:
        spread = residual.square().mean().sqrt().reshape(1)
    else:
        spread = residual.std(0, correction=0)
    size = target.square().mean() if pooling == "none" else target.square().mean(0)
    rounding = 3e-7 * size.sqrt()
    return atomref, torch.where(spread > rounding, spread, 1.0)  # references are float32 numbers


def fold_statistics(model: AtomisticModel, scale: Tensor, atomref: Tensor | None) -> None:
    """Make a model give ``scale`` times its output plus references, by its own statistics.

    Args:
        model: Model; changed in place.
        scale: Factor on the output, one number, or one for each.
        atomref: References to set, shape ``[MAX_Z + 1, out_channels]``, for sums, means and maxima.
    """
    readout: Any = model.readout
    with torch.no_grad():
        if isinstance(readout, HeadsReadout):
            start = 0
            for head in cast(Any, readout.heads):
                columns = slice(start, start + head.out_channels)
                _fold(head, scale if scale.numel() == 1 else scale[columns], cast(Tensor, atomref)[:, columns])
                start = columns.stop
        else:
            _fold(readout, scale, atomref)
        if model.repulsion is not None:
            cast(Any, model.repulsion).scale.mul_(scale.to(readout.scale).reshape(()))


def _fold(readout: Any, scale: Tensor, atomref: Tensor | None) -> None:
    pooled = isinstance(readout, (SumReadout, MeanReadout, MaxReadout))
    if not pooled and scale.numel() > 1:  # the same for all components of a vector
        scale = scale[0]
    readout.scale.mul_(scale.reshape(readout.scale.shape if scale.numel() > 1 else ()).to(readout.scale))
    if fits_itself(readout):
        readout.references.mul_(scale.to(readout.references))
    if pooled:
        readout.shift.mul_(scale.to(readout.shift))
        readout.set_references(cast(Tensor, atomref).to(readout.atomref))


def scale_repulsion(network: Any, target: Property | None, scale: Tensor) -> None:
    """Make the repulsion of a network, which a task multiplies by its scale, one in the unit of the property.

    Args:
        network: Network of a task; those without a repulsion are left as they are.
        target: The property, energies or energies per atom.
        scale: Factor of the task on the output, one number.
    """
    repulsion = getattr(network, "repulsion", None)
    if isinstance(repulsion, ZBLRepulsion) and target is not None:
        own = factor("eV/atom" if dimension(target.unit) == "energy per atom" else "eV", target.unit)
        repulsion.scale.copy_(own / scale.reshape(()))

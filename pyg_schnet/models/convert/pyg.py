"""To and from PyTorch Geometric's ``torch_geometric.nn.models.SchNet``: same weights, same outputs."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn
from torch_geometric.nn.aggr import MeanAggregation, SumAggregation
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet.models.schnet import SchNet
from pyg_schnet.models.structure import check_described
from pyg_schnet.neighbors import InteractionGraph
from pyg_schnet.nn import CosineCutoff, DipoleReadout, MeanReadout, Readout, SumReadout
from pyg_schnet.nn.atomref import MAX_Z
from pyg_schnet.ops.checks import check_finite

_BLOCK = {  # ours -> PyG's, within one interaction block
    "lin_in": "conv.lin1",
    "lin1": "conv.lin2",
    "lin2": "lin",
    "conv.filter_network.lin1": "mlp.0",
    "conv.filter_network.lin2": "mlp.2",
}
_READOUT = {"network.lin1": "lin1", "network.lin2": "lin2"}


_AFTER_SOFTPLUS = ("lin2", "conv.filter_network.lin2", "network.lin2")  # ours


def _copy_layer(source: nn.Linear, target: nn.Linear, shift: float) -> None:
    """Copy a dense layer to one whose inputs are smaller by ``shift``; the bias makes up for it."""
    with torch.no_grad():
        target.weight.copy_(source.weight)
        if source.bias is not None:
            target.bias.copy_(source.bias + shift * source.weight.sum(1))


def pair_layers(ours: SchNet, theirs: PyGSchNet) -> list[tuple[nn.Linear, nn.Linear, float]]:
    """All dense layers of the two models in pairs, and by how much PyG's inputs are smaller than ours.

    PyG's softplus is shifted by ln 2 rounded to float32, which in float64 would leave a difference of 1e-8.
    """
    places: list[tuple[nn.Module, Any, str, str]] = [(ours.readout, theirs, a, b) for a, b in _READOUT.items()]
    for t, their_block in enumerate(theirs.interactions):
        our_block = ours.interactions[t % len(ours.interactions)]
        places += [(our_block, their_block, a, b) for a, b in _BLOCK.items()]
    excess = theirs.act.shift - math.log(2.0)
    return [
        (cast(nn.Linear, mine.get_submodule(a)), yours.get_submodule(b), excess if a in _AFTER_SOFTPLUS else 0.0)
        for mine, yours, a, b in places
    ]


def from_pyg(model: PyGSchNet) -> SchNet:
    """SchNet with the weights and outputs of PyTorch Geometric's, dipole, mean/std, references and scale included.

    Outputs agree wherever PyG's graph is complete; PyG drops neighbours beyond ``max_num_neighbors`` (32 unless told
    otherwise), which this model does not.

    Args:
        model: A ``torch_geometric.nn.models.SchNet``.

    Returns:
        The model, in the precision, on the device and in the mode (training or not) of the given one.

    Raises:
        TypeError: If ``model`` is no SchNet of PyTorch Geometric.
        ValueError: If its pooling is neither sum nor mean.
    """
    if not isinstance(model, PyGSchNet):
        raise TypeError(f"from_pyg takes a torch_geometric.nn.models.SchNet, got {type(model).__name__}")
    ours = SchNet(
        hidden_channels=model.hidden_channels,
        num_filters=model.num_filters,
        num_interactions=model.num_interactions,
        num_gaussians=model.num_gaussians,
        cutoff=model.cutoff,
        gamma=-model.distance_expansion.coeff,
        readout=_readout_from_pyg(model),
        activate_filters=False,
    ).to(model.embedding.weight)
    with torch.no_grad():
        ours.embedding.weight.copy_(model.embedding.weight)
        block: Any
        for block in ours.interactions:
            block.conv.filter_network.basis.centers.copy_(model.distance_expansion.offset)
    for our_layer, their_layer, excess in pair_layers(ours, model):
        _copy_layer(their_layer, our_layer, -excess)
    if isinstance(ours.readout, DipoleReadout):
        ours.readout.scale.fill_(1.0 if model.scale is None else model.scale)
        ours.readout.atomic_mass[1:].copy_(model.atomic_mass[1 : MAX_Z + 1])
    elif isinstance(ours.readout, (SumReadout, MeanReadout)):
        _statistics_from_pyg(ours.readout, model)
    check_finite(ours.state_dict().items(), "the model of PyTorch Geometric")
    return ours.train(model.training)


def _readout_from_pyg(model: PyGSchNet) -> Readout:
    """Readout of the same kind as PyG's; its numbers are copied later."""
    if model.dipole:
        return DipoleReadout(model.hidden_channels, magnitude=True, neutralize=False)
    if isinstance(model.readout, SumAggregation):
        return SumReadout(model.hidden_channels)
    if isinstance(model.readout, MeanAggregation):
        return MeanReadout(model.hidden_channels)
    raise ValueError(f"PyG's readout must be a sum or a mean to be converted, got {model.readout}")


def _statistics_from_pyg(readout: SumReadout | MeanReadout, model: PyGSchNet) -> None:
    """Copy mean, std, references and scale, which PyG applies in this order."""
    scale = 1.0 if model.scale is None else model.scale
    if model.mean is not None and model.std is not None:
        readout.scale.fill_(scale * model.std)
        readout.shift.fill_(scale * model.mean)
    else:
        readout.scale.fill_(scale)
    if model.atomref is not None:
        readout.set_references(scale * model.atomref.weight.detach())


def to_pyg(model: SchNet) -> PyGSchNet:
    """PyTorch Geometric's SchNet with the weights and outputs of ours.

    Its ``interaction_graph`` is :class:`pyg_schnet.neighbors.InteractionGraph`, so it sees every neighbour and runs
    without pyg-lib. Shared interaction blocks are copied.

    Args:
        model: A SchNet that PyG can express: cosine window, no softplus after the filters, no normalisation, fixed
            Gaussians, and a readout by sum, mean, or dipole magnitude without charge correction.

    Returns:
        The model, in the precision, on the device and in the mode (training or not) of the given one.

    Raises:
        ValueError: If PyG has no such model; the message lists what it lacks.
    """
    check_described(model, "expressed by PyTorch Geometric's SchNet")
    lacking = _lacking_in_pyg(model)
    if lacking:
        raise ValueError(f"PyTorch Geometric's SchNet cannot express this model: it has {'; '.join(lacking)}")
    readout = model.readout
    theirs = PyGSchNet(
        hidden_channels=model.hidden_channels,
        num_filters=model.num_filters,
        num_interactions=model.num_interactions,
        num_gaussians=model.num_gaussians,
        cutoff=model.cutoff,
        interaction_graph=InteractionGraph(model.cutoff),
        readout="mean" if isinstance(readout, MeanReadout) else "add",
        dipole=isinstance(readout, DipoleReadout),
        atomref=getattr(readout, "atomref", None),
        **_statistics_to_pyg(readout),
    ).to(model.embedding.weight)
    if isinstance(readout, DipoleReadout):
        theirs.scale = readout.scale.item()
        theirs.atomic_mass[1 : MAX_Z + 1] = readout.atomic_mass[1:]
    basis = cast(Any, model.interactions[0]).conv.filter_network.basis
    with torch.no_grad():
        theirs.embedding.weight.copy_(model.embedding.weight)
        theirs.distance_expansion.offset.copy_(basis.centers)
        if theirs.atomref is not None:  # PyG has put it through float32
            theirs.atomref.weight.copy_(readout.atomref)
            theirs.initial_atomref.copy_(readout.atomref)
    theirs.distance_expansion.coeff = -basis.gamma
    for our_layer, their_layer, excess in pair_layers(model, theirs):
        _copy_layer(our_layer, their_layer, excess)
    return theirs.train(model.training)


def _statistics_to_pyg(readout: Any) -> dict[str, Any]:
    if isinstance(readout, DipoleReadout):
        return {}
    return {"mean": readout.shift.item(), "std": readout.scale.item()}


def _lacking_in_pyg(model: SchNet) -> list[str]:
    """What of a model PyG's SchNet has no word for."""
    readout = model.readout
    lacking = []
    if model.activate_filters:
        lacking.append("a softplus after the filter network (activate_filters=True)")
    if not all(isinstance(cast(Any, block).conv.filter_network.window, CosineCutoff) for block in model.interactions):
        lacking.append("a window other than the cosine")
    if model.normalize:
        lacking.append("convolutions divided by the number of neighbours (normalize=True)")
    if model.trainable_gaussians:
        lacking.append("trainable Gaussians")
    if model.repulsion is not None:
        lacking.append("a repulsion of close atoms")
    if not isinstance(readout, (SumReadout, MeanReadout, DipoleReadout)):
        lacking.append(f"a {type(readout).__name__}")
    elif isinstance(readout, DipoleReadout):
        if not readout.magnitude or readout.neutralize or readout.origin != "mass":
            lacking.append("a dipole that is a vector, of corrected charges, or not about the centre of mass")
    elif readout.out_channels != 1:
        lacking.append(f"{readout.out_channels} outputs")
    if getattr(readout, "activation", "ssp") != "ssp":
        lacking.append(f"the activation {readout.activation!r} in the readout")
    return lacking

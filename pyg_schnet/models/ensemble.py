r"""Joining several SchNets into a wider one whose output is their mean.

Models trained from different initial weights make different errors, and their mean makes smaller ones. With
block-diagonal dense layers they form one SchNet, which is evaluated and saved like any other:

.. math::
    \mathbf{x} = \mathbf{x}_1 \oplus \dots \oplus \mathbf{x}_K, \qquad
    \mathrm{W} = \mathrm{W}_1 \oplus \dots \oplus \mathrm{W}_K, \qquad
    P = \frac{1}{K} \sum_k P_k
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyg_schnet.models.schnet import SchNet
from pyg_schnet.models.structure import check_described
from pyg_schnet.nn import MeanReadout, SumReadout

_WIDTHS = ("hidden_channels", "num_filters", "readout", "filters", "num_grid_points")


@torch.no_grad()
def join_ensemble(models: Sequence[SchNet]) -> SchNet:
    """Join models into one SchNet whose output is their mean.

    Args:
        models: Models that differ only in weights and numbers of features and filters, with a sum or a mean as readout.

    Returns:
        Model with the features and filters of all together, in the precision of the first one and in evaluation mode.
        Its card has the common entries of their cards, the elements that all of them know, and the domain that all
        of them were trained on.

    Raises:
        ValueError: If there are no models, or they differ in anything else, which the message names.

    Example:
        >>> models = [SchNet(16, 16, 2, cutoff=5.0).eval() for _ in range(3)]
        >>> z, pos = torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        >>> mean = torch.stack([model(z, pos) for model in models]).mean(0)
        >>> torch.testing.assert_close(join_ensemble(models)(z, pos), mean, rtol=1e-5, atol=1e-5)
    """
    models = list(models)
    check_joinable(models)
    first = models[0]
    readouts = [cast("SumReadout | MeanReadout", model.readout) for model in models]
    readout = readouts[0]
    hidden = sum(model.hidden_channels for model in models)
    inner = sum(one.network.lin1.weight.size(0) for one in readouts)
    if inner != hidden // 2:
        sizes = ", ".join(str(model.hidden_channels) for model in models)
        raise ValueError(f"models with an odd number of features cannot be merged, got {sizes}")
    merged = SchNet(
        **{
            **first.config,
            "hidden_channels": hidden,
            "num_filters": sum(model.num_filters for model in models),
            "readout": type(readout)(hidden, readout.out_channels, activation=readout.activation),
        }
    ).to(first.embedding.weight.dtype)
    _set(merged, models, lambda model: model.embedding, _beside)
    for t in range(len(merged.interactions)):
        for name, join in _BLOCK.items():
            _set(merged, models, partial(_layer, t, name), join)
    _set(merged, models, lambda model: model.readout.network.lin1, _diagonal)
    scales = [one.scale / len(models) for one in readouts]
    last = [one.network.lin2 for one in readouts]
    pairs = list(zip(last, scales, strict=True))
    joined = cast("SumReadout | MeanReadout", merged.readout).network.lin2
    joined.weight.copy_(torch.cat([layer.weight * s.unsqueeze(-1) for layer, s in pairs], dim=1))
    joined.bias.copy_(torch.stack([layer.bias * scale for layer, scale in pairs]).sum(0))
    for name in ("shift", "atomref"):
        getattr(merged.readout, name).copy_(torch.stack([getattr(model.readout, name) for model in models]).mean(0))
    if first.repulsion is not None:
        cast(nn.Module, merged.repulsion).load_state_dict(first.repulsion.state_dict())
    merged.card = common_card([model.card for model in models])
    return merged.eval()


def common_card(cards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Common entries of cards, the elements that all models know, and the domain that all were trained on.

    Args:
        cards: Cards of the models.
    """
    from pyg_schnet.models.domain import ENTRY, common_domain  # has names of elements from ASE, which no model needs

    first, *others = cards
    card = {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
    card.pop(ENTRY, None)
    card.pop("calibration", None)  # of the spread, which a mean does not have
    if (domain := common_domain(cards)) is not None:
        card[ENTRY] = domain.as_json()
    if all("elements" in one for one in cards):
        card["elements"] = [symbol for symbol in first["elements"] if all(symbol in one["elements"] for one in cards)]
    return card


def check_joinable(models: Sequence[SchNet]) -> None:
    """Raise unless models differ in weights and widths only, and have a sum or a mean as readout.

    Args:
        models: The models.

    Raises:
        ValueError: If there are none, or they differ in anything else, which the message names.
    """
    if not models:
        raise ValueError("there are no models to merge")
    first = models[0]
    for model in models:
        if type(model) is not SchNet or type(model.readout) not in (SumReadout, MeanReadout):
            raise ValueError(
                f"only SchNets with a sum or a mean as readout can be merged, got a {type(model).__name__} with "
                f"{type(getattr(model, 'readout', None)).__name__}"
            )
        check_described(model, "merged")
        kinds = [(one.readout.out_channels, one.readout.activation, type(one.readout)) for one in (first, model)]
        given = [{name: value for name, value in one.config.items() if name not in _WIDTHS} for one in (first, model)]
        names = given[0].keys() | given[1].keys()
        different = sorted(name for name in names if given[0].get(name) != given[1].get(name))
        if kinds[0] != kinds[1]:
            different.append("readout")
        if different:
            raise ValueError(f"models that are merged must have the same {', '.join(different)}")
        if model.trainable_gaussians:
            raise ValueError("models with Gaussians of their own (trainable_gaussians) cannot be merged")
        scales = [getattr(one.repulsion, "scale", None) for one in (first, model)]
        if scales[0] is not None and not torch.equal(scales[0], cast(Tensor, scales[1])):
            raise ValueError("models that are merged must have repulsions in the same unit")
        units = [one.card.get("unit") for one in (first, model)]
        if units[0] != units[1]:
            raise ValueError(f"models that are merged must have the same unit, got {units[0]} and {units[1]}")


def _set(
    merged: SchNet,
    models: Sequence[SchNet],
    layer_of: Callable[[Any], nn.Linear | nn.Embedding],
    join: Callable[[Sequence[Tensor]], Tensor],
) -> None:
    """Join the weights of a layer of all models, and concatenate its biases."""
    layer, layers = layer_of(merged), [layer_of(model) for model in models]
    layer.weight.copy_(join([one.weight for one in layers]))
    bias = getattr(layer, "bias", None)
    if bias is not None:
        bias.copy_(torch.cat([cast(Tensor, one.bias) for one in layers]))


def _beside(weights: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(weights), dim=1)


def _below(weights: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(weights), dim=0)


def _diagonal(weights: Sequence[Tensor]) -> Tensor:
    return torch.block_diag(*weights)


def _layer(t: int, name: str, model: SchNet) -> nn.Linear:
    return cast(nn.Linear, model.interactions[t].get_submodule(name))


_BLOCK = {
    "lin_in": _diagonal,
    "lin1": _diagonal,
    "lin2": _diagonal,
    "conv.filter_network.lin1": _below,
    "conv.filter_network.lin2": _diagonal,
}

"""Models of several targets: what their cards say, and the model of one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from pyg_schnet.models.parts import describe_readout
from pyg_schnet.nn import HeadsReadout, Readout

Model = TypeVar("Model", bound=nn.Module)

ENTRY = "targets"
"""Entry of a card with the targets of a model of several, by name, each with its unit."""


class Target(Protocol):
    """What a card says of a target."""

    @property
    def name(self) -> str:
        """Name of the target."""

    @property
    def unit(self) -> str:
        """Unit of the target."""


def card_of_targets(targets: Sequence[Target]) -> dict[str, Any]:
    """Entries of a card: ``target`` and ``unit`` of one, ``targets`` of several.

    Example:
        >>> from pyg_schnet.data.properties import QM9_PROPERTIES
        >>> card_of_targets([QM9_PROPERTIES["mu"], QM9_PROPERTIES["gap"]])
        {'targets': {'mu': {'unit': 'D'}, 'gap': {'unit': 'eV'}}}
    """
    if len(targets) == 1:
        return {"target": targets[0].name, "unit": targets[0].unit}
    return {ENTRY: {target.name: {"unit": target.unit} for target in targets}}


def units_of_targets(card: Mapping[str, Any]) -> dict[str, str | None]:
    """Unit of each target of a model of several, as its card says it; empty for a model of one.

    Example:
        >>> units_of_targets({"targets": {"mu": {"unit": "D"}}})
        {'mu': 'D'}
    """
    return {name: entry.get("unit") for name, entry in (card.get(ENTRY) or {}).items()}


def name_outputs(model: Any, targets: Sequence[Target]) -> None:
    """Give a model with an output for each target a head of these names, which computes the same.

    Args:
        model: Model; changed in place. One that has heads is left as it is.
        targets: Targets in the order of the outputs.
    """
    if not isinstance(model.readout, HeadsReadout):
        model.readout = HeadsReadout({", ".join(target.name for target in targets): model.readout})


def one_target(model: Model, name: str) -> Model:
    """The model of one of several targets: the same atom features, and the head of that target alone.

    Args:
        model: Model with a :class:`~pyg_schnet.nn.HeadsReadout`, or one of a single target.
        name: Name of the target.

    Returns:
        A copy without other heads, built from ``config`` and weights, so without hooks, whose card has the target, its
        unit and its errors; a model of that single target is returned as it is.

    Raises:
        ValueError: If the model does not predict it; the message names what it predicts.

    Example:
        >>> from pyg_schnet import SchNet
        >>> model = SchNet(16, 16, 2, cutoff=5.0, readout={"mu": "dipole", "U0, H": "sum"}).eval()
        >>> z, pos = torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        >>> torch.equal(one_target(model, "H")(z, pos), model(z, pos)[:, 2:])
        True
        >>> one_target(model, "H").readout
        SumReadout(hidden_channels=16, out_channels=1, activation='ssp')
    """
    card, readout = cast(Any, model).card, getattr(model, "readout", None)
    if not isinstance(readout, HeadsReadout):
        if card.get("target") == name:
            return model
        known = card.get("target")
        raise ValueError(f"the model does not predict {name!r}, but {'something unnamed' if known is None else known}")
    if name not in readout.columns:
        raise ValueError(f"the model does not predict {name!r}; it predicts {', '.join(readout.columns)}")
    head, columns = readout.head(name)
    weights = _weights_of(head, columns)
    shape = {**describe_readout(head)}
    if "out_channels" in shape:
        shape["out_channels"] = columns.stop - columns.start
    cls: Any = type(model)
    with torch.random.fork_rng(devices=[]):  # its weights are replaced
        one = cls(**{**cast(Any, model).config, "readout": shape})
    own = {key: value for key, value in model.state_dict().items() if not key.startswith("readout.")}
    own |= {f"readout.{key}": value for key, value in weights.items()}
    one.load_state_dict({key: value.detach().clone() for key, value in own.items()}, assign=True)
    one.backend = cast(Any, model).backend
    for parameter in one.parameters():
        parameter.requires_grad_(True)
    one.card = _card_of(card, name)
    return one.train(model.training)


def _weights_of(head: Readout, columns: slice) -> dict[str, Tensor]:
    """Weights and statistics of a readout, of some of its outputs."""
    state = head.state_dict()
    if columns.stop - columns.start == head.out_channels:
        return state
    rows = ("network.lin2.weight", "network.lin2.bias", "scale", "shift")
    state |= {key: state[key][columns] for key in rows}
    return {**state, "atomref": state["atomref"][:, columns]}


def _card_of(card: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Card of a model of one of several targets."""
    unit = units_of_targets(card).get(name)
    kept = {key: value for key, value in card.items() if key != ENTRY}
    found = {"target": name, **({} if unit is None else {"unit": unit}), **kept}
    if isinstance(card.get("test"), Mapping):
        found["test"] = {key: value for key, value in card["test"].items() if key == name}
    return found

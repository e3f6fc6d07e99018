"""Parts of models from short names, and their descriptions as JSON."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn
from torch_geometric.nn.aggr import Aggregation

from pyg_schnet.nn import (
    CosineCutoff,
    DipoleReadout,
    ElectronicSpatialExtentReadout,
    HardCutoff,
    HeadsReadout,
    MaxReadout,
    MeanReadout,
    Readout,
    SumReadout,
)
from pyg_schnet.nn.heads import names_of
from pyg_schnet.ops.checks import shown, whole_number, whole_numbers

MOST_INTERACTIONS = 1000
"""Largest number of interactions of a model."""

WINDOWS: dict[str, type[nn.Module]] = {"cosine": CosineCutoff, "hard": HardCutoff}
READOUTS: dict[str, type[Readout]] = {
    "sum": SumReadout,
    "add": SumReadout,  # PyG's word
    "mean": MeanReadout,
    "max": MaxReadout,
    "dipole": DipoleReadout,
    "spatial_extent": ElectronicSpatialExtentReadout,
}
_READOUT_CLASSES = {cls.__name__: cls for cls in (*READOUTS.values(), HeadsReadout)}

_FROM_PYG = {
    "interaction_graph": "give edge_index (and edge_shift) to the call",
    "max_num_neighbors": "leave it out: every neighbour within the cutoff counts",
    "dipole": 'write readout="dipole", or DipoleReadout(hidden_channels, neutralize=False) for the same charges',
    "mean": "write readout=SumReadout(hidden_channels, shift=mean, scale=std)",
    "std": "write readout=SumReadout(hidden_channels, shift=mean, scale=std)",
    "atomref": "write readout=SumReadout(hidden_channels, atomref=atomref)",
}
_LIKE_PYG = "SchNet.like_pyg(...) takes PyTorch Geometric's arguments in its order"


def refuse_pyg_arguments(build: Callable[..., None]) -> Callable[..., None]:
    """Decorator of constructors: explain arguments that only PyTorch Geometric's SchNet has.

    Args:
        build: An ``__init__`` whose first seven arguments end with ``readout`` and ``out_channels``.
    """

    @functools.wraps(build)
    def checked(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        _check_arguments(type(self).__name__, args, kwargs)
        build(self, *args, **kwargs)

    return checked


def _check_arguments(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    foreign = [argument for argument in kwargs if argument in _FROM_PYG]
    if foreign:
        instead = "; ".join(f"{argument}: {_FROM_PYG[argument]}" for argument in foreign)
        raise TypeError(
            f"{name} has no {', '.join(foreign)}, which PyTorch Geometric's SchNet has. {instead}. {_LIKE_PYG}"
        )
    if len(args) > 7:
        raise TypeError(
            f"{name} takes seven arguments by position, up to readout and out_channels, got {len(args)}; write the "
            f"others by name. {_LIKE_PYG}"
        )


def make_window(window: str, cutoff: float) -> nn.Module:
    """Cutoff window by its short name, ``"cosine"`` or ``"hard"``.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> make_window("cosine", 5.0)
        CosineCutoff(5.0 Å)
    """
    if not isinstance(window, str) or window not in WINDOWS:
        raise ValueError(f"window must be one of {', '.join(WINDOWS)}, got {window!r}")
    return WINDOWS[window](cutoff)


def make_readout(readout: str | dict[str, Any] | Readout, hidden_channels: int, out_channels: int) -> Readout:
    """Readout from a short name, a description of :func:`describe_readout`, a dictionary of heads, or a module.

    Args:
        readout: Short name (``"sum"``, ``"mean"``, ``"max"``, ``"dipole"``, ``"spatial_extent"``; ``"add"`` is
            ``"sum"``), description, a readout for each of several properties by their names, see
            :class:`pyg_schnet.nn.HeadsReadout`, or module.
        hidden_channels: Size F of the atom features.
        out_channels: Number of properties; only sums, means and maxima can have more than one.

    Raises:
        ValueError: If the name is unknown or sizes do not fit.
        TypeError: If it is none of the three.

    Example:
        >>> make_readout("mean", 64, 1)
        MeanReadout(hidden_channels=64, out_channels=1, activation='ssp')
        >>> make_readout({"mu": "dipole", "U0, H": "sum"}, 64, 1).out_channels
        3
    """
    try:
        out_channels = whole_number(out_channels, "out_channels")
    except ValueError as error:
        raise ValueError(f"{error}; it is the number of properties. {_LIKE_PYG}") from None
    if isinstance(readout, str):
        if readout not in READOUTS:
            raise ValueError(f"readout must be a module or one of {', '.join(READOUTS)}, got {readout!r}")
        cls = READOUTS[readout]
        if issubclass(cls, (SumReadout, MeanReadout, MaxReadout)):
            return cls(hidden_channels, out_channels)
        if out_channels != 1:
            raise ValueError(f"readout {readout!r} has one output, got out_channels={out_channels}")
        return cls(hidden_channels)
    if isinstance(readout, dict):
        is_described = "class" in readout or "class_path" in readout
        readout = _from_description(readout) if is_described else _heads(readout, hidden_channels)
    _check_readout(readout)
    expected = getattr(readout, "hidden_channels", hidden_channels)
    if expected != hidden_channels:
        raise ValueError(f"the readout takes {expected} features but the model has hidden_channels={hidden_channels}")
    found = getattr(readout, "out_channels", out_channels)
    if out_channels not in (1, found):
        raise ValueError(
            f"the readout gives {found} value(s) but the model has out_channels={out_channels}; leave it out"
        )
    return readout


def check_sizes(num_interactions: int, **sizes: int) -> list[int]:
    """Sizes of a model as ``int``, the number of interactions first.

    Raises:
        ValueError: If one is not a whole number of at least 1, or too large.

    Example:
        >>> check_sizes(6, hidden_channels=64)
        [6, 64]
    """
    return [whole_number(num_interactions, "num_interactions", most=MOST_INTERACTIONS), *whole_numbers(**sizes)]


def check_options(**options: bool) -> None:
    """Raise a ValueError unless switches are ``True`` or ``False``; text such as ``"no"`` would count as true.

    Example:
        >>> check_options(normalize=True)
    """
    for name, value in options.items():
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name} must be True or False, got {shown(value)}")


def _heads(given: Mapping[str, Any], hidden_channels: int) -> HeadsReadout:
    """Readout of several properties, from a short name, a description or a module for each."""
    heads = {}
    for key, head in given.items():
        number = len(names_of(key))
        if isinstance(head, dict):
            outputs = {"out_channels": number} if number > 1 else {}
            head = {"hidden_channels": hidden_channels, **outputs, **_flat(head)}
        try:
            heads[key] = make_readout(head, hidden_channels, number if isinstance(head, str) else 1)
        except ValueError as error:
            raise ValueError(f"the head {key!r}: {error}") from error
    return HeadsReadout(heads)


def _flat(description: dict[str, Any]) -> dict[str, Any]:
    """A description with the short name of its class, also where a configuration names it by its path."""
    if "class_path" not in description:
        return description
    arguments = description.get("init_args") or {}
    return {"class": str(description["class_path"]).rsplit(".", 1)[-1], **arguments}


def _from_description(description: dict[str, Any]) -> Readout:
    description = _flat(description)
    name = description.get("class")
    if not isinstance(name, str) or name not in _READOUT_CLASSES:
        raise ValueError(f"readout class must be one of {', '.join(_READOUT_CLASSES)}, got {name!r}")
    cls, arguments = _READOUT_CLASSES[name], {key: value for key, value in description.items() if key != "class"}
    unknown = [key for key in arguments if key not in inspect.signature(cls).parameters]
    if unknown:
        raise ValueError(f"{name} has no argument {', '.join(map(str, unknown))}")
    if cls is HeadsReadout:
        heads = arguments.get("heads")
        if not isinstance(heads, dict) or not all(isinstance(one, dict) for one in heads.values()):
            raise ValueError("heads of a HeadsReadout must be a dictionary with a description for each")
        if any(one.get("class") == name for one in heads.values()):
            raise ValueError("a head of a HeadsReadout cannot be a HeadsReadout itself")
        arguments["heads"] = {key: _from_description(one) for key, one in heads.items()}
    return cls(**arguments)


def _check_readout(readout: Any) -> None:
    """Raise unless an object can be called as a readout."""
    if isinstance(readout, Readout):
        return
    if isinstance(readout, type):
        raise TypeError(
            f"readout must be a module, got the class {readout.__name__}; build one: {readout.__name__}(...)"
        )
    if isinstance(readout, Aggregation):
        raise TypeError(
            f'readout must be a readout, got an aggregation of PyTorch Geometric, {readout}; write "sum" or "mean"'
        )
    if isinstance(readout, nn.Module):
        try:
            inspect.signature(readout.forward).bind(*["x", "z", "pos", "batch", "batch_size"])
        except TypeError:
            raise TypeError(
                f"readout must be a module with the call (x, z, pos, batch, batch_size), got {_short(readout)}. "
                f"{_LIKE_PYG}"
            ) from None
        return
    raise TypeError(
        f"readout must be one of {', '.join(READOUTS)}, a description or a module of pyg_schnet.nn, got "
        f"{_short(readout)}. {_LIKE_PYG}"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 and " at 0x" not in text else f"a {type(value).__name__}"


def describe_readout(readout: nn.Module) -> dict[str, Any]:
    """Description of a readout that JSON can hold and :func:`make_readout` takes.

    Raises:
        ValueError: If the class is not one of this package, so that it could not be built again from a file.

    Example:
        >>> describe_readout(MeanReadout(64))["class"]
        'MeanReadout'
    """
    name = type(readout).__name__
    if _READOUT_CLASSES.get(name) is not type(readout):
        raise ValueError(
            f"a readout of class {name} cannot be stored in a model file, only {', '.join(_READOUT_CLASSES)}; "
            "save model.state_dict() and build the model yourself"
        )
    return {"class": name, **readout.config}

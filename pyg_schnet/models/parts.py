"""Short names of the parts that models take, and back: parts to a description that JSON can hold."""

from __future__ import annotations

from typing import Any

from torch import nn

from pyg_schnet.nn import (
    CosineCutoff,
    DipoleReadout,
    ElectronicSpatialExtentReadout,
    HardCutoff,
    MaxReadout,
    MeanReadout,
    Readout,
    SumReadout,
)

WINDOWS: dict[str, type[nn.Module]] = {"cosine": CosineCutoff, "hard": HardCutoff}
READOUTS: dict[str, type[Readout]] = {
    "sum": SumReadout,
    "add": SumReadout,  # PyG's word
    "mean": MeanReadout,
    "max": MaxReadout,
    "dipole": DipoleReadout,
    "spatial_extent": ElectronicSpatialExtentReadout,
}
_READOUT_CLASSES = {cls.__name__: cls for cls in READOUTS.values()}


def make_window(window: str, cutoff: float) -> nn.Module:
    """Cutoff window by its short name, ``"cosine"`` or ``"hard"``.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> make_window("cosine", 5.0)
        CosineCutoff(5.0 Å)
    """
    if window not in WINDOWS:
        raise ValueError(f"window must be one of {', '.join(WINDOWS)}, got {window!r}")
    return WINDOWS[window](cutoff)


def make_readout(readout: str | dict[str, Any] | Readout, hidden_channels: int, out_channels: int) -> Readout:
    """Readout by its short name, by the description of :func:`describe_readout`, or as it is.

    Args:
        readout: Short name (``"sum"``, ``"mean"``, ``"max"``, ``"dipole"``, ``"spatial_extent"``), description, or
            module.
        hidden_channels: Size F of the atom features.
        out_channels: Number of properties; only sums, means and maxima can have more than one.

    Raises:
        ValueError: If the name is unknown or sizes do not fit.

    Example:
        >>> make_readout("mean", 64, 1)
        MeanReadout(hidden_channels=64, out_channels=1, activation='ssp')
    """
    if isinstance(readout, dict):
        name = readout.get("class")
        if name not in _READOUT_CLASSES:
            raise ValueError(f"readout class must be one of {', '.join(_READOUT_CLASSES)}, got {name!r}")
        return _READOUT_CLASSES[name](**{key: value for key, value in readout.items() if key != "class"})
    if isinstance(readout, str):
        if readout not in READOUTS:
            raise ValueError(f"readout must be a module or one of {', '.join(READOUTS)}, got {readout!r}")
        cls = READOUTS[readout]
        if issubclass(cls, (SumReadout, MeanReadout, MaxReadout)):
            return cls(hidden_channels, out_channels)
        if out_channels != 1:
            raise ValueError(f"readout {readout!r} has one output, got out_channels={out_channels}")
        return cls(hidden_channels)
    expected = getattr(readout, "hidden_channels", hidden_channels)
    if expected != hidden_channels:
        raise ValueError(f"the readout takes {expected} features but the model has hidden_channels={hidden_channels}")
    return readout


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

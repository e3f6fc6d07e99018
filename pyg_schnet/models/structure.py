"""Comparison of a model with what its ``config`` builds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_NOT_COMPARED = {"training", "card"}
_REMEDY = "save model.state_dict() and build the model in your own code"


def check_described(model: Any, purpose: str = "stored in a model file") -> None:
    """Raise unless a model has the structure that its class builds from ``config``; values of weights may differ.

    Classes of all parts, their options, the names and shapes of weights and overridden methods are compared; hooks are
    not.

    Args:
        model: The model.
        purpose: What the check is for, for the message.

    Raises:
        ValueError: If a part differs; the message names it.

    Example:
        >>> from pyg_schnet import SchNet
        >>> check_described(SchNet(16, 16, 2, cutoff=5.0))
    """
    config = model.config
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            built = type(model)(**config)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"this model cannot be {purpose}, as its config does not build it ({error}); {_REMEDY}"
        ) from error
    difference = next(_differences(model, built), None)
    if difference is not None:
        raise ValueError(f"this model cannot be {purpose}, as its config does not describe it: {difference}; {_REMEDY}")


def _differences(model: nn.Module, built: nn.Module) -> Iterator[str]:
    """Descriptions of the differences."""
    found, expected = (dict(one.named_modules(remove_duplicate=False)) for one in (model, built))
    for name in expected:
        if name not in found:
            yield f"{name} is missing"
        else:
            yield from _differences_of_part(name or "the model", found[name], expected[name])
    for name in found:
        if name not in expected:
            yield f"{name}, a {type(found[name]).__name__}, was added"


def _differences_of_part(name: str, part: nn.Module, built: nn.Module) -> Iterator[str]:
    if type(part) is not type(built):
        names = [one.__name__ for one in map(type, (part, built))]
        names = (
            names if names[0] != names[1] else [f"{one.__module__}.{one.__name__}" for one in map(type, (part, built))]
        )
        yield f"{name} is a {names[0]} instead of a {names[1]}"
        return
    shapes, expected = _shapes(part), _shapes(built)
    for key in expected | shapes:
        if shapes.get(key) != expected.get(key):
            yield f"{name}.{key} is {_shape(shapes.get(key))} instead of {_shape(expected.get(key))}"
    options, own = vars(built), vars(part)
    for key in own:
        if key not in options and callable(getattr(type(part), key, None)):
            yield f"{name}.{key} was overridden"
    for key, value in options.items():
        if _is_option(key, value) and key in own and own[key] != value:
            yield f"{name}.{key.lstrip('_')} is {own[key]!r} instead of {value!r}"


def _is_option(name: str, value: Any) -> bool:
    plain = isinstance(value, (bool, int, float, str, tuple, type(None)))
    return plain and name not in _NOT_COMPARED and (not name.startswith("_") or name == "_filters")


def _shapes(part: nn.Module) -> dict[str, tuple[int, ...]]:
    tensors = {**part._parameters, **part._buffers}
    return {name: tuple(value.shape) for name, value in tensors.items() if value is not None}


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no weight" if shape is None else f"a weight of shape {list(shape)}"

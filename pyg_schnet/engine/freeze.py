"""A copy of a model for evaluating it many times."""

from __future__ import annotations

import copy
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

from torch import nn

from pyg_schnet.models.schnet import SchNet
from pyg_schnet.nn import CFConv

Model = TypeVar("Model", bound=nn.Module)


def freeze(model: Model) -> Model:
    """A copy of a model in evaluation mode that computes what it needs of its weights once.

    Every evaluation of a live model sees every change of its weights and parts: all elements of all weights are
    compared with what tables were computed from, which takes 20 to 150 µs. The copy does not look. Later edits of its
    weights or parts, such as ``weight.data[0] = 1.0``, exchanged layers or hooks, may not be seen; the same holds for
    copies of it. Changes of the given model do not concern it. ``train()`` and ``eval()`` make it look once.

    Args:
        model: Any module; those of other packages are copied as they are.

    Returns:
        The copy, whose parameters require no gradient.

    Example:
        >>> from pyg_schnet import SchNet
        >>> frozen = freeze(SchNet(16, 16, 2, cutoff=5.0))
        >>> frozen.training, any(parameter.requires_grad for parameter in frozen.parameters())
        (False, False)
    """
    frozen = copy_of(model).eval().requires_grad_(False)
    for module in frozen.modules():
        if isinstance(module, (CFConv, SchNet)):
            module.freeze()
    return frozen


def copy_of(model: Model) -> Model:
    """A deep copy, in which methods that were set on an object act on the copy, too.

    ``copy.deepcopy`` leaves functions as they are, so that ``part.forward = lambda x: 2 * before(x)`` with the
    ``part.forward`` of before would go on to call the part that was copied, with its weights and in its mode.

    Args:
        model: Any module.
    """
    memo: dict[int, Any] = {}
    copied = copy.deepcopy(model, memo)
    for part in copied.modules():
        for name, value in vars(part).items():
            if isinstance(value, FunctionType) and callable(getattr(type(part), name, None)):
                vars(part)[name] = _rebound(value, memo)
    return copied


def _rebound(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """The function with the copies of those modules, and of their methods, that it refers to."""

    def copied(value: Any) -> Any:
        owner = value.__self__ if isinstance(value, MethodType) else value
        if isinstance(value, partial):
            return partial(copied(value.func), *map(copied, value.args), **value.keywords)
        return copy.deepcopy(value, memo) if isinstance(owner, nn.Module) and id(owner) in memo else value

    cells = [cell for cell in function.__closure__ or () if cell != CellType()]  # names that have a value by now
    kept = {id(cell): CellType(copied(cell.cell_contents)) for cell in cells}
    closure = tuple(kept.get(id(cell), cell) for cell in function.__closure__ or ())
    defaults = tuple(map(copied, function.__defaults__ or ())) or None
    known = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    others = {name: copied(value) for name, value in known.items() if copied(value) is not value}
    names = {**function.__globals__, **others} if others else function.__globals__
    found = FunctionType(function.__code__, names, function.__name__, defaults, closure)
    found.__kwdefaults__ = function.__kwdefaults__
    found.__dict__.update(vars(function))
    return found

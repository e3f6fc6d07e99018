"""Modules by their formula or by a call.

The formula of a module is computed without calling its parts only where :func:`is_standard` holds; a part that was
replaced, subclassed, overridden, parametrised or hooked is always called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any, TypeVar, cast

from torch import nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import SumAggregation

Class = TypeVar("Class", bound=type)
Function = TypeVar("Function", bound=Callable)

_PARTS: dict[type, dict[str, type | None]] = {nn.Linear: {}, nn.Embedding: {}, SumAggregation: {}}
_PARAMETERS = {nn.Linear: {"weight", "bias"}, nn.Embedding: {"weight"}}
_FORMULAS = (
    "forward",
    "represent",
    "message",
    "aggregate",
    "update",
    "message_and_aggregate",
    "amplitude",
    "atom_values",
    "cutoff",
)
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)
_as_written: list[tuple[type, str, Any]] = [
    *((cls, "forward", cls.forward) for cls in (nn.Linear, nn.Embedding, SumAggregation)),
    *((nn.Module, name, getattr(nn.Module, name)) for name in ("__call__", "_call_impl")),
    (MessagePassing, "propagate", MessagePassing.propagate),
]
_convolutions: list[type[MessagePassing]] = []

FUSED_HOOKS = frozenset({"_message_and_aggregate_forward_pre_hooks", "_message_and_aggregate_forward_hooks"})
"""PyG's hooks on the fused sum of a convolution, which is used with them."""


def registered(**parts: type | None) -> Callable[[Class], Class]:
    """Decorator: register a class of modules whose formula may also be computed without calling them.

    Args:
        **parts: Class of each part; ``None`` for parts of any class, which are called themselves.
    """

    def register(cls: Class) -> Class:
        _PARTS[cls] = parts
        _as_written.extend((cls, name, getattr(cls, name)) for name in _FORMULAS if hasattr(cls, name))
        if issubclass(cls, MessagePassing):
            _convolutions.append(cls)
        return cls

    return register


def is_unmodified(module: nn.Module, allowed: frozenset[str] = frozenset()) -> bool:
    """Whether a module, without its parts, is of a registered class, not overridden and not hooked.

    Args:
        module: The module.
        allowed: Names of hooks to ignore.
    """
    cls = type(module)
    if cls not in _PARTS or is_any_hooked() or is_patched():
        return False
    parameters = _PARAMETERS.get(cls)
    return (parameters is None or module._parameters.keys() == parameters) and _is_clean(module, allowed)


def is_standard(module: nn.Module, allowed: frozenset[str] = frozenset()) -> bool:
    """Whether a module and all of its parts are unmodified, and its parts of the classes that it is registered with.

    Args:
        module: The module.
        allowed: Names of hooks of the module itself to ignore.
    """
    return next(modifications(module, allowed), None) is None


may_fuse = is_standard
"""The same question as layers ask it: may my formula be computed without calling my parts?"""


def constant_in_programs(function: Function) -> Function:
    """Decorator: a compiler calls the function once and keeps the result, as ``assume_constant_result`` does."""
    cast(Any, function)._dynamo_marked_constant = True
    return function


def modifications(module: nn.Module, allowed: frozenset[str] = frozenset(), name: str = "") -> Iterator[str]:
    """Reasons why a module is not standard, such as ``"lin1 has a forward hook"``.

    Args:
        module: The module.
        allowed: Names of hooks of the module itself to ignore.
        name: Name of the module in these reasons.
    """
    if is_any_hooked():
        yield "a hook is registered for all modules"
    if is_patched():
        yield "a method of a registered class was exchanged"
    yield from _modifications(module, allowed, name)


def _modifications(module: nn.Module, allowed: frozenset[str], name: str) -> Iterator[str]:
    cls, here = type(module), name or "it"
    parts, found = _PARTS.get(cls), module._modules
    if parts is None:
        yield f"{here} is a {cls.__name__}"
        return
    if cls in _PARAMETERS and module._parameters.keys() != _PARAMETERS[cls]:
        yield f"the weights of {here} are parametrised or pruned"
    if not _is_clean(module, allowed):
        yield f"{here} {_what_is_changed(module, allowed)}"
    for part, kind in parts.items():
        inside = f"{name}.{part}" if name else part
        if (one := found.get(part)) is None:
            yield f"{inside} is missing"
        elif kind is None:
            yield from (f"{inside} {_what_is_changed(each)}" for each in one.modules() if not _is_clean(each))
        elif type(one) is not kind:
            yield f"{inside} is a {type(one).__name__}"
        else:
            yield from _modifications(one, frozenset(), inside)
    if found.keys() != parts.keys():
        yield from (f"{here} has a part {part}" for part in found if part not in parts)


def _is_clean(module: nn.Module, allowed: frozenset[str] = frozenset()) -> bool:
    """Whether no method is overridden on a module itself, and no hook is to be called with it."""
    own = module.__dict__
    cls: type = type(module)
    methods, hooks = _names_of_calls(cls, tuple(own))
    return (
        (not methods or all(_is_own_propagate(module, name) for name in methods))
        and own.get("_compiled_call_impl") is None
        and not own.get("_explain")
        and own.get("flow", "source_to_target") == "source_to_target"
        and not any([own[name] and name not in allowed for name in hooks])  # noqa: C419 - a list is faster
    )


def _what_is_changed(module: nn.Module, allowed: frozenset[str] = frozenset()) -> str:
    """Why a module is not clean."""
    own = module.__dict__
    hooks = [name for name in own if is_of_calls(name) and name not in allowed and own[name]]
    if hooks:
        return f"has a {hooks[0].strip('_').removesuffix('s').replace('_', ' ')}"
    cls: type = type(module)
    methods = [name for name in own.keys() & _methods(cls) if not _is_own_propagate(module, name)]
    if methods:
        return f"has a {min(methods)} of its own"
    return "is compiled, explained, or passes messages from target to source"


@lru_cache(maxsize=256)
def _names_of_calls(cls: type, names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the attributes that a module has itself, those that hide a method, and those that hold hooks of calls."""
    return tuple(name for name in names if name in _methods(cls)), tuple(filter(is_of_calls, names))


def _is_own_propagate(module: nn.Module, name: str) -> bool:
    """Whether an attribute that hides a method is PyG's ``propagate``, which explainers leave on a convolution."""
    cls: Any = type(module)
    function = getattr(vars(module)[name], "__func__", None)
    return name == "propagate" and function in (cls.propagate, getattr(cls, "_jinja_propagate", None))


@cache
def _methods(cls: type) -> frozenset[str]:
    return frozenset(name for name in dir(cls) if callable(getattr(cls, name, None)))


def is_any_hooked() -> bool:
    """Whether a hook is to be called with every module."""
    return any([getattr(nn.modules.module, name) for name in _GLOBAL_HOOKS])  # noqa: C419 - a list is faster


def is_patched() -> bool:
    """Whether a method of a registered class was replaced after the class was defined."""
    same = all([getattr(cls, name, None) is method for cls, name, method in _as_written])  # noqa: C419 - faster
    return not same or not all(map(_propagates_as_pyg, _convolutions))


def _propagates_as_pyg(cls: type[MessagePassing]) -> bool:
    """Whether ``propagate`` is PyG's own, or the one that PyG generated for the class."""
    propagate = cls.propagate
    return propagate is MessagePassing.propagate or propagate.__module__.startswith(f"{cls.__module__}_{cls.__name__}")


def is_of_calls(name: str) -> bool:
    """Whether an attribute holds hooks that run with calls or gradients, rather than with saving and loading."""
    return name.endswith("_hooks") and "state_dict" not in name

"""Whether modules are those of this package, unchanged, so that their formula may be computed without calling them.

This is the one definition of a standard part. A part that was exchanged, subclassed, overridden, parametrised or hooked
is no standard part and is called, always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from itertools import chain
from typing import Any, TypeVar

from torch import nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import SumAggregation

Class = TypeVar("Class", bound=type)

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
_written: list[tuple[type, str, Any]] = [
    *((cls, "forward", cls.forward) for cls in (nn.Linear, nn.Embedding)),
    *((nn.Module, name, getattr(nn.Module, name)) for name in ("__call__", "_call_impl")),
    (MessagePassing, "propagate", MessagePassing.propagate),
]
_convolutions: list[type[MessagePassing]] = []

FUSED_HOOKS = frozenset({"_message_and_aggregate_forward_pre_hooks", "_message_and_aggregate_forward_hooks"})
"""Hooks of PyG on the fused way of a convolution, which is taken with them."""


def standard(**parts: type | None) -> Callable[[Class], Class]:
    """Register a class of modules whose formula is also computed without calling them.

    Args:
        **parts: Class of each part; ``None`` for parts that are called themselves, of any class.
    """

    def register(cls: Class) -> Class:
        _PARTS[cls] = parts
        _written.extend((cls, name, getattr(cls, name)) for name in _FORMULAS if hasattr(cls, name))
        if issubclass(cls, MessagePassing):
            _convolutions.append(cls)
        return cls

    return register


def is_unmodified(module: nn.Module, allowed: frozenset[str] = frozenset()) -> bool:
    """Whether a module itself, without its parts, is of a registered class, not overridden and not hooked.

    Args:
        module: The module.
        allowed: Names of hooks that do not count.
    """
    cls = type(module)
    if cls not in _PARTS or _is_any_hooked() or is_patched():
        return False
    parameters = _PARAMETERS.get(cls)
    return (parameters is None or module._parameters.keys() == parameters) and _is_clean(module, allowed)


def is_standard(module: nn.Module, allowed: frozenset[str] = frozenset()) -> bool:
    """Whether a module and all of its parts are unmodified, and its parts of the classes that it is registered with.

    Args:
        module: The module.
        allowed: Names of hooks of the module itself that do not count.
    """
    if not is_unmodified(module, allowed):
        return False
    parts, found = _PARTS[type(module)], module._modules
    if parts.keys() != found.keys():
        return False
    return all(
        all(map(_is_clean, part.modules())) if cls is None else type(part) is cls and is_standard(part)
        for cls, part in zip(parts.values(), map(found.__getitem__, parts), strict=True)
    )


def _is_clean(module: nn.Module, allowed: frozenset[str] = frozenset()) -> bool:
    """Whether no method is overridden on a module itself, and no hook is to be called with it."""
    own = module.__dict__
    return (
        all(_is_own_propagate(module, name) for name in own.keys() & _methods(type(module)))
        and own.get("_compiled_call_impl") is None
        and not own.get("_explain")
        and own.get("flow", "source_to_target") == "source_to_target"
        and not any(own[name] for name in own if _is_of_calls(name) and name not in allowed)
    )


def _is_own_propagate(module: nn.Module, name: str) -> bool:
    """Whether what hides a method is PyG's ``propagate``, which explainers leave on a convolution."""
    cls, function = type(module), getattr(vars(module)[name], "__func__", None)
    return name == "propagate" and function in (cls.propagate, getattr(cls, "_jinja_propagate", None))


@cache
def _methods(cls: type) -> frozenset[str]:
    return frozenset(name for name in dir(cls) if callable(getattr(cls, name, None)))


def _is_any_hooked() -> bool:
    """Whether a hook is to be called with every module."""
    return any([getattr(nn.modules.module, name) for name in _GLOBAL_HOOKS])  # noqa: C419 - a list is faster


def is_patched() -> bool:
    """Whether a method of a registered class is another one than it was when the class was written."""
    written = all([getattr(cls, name, None) is method for cls, name, method in _written])  # noqa: C419 - faster
    return not written or not all(map(_propagates_as_pyg, _convolutions))


def _propagates_as_pyg(cls: type[MessagePassing]) -> bool:
    """Whether ``propagate`` is PyG's, or what PyG has written for the class."""
    propagate = cls.propagate
    return propagate is MessagePassing.propagate or propagate.__module__.startswith(f"{cls.__module__}_{cls.__name__}")


def _is_of_calls(name: str) -> bool:
    """Whether an attribute holds hooks that calls or gradients run; hooks of saving and loading change neither."""
    return name.endswith("_hooks") and "state_dict" not in name


class ModuleSnapshot:
    """Parts, weights, options and hooks of modules, as they were.

    Values of weights are not looked at; see :class:`pyg_schnet.nn.versioned_cache.VersionedCache` for these.

    Args:
        modules: Modules, with all their parts.
        allowed: Names of hooks of the modules themselves that do not count.

    Attributes:
        standard: Whether all modules were standard.
    """

    def __init__(self, modules: Iterable[nn.Module], allowed: frozenset[str] = frozenset()) -> None:
        self.modules = list(modules)
        self.standard = all(is_standard(module, allowed) for module in self.modules)
        parts = list(dict.fromkeys(part for whole in self.modules for part in whole.modules()))
        self._parts, self._classes = parts, list(map(type, parts))
        tables = [part.__dict__ for part in parts] + [part._modules for part in parts if part._modules]
        self._tables = [(table, dict(table)) for table in tables]
        self._tensors = [table for part in parts for table in (part._parameters, part._buffers) if table]
        self._held = self._all_tensors()  # so that no other tensor gets one of their places
        self._places = list(map(id, self._held))
        self._hooks = [own[name] for own in map(vars, parts) for name in own if _is_of_calls(name)]
        self._hooked = list(map(bool, self._hooks))
        self._around = self._surroundings()

    def unchanged(self) -> bool:
        """Whether everything is still in its place, and hooked as it was."""
        try:
            same = all([now == before for now, before in self._tables])  # noqa: C419 - a list is faster
        except (RuntimeError, TypeError, ValueError):  # values that are compared element by element
            return False
        return (
            same
            and list(map(type, self._parts)) == self._classes
            and list(map(id, self._all_tensors())) == self._places
            and list(map(bool, self._hooks)) == self._hooked
            and self._surroundings() == self._around
        )

    def _all_tensors(self) -> list[Any]:
        return list(chain.from_iterable(map(dict.values, self._tensors)))

    @staticmethod
    def _surroundings() -> tuple[bool, bool]:
        return _is_any_hooked(), is_patched()


class StandardCheck:
    """:func:`is_standard` of one module, looked up again where something of it has changed. Copies start empty.

    Args:
        allowed: Names of hooks of the module itself that do not count.
    """

    def __init__(self, allowed: frozenset[str] = frozenset()) -> None:
        self._allowed = allowed
        self._snapshot: ModuleSnapshot | None = None

    def __reduce__(self) -> tuple[type[StandardCheck], tuple[frozenset[str]]]:
        return StandardCheck, (self._allowed,)

    def __call__(self, module: nn.Module) -> bool:
        """Whether the module is standard."""
        known = self._snapshot
        if known is None or known.modules[0] is not module or not known.unchanged():
            known = self._snapshot = ModuleSnapshot([module], self._allowed)
        return known.standard


def options_of(module: nn.Module) -> tuple[Any, ...]:
    """What a module does beside its weights: class and public attributes of all its parts, to be compared by value."""
    return tuple(
        (type(part), *((name, _by_value(value)) for name, value in vars(part).items() if not name.startswith("_")))
        for part in module.modules()
    )


def _by_value(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str, type(None))) else id(value)


registered, may_fuse = standard, is_standard

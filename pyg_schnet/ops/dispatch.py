"""Dispatch: operators by kernels or by plain torch operations, modules by their formula or by a call.

Every public operator of :mod:`pyg_schnet.ops` takes ``backend``, and asks :func:`kernels_for` with it. The formula of a
module is computed without calling its parts only where :func:`is_standard` holds; a part that was replaced, subclassed,
overridden, parametrised or hooked is always called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from types import ModuleType
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import SumAggregation

Backend = Literal["auto", "reference", "numba"]
"""How an operator is computed: ``"reference"`` is a composition of plain torch operations, ``"numba"`` the kernels for
CPUs, ``"auto"`` these kernels where they can be used and the composition elsewhere."""

# torch says in no public function whether a transform of torch.func, forward-mode differentiation or torch.jit.trace is
# at work. The private names for it are used in this file and in _autograd.py only.
_functorch = torch._C._functorch
_REAL = (torch.float32, torch.float64)
_TAKEN = frozenset((*_REAL, torch.int64, torch.int32, torch.int16, torch.int8, torch.bool))
_OWN_TYPES = (Tensor, torch.nn.Parameter)


def kernels_for(
    backend: Backend, *tensors: Tensor | None, needs: str | None = None, unless: str | None = None
) -> ModuleType | None:
    """Module of the kernels that compute an operator, ``None`` for the composition of torch operations.

    Args:
        backend: ``"auto"``, ``"reference"`` or ``"numba"``.
        *tensors: All tensors that the kernels would read; ``None`` for arguments that are left out.
        needs: Name of the kernel, for operators that a backend need not have.
        unless: Reason why kernels cannot take these tensors; ``None`` if there is none.

    Returns:
        With ``"auto"``, the numba backend if all tensors are dense, on the CPU and in float32 or float64 (or integers),
        and nothing but autograd records the computation: neither transforms of ``torch.func``, forward-mode
        differentiation, ``torch.jit.trace``, nor compilation or export.

    Raises:
        ValueError: If the backend is none of these, or ``"numba"`` and the kernels cannot be used.

    Example:
        >>> kernels_for("reference", torch.zeros(2)) is None, kernels_for("auto", torch.zeros(2).half()) is None
        (True, True)
        >>> kernels_for("auto", torch.zeros(2)).__name__
        'pyg_schnet.backends.numba'
    """
    if backend == "reference":
        return None
    if backend != "auto" and backend != "numba":
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if unless is None and not is_followed() and all([x is None or _is_memory(x) for x in tensors]):  # noqa: C419 - a list is faster
        kernels = _numba()
        if needs is None or hasattr(kernels, needs):
            return kernels
    if backend == "numba":
        raise ValueError(_reason(tensors, needs, unless))
    return None


def other_types(first: Tensor, *others: Tensor) -> str | None:
    """Reason why kernels cannot take floating point tensors together: torch promotes types, kernels do not.

    Example:
        >>> other_types(torch.zeros(1), torch.zeros(1)) is None
        True
    """
    dtype = first.dtype
    if dtype.is_floating_point and all([x.dtype == dtype for x in others]):  # noqa: C419 - a list is faster
        return None
    return f"its tensors must have one floating dtype, got {', '.join(str(x.dtype) for x in (first, *others))}"


@cache
def _numba() -> ModuleType:
    """The numba backend, imported when it is first used: ``import pyg_schnet`` stays light."""
    return importlib.import_module(f"{__package__.rpartition('.')[0]}.backends.numba")


def _is_memory(x: Tensor) -> bool:
    return (
        type(x) in _OWN_TYPES
        and x.is_cpu
        and x.dtype in _TAKEN
        and x.layout is torch.strided
        and not _functorch.is_legacy_batchedtensor(x)
    )


def _reason(tensors: tuple[Tensor | None, ...], needs: str | None, unless: str | None) -> str:
    if unless is not None:
        why = unless
    elif is_followed():
        why = "torch.func, forward-mode differentiation, torch.jit.trace or torch.compile follows what is computed"
    elif others := [x for x in tensors if x is not None and not _is_memory(x)]:
        x = others[0]
        kind = "" if type(x) in _OWN_TYPES else f"{type(x).__name__}, "
        why = f"it takes dense tensors of float32 or float64 on the CPU, got one of {kind}{x.dtype} on {x.device}"
    else:
        why = f"it has no kernel {needs!r}"
    return f"backend='numba' cannot be used: {why}; backend='auto' takes plain torch operations there"


def wide_dtype(x: Tensor) -> torch.dtype:
    """Type in which sums over many rows are made, to be rounded once: float64 where the device of ``x`` has it.

    Example:
        >>> wide_dtype(torch.zeros(2))
        torch.float64
    """
    return x.dtype if x.device.type == "mps" else torch.float64


def is_transformed() -> bool:
    """Whether a transform of ``torch.func``, forward-mode differentiation or ``torch.jit.trace`` is active.

    Inside these, only operations of torch are used, which support them.

    Example:
        >>> is_transformed(), torch.func.vmap(lambda x: x + is_transformed())(torch.zeros(2))
        (False, tensor([1., 1.]))
    """
    level = _functorch.maybe_current_level()
    return level is not None or forward_ad._current_level >= 0 or torch._C._is_tracing()


def is_followed() -> bool:
    """Whether :func:`is_transformed` holds, or a program is being compiled or exported."""
    return torch.compiler.is_compiling() or is_transformed()


def is_cast(x: Tensor) -> bool:
    """Whether autocast changes the precision of what is computed on the device of a tensor.

    Example:
        >>> is_cast(torch.zeros(2)), is_cast(torch.zeros(2, device="meta"))
        (False, False)
    """
    kind = x.device.type
    known = kind != "meta" and (torch.compiler.is_compiling() or torch.amp.is_autocast_available(kind))
    return known and torch.is_autocast_enabled(kind)


def numbers_of(x: Tensor | None, what: str) -> Tensor | None:
    """The values of a tensor that is differentiated by ``torch.func`` or in forward mode.

    Args:
        x: Tensor.
        what: Its meaning, for the error message.

    Raises:
        ValueError: Under ``torch.vmap``, which has several values, and ``torch.jit.trace``, which would keep them.
    """
    if x is None:
        return None
    if torch._C._is_tracing():
        raise ValueError(
            f"torch.jit.trace would keep the neighbours of these {what} for all others; pass edge_index (and "
            "edge_shift), which radius_graph makes outside of what is traced"
        )
    while _functorch.is_functorch_wrapped_tensor(x):
        if _functorch.is_batchedtensor(x):
            raise ValueError(
                f"neighbours cannot be searched inside of torch.vmap over {what}, since their number would differ; "
                "pass edge_index (and edge_shift) of all atoms that come close, or put structures into a batch"
            )
        x = _functorch.get_unwrapped(x)
    return x.detach()


def list_of(x: Tensor) -> list:
    """The values of a tensor ``[N]`` as a list, also inside of ``torch.func``, where torch 2.8 has no ``tolist``.

    Example:
        >>> list_of(torch.arange(2))
        [0, 1]
    """
    return [value.item() for value in x] if _functorch.is_functorch_wrapped_tensor(x) else x.tolist()


def is_dense_cpu(x: Tensor, dtypes: tuple[torch.dtype, ...] = _REAL) -> bool:
    """Whether ``x`` is a dense CPU tensor of one of the given types, recorded by nothing but autograd.

    Fake tensors and those of ``torch.func`` or a compiler hold no memory of their own.

    Example:
        >>> is_dense_cpu(torch.zeros(2)), is_dense_cpu(torch.zeros(2, dtype=torch.bfloat16))
        (True, False)
    """
    return not is_followed() and x.dtype in dtypes and _is_memory(x)


def is_at_hand(x: Tensor) -> bool:
    """Whether the values of a tensor can be read without waiting for a device, and outside of transforms.

    Example:
        >>> is_at_hand(torch.zeros(2)), is_at_hand(torch.zeros(2, device="meta"))
        (True, False)
    """
    return not is_followed() and _is_memory(x)


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
    function._dynamo_marked_constant = True
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
        if found.get(part) is None:
            yield f"{inside} is missing"
        elif kind is None:
            yield from (f"{inside} {_what_is_changed(one)}" for one in found[part].modules() if not _is_clean(one))
        elif type(found[part]) is not kind:
            yield f"{inside} is a {type(found[part]).__name__}"
        else:
            yield from _modifications(found[part], frozenset(), inside)
    if found.keys() != parts.keys():
        yield from (f"{here} has a part {part}" for part in found if part not in parts)


def _is_clean(module: nn.Module, allowed: frozenset[str] = frozenset()) -> bool:
    """Whether no method is overridden on a module itself, and no hook is to be called with it."""
    own = module.__dict__
    methods, hooks = _names_of_calls(type(module), tuple(own))
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
    methods = [name for name in own.keys() & _methods(type(module)) if not _is_own_propagate(module, name)]
    if methods:
        return f"has a {min(methods)} of its own"
    return "is compiled, explained, or passes messages from target to source"


@lru_cache(maxsize=256)
def _names_of_calls(cls: type, names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the attributes that a module has itself, those that hide a method, and those that hold hooks of calls."""
    return tuple(name for name in names if name in _methods(cls)), tuple(filter(is_of_calls, names))


def _is_own_propagate(module: nn.Module, name: str) -> bool:
    """Whether an attribute that hides a method is PyG's ``propagate``, which explainers leave on a convolution."""
    cls, function = type(module), getattr(vars(module)[name], "__func__", None)
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

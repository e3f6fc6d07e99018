"""Dispatch: operators by kernels or by plain torch operations.

Every public operator of :mod:`pyg_schnet.ops` takes ``backend``, and asks :func:`kernels_for` with it.
"""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from types import ModuleType
from typing import Literal, get_args, overload

import torch
from torch import Tensor
from torch.autograd import forward_ad

Backend = Literal["auto", "reference", "numba", "triton"]
"""How an operator is computed: ``"reference"`` is a composition of plain torch operations, ``"numba"`` the kernels for
CPUs, ``"triton"`` those for CUDA and ROCm devices, with compositions of the operators that it does not have, ``"auto"``
the kernels of the device where they can be used and compositions elsewhere."""

# torch says in no public function whether a transform of torch.func, forward-mode differentiation or torch.jit.trace is
# at work. The private names for it are used in this file and in _autograd.py only.
_functorch = torch._C._functorch
_REAL = (torch.float32, torch.float64)
_TAKEN = frozenset((*_REAL, torch.int64, torch.int32, torch.int16, torch.int8, torch.bool))
HALVES = (torch.bfloat16, torch.float16)
"""Types of features of 16 bits, which kernels of the triton backend read beside tables and bases of 32 or 64."""
_OWN_TYPES = (Tensor, torch.nn.Parameter)


@overload
def kernels_for(
    backend: Literal["numba"], *tensors: Tensor | None, needs: str | None = None, unless: str | None = None
) -> ModuleType: ...


@overload
def kernels_for(
    backend: Backend,
    *tensors: Tensor | None,
    needs: str | None = None,
    unless: str | None = None,
    halves: bool = False,
) -> ModuleType | None: ...


def kernels_for(
    backend: Backend,
    *tensors: Tensor | None,
    needs: str | None = None,
    unless: str | None = None,
    halves: bool = False,
) -> ModuleType | None:
    """Module of the kernels that compute an operator, ``None`` for the composition of torch operations.

    Args:
        backend: ``"auto"``, ``"reference"``, ``"numba"`` or ``"triton"``.
        *tensors: All tensors that the kernels would read; ``None`` for arguments that are left out.
        needs: Name of the kernel, for operators that a backend need not have.
        unless: Reason why kernels cannot take these tensors; ``None`` if there is none.
        halves: Whether the triton backend also takes those of bfloat16 and float16.

    Returns:
        With ``"auto"``, the numba backend if all tensors are dense, on the CPU and in float32 or float64 (or integers),
        and nothing but autograd records the computation: neither transforms of ``torch.func``, forward-mode
        differentiation, ``torch.jit.trace``, nor compilation or export. The triton backend if all are on one CUDA or
        ROCm device, and the same holds; where it cannot be used there, one warning says why.

    Raises:
        ValueError: If the backend is none of these, or ``"numba"`` or ``"triton"`` and its kernels cannot be used.

    Example:
        >>> kernels_for("reference", torch.zeros(2)) is None, kernels_for("auto", torch.zeros(2).half()) is None
        (True, True)
        >>> kernels_for("auto", torch.zeros(2)).__name__
        'pyg_schnet.backends.numba'
    """
    if backend == "reference":
        return None
    if backend != "auto" and backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if unless is None and not is_followed():
        kernels = None
        if backend != "triton" and all([x is None or _is_memory(x) for x in tensors]):  # noqa: C419 - a list is faster
            kernels = _numba()
        elif backend != "numba":
            kernels = _of_device(backend, tensors, _TAKEN.union(HALVES) if halves else _TAKEN)
        if kernels is not None and (needs is None or hasattr(kernels, needs)):
            return kernels
        if kernels is not None and backend == "triton":
            return None  # it has five operators, of which the others are made
    if backend != "auto":
        raise ValueError(_reason(backend, tensors, needs, unless))
    return None


def _of_device(
    backend: Backend, tensors: tuple[Tensor | None, ...], taken: frozenset[torch.dtype]
) -> ModuleType | None:
    """The triton backend, if it takes the tensors; warns once for each reason why it does not take those of a GPU."""
    given = [x for x in tensors if x is not None]
    if backend == "auto" and not (given and given[0].is_cuda):
        return None
    if not all(_is_dense(x, taken) for x in given) or any(x.device != given[0].device for x in given):
        return None
    found = _triton()
    if isinstance(found, str):
        why: str | None = found
    elif not given:
        return found
    else:
        why = found.refusal(given[0].device)
        if why is None:  # a kernel that failed has said so, and is a composition itself
            return found if backend == "triton" or found.failure(given[0].device) is None else None
    if backend == "auto" and why is not None:
        _warn_once(why)
    return None


def refusal_of(device: torch.device) -> str | None:
    """Reason why tensors of a CUDA or ROCm device are computed by plain torch operations; ``None`` for others.

    Example:
        >>> refusal_of(torch.device("cpu")) is None
        True
    """
    if device.type != "cuda":
        return None
    found = _triton()
    return found if isinstance(found, str) else found.refusal(device) or found.failure(device)


@cache
def _warn_once(why: str) -> None:
    warnings.warn(f"backend 'triton' is left for plain torch operations: {why}", RuntimeWarning, stacklevel=4)


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


@cache
def _triton() -> ModuleType | str:
    """The triton backend, imported when it is first used, or the reason why it cannot be."""
    try:
        return importlib.import_module(f"{__package__.rpartition('.')[0]}.backends.triton")
    except Exception as error:  # it is missing, of another version, or without a driver
        if isinstance(error, ModuleNotFoundError) and error.name == "triton":
            return "triton is not installed; pip install 'pyg_schnet[gpu]'"
        return f"triton cannot be imported ({type(error).__name__}: {error})"


def _is_memory(x: Tensor) -> bool:
    return x.is_cpu and _is_dense(x)


def _is_dense(x: Tensor, taken: frozenset[torch.dtype] = _TAKEN) -> bool:
    return (
        type(x) in _OWN_TYPES
        and x.dtype in taken
        and x.layout is torch.strided
        and not _functorch.is_legacy_batchedtensor(x)
    )


def _reason(backend: Backend, tensors: tuple[Tensor | None, ...], needs: str | None, unless: str | None) -> str:
    takes = _is_memory if backend == "numba" else _is_dense
    if unless is not None:
        why = unless
    elif is_followed():
        why = "torch.func, forward-mode differentiation, torch.jit.trace or torch.compile follows what is computed"
    elif others := [x for x in tensors if x is not None and not takes(x)]:
        x = others[0]
        kind = "" if type(x) in _OWN_TYPES else f"{type(x).__name__}, "
        place = "on the CPU" if backend == "numba" else "on a CUDA or ROCm device"
        why = f"it takes dense tensors of float32 or float64 {place}, got one of {kind}{x.dtype} on {x.device}"
    elif backend == "triton":
        found, devices = _triton(), {x.device: None for x in tensors if x is not None}
        if isinstance(found, str):
            why = found
        elif len(devices) > 1:
            why = f"it takes tensors on one device, got some on {' and on '.join(map(str, devices))}"
        else:
            why = found.refusal(*devices)
    else:
        why = f"it has no kernel {needs!r}"
    return f"backend={backend!r} cannot be used: {why}; backend='auto' takes plain torch operations there"


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


@overload
def numbers_of(x: Tensor, what: str) -> Tensor: ...


@overload
def numbers_of(x: Tensor | None, what: str) -> Tensor | None: ...


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


def is_dense_gpu(x: Tensor) -> bool:
    """Whether ``x`` is a dense tensor of float32 or float64 on a device of which the triton backend takes tensors.

    Example:
        >>> is_dense_gpu(torch.zeros(2))
        False
    """
    return x.is_cuda and x.dtype in _REAL and not is_followed() and _is_dense(x) and refusal_of(x.device) is None


def is_at_hand(x: Tensor) -> bool:
    """Whether the values of a tensor can be read without waiting for a device, and outside of transforms.

    Example:
        >>> is_at_hand(torch.zeros(2)), is_at_hand(torch.zeros(2, device="meta"))
        (True, False)
    """
    return not is_followed() and _is_memory(x)

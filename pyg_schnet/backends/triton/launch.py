"""Launching kernels on the device of their tensors, or recording what would be launched."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from pyg_schnet.backends.triton import composition

LEAST_CAPABILITY = (7, 0)
"""Compute capability of NVIDIA devices below which triton compiles nothing."""


class Launch(NamedTuple):
    """One launch of a kernel.

    Attributes:
        kernel: The kernel.
        grid: Number of programs in each dimension.
        arguments: Values of its parameters by name, constants included.
        num_warps: Warps of a program.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    num_warps: int


_failures: dict[str, str] = {}
"""Why a kernel could not be launched, by type of device."""

_recorders: list[list[Launch]] = []
_types = {"cuda"}
"""Types of devices of which tensors are taken."""


def take_cpu_tensors() -> None:
    """Let ``backend="triton"`` take tensors on the CPU in this process, for tests by triton's interpreter.

    Raises:
        ValueError: If the interpreter is off: ``TRITON_INTERPRET=1`` has to be set before triton is imported.
    """
    if not triton.knobs.runtime.interpret:
        raise ValueError("kernels run on the CPU in triton's interpreter only; set TRITON_INTERPRET=1 beforehand")
    _types.add("cpu")
    refusal.cache_clear()


@functools.cache
def refusal(device: torch.device) -> str | None:
    """Reason why kernels cannot take tensors of a device; ``None`` if they can."""
    if device.type not in _types:
        return f"it takes tensors on CUDA and ROCm devices, got one on {device.type}"
    if device.type == "cuda" and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < LEAST_CAPABILITY:
            found, least = (".".join(map(str, version)) for version in (capability, LEAST_CAPABILITY))
            return f"it needs compute capability {least} or higher, {device} has {found}"
    return None


def failure(device: torch.device) -> str | None:
    """Reason why a kernel could not be compiled or launched on a type of device; ``None`` if all could."""
    return _failures.get(device.type)


@contextlib.contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Context manager that records launches instead of carrying them out, to compile kernels for other devices."""
    _recorders.append([])
    try:
        yield _recorders[-1]
    finally:
        _recorders.pop()


def launch(kernel: Any, grid: tuple[int, ...], arguments: dict[str, Any], num_warps: int = 4) -> None:
    """Launch a kernel on the device of its tensors.

    Args:
        kernel: The kernel.
        grid: Number of programs in each dimension; nothing is launched if one of them is zero.
        arguments: Values of all parameters by name.
        num_warps: Warps of a program.
    """
    if 0 in grid:
        return
    if _recorders:
        _recorders[-1].append(Launch(kernel, grid, arguments, num_warps))
        return
    device = next(value.device for value in arguments.values() if isinstance(value, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](**arguments, num_warps=num_warps, enable_fp_fusion=True)


def or_composition(function: Callable) -> Callable:
    """Decorator: where a kernel cannot be compiled or launched, warn once and take the composition of the same name."""

    @functools.wraps(function)
    def guarded(*arguments: Any, **options: Any) -> Any:
        kind = next(value.device.type for value in arguments if isinstance(value, Tensor))
        if kind not in _failures:
            try:
                return function(*arguments, **options)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # compilers raise what they like
                _failures[kind] = f"a kernel could not be compiled or launched ({type(error).__name__}: {error})"
                warnings.warn(
                    f"backend 'triton' is left for plain torch operations: {_failures[kind]}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return getattr(composition, function.__name__)(*arguments, **options)

    return guarded


def block_of(n_features: int) -> int:
    """Features of a program: a power of two, 128 at most."""
    return min(max(triton.next_power_of_2(n_features), 16), 128)


def warps_of(block: int) -> int:
    """Warps of a program with so many features."""
    return 4 if block >= 128 else 2 if block >= 64 else 1


def index_type(*tensors: Tensor) -> Any:
    """Integers in which places in these tensors are computed: 32 bits where they suffice."""
    small = all(value.numel() < 2**31 for value in tensors)
    return triton.language.int32 if small else triton.language.int64

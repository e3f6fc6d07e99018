"""Whether a tensor can be handed to compiled code, and how wide its sums are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

_functorch = torch._C._functorch


def wide_dtype(x: Tensor) -> torch.dtype:
    """Type in which sums over many rows are made, to be rounded once: float64 where the device of ``x`` has it.

    Example:
        >>> wide_dtype(torch.zeros(2))
        torch.float64
    """
    return x.dtype if x.device.type == "mps" else torch.float64


def is_transformed() -> bool:
    """Whether tensors may stand for others, or every operation on them is noted down.

    So it is inside of transforms of ``torch.func``, in forward-mode differentiation and while ``torch.jit`` traces.
    There, everything is made of operations of torch, which know what to do.

    Example:
        >>> is_transformed(), torch.func.vmap(lambda x: x + is_transformed())(torch.zeros(2))
        (False, tensor([1., 1.]))
    """
    level = _functorch.maybe_current_level()
    return level is not None or forward_ad._current_level >= 0 or torch._C._is_tracing()


def is_followed() -> bool:
    """Whether :func:`is_transformed`, or a program is being compiled or exported."""
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
    """The numbers behind a tensor that is differentiated by ``torch.func`` or in forward mode.

    Args:
        x: Tensor.
        what: What it is, for the message.

    Raises:
        ValueError: If there are several numbers behind each of its elements, as inside of ``torch.vmap``, or if they
            would be noted down as constants, as ``torch.jit.trace`` does.
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
    """The numbers of a tensor ``[N]``, also of one that was made inside of ``torch.func``, where torch 2.8 has no list.

    Example:
        >>> list_of(torch.arange(2))
        [0, 1]
    """
    return [value.item() for value in x] if _functorch.is_functorch_wrapped_tensor(x) else x.tolist()


def is_dense_cpu(x: Tensor, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)) -> bool:
    """Whether ``x`` is memory on the CPU of one of some types, and nobody follows what is done with it but autograd.

    Fake tensors, those of ``torch.func`` and those of a compiler stand for others and hold no memory of their own.

    Example:
        >>> is_dense_cpu(torch.zeros(2)), is_dense_cpu(torch.zeros(2, dtype=torch.bfloat16))
        (True, False)
    """
    return (
        type(x) in (Tensor, torch.nn.Parameter) and x.device.type == "cpu" and x.dtype in dtypes and not is_followed()
    )

"""Whether a tensor can be handed to compiled code, and how wide its sums are."""

from __future__ import annotations

import torch
from torch import Tensor


def wide_dtype(x: Tensor) -> torch.dtype:
    """Type in which sums over many rows are made, to be rounded once: float64 where the device of ``x`` has it.

    Example:
        >>> wide_dtype(torch.zeros(2))
        torch.float64
    """
    return x.dtype if x.device.type == "mps" else torch.float64


def is_plain(x: Tensor, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)) -> bool:
    """Whether ``x`` is memory on the CPU of one of some types, and nobody follows what is done with it but autograd.

    Fake tensors, those of ``torch.func`` and those of a compiler stand for others and hold no memory of their own.

    Example:
        >>> is_plain(torch.zeros(2)), is_plain(torch.zeros(2, dtype=torch.bfloat16))
        (True, False)
    """
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.device.type == "cpu"
        and x.dtype in dtypes
        and not torch.compiler.is_compiling()
        and torch._C._functorch.maybe_current_level() is None
    )

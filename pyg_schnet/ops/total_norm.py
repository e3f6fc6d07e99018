"""Norm of several tensors together, such as all gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyg_schnet.ops.dispatch import Backend, kernels_for


def total_norm(tensors: Sequence[Tensor], *, backend: Backend = "auto") -> Tensor | float:
    r"""Euclidean norm of several tensors together, such as all gradients.

    .. math:: \sqrt{\textstyle\sum_k \lVert \mathbf{x}_k \rVert^2}

    Like :func:`torch.nn.utils.get_total_norm`, in one call on CPUs instead of one for each tensor.

    Args:
        tensors: Of any shape and type.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        The norm, a number or a tensor without dimensions; 0 for no tensors.

    Example:
        >>> total_norm([torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])])
        5.0
    """
    in_rows = all([one.layout is torch.strided and one.is_contiguous() for one in tensors])  # noqa: C419 - faster
    alike = len({(type(one), one.dtype, one.device) for one in tensors}) == 1
    if not alike or not in_rows or not tensors[0].is_floating_point():
        return torch.nn.utils.get_total_norm(tensors)
    kernels = kernels_for(backend, tensors[0], needs="norm")
    return torch.nn.utils.get_total_norm(tensors) if kernels is None else kernels.norm(tensors)

"""Sums over the edges of each target atom."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch_geometric.utils import scatter, segment

from pyg_schnet.ops.checks import MOST_ROWS, check_index, check_pointer, check_rows, described, whole_number
from pyg_schnet.ops.dispatch import is_at_hand, is_transformed

MANY_EDGES = 1024
"""Number of edges of one atom beyond which float32 sums are not made sequentially, since rounding errors add up."""


def segment_sum(src: Tensor, index: Tensor, num_targets: int, ptr: Tensor | None = None) -> Tensor:
    r"""Sum the rows of ``src`` that belong to the same target.

    .. math:: y_i = \sum_{e:\, \mathrm{index}_e = i} \mathrm{src}_e

    With ``ptr`` the sum is PyG's segment reduction (torch-scatter's where that is installed): every target is summed
    by one worker in the order of its edges, so the result is the same in every run on any device. Without it, PyG's
    scatter, which takes edges in any order but adds atomically on GPUs. Both can be differentiated any number of times.
    On CPUs the rows of targets that have thousands are summed in float64.

    Args:
        src: Rows, shape ``[E, ...]``.
        index: Target of each row, shape ``[E]``.
        num_targets: Number of targets N.
        ptr: Where the rows of each target begin and end, shape ``[N + 1]``, for rows sorted by target
            (``torch_geometric.index.index2ptr(index, num_targets)``).

    Returns:
        Sums, shape ``[N, ...]``; zero for targets without rows.

    Raises:
        ValueError: If shapes or types do not fit, or ``ptr`` is not that of the rows.
        IndexError: If a target is out of range; checked on CPUs only.

    Example:
        >>> segment_sum(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 0, 2]), 3)
        tensor([[3.],
                [0.],
                [4.]])
    """
    if not isinstance(index, Tensor) or index.dim() != 1 or index.dtype != torch.int64:
        raise ValueError(f"index must name the target of each row, [E] of int64; got {described(index)}")
    check_rows([("src", src)], index.size(0), "indices")
    if not is_transformed() and not torch.compiler.is_compiling():
        whole_number(num_targets, "num_targets", 0, MOST_ROWS)
    check_index(index.unsqueeze(0), num_targets)
    if ptr is not None:
        check_pointer(ptr, index, num_targets, "ptr")
    return sum_rows(src, index, num_targets, ptr)


def sum_rows(src: Tensor, index: Tensor, num_targets: int, ptr: Tensor | None = None) -> Tensor:
    """Like :func:`segment_sum`, without checks."""
    if _is_crowded(src, index, num_targets, ptr):
        return scatter(src.to(torch.float64), index, 0, num_targets, reduce="sum").to(src.dtype)
    if ptr is None or src.is_meta or (not torch.compiler.is_compiling() and is_transformed()):
        return scatter(src, index, 0, num_targets, reduce="sum")
    return _SegmentSum.apply(src, ptr, index)


def is_crowded(ptr: Tensor, source: Tensor | None = None) -> bool:
    """Whether an atom has more than ``MANY_EDGES`` edges; checked on CPUs only.

    Args:
        ptr: Begin and end of each target's edges, shape ``[N + 1]``.
        source: Source of each edge of a half list, shape ``[P]``; ``None`` for directed edges.

    Example:
        >>> is_crowded(torch.tensor([0, 3, 2000]))
        True
    """
    if ptr.device.type != "cpu" or ptr.numel() < 2:
        return False
    counts = ptr.diff()
    if source is not None and source.numel() > 0:
        counts = counts + source.bincount(minlength=counts.size(0))
    return int(counts.max()) > MANY_EDGES


def _is_crowded(src: Tensor, index: Tensor, num_targets: int, ptr: Tensor | None) -> bool:
    """Whether a target has so many rows that their sum loses digits in float32."""
    if src.dtype != torch.float32 or not is_at_hand(src) or src.size(0) <= MANY_EDGES:
        return False
    if ptr is None:
        return num_targets > 0 and int(index.bincount(minlength=num_targets).max()) > MANY_EDGES
    return is_crowded(ptr)


class _SegmentSum(torch.autograd.Function):
    """PyG's segment reduction, made differentiable any number of times.

    Neither torch's own nor torch-scatter's ``segment_csr`` has a second derivative. The sum over segments
    and the gather from segments are each other's derivative, so the pair closes.
    """

    @staticmethod
    def forward(src: Tensor, ptr: Tensor, index: Tensor) -> Tensor:
        if type(src) not in (Tensor, Parameter):  # torch-scatter's operator knows no fake tensors
            return scatter(src, index, 0, ptr.size(0) - 1, reduce="sum")
        return segment(src.contiguous(), ptr, reduce="sum")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _SegmentGather.apply(grad, *ctx.saved_tensors), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, ...], src: Tensor, ptr: Tensor, index: Tensor) -> tuple[Tensor, int]:
        return _SegmentSum.apply(src.movedim(in_dims[0], -1), ptr, index), -1


class _SegmentGather(torch.autograd.Function):
    """Give every row the value of its segment, the derivative of :class:`_SegmentSum`."""

    @staticmethod
    def forward(src: Tensor, ptr: Tensor, index: Tensor) -> Tensor:
        return src.index_select(0, index)

    setup_context = staticmethod(_SegmentSum.setup_context)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _SegmentSum.apply(grad, *ctx.saved_tensors), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, ...], src: Tensor, ptr: Tensor, index: Tensor) -> tuple[Tensor, int]:
        return _SegmentGather.apply(src.movedim(in_dims[0], -1), ptr, index), -1

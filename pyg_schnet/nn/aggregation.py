"""Sums over the edges of each target atom."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import SumAggregation
from torch_geometric.utils import scatter, segment

from pyg_schnet.ops import is_dense_cpu
from pyg_schnet.ops.dispatch import is_transformed, is_unmodified
from pyg_schnet.ops.graph import MANY_EDGES, is_crowded


class _SegmentSum(torch.autograd.Function):
    """PyG's segment reduction, made differentiable any number of times.

    Neither ``torch._segment_reduce`` nor torch-scatter's ``segment_csr`` has a second derivative. The sum over segments
    and the gather from segments are each other's derivative, so the pair closes.
    """

    @staticmethod
    def forward(src: Tensor, ptr: Tensor, index: Tensor) -> Tensor:
        return segment(src.contiguous(), ptr, reduce="sum")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _SegmentGather.apply(grad, *ctx.saved_tensors), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], src: Tensor, ptr: Tensor, index: Tensor) -> tuple[Tensor, int]:
        return _SegmentSum.apply(src.movedim(in_dims[0], -1), ptr, index), -1


class _SegmentGather(torch.autograd.Function):
    """Give every row of a segment the segment's value: the derivative of :class:`_SegmentSum`."""

    @staticmethod
    def forward(src: Tensor, ptr: Tensor, index: Tensor) -> Tensor:
        return src.index_select(0, index)

    setup_context = staticmethod(_SegmentSum.setup_context)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _SegmentSum.apply(grad, *ctx.saved_tensors), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], src: Tensor, ptr: Tensor, index: Tensor) -> tuple[Tensor, int]:
        return _SegmentGather.apply(src.movedim(in_dims[0], -1), ptr, index), -1


def sum_to_targets(src: Tensor, index: Tensor, num_targets: int, ptr: Tensor | None = None) -> Tensor:
    r"""Sum the rows of ``src`` that belong to the same target.

    .. math:: y_i = \sum_{e:\, \mathrm{index}_e = i} \mathrm{src}_e

    With ``ptr`` the sum is PyG's segment reduction (torch-scatter's where that is installed): every target is summed
    by one worker in the order of its edges, so the result is the same in every run on any device. Without it, PyG's
    scatter, which takes edges in any order but adds atomically on GPUs. Both can be differentiated any number of times.
    On CPUs the messages of targets that have thousands are summed in float64.

    Args:
        src: Messages, shape ``[E, ...]``.
        index: Target of each message, shape ``[E]``.
        num_targets: Number of targets N.
        ptr: Where the messages of each target begin and end, shape ``[N + 1]``, for messages sorted by target
            (``torch_geometric.index.index2ptr(index, num_targets)``).

    Returns:
        Sums, shape ``[N, ...]``; zero for targets without messages.

    Example:
        >>> sum_to_targets(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 0, 2]), 3)
        tensor([[3.],
                [0.],
                [4.]])
    """
    if _is_crowded(src, index, num_targets, ptr):
        return scatter(src.to(torch.float64), index, 0, num_targets, reduce="sum").to(src.dtype)
    if ptr is None or (not torch.compiler.is_compiling() and is_transformed()):
        return scatter(src, index, 0, num_targets, reduce="sum")
    return _SegmentSum.apply(src, ptr, index)


def is_forward(conv: MessagePassing) -> bool:
    """Whether messages go from the first row of ``edge_index`` to the second, by which ``edge_ptr`` is sorted."""
    return conv.flow == "source_to_target"


def aggregate_messages(
    conv: MessagePassing, messages: Tensor, index: Tensor, ptr: Tensor | None, num_targets: int
) -> Tensor:
    """Sum over the neighbours of each target, or what an ``aggr_module`` that was exchanged or hooked gives.

    Args:
        conv: The convolution.
        messages: Shape ``[E, F]``.
        index: Target of each message, shape ``[E]``.
        ptr: See :func:`sum_to_targets`.
        num_targets: Number of targets N.
    """
    summing = conv.aggr_module
    if type(summing) is SumAggregation and (torch.compiler.is_compiling() or is_unmodified(summing)):
        return sum_to_targets(messages, index, num_targets, ptr)
    return MessagePassing.aggregate(conv, messages, index, None, num_targets)


def _is_crowded(src: Tensor, index: Tensor, num_targets: int, ptr: Tensor | None) -> bool:
    """Whether a target has so many messages that their sum loses digits in float32."""
    if not is_dense_cpu(src, (torch.float32,)) or src.size(0) <= MANY_EDGES:
        return False
    if ptr is None:
        return num_targets > 0 and int(index.bincount(minlength=num_targets).max()) > MANY_EDGES
    return is_crowded(ptr)

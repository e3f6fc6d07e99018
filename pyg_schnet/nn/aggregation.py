"""Sums over the edges of each target atom."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import SumAggregation

from pyg_schnet.ops.modules import is_unmodified
from pyg_schnet.ops.segment_sum import segment_sum as sum_to_targets
from pyg_schnet.ops.segment_sum import sum_rows

__all__ = ["aggregate_messages", "is_forward", "sum_to_targets"]


def is_forward(conv: MessagePassing) -> bool:
    """Whether messages go from the first row of ``edge_index`` to the second, by which ``edge_ptr`` is sorted."""
    return conv.flow == "source_to_target"


def aggregate_messages(
    conv: MessagePassing, messages: Tensor, index: Tensor, ptr: Tensor | None, num_targets: int
) -> Tensor:
    """Sum over the neighbours of each target, by the ``aggr_module`` where it was replaced or hooked.

    Args:
        conv: The convolution.
        messages: Shape ``[E, F]``.
        index: Target of each message, shape ``[E]``.
        ptr: See ``sum_to_targets``.
        num_targets: Number of targets N.
    """
    summing = conv.aggr_module
    if type(summing) is SumAggregation and (torch.compiler.is_compiling() or is_unmodified(summing)):
        return sum_rows(messages, index, num_targets, ptr)
    return MessagePassing.aggregate(conv, messages, index, None, num_targets)

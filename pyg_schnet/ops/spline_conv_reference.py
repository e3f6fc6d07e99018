"""The splined convolution and its derivatives in plain torch: any device, any floating dtype, each line the formula.

Sums are made over sorted segments: no atomic additions, the same result in every run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_schnet.ops.bspline import SPAN, interpolate
from pyg_schnet.ops.graph import SplineGraph
from pyg_schnet.ops.segment_sum import sum_rows as segment_sum


def spline_conv(x: Tensor, table: Tensor, basis: Tensor, graph: SplineGraph) -> Tensor:
    """Derivative of the form with respect to g: the convolution itself, shape ``[N_dst, F]``."""
    interval, source, target, basis = _ordered(graph.target_order, graph.interval, graph.source, graph.target, basis)
    messages = x.index_select(0, source) * interpolate(table, basis, interval)
    return segment_sum(messages, target, graph.target_ptr.size(0) - 1, graph.target_ptr)


def spline_conv_grad_table(g: Tensor, x: Tensor, basis: Tensor, num_rows: int, graph: SplineGraph) -> Tensor:
    """Derivative of the form with respect to C, shape ``[num_rows, F]``."""
    num_intervals = num_rows - SPAN + 1
    graph = graph.with_intervals(num_intervals)
    interval, source, target, basis = _ordered(graph.interval_order, graph.interval, graph.source, graph.target, basis)
    product = _wide(g, basis).index_select(0, target) * _wide(x, basis).index_select(0, source)  # [E, F]
    sums = [
        segment_sum(product * basis[:, m : m + 1], interval, num_intervals, graph.interval_ptr) for m in range(SPAN)
    ]
    padded = (torch.nn.functional.pad(each, (0, 0, m, SPAN - 1 - m)) for m, each in enumerate(sums))
    return sum(padded)  # type: ignore[return-value]  # the 0 from which sum starts is not returned


def spline_conv_grad_basis(g: Tensor, x: Tensor, table: Tensor, graph: SplineGraph) -> Tensor:
    """Derivative of the form with respect to h, shape ``[E, 4]``."""
    product = _wide(g, table).index_select(0, graph.target) * _wide(x, table).index_select(0, graph.source)  # [E, F]
    return torch.stack([(product * table.index_select(0, graph.interval + m)).sum(1) for m in range(SPAN)], 1)


def _wide(features: Tensor, other: Tensor) -> Tensor:
    """Features of 16 bits in the precision of tables and bases, in which products are made."""
    return features.to(torch.promote_types(features.dtype, other.dtype))


def _ordered(order: Tensor | None, *values: Tensor) -> tuple[Tensor, ...]:
    return values if order is None else tuple(value.index_select(0, order) for value in values)

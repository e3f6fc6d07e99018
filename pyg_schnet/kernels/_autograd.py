"""What a backward pass needs to compute, asked of the engine."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad


def is_recorded(x: torch.Tensor) -> bool:
    """Whether autograd follows what is computed from a tensor, backward or forward; a Function costs time otherwise."""
    return (x.requires_grad and torch.is_grad_enabled()) or forward_ad._current_level >= 0


def wanted(ctx: Any, position: int, tensors_before: int | None = None) -> bool:
    """Whether the gradient of a Function's tensor input is going to be used.

    ``ctx.needs_input_grad`` says whether an input requires a gradient at all. For forces the engine is asked for the
    gradient of positions only, and gradients of weights would be computed for nothing.

    Args:
        ctx: Context of the backward pass.
        position: Number of the input.
        tensors_before: How many of the inputs before it are tensors; ``None`` for all.
    """
    if not ctx.needs_input_grad[position]:
        return False
    node = position if tensors_before is None else tensors_before
    try:
        return torch._C._will_engine_execute_node(ctx.next_functions[node][0])
    except (AttributeError, RuntimeError):  # not in this torch, or an input that is asked for itself
        return True


def any_wanted(ctx: Any, first: int) -> bool:
    """Whether any gradient is going to be used of the tensor inputs from number ``first`` on."""
    nodes = [node for node, _ in ctx.next_functions[first:] if node is not None]
    try:
        return any(map(torch._C._will_engine_execute_node, nodes))
    except (AttributeError, RuntimeError):
        return True

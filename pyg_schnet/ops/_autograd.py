"""Helpers for operators that define their own derivatives.

Two private functions of torch are used here, since there are no public ones: one tells whether autograd's engine is
going to use a gradient, the other is the guard under which a kernel is called below autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def below_autograd() -> AbstractContextManager:
    """Context in which operators are called without autograd, directly for their device."""
    return torch._C._AutoDispatchBelowAutograd()


def register(
    library: torch.library.Library, name: str, kernel: Callable, function: type[torch.autograd.Function], fake: Callable
) -> None:
    """Register an operator that is defined in a library.

    Args:
        library: The library.
        name: Name of the operator.
        kernel: Computes it on any device, not differentiable.
        function: Computes it with its derivatives, from the kernel.
        fake: Gives outputs of the same shapes without data.
    """
    library.impl(name, kernel, "CompositeExplicitAutograd")
    library.impl(name, function.apply, "Autograd")
    torch.library.register_fake(f"pyg_schnet::{name}", fake, lib=library)


def needs_grad(ctx: Any, position: int, tensors_before: int | None = None) -> bool:
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


def needs_any_grad(ctx: Any, first: int) -> bool:
    """Whether any gradient is going to be used of the tensor inputs from number ``first`` on."""
    nodes = [node for node, _ in ctx.next_functions[first:] if node is not None]
    try:
        return any(map(torch._C._will_engine_execute_node, nodes))
    except (AttributeError, RuntimeError):
        return True


def gradients_of(
    function: Callable[..., Tensor | Sequence[Tensor | None]],
    inputs: Sequence[Tensor | None],
    grads: Tensor | Sequence[Tensor | None],
) -> list[Tensor | None]:
    r"""Gradients of a function that autograd knows, for the backward pass of one that computes the same by kernels.

    .. math:: \mathbf{g}_k = \Bigl(\frac{\partial f}{\partial \mathbf{x}_k}\Bigr)^{\mathrm{T}} \mathbf{g}

    Inputs that a Function saved have a history of their own: positions that were moved along forces depend on the
    weights, which are inputs as well. These are *partial* derivatives, since the engine itself goes on along that
    history, so the function is computed from aliases of the inputs, which nothing else depends on. In grad mode the
    gradients can be differentiated again.

    Args:
        function: Function of all inputs, made of operations that autograd knows; returns one tensor or several.
        inputs: Its arguments x.
        grads: Gradients g with respect to its outputs, or to the first of them; ``None`` where there is none.

    Returns:
        Gradient with respect to each input; ``None`` where it requires none, or no output depends on it.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [value if value is None else _alias(value, again) for value in inputs]
        found = function(*aliases)
        outputs = [found] if isinstance(found, Tensor) else found
        above = [grads] if isinstance(grads, Tensor) else grads
        both = zip(outputs, above, strict=False)
        pairs = [(out, grad) for out, grad in both if out is not None and grad is not None]
        pairs = [(out, grad) for out, grad in pairs if out.requires_grad]
        chosen = [alias for alias in aliases if alias is not None and alias.requires_grad]
        if not pairs or not chosen:
            return [None] * len(aliases)
        used, above = zip(*pairs, strict=True)
        gradients = iter(torch.autograd.grad(used, chosen, above, create_graph=again, allow_unused=True))
    return [next(gradients) if alias is not None and alias.requires_grad else None for alias in aliases]


def _alias(value: Tensor, again: bool) -> Tensor:
    """An alias of the tensor that acts as a leaf; with its history behind it if that is to be differentiated."""
    if not value.requires_grad:
        return value
    return value.view_as(value) if again else value.detach().requires_grad_(True)

"""Atom-wise dense layers with the initialisation of SchNet."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn

from pyg_schnet.ops.checks import check_parameters, whole_numbers


def dense(in_channels: int, out_channels: int, bias: bool = True) -> nn.Linear:
    r"""Atom-wise layer :math:`\mathbf{x}_i \mathbf{W} + \mathbf{b}`, eq. (10) of Schütt et al. (2020).

    A plain ``torch.nn.Linear``, which pruning, LoRA, quantisation and counters of operations find, with Glorot-uniform
    weights and zero biases, as in the SchNet of PyTorch Geometric. ``reset_parameters`` of the layer itself is torch's;
    that of the modules of this package draws Glorot-uniform weights again.

    Args:
        in_channels: Size of each input row.
        out_channels: Size of each output row.
        bias: Whether a bias is added.

    Raises:
        ValueError: If a size is not a whole number of at least 1, or too large.

    Example:
        >>> dense(3, 2)
        Linear(in_features=3, out_features=2, bias=True)
    """
    in_channels, out_channels = whole_numbers(in_channels=in_channels, out_channels=out_channels)
    check_parameters(in_channels * out_channels, "a dense layer")
    layer = nn.Linear(in_channels, out_channels, bias=bias, device="meta")  # torch's own weights are not drawn
    layer.weight = nn.Parameter(torch.empty(out_channels, in_channels))
    if bias:
        layer.bias = nn.Parameter(torch.empty(out_channels))
    draw_glorot(layer)
    return layer


@torch.no_grad()
def draw_glorot(layer: nn.Linear) -> None:
    """Draw Glorot-uniform weights and set the bias to zero."""
    bound = math.sqrt(6.0 / (layer.in_features + layer.out_features))
    layer.weight.uniform_(-bound, bound)
    if layer.bias is not None:
        layer.bias.zero_()


def reset_parameters(*modules: nn.Module) -> None:
    """Draw new weights for modules, Glorot-uniform ones for dense layers."""
    for module in modules:
        if type(module) is nn.Linear:
            draw_glorot(module)
        elif hasattr(module, "reset_parameters"):
            cast(Any, module).reset_parameters()
        else:
            reset_parameters(*module.children())

"""A filter network evaluated on a grid: spline coefficients as a function of its weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyg_schnet.kernels import cpu_kernels, is_plain, linear, spline_coefficients
from pyg_schnet.nn.activation import ShiftedSoftplus, shifted_softplus
from pyg_schnet.nn.dense import Dense
from pyg_schnet.nn.filters import FilterNetwork


class Grid(NamedTuple):
    """What the network is evaluated at, for M consecutive samples.

    Attributes:
        expansion: Radial expansion of the distances, shape ``[M, num_gaussians]``.
        window: Cutoff window, shape ``[M, 1]``.
        vanishing: Whether the samples reach the cutoff, where value and slope are zero.
    """

    expansion: Tensor
    window: Tensor
    vanishing: bool


def tabulate(network: FilterNetwork, grid: Grid, known: Tensor | None = None) -> Tensor:
    r"""Spline coefficients of the filters of a network, differentiable any number of times.

    .. math:: \mathbf{C} = P \bigl( f \circ \mathrm{network}(\mathbf{e}) \bigr)

    with the prefilter P of :func:`pyg_schnet.kernels.spline_coefficients` and the window f.

    Args:
        network: Filter network.
        grid: Samples.
        known: The coefficients, where they are known already and only their gradient by weights is wanted; for networks
            that :func:`is_written_out`.

    Returns:
        Coefficients, shape ``[M - 4, num_filters]``.
    """
    if is_written_out(network) and not grid.expansion.requires_grad:
        weights = [value for layer in (network.lin1, network.lin2) for value in (layer.weight, layer.bias)]
        return _Table.apply(grid, network.activate_filters, known, *weights)
    return spline_coefficients(network.amplitude(grid.expansion) * grid.window, grid.vanishing)


def is_written_out(network: FilterNetwork) -> bool:
    """Whether the formula of a network is the one written out below, with nothing exchanged or hooked to it."""
    layers = (network.lin1, network.lin2)
    return (
        type(network) is FilterNetwork
        and type(network.act) is ShiftedSoftplus
        and all(type(layer) is Dense and not layer._forward_hooks and not layer._forward_pre_hooks for layer in layers)
        and is_plain(network.lin1.weight)
    )


class _Table(torch.autograd.Function):
    """The table in one step, with its gradient by weights by hand; thirty small operations are as many calls."""

    @staticmethod
    def forward(ctx: Any, grid: Grid, activate: bool, known: Tensor | None, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(*weights)
        ctx.grid, ctx.activate, ctx.sampled = grid, activate, None
        if known is not None:
            return known.view_as(known)
        ctx.sampled = cpu_kernels().sample_filters(grid.expansion, *weights, activate)
        return cpu_kernels().prefilter(ctx.sampled.filters, grid.window, grid.vanishing)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grid, weights = ctx.grid, ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, None, *_differentiable(grid, ctx.activate, weights, grad)
        kernels = cpu_kernels()
        sampled = ctx.sampled or kernels.sample_filters(grid.expansion, *weights, ctx.activate)
        grad = kernels.prefilter_transposed(grad, grid.window, grid.vanishing)
        by_outer, by_inner = kernels.sampled_gradient(grad, sampled, weights[2])
        first = kernels.product_of_rows(by_inner, grid.expansion, sums=True)
        return None, None, None, *first, *kernels.product_of_rows(by_outer, sampled.hidden, sums=True)


def _differentiable(grid: Grid, activate: bool, weights: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients by weights that can be differentiated again."""
    weight1, bias1, weight2, bias2 = weights
    samples = linear(shifted_softplus(linear(grid.expansion, weight1, bias1)), weight2, bias2)
    samples = (shifted_softplus(samples) if activate else samples) * grid.window
    chosen = [weight for weight in weights if weight.requires_grad]
    found = iter(torch.autograd.grad(spline_coefficients(samples, grid.vanishing), chosen, grad, create_graph=True))
    return tuple(next(found) if weight.requires_grad else None for weight in weights)

r"""The fused filter-convolution as registered operators of torch, differentiable any number of times.

All of it is one form, linear in each of its four arguments:

.. math::
    L(g, x, C, h) = \sum_e \sum_f g_{i(e), f}\; x_{j(e), f} \sum_{m=0}^{3} h_{e, m}\, C_{k(e) + m, f}

with edges e from source j to target i, spline coefficients C and the weights h of the four coefficients that act in
interval k. Its derivative by g is the convolution, the derivatives by x, C and h are the gradients of the convolution,
and the derivatives of those are again such derivatives: by g and by x it is the same kernel, on the edges in the other
direction. So three operators close under differentiation:

- :func:`spline_conv`, the derivative by g (and, transposed, by x);
- :func:`spline_conv_coefficients`, the derivative by C;
- :func:`spline_conv_weights`, the derivative by h.

On CPUs in float32 and float64 numba kernels run, otherwise plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.ops import spline_conv_reference as reference
from pyg_schnet.ops._autograd import needs_grad
from pyg_schnet.ops.graph import SplineGraph

_GRAPH = (
    "Tensor bins, Tensor source, Tensor target, Tensor target_ptr, Tensor? target_order, Tensor? source_ptr, "
    "Tensor? source_order, Tensor? bin_ptr, Tensor? bin_order, bool undirected"
)
_library = torch.library.Library("pyg_schnet", "DEF")
_library.define(f"spline_conv(Tensor x, Tensor coefficients, Tensor weights, {_GRAPH}) -> Tensor")
_library.define(
    f"spline_conv_coefficients(Tensor g, Tensor x, Tensor weights, SymInt num_coefficients, {_GRAPH}) -> Tensor"
)
_library.define(f"spline_conv_weights(Tensor g, Tensor x, Tensor coefficients, {_GRAPH}) -> Tensor")
_ops = torch.ops.pyg_schnet


def spline_conv(x: Tensor, coefficients: Tensor, weights: Tensor, graph: SplineGraph) -> Tensor:
    r"""Convolution with splined filters, the derivative of the form by g.

    .. math:: y_{i, f} = \sum_{e:\, i(e) = i} x_{j(e), f} \sum_m h_{e, m}\, C_{k(e) + m, f}

    Args:
        x: Features of the sources, shape ``[N_src, F]``.
        coefficients: Spline coefficients C, shape ``[num_intervals + 3, F]``.
        weights: Weights h of the four coefficients of each edge, shape ``[E, 4]``.
        graph: Edges.

    Returns:
        Shape ``[N_dst, F]``.

    Example:
        >>> from pyg_schnet.ops import spline_graph
        >>> graph = spline_graph(torch.tensor([0]), torch.tensor([[0], [1]]), num_targets=2)
        >>> spline_conv(torch.tensor([[2.0], [0.0]]), torch.ones(4, 1), torch.tensor([[0.25] * 4]), graph)
        tensor([[0.],
                [2.]])
    """
    return _ops.spline_conv(x, coefficients, weights, *graph)


def spline_conv_coefficients(
    g: Tensor, x: Tensor, weights: Tensor, num_coefficients: int, graph: SplineGraph
) -> Tensor:
    """Derivative of the form by the coefficients C, shape ``[num_coefficients, F]``; see :func:`spline_conv`."""
    return _ops.spline_conv_coefficients(g, x, weights, num_coefficients, *graph)


def spline_conv_weights(g: Tensor, x: Tensor, coefficients: Tensor, graph: SplineGraph) -> Tensor:
    """Derivative of the form by the weights h, shape ``[E, 4]``; see :func:`spline_conv`."""
    return _ops.spline_conv_weights(g, x, coefficients, *graph)


def _by_features(g: Tensor, coefficients: Tensor, weights: Tensor, graph: SplineGraph, num_sources: int) -> Tensor:
    """Derivative of the form by x: the convolution on the edges in the other direction, shape ``[num_sources, F]``."""
    return spline_conv(g, coefficients, weights, graph.with_sources(num_sources).transposed())


def _backend(x: Tensor) -> ModuleType:
    return cpu_kernels() if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) else reference


def cpu_kernels() -> ModuleType:
    """The module of the numba kernels, which are compiled when they are first called, and then kept on disk."""
    from pyg_schnet.backends import numba as cpu

    return cpu


def _spline_conv(x: Tensor, coefficients: Tensor, weights: Tensor, *graph: Any) -> Tensor:
    graph, weights = _directed(SplineGraph(*graph), weights)
    return _backend(x).spline_conv(x, coefficients, weights, graph)


def _spline_conv_coefficients(
    g: Tensor, x: Tensor, weights: Tensor, num_coefficients: int, *graph: Tensor | None
) -> Tensor:
    graph, weights = _directed(SplineGraph(*graph), weights)
    return _backend(x).spline_conv_grad_table(g, x, weights, num_coefficients, graph)


def _spline_conv_weights(g: Tensor, x: Tensor, coefficients: Tensor, *graph: Any) -> Tensor:
    given = SplineGraph(*graph)
    found = _backend(x).spline_conv_grad_basis(g, x, coefficients, _directed(given, None)[0])
    return found if not given.undirected else found[: given.source.size(0)] + found[given.source.size(0) :]


def _directed(graph: SplineGraph, weights: Tensor | None) -> tuple[SplineGraph, Tensor | None]:
    """Edges in both directions in the place of an undirected graph."""
    if not graph.undirected:
        return graph, weights
    return graph.in_both_directions(), None if weights is None else torch.cat([weights, weights])


def _keep(ctx: Any, graph: tuple, *arguments: Tensor) -> None:
    *tensors, ctx.undirected = graph
    ctx.save_for_backward(*arguments, *tensors)


def _kept(ctx: Any) -> tuple[tuple[Tensor, ...], SplineGraph]:
    """What :func:`_keep` was given."""
    saved = ctx.saved_tensors  # once: checkpoints compute them again when they are asked for
    arguments, tensors = saved[:3], saved[3:]
    return arguments, SplineGraph(*tensors, undirected=ctx.undirected)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, coefficients: Tensor, weights: Tensor, *graph: Any) -> Tensor:
        _keep(ctx, graph, x, coefficients, weights)
        with torch._C._AutoDispatchBelowAutograd():
            return _ops.spline_conv(x, coefficients, weights, *graph)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, coefficients, weights), graph = _kept(ctx)
        return (
            _by_features(grad, coefficients, weights, graph, x.size(0)) if needs_grad(ctx, 0) else None,
            spline_conv_coefficients(grad, x, weights, coefficients.size(0), graph) if needs_grad(ctx, 1) else None,
            spline_conv_weights(grad, x, coefficients, graph) if needs_grad(ctx, 2) else None,
            *(None for _ in graph),
        )


class _Coefficients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weights: Tensor, num: int, *graph: Any) -> Tensor:
        _keep(ctx, graph, g, x, weights)
        with torch._C._AutoDispatchBelowAutograd():
            return _ops.spline_conv_coefficients(g, x, weights, num, *graph)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (g, x, weights), graph = _kept(ctx)
        return (
            spline_conv(x, grad, weights, graph) if needs_grad(ctx, 0) else None,
            _by_features(g, grad, weights, graph, x.size(0)) if needs_grad(ctx, 1) else None,
            spline_conv_weights(g, x, grad, graph) if needs_grad(ctx, 2) else None,
            None,
            *(None for _ in graph),
        )


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, coefficients: Tensor, *graph: Any) -> Tensor:
        _keep(ctx, graph, g, x, coefficients)
        with torch._C._AutoDispatchBelowAutograd():
            return _ops.spline_conv_weights(g, x, coefficients, *graph)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (g, x, coefficients), graph = _kept(ctx)
        return (
            spline_conv(x, coefficients, grad, graph) if needs_grad(ctx, 0) else None,
            _by_features(g, coefficients, grad, graph, x.size(0)) if needs_grad(ctx, 1) else None,
            spline_conv_coefficients(g, x, grad, coefficients.size(0), graph) if needs_grad(ctx, 2) else None,
            *(None for _ in graph),
        )


def _register(name: str, kernel: Callable, function: type[torch.autograd.Function], fake: Callable) -> None:
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    _library.impl(name, function.apply, "Autograd")
    torch.library.register_fake(f"pyg_schnet::{name}", fake, lib=_library)


_register(
    "spline_conv",
    _spline_conv,
    _Conv,
    lambda x, coefficients, weights, *graph: x.new_empty(graph[3].size(0) - 1, x.size(1)),
)
_register(
    "spline_conv_coefficients",
    _spline_conv_coefficients,
    _Coefficients,
    lambda g, x, weights, num_coefficients, *graph: x.new_empty(num_coefficients, x.size(1)),
)
_register(
    "spline_conv_weights",
    _spline_conv_weights,
    _Weights,
    lambda g, x, coefficients, *graph: x.new_empty(graph[0].size(0), 4),
)

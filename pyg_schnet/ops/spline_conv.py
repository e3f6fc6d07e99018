r"""Operators 3 to 5: the convolution with splined filters and its gradients, differentiable any number of times.

They are derivatives of one form, linear in each of its four arguments:

.. math::
    L(g, x, C, h) = \sum_e \sum_f g_{i(e), f}\; x_{j(e), f} \sum_{m=0}^{3} h_{e, m}\, C_{k(e) + m, f}

with directed edges e from source j to target i, the table C of a spline and the basis h of each edge, the factors of
the four rows that act in interval k. Its derivative with respect to g is the convolution, the derivatives with respect
to x, C and h are the gradients of the convolution, and the derivatives of those are again such derivatives: with
respect to g and to x it is the same operator, on the edges in the other direction. So three operators close under
differentiation:

- :func:`spline_conv`, the derivative with respect to g (and, transposed, to x);
- :func:`spline_conv_grad_table`, the derivative with respect to C;
- :func:`spline_conv_grad_basis`, the derivative with respect to h.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.ops import spline_conv_reference as reference
from pyg_schnet.ops._autograd import below_autograd, needs_grad, register
from pyg_schnet.ops.bspline import SPAN
from pyg_schnet.ops.checks import check_pointer, whole_number
from pyg_schnet.ops.dispatch import HALVES, Backend, is_at_hand, is_followed, kernels_for, other_types
from pyg_schnet.ops.graph import SplineGraph
from pyg_schnet.ops.sort_edges import check_keys

_GRAPH = (
    "Tensor interval, Tensor source, Tensor target, Tensor target_ptr, Tensor? target_order, Tensor? source_ptr, "
    "Tensor? source_order, Tensor? interval_ptr, Tensor? interval_order, str backend"
)
_library = torch.library.Library("pyg_schnet", "FRAGMENT")
_library.define(f"spline_conv(Tensor x, Tensor table, Tensor basis, {_GRAPH}) -> Tensor")
_library.define(f"spline_conv_grad_table(Tensor g, Tensor x, Tensor basis, SymInt num_rows, {_GRAPH}) -> Tensor")
_library.define(f"spline_conv_grad_basis(Tensor g, Tensor x, Tensor table, {_GRAPH}) -> Tensor")
_ops = torch.ops.pyg_schnet


def spline_conv(x: Tensor, table: Tensor, basis: Tensor, graph: SplineGraph, *, backend: Backend = "auto") -> Tensor:
    r"""Convolution with splined filters, the derivative of the form with respect to g.

    .. math:: y_{i, f} = \sum_{e:\, i(e) = i} x_{j(e), f} \sum_m h_{e, m}\, C_{k(e) + m, f}

    Nothing of shape ``[E, F]`` is saved for backward, and sums are deterministic. Transforms of ``torch.func``, forward
    mode and compilers see plain operations of torch.

    Features may have 16 bits (bfloat16 or float16) beside a table and a basis of 32 or 64, as under
    ``torch.autocast``: they are read as they are, and all products and sums, and the result, have the precision of the
    table, as torch promotes types.

    Args:
        x: Features of the sources, shape ``[N_src, F]``.
        table: Table C of the spline, shape ``[num_intervals + 3, F]``.
        basis: Basis h of each edge, see :func:`pyg_schnet.ops.spline_basis`, shape ``[E, 4]``.
        graph: Directed edges.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Convolved features, shape ``[N_dst, F]``.

    Raises:
        ValueError: If shapes do not fit.
        IndexError: If a source, target, interval or order is out of range; checked on CPUs only.

    Example:
        >>> from pyg_schnet.ops import spline_graph
        >>> graph = spline_graph(torch.tensor([0]), torch.tensor([[0], [1]]), num_targets=2)
        >>> spline_conv(torch.tensor([[2.0], [0.0]]), torch.ones(4, 1), torch.tensor([[0.25] * 4]), graph)
        tensor([[0.],
                [2.]])
    """
    _check(graph, sources=x, table=table, basis=basis)
    _check_places(graph, x.size(0), graph.target_ptr.size(0) - 1, table.size(0))
    return convolve(x, table, basis, graph, backend=backend)


def convolve(x: Tensor, table: Tensor, basis: Tensor, graph: SplineGraph, *, backend: Backend = "auto") -> Tensor:
    """Like :func:`spline_conv`, without checks, for edges that were checked before."""
    if _kernels(backend, (x,), (table, basis), graph) is not None:
        return _ops.spline_conv.default(x, table, basis, *graph, backend)
    if is_followed():
        return reference.spline_conv(x, table, basis, graph)
    return _Conv.apply(x, table, basis, *graph, "reference")


def spline_conv_grad_table(
    g: Tensor, x: Tensor, basis: Tensor, num_rows: int, graph: SplineGraph, *, backend: Backend = "auto"
) -> Tensor:
    r"""Derivative of the form with respect to the table C; see :func:`spline_conv`.

    .. math:: \frac{\partial L}{\partial C_{k, f}} = \sum_e g_{i(e), f}\, x_{j(e), f} \sum_m h_{e, m}\,
              \delta_{k(e) + m, k}

    Args:
        g: Factors of the targets, such as the gradient with respect to the convolution, shape ``[N_dst, F]``.
        x: Features of the sources, shape ``[N_src, F]``.
        basis: Basis h of each edge, shape ``[E, 4]``.
        num_rows: Rows of the table, ``num_intervals + 3``.
        graph: Directed edges.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Gradient, shape ``[num_rows, F]``.

    Example:
        >>> from pyg_schnet.ops import spline_graph
        >>> graph = spline_graph(torch.tensor([0]), torch.tensor([[0], [1]]), num_targets=2)
        >>> x, h = torch.tensor([[2.0], [3.0]]), torch.tensor([[0.1, 0.4, 0.4, 0.1]])
        >>> spline_conv_grad_table(x, x, h, 4, graph).T
        tensor([[0.6000, 2.4000, 2.4000, 0.6000]])
    """
    whole_number(num_rows, "num_rows", SPAN)
    _check(graph, targets=g, sources=x, basis=basis)
    _check_places(graph, x.size(0), g.size(0), num_rows)
    return _derive_table(g, x, basis, num_rows, graph, backend=backend)


def _derive_table(
    g: Tensor, x: Tensor, basis: Tensor, num_rows: int, graph: SplineGraph, *, backend: Backend
) -> Tensor:
    if _kernels(backend, (g, x), (basis,), graph) is not None:
        return _ops.spline_conv_grad_table.default(g, x, basis, num_rows, *graph, backend)
    if is_followed():
        return reference.spline_conv_grad_table(g, x, basis, num_rows, graph)
    return _GradTable.apply(g, x, basis, num_rows, *graph, "reference")


def spline_conv_grad_basis(
    g: Tensor, x: Tensor, table: Tensor, graph: SplineGraph, *, backend: Backend = "auto"
) -> Tensor:
    r"""Derivative of the form with respect to the basis h; see :func:`spline_conv`.

    .. math:: \frac{\partial L}{\partial h_{e, m}} = \sum_f g_{i(e), f}\, x_{j(e), f}\, C_{k(e) + m, f}

    Args:
        g: Factors of the targets, such as the gradient with respect to the convolution, shape ``[N_dst, F]``.
        x: Features of the sources, shape ``[N_src, F]``.
        table: Table C of the spline, shape ``[num_intervals + 3, F]``.
        graph: Directed edges.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Gradient, shape ``[E, 4]``.

    Example:
        >>> from pyg_schnet.ops import spline_graph
        >>> graph = spline_graph(torch.tensor([0]), torch.tensor([[0], [1]]), num_targets=2)
        >>> x, table = torch.tensor([[2.0], [3.0]]), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
        >>> spline_conv_grad_basis(x, x, table, graph)
        tensor([[ 6., 12., 18., 24.]])
    """
    _check(graph, targets=g, sources=x, table=table)
    _check_places(graph, x.size(0), g.size(0), table.size(0))
    return _derive_basis(g, x, table, graph, backend=backend)


def _derive_basis(g: Tensor, x: Tensor, table: Tensor, graph: SplineGraph, *, backend: Backend) -> Tensor:
    if _kernels(backend, (g, x), (table,), graph) is not None:
        return _ops.spline_conv_grad_basis.default(g, x, table, *graph, backend)
    if is_followed():
        return reference.spline_conv_grad_basis(g, x, table, graph)
    return _GradBasis.apply(g, x, table, *graph, "reference")


def _check(graph: SplineGraph, basis: Tensor | None = None, **features: Tensor) -> None:
    """Raise unless shapes fit, since kernels do not check bounds."""
    whole = all(isinstance(x, Tensor) and x.dtype == torch.int64 and x.dim() == 1 for x in graph[:4])
    if not whole or any(x is not None and x.dtype != torch.int64 for x in graph[4:]):
        raise ValueError("interval, source, target, their pointers and orders must be lists of int64")
    n_edges = graph.interval.size(0)
    if basis is not None and basis.shape != (n_edges, SPAN):
        raise ValueError(f"basis must have one row for each of the {n_edges} edges, [E, 4]; got {list(basis.shape)}")
    if graph.source.shape != (n_edges,) or graph.target.shape != (n_edges,):
        raise ValueError(f"interval, source and target of {n_edges} edges must have one shape, [E]")
    if any(order is not None and order.shape != (n_edges,) for order in (graph[4], graph[6], graph[8])):
        raise ValueError(f"orders of {n_edges} edges must have their shape, [E]")
    first, *others = features.values()
    if any(x.dim() != 2 or x.size(1) != first.size(-1) for x in (first, *others)):
        given = ", ".join(f"{name} {list(x.shape)}" for name, x in features.items())
        raise ValueError(f"{' and '.join(features)} must be rows of the same number of features; got {given}")
    targets = features.get("targets")
    if targets is not None and targets.size(0) != graph.target_ptr.size(0) - 1:
        raise ValueError(f"the graph has {graph.target_ptr.size(0) - 1} targets, got features of {targets.size(0)}")


def _check_places(graph: SplineGraph, num_sources: int, num_targets: int, num_rows: int) -> None:
    """Raise unless sources, targets, intervals and orders are in range; checked on CPUs only."""
    n_edges = graph.interval.size(0)
    check_keys(graph.source, num_sources)
    check_keys(graph.target, num_targets)
    check_keys(graph.interval, num_rows - SPAN + 1, "edges name intervals")
    orders = (
        ("target", graph.target, num_targets, *graph[3:5]),
        ("source", graph.source, num_sources, *graph[5:7]),
        ("interval", graph.interval, num_rows - SPAN + 1, *graph[7:9]),
    )
    for name, key, size, ptr, order in orders:
        if ptr is None:
            continue
        if order is not None:
            check_keys(order, n_edges, "an order names edges")
            if is_at_hand(order) and n_edges > 0 and int(order.bincount().max()) > 1:
                raise ValueError(f"{name}_order names an edge twice; take spline_graph or with_sources to make it")
            key = key.index_select(0, order)
        check_pointer(ptr, key, size, f"{name}_ptr")


def _kernels(
    backend: Backend, features: tuple[Tensor, ...], others: tuple[Tensor, ...], graph: SplineGraph
) -> ModuleType | None:
    """Module of the kernels; ``None`` for the reference, also where dtypes differ, except for features of 16 bits."""
    why = other_types(*features, *others)
    if why is None or not any(value.dtype in HALVES for value in features):
        return kernels_for(backend, *features, *others, *graph, unless=why)
    wide = [value for value in features if value.dtype not in HALVES]
    return kernels_for(backend, *features, *others, *graph, unless=other_types(*others, *wide), halves=True)


def _module(
    backend: Backend, features: tuple[Tensor, ...], others: tuple[Tensor, ...], graph: SplineGraph
) -> ModuleType:
    return _kernels(backend, features, others, graph) or reference


def _grad_features(g: Tensor, table: Tensor, basis: Tensor, graph: SplineGraph, x: Tensor, backend: Backend) -> Tensor:
    """Derivative of the form with respect to x: the convolution on the reversed edges, shape and type of x."""
    return convolve(g, table, basis, graph.with_sources(x.size(0)).transposed(), backend=backend).to(x.dtype)


def _conv(x: Tensor, table: Tensor, basis: Tensor, *rest: Any) -> Tensor:
    *tensors, backend = rest
    graph = SplineGraph(*tensors)
    return _module(backend, (x,), (table, basis), graph).spline_conv(x, table, basis, graph)


def _grad_table(g: Tensor, x: Tensor, basis: Tensor, num_rows: int, *rest: Any) -> Tensor:
    *tensors, backend = rest
    graph = SplineGraph(*tensors)
    return _module(backend, (g, x), (basis,), graph).spline_conv_grad_table(g, x, basis, num_rows, graph)


def _grad_basis(g: Tensor, x: Tensor, table: Tensor, *rest: Any) -> Tensor:
    *tensors, backend = rest
    graph = SplineGraph(*tensors)
    return _module(backend, (g, x), (table,), graph).spline_conv_grad_basis(g, x, table, graph)


def _run(name: str, reference: Callable, *arguments: Any) -> Tensor:
    """Call the registered operator below autograd, or the reference."""
    if arguments[-1] == "reference":
        return reference(*arguments)
    with below_autograd():
        return getattr(_ops, name).default(*arguments)


def _save(ctx: Any, rest: tuple, *arguments: Tensor) -> None:
    *tensors, ctx.backend = rest
    ctx.save_for_backward(*arguments, *tensors)


def _saved(ctx: Any) -> tuple[tuple[Tensor, ...], SplineGraph, dict[str, Backend]]:
    """The arguments of :func:`_save`."""
    saved = ctx.saved_tensors  # once: checkpoints compute them again when they are asked for
    return saved[:3], SplineGraph(*saved[3:]), {"backend": ctx.backend}


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, basis: Tensor, *rest: Any) -> Tensor:
        _save(ctx, rest, x, table, basis)
        return _run("spline_conv", _conv, x, table, basis, *rest)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, table, basis), graph, how = _saved(ctx)
        return (
            _grad_features(grad, table, basis, graph, x, **how) if needs_grad(ctx, 0) else None,
            _derive_table(grad, x, basis, table.size(0), graph, **how) if needs_grad(ctx, 1) else None,
            _derive_basis(grad, x, table, graph, **how) if needs_grad(ctx, 2) else None,
            *(None for _ in range(len(graph) + 1)),
        )


class _GradTable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, basis: Tensor, num_rows: int, *rest: Any) -> Tensor:
        _save(ctx, rest, g, x, basis)
        return _run("spline_conv_grad_table", _grad_table, g, x, basis, num_rows, *rest)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (g, x, basis), graph, how = _saved(ctx)
        return (
            convolve(x, grad, basis, graph, **how).to(g.dtype) if needs_grad(ctx, 0) else None,
            _grad_features(g, grad, basis, graph, x, **how) if needs_grad(ctx, 1) else None,
            _derive_basis(g, x, grad, graph, **how) if needs_grad(ctx, 2) else None,
            *(None for _ in range(len(graph) + 2)),
        )


class _GradBasis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, table: Tensor, *rest: Any) -> Tensor:
        _save(ctx, rest, g, x, table)
        return _run("spline_conv_grad_basis", _grad_basis, g, x, table, *rest)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (g, x, table), graph, how = _saved(ctx)
        return (
            convolve(x, table, grad, graph, **how).to(g.dtype) if needs_grad(ctx, 0) else None,
            _grad_features(g, table, grad, graph, x, **how) if needs_grad(ctx, 1) else None,
            _derive_table(g, x, grad, table.size(0), graph, **how) if needs_grad(ctx, 2) else None,
            *(None for _ in range(len(graph) + 1)),
        )


register(
    _library,
    "spline_conv",
    _conv,
    _Conv,
    lambda x, table, basis, *rest: table.new_empty(rest[3].size(0) - 1, x.size(1)),
)
register(
    _library,
    "spline_conv_grad_table",
    _grad_table,
    _GradTable,
    lambda g, x, basis, num_rows, *_: basis.new_empty(num_rows, x.size(1)),
)
register(
    _library,
    "spline_conv_grad_basis",
    _grad_basis,
    _GradBasis,
    lambda g, x, table, *rest: table.new_empty(rest[0].size(0), 4),
)

"""The continuous-filter convolution, as PyG message passing."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import SumAggregation
from torch_geometric.utils import scatter

from pyg_schnet.nn._inputs import check_edges, check_ends, check_features, check_filter_network, sizes_of
from pyg_schnet.nn.aggregation import aggregate_messages, is_forward
from pyg_schnet.nn.dense import reset_parameters
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.nn.spline import SplineFilter, can_be_splined, check_num_grid_points, filters_from_table
from pyg_schnet.ops import check_sources, spline_basis, spline_graph
from pyg_schnet.ops.dispatch import HALVES, Backend, is_followed
from pyg_schnet.ops.graph import SplineGraph, spanned
from pyg_schnet.ops.modules import FUSED_HOOKS, constant_in_programs, may_fuse, registered
from pyg_schnet.ops.sort_edges import check_keys
from pyg_schnet.ops.spline_conv import convolve

Features = Tensor | tuple[Tensor, Tensor]
Filters = Literal["auto", "exact", "spline"]


class SplineEdges(NamedTuple):
    """Edges with splined filters, the argument of :meth:`CFConv.message_and_aggregate`.

    Attributes:
        graph: The edges in the orders of the kernels, with the interval of each.
        basis: Spline basis of each edge, differentiable in the distances, shape ``[E, 4]``.
        table: Spline table of the filters, shape ``[num_intervals + 3, F]``.
    """

    graph: SplineGraph
    basis: Tensor
    table: Tensor


def exclude_self_loops(edge_index: Tensor, edge_dist: Tensor, cutoff: float) -> Tensor:
    """Move edges from an atom to itself to the cutoff, where windows are zero, since sums run over j ≠ i.

    Only edges of length zero are moved: a periodic image of an atom is a neighbour.
    Shapes do not depend on the data, so nothing waits for the device.

    Args:
        edge_index: ``(j, i)``, shape ``[2, E]``.
        edge_dist: Distances in Å, shape ``[E]``.
        cutoff: Cutoff in Å.

    Returns:
        Distances in Å, shape ``[E]``.

    Example:
        >>> exclude_self_loops(torch.tensor([[0, 1], [0, 0]]), torch.tensor([0.0, 1.5]), cutoff=5.0)
        tensor([5.0000, 1.5000])
    """
    itself = (edge_index[0] == edge_index[1]) & (edge_dist == 0)
    return torch.where(itself, cutoff, edge_dist)


def neighbor_counts(edge_index: Tensor, edge_dist: Tensor, cutoff: float, num_targets: int) -> Tensor:
    """Number of neighbours within the cutoff of each target, at least 1: the n_nbh of eq. (18) of Schütt et al. (2020).

    Args:
        edge_index: ``(j, i)``, shape ``[2, E]``.
        edge_dist: Distances in Å, shape ``[E]``.
        cutoff: Cutoff in Å.
        num_targets: Number of targets N.

    Returns:
        Counts in the dtype of ``edge_dist``, shape ``[N]``.

    Example:
        >>> neighbor_counts(torch.tensor([[1, 2], [0, 0]]), torch.tensor([1.0, 9.0]), 5.0, 2)
        tensor([1., 1.])
    """
    check_edges(edge_index, edge_dist)
    check_keys(edge_index[1], num_targets)
    inside = (edge_dist < cutoff).to(edge_dist.dtype)
    return scatter(inside, edge_index[1], 0, num_targets, reduce="sum").clamp(min=1.0)


@registered(aggr_module=SumAggregation, filter_network=FilterNetwork)
class CFConv(MessagePassing):
    r"""Continuous-filter convolution, eq. (9) and (13) of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_.

    .. math:: \mathbf{x}'_i = \sum_{j \ne i} \mathbf{x}_j \circ W(\lVert \mathbf{r}_j - \mathbf{r}_i \rVert)

    With ``normalize`` the sum is divided by the number of neighbours within the cutoff, eq. (18), which the paper
    uses with the hard cutoff on crystals:

    .. math:: \mathbf{x}'_i = \frac{1}{n_i} \sum_{j \ne i} \mathbf{x}_j \circ W(r_{ij})

    This number jumps when a neighbour crosses the cutoff, and so does the energy.

    Features may be a pair ``(x_src, x_dst)`` of which only the first is read: messages then go from atoms to other
    points, at which the convolution is evaluated (eq. 8 and 19).

    Filters are exact, the filter network on every edge, or splined, the network on a grid
    (:class:`pyg_schnet.nn.SplineFilter`); errors are at most about 1e-6 of the energies and 1e-5 of the largest force
    in evaluation, and ten times that in training. Which ones are used depends on the layer only, not on device, mode or
    number of edges. A convolution or filter network that was subclassed, overridden, hooked or had a part replaced has
    exact filters, as explainers need them; PyG's hooks on ``message_and_aggregate`` are called with splined ones.
    Splined filters are summed without storing a tensor ``[E, F]`` (:func:`pyg_schnet.ops.spline_conv`); inside
    ``torch.func``, ``torch.compile``, ``torch.jit.trace`` and forward-mode differentiation the same filters are
    evaluated on every edge. ``torch.export`` hides the classes of parts, so filters are exact there, unless the layer
    was frozen (:func:`pyg_schnet.engine.freeze`), which keeps its table.

    Args:
        filter_network: Maps distances ``[E]`` in Å to filters ``[E, F]`` that vanish from its ``cutoff`` on.
        normalize: Whether to divide by the number of neighbours, eq. (18).
        filters: ``"exact"`` or ``"spline"``; ``"auto"`` takes splined ones for an unmodified :class:`FilterNetwork`
            whose basis has a resolution.
        num_grid_points: Number of grid points of the spline; ``None`` takes as many as the errors above need.

    Raises:
        ValueError: If ``filters`` is none of these, or ``"spline"`` and the network cannot be splined.

    Example:
        >>> from pyg_schnet.nn import CFConv, FilterNetwork
        >>> conv = CFConv(FilterNetwork(8))
        >>> edge_index, edge_dist = torch.tensor([[1, 0], [0, 1]]), torch.tensor([1.1, 1.1])
        >>> conv(torch.randn(2, 8), edge_index, edge_dist).shape
        torch.Size([2, 8])
    """

    backend: Backend = "auto"

    filter_network: Any  # a module, whose cutoff and num_filters are asked
    table: Tensor | None
    _spline: Any  # SplineFilter, or None while filters are exact

    def __init__(
        self,
        filter_network: nn.Module,
        *,
        normalize: bool = False,
        filters: Filters = "auto",
        num_grid_points: int | None = None,
    ) -> None:
        super().__init__(aggr="sum", node_dim=0)
        check_filter_network(filter_network)
        self.filter_network = filter_network
        self.normalize = normalize
        self.num_grid_points = check_num_grid_points(num_grid_points)
        self.register_buffer("table", None, persistent=False)  # of splined filters that are fixed
        self.filters = filters

    @property
    def filters(self) -> Filters:
        """Which filters are taken, ``"auto"``, ``"exact"`` or ``"spline"``; can be changed at any time."""
        return self._filters

    @filters.setter
    def filters(self, value: Filters) -> None:
        if not isinstance(value, str) or value not in ("auto", "exact", "spline"):
            raise ValueError(f"filters must be 'auto', 'exact' or 'spline', got {value!r}")
        if value == "spline" and not can_be_splined(self.filter_network, self.num_grid_points):
            raise ValueError(
                "filters='spline' needs a FilterNetwork whose basis has a fixed resolution, or num_grid_points, and "
                "whose window is of this package or says by an attribute 'vanishes' how it ends; got "
                f"{self.filter_network}"
            )
        self._filters = value
        self._set_spline(None)

    @property
    def spline(self) -> SplineFilter | None:
        """The filter network as a table; ``None`` where filters are exact, or the network cannot be splined."""
        network, known = self.filter_network, self._spline
        if self._filters == "exact" or not can_be_splined(network, self.num_grid_points):
            return None
        if known is None or known.network is not network or known.given_grid_points != self.num_grid_points:
            known = SplineFilter(network, self.num_grid_points)
            self._set_spline(known)
        known.backend = self.backend
        return known

    def _set_spline(self, spline: SplineFilter | None) -> None:
        self.__dict__["_spline"] = spline  # no part of this module, which would have the network twice

    @property
    def cutoff(self) -> float:
        """Distance in Å from which on filters are zero.

        Raises:
            TypeError: If the filter network has no ``cutoff``.
        """
        cutoff = getattr(self.filter_network, "cutoff", None)
        if cutoff is None:
            raise TypeError(
                f"a filter network needs an attribute cutoff, the distance in Å from which on filters are zero; "
                f"{type(self.filter_network).__name__} has none"
            )
        return cutoff

    @property
    def in_channels(self) -> int:
        """Size of the features, used by PyG's explainers; -1 if the filter network has no ``num_filters``."""
        return getattr(self.filter_network, "num_filters", -1)

    @property
    def out_channels(self) -> int:
        """Size of the convolved features, equal to that of the features."""
        return self.in_channels

    def train(self, mode: bool = True) -> CFConv:
        """Set training or evaluation mode; either way the table is computed again."""
        if self._spline is not None:
            self._spline.forget()
        return super().train(mode)

    def reset_parameters(self) -> None:
        """Draw new weights for the filter network."""
        super().reset_parameters()
        reset_parameters(self.filter_network)

    def forward(
        self,
        x: Features,
        edge_index: Tensor,
        edge_dist: Tensor,
        edge_ptr: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Convolve features with the filters.

        Args:
            x: Features, shape ``[N, F]``, or ``(x_src, x_dst)`` of shapes ``[N_src, F]`` and ``[N_dst, any]``.
            edge_index: ``(j, i)``, shape ``[2, E]``.
            edge_dist: Distances in Å, shape ``[E]``.
            edge_ptr: Begin and end of each target's edges, shape ``[N_dst + 1]``, where they are sorted by target;
                makes the sum a segment reduction, see ``sum_to_targets``.
            size: ``(N_src, N_dst)``; needed only for ``x = (x_src, None)``.

        Returns:
            Convolved features, shape ``[N_dst, F]``.

        Raises:
            ValueError: If shapes or types do not fit, such as distances ``[E, 1]`` or a sparse adjacency, or
                ``edge_ptr`` is not that of the edges.
            IndexError: If an edge names an atom that is not there; checked on CPUs only.
        """
        check_features(x, getattr(self.filter_network, "num_filters", None))
        edge_index = check_edges(edge_index, edge_dist)
        if isinstance(x, Tensor):
            edge_dist = exclude_self_loops(edge_index, edge_dist, self.cutoff)
            x = (x, x)
        splined, forward, sizes = self.is_splined(), is_forward(self), sizes_of(x, size)
        fused = splined and not is_followed()
        check_ends(edge_index, edge_ptr, sizes, forward=forward, ends_known=fused)
        if fused:
            out = self._fused(x[0], edge_index, edge_dist, edge_ptr, sizes[1])
        else:
            filters = self._splined(edge_dist) if splined else self.filter_network(edge_dist)  # [E, F]
            edge_ptr = edge_ptr if forward else None
            out = self.propagate(edge_index, x=x, filters=filters, edge_ptr=edge_ptr, size=size)
        if self.normalize:
            edge_index = edge_index if forward else edge_index.flip(0)
            out = out / neighbor_counts(edge_index, edge_dist, self.cutoff, out.size(0)).unsqueeze(-1)
        return out

    @constant_in_programs
    def is_splined(self) -> bool:
        """Whether filters come from a table: they are not exact, and nothing is replaced, overridden or hooked."""
        if self.table is not None and torch.compiler.is_compiling():
            return True  # known when it was fixed; exporters replace modules by those of other classes
        return may_fuse(self, FUSED_HOOKS) and self.spline is not None

    def _splined(self, edge_dist: Tensor) -> Tensor:
        """Splined filters of each edge, shape ``[E, F]``."""
        table = self._spline.table() if self.table is None else self.table
        return filters_from_table(edge_dist, table, self.cutoff, self.backend)

    def _fused(
        self, x_src: Tensor, edge_index: Tensor, edge_dist: Tensor, edge_ptr: Tensor | None, num_targets: int
    ) -> Tensor:
        """:meth:`message_and_aggregate` with its hooks, as PyG's ``propagate`` calls it."""
        edges = self._spline_edges(edge_index, edge_dist, edge_ptr, (x_src.size(0), num_targets))
        arguments = {"x_src": x_src}
        for hook in self._message_and_aggregate_forward_pre_hooks.values():
            changed = hook(self, (edges, arguments))
            edges, arguments = (edges, arguments) if changed is None else changed
        out = self.message_and_aggregate(edges, **arguments)
        for hook in self._message_and_aggregate_forward_hooks.values():
            changed = hook(self, (edges, arguments), out)
            out = out if changed is None else changed
        return out

    def _spline_edges(
        self, edge_index: Tensor, edge_dist: Tensor, edge_ptr: Tensor | None, size: tuple[int, int]
    ) -> SplineEdges:
        """Edges with spline basis and table; if gradients are recorded, also in the orders that these need."""
        spline, table = self._spline, self.table
        num_intervals = spline.num_grid_points - 1 if table is None else table.size(0) - 3
        interval, basis = spline_basis(edge_dist, self.cutoff, num_intervals, backend=self.backend)
        if table is None:
            interval, first, num_intervals = spanned(interval, num_intervals if spline.network.training else None)
            table = spline.table(first, num_intervals)
        graph = spline_graph(interval, edge_index, size[1], edge_ptr)
        if torch.is_grad_enabled():
            graph = graph.with_sources(size[0])
            if table.requires_grad:
                graph = graph.with_intervals(table.size(0) - 3)
        else:
            check_sources(edge_index[0], size[0])
        return SplineEdges(graph, basis, table)

    def message(self, x_j: Tensor, filters: Tensor) -> Tensor:
        """Summand of eq. (9), shape ``[E, F]``."""
        return x_j * filters

    def aggregate(self, inputs: Tensor, index: Tensor, edge_ptr: Tensor | None, dim_size: int) -> Tensor:
        """Sum over the neighbours of each target, shape ``[N_dst, F]``."""
        return aggregate_messages(self, inputs, index, edge_ptr, dim_size)

    def message_and_aggregate(self, edges: SplineEdges, x_src: Tensor) -> Tensor:
        """Eq. (9) in one pass with splined filters, shape ``[N_dst, F]``."""
        graph, basis, table = edges
        if x_src.dtype not in HALVES or not (x_src.is_cuda or self.backend == "triton"):
            x_src = x_src.to(table.dtype)  # under autocast it has 16 bits, which kernels of GPUs read as they are
        return convolve(x_src, table, basis, graph, backend=self.backend)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.filter_network}, normalize={self.normalize})"

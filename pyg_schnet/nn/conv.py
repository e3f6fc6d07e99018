"""Convolutions on the edges of atomic graphs, as PyG message passing."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import SumAggregation
from torch_geometric.utils import scatter

from pyg_schnet.nn._inputs import check_edges, check_features
from pyg_schnet.nn.aggregation import aggregate_messages, is_forward
from pyg_schnet.nn.basis import GaussianBasis
from pyg_schnet.nn.cutoff import HardCutoff
from pyg_schnet.nn.dense import dense, reset_parameters
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.nn.spline import SplineEdges, SplineFilter, can_be_splined, check_num_grid_points
from pyg_schnet.ops import spline_conv
from pyg_schnet.ops.dispatch import is_followed, is_transformed
from pyg_schnet.ops.standard import FUSED_HOOKS, StandardCheck, standard

Features = Tensor | tuple[Tensor, Tensor]
Filters = Literal["auto", "exact", "spline"]


def exclude_self_loops(edge_index: Tensor, edge_dist: Tensor, cutoff: float) -> Tensor:
    """Move edges from an atom to itself to the cutoff, where windows are zero: the j ≠ i of the sums.

    Only the atom itself (distance zero) is meant. In a crystal an atom's periodic image is a neighbour and stays.
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
    """Number of neighbours within the cutoff of each target, at least 1: the n_nbh of eq. (18) of the chapter.

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
    inside = (edge_dist < cutoff).to(edge_dist.dtype)
    return scatter(inside, edge_index[1], 0, num_targets, reduce="sum").clamp(min=1.0)


@standard(aggr_module=SumAggregation, filter_network=FilterNetwork)
class CFConv(MessagePassing):
    r"""Continuous-filter convolution, eq. (9) and (13) of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_.

    .. math:: \mathbf{x}'_i = \sum_{j \ne i} \mathbf{x}_j \circ W(\lVert \mathbf{r}_j - \mathbf{r}_i \rVert)

    With ``normalize`` the sum is divided by the number of neighbours within the cutoff, eq. (18), which the chapter
    uses with the hard cutoff on crystals:

    .. math:: \mathbf{x}'_i = \frac{1}{n_i} \sum_{j \ne i} \mathbf{x}_j \circ W(r_{ij})

    That count jumps when a neighbour crosses the cutoff, and the energy with it.

    Features may be a pair ``(x_src, x_dst)`` of which only the first is read: messages then go from atoms to other
    points, at which the convolution is evaluated (eq. 8 and 19).

    There are two ways to the same sum. The exact one is PyG's: :meth:`message` on every edge, then the sum. The fused
    one, :meth:`message_and_aggregate`, takes the filters from a table (:class:`pyg_schnet.nn.SplineFilter`) and stores
    nothing of the size of the edges. It is for what is written here: a convolution or filter network that was
    subclassed, overridden, exchanged in part or hooked takes the exact way, as do explainers, ``torch.compile`` and
    ``torch.export``. Hooks on ``message_and_aggregate`` are called on the fused way, which is then taken where it can
    be. Inside of ``torch.func``, ``torch.jit.trace`` and forward-mode differentiation the filters are the same as
    outside, and messages are made on every edge.

    Args:
        filter_network: Maps distances ``[E]`` in Å to filters ``[E, F]`` that vanish from its ``cutoff`` on.
        normalize: Whether to divide by the number of neighbours, eq. (18).
        filters: ``"exact"`` or ``"spline"``; ``"auto"`` takes the splined ones where they are faster: on CPUs, in
            training for graphs of more edges than nodes, in evaluation always, so that energies do not depend on the
            number of edges.
        num_grid_points: Nodes of the spline's grid; ``None`` takes as many as an error of the forces of 1e-5 needs, in
            training 1e-4, or one of the values of 1e-5 where nothing is differentiated by distances.

    Raises:
        ValueError: If ``filters`` is none of these, or ``"spline"`` and the network cannot be splined.

    Example:
        >>> from pyg_schnet.nn import CFConv, FilterNetwork
        >>> conv = CFConv(FilterNetwork(8))
        >>> edge_index, edge_dist = torch.tensor([[1, 0], [0, 1]]), torch.tensor([1.1, 1.1])
        >>> conv(torch.randn(2, 8), edge_index, edge_dist).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        filter_network: nn.Module,
        *,
        normalize: bool = False,
        filters: Filters = "auto",
        num_grid_points: int | None = None,
    ) -> None:
        super().__init__(aggr="sum", node_dim=0)
        self.filter_network = filter_network
        self.normalize = normalize
        check_num_grid_points(num_grid_points)
        self.num_grid_points = num_grid_points
        self._frozen = False
        self._spline: SplineFilter | None = None
        self._is_standard = StandardCheck(FUSED_HOOKS)
        self.filters = filters

    @property
    def filters(self) -> Filters:
        """Which way is taken: ``"auto"``, ``"exact"`` or ``"spline"``; can be changed at any time."""
        return self._filters

    @filters.setter
    def filters(self, value: Filters) -> None:
        if value not in ("auto", "exact", "spline"):
            raise ValueError(f"filters must be 'auto', 'exact' or 'spline', got {value!r}")
        if value == "spline" and not can_be_splined(self.filter_network, self.num_grid_points):
            raise ValueError(
                "filters='spline' needs a FilterNetwork whose basis has a fixed resolution, or num_grid_points, and whose "
                f"window is of this package or says by an attribute 'vanishes' how it ends; got {self.filter_network}"
            )
        self._filters, self._spline = value, None

    @property
    def spline(self) -> SplineFilter | None:
        """The filter network as a table; ``None`` where filters are exact, or the network cannot be splined."""
        network, known = self.filter_network, self._spline
        if self._filters == "exact" or not can_be_splined(network, self.num_grid_points):
            return None
        if known is None or known.network is not network or known.given_grid_points != self.num_grid_points:
            known = self._spline = SplineFilter(network, self.num_grid_points)
            known.look(not self._frozen)
        return known

    def freeze(self) -> None:
        """Look no more for changes of weights; see :func:`pyg_schnet.engine.freeze`."""
        self._frozen, self._spline = True, None

    @property
    def cutoff(self) -> float:
        """Distance in Å from which on filters are zero.

        Raises:
            TypeError: If the filter network does not say so.
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
        """Size of the features, as PyG's explainers ask for it; -1 where the filter network does not say it."""
        return getattr(self.filter_network, "num_filters", -1)

    @property
    def out_channels(self) -> int:
        """Size of the convolved features, that of the features."""
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
        spline: SplineEdges | None = None,
    ) -> Tensor:
        """Convolve features with the filters.

        Args:
            x: Features, shape ``[N, F]``, or ``(x_src, x_dst)`` of shapes ``[N_src, F]`` and ``[N_dst, any]``.
            edge_index: ``(j, i)``, shape ``[2, E]``.
            edge_dist: Distances in Å, shape ``[E]``.
            edge_ptr: Begin and end of each target's edges, shape ``[N_dst + 1]``, where they are sorted by target;
                makes the sum a segment reduction, see :func:`pyg_schnet.nn.sum_to_targets`.
            size: ``(N_src, N_dst)``; needed only for ``x = (x_src, None)``.
            spline: What :meth:`spline_edges` makes of the same edges, to be shared by several layers.

        Returns:
            Convolved features, shape ``[N_dst, F]``.

        Raises:
            ValueError: If shapes or types do not fit, such as distances ``[E, 1]`` or a sparse adjacency.
        """
        check_features(x, getattr(self.filter_network, "num_filters", None))
        if spline is None or not self.can_use(spline):
            spline = None
            edge_index = check_edges(edge_index, edge_dist)
            if isinstance(x, Tensor):
                edge_dist = exclude_self_loops(edge_index, edge_dist, self.cutoff)
        x_src, x_dst = (x, x) if isinstance(x, Tensor) else x
        num_targets = size[1] if x_dst is None else x_dst.size(0)
        if spline is None:
            spline = self.spline_edges(edge_index, edge_dist, edge_ptr, (x_src.size(0), num_targets))
        if spline is not None:
            return self._fused(spline, x_src)
        filters = (self._transformable_spline(edge_dist) or self.filter_network)(edge_dist)  # [E, F]
        forward = is_forward(self)
        edge_ptr = edge_ptr if forward else None
        out = self.propagate(edge_index, x=(x_src, x_dst), filters=filters, edge_ptr=edge_ptr, size=size)
        if self.normalize:
            edge_index = edge_index if forward else edge_index.flip(0)
            out = out / neighbor_counts(edge_index, edge_dist, self.cutoff, out.size(0)).unsqueeze(-1)
        return out

    def spline_edges(
        self,
        edge_index: Tensor,
        edge_dist: Tensor,
        edge_ptr: Tensor | None,
        size: tuple[int, int],
        undirected: bool = False,
    ) -> SplineEdges | None:
        """Edges for the fused way, or ``None`` where the exact one is to be taken.

        Args:
            edge_index: ``(j, i)``, shape ``[2, E]``.
            edge_dist: Distances in Å, shape ``[E]``; those of atoms to themselves at the cutoff.
            edge_ptr: Begin and end of each target's edges where they are sorted, shape ``[N_dst + 1]``.
            size: ``(N_src, N_dst)``.
            undirected: Whether each edge stands for both directions; they are sorted by target then.
        """
        spline = self.spline
        if is_followed() or spline is None or not self._is_standard(self):
            return None
        if self.filters == "auto" and not self._prefers_spline(edge_dist, (1 + undirected) * edge_dist.size(0)):
            return None
        edges = spline.edges(edge_index, edge_dist, edge_ptr, size, undirected)
        if self.normalize:
            if undirected:
                edge_index, edge_dist = torch.cat([edge_index, edge_index.flip(0)], 1), torch.cat([edge_dist] * 2)
            edges = edges._replace(n_neighbors=neighbor_counts(edge_index, edge_dist, spline.cutoff, size[1]))
        return edges

    def _transformable_spline(self, edge_dist: Tensor) -> SplineFilter | None:
        """Splined filters where these are to be taken, but made of operations that torch can transform."""
        if torch.compiler.is_compiling() or not is_transformed() or self.spline is None or not self._is_standard(self):
            return None
        return self.spline if self.filters == "spline" or self._prefers_spline(edge_dist, edge_dist.size(0)) else None

    def can_use(self, spline: SplineEdges) -> bool:
        """Whether edges that were prepared by another layer serve this one as well."""
        own = self.spline
        return (
            own is not None
            and own.fits(spline)
            and not (self.normalize and spline.n_neighbors is None)
            and self._is_standard(self)
        )

    def _prefers_spline(self, edge_dist: Tensor, num_edges: int) -> bool:
        if edge_dist.device.type != "cpu" or edge_dist.dtype not in (torch.float32, torch.float64):
            return False  # the fused kernels are those of the CPU
        hooked = self._message_and_aggregate_forward_pre_hooks or self._message_and_aggregate_forward_hooks
        return not self.training or bool(hooked) or num_edges > self.spline.num_grid_points_at(edge_dist)

    def _fused(self, spline: SplineEdges, x_src: Tensor) -> Tensor:
        """:meth:`message_and_aggregate` with its hooks, in the way of PyG's ``propagate``."""
        arguments = {"x_src": x_src}
        for hook in self._message_and_aggregate_forward_pre_hooks.values():
            changed = hook(self, (spline, arguments))
            spline, arguments = (spline, arguments) if changed is None else changed
        out = self.message_and_aggregate(spline, **arguments)
        for hook in self._message_and_aggregate_forward_hooks.values():
            changed = hook(self, (spline, arguments), out)
            out = out if changed is None else changed
        return out

    def message(self, x_j: Tensor, filters: Tensor) -> Tensor:
        """Summand of eq. (9), shape ``[E, F]``."""
        return x_j * filters

    def aggregate(self, inputs: Tensor, index: Tensor, edge_ptr: Tensor | None, dim_size: int) -> Tensor:
        """Sum over the neighbours of each target, shape ``[N_dst, F]``."""
        return aggregate_messages(self, inputs, index, edge_ptr, dim_size)

    def message_and_aggregate(self, spline: SplineEdges, x_src: Tensor) -> Tensor:
        """Eq. (9) in one pass with splined filters, shape ``[N_dst, F]``."""
        coefficients = self.spline.coefficients(spline.span)
        x_src = x_src.to(coefficients.dtype)  # under autocast it comes in half precision
        graph, basis = spline.graph, spline.weights
        if spline.half_list:
            graph, basis = graph.in_both_directions(), torch.cat([basis, basis])
        out = spline_conv(x_src, coefficients, basis, graph)
        return out / spline.n_neighbors.unsqueeze(-1) if self.normalize else out

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.filter_network}, normalize={self.normalize})"


class DTNNConv(MessagePassing):
    r"""Tensor interaction of the deep tensor neural network.

    Eq. (6) of `Schütt et al., Nat. Commun. 8, 13890 (2017) <https://doi.org/10.1038/ncomms13890>`_:

    .. math::
        \mathbf{v}_i = \sum_{j \ne i} \tanh\left[ \mathbf{W}^{fc} \left(
        (\mathbf{W}^{cf} \mathbf{c}_j + \mathbf{b}^{f_1}) \circ
        (\mathbf{W}^{df} \hat{\mathbf{d}}_{ij} + \mathbf{b}^{f_2}) \right) \right]

    Args:
        hidden_channels: Size F of the atom features c.
        num_factors: Size of the factor space in which features and distances are multiplied.
        basis: Radial expansion :math:`\hat{\mathbf{d}}`; ``None`` takes 50 Gaussians up to the window's cutoff.
        window: Cutoff window on the messages; ``None`` takes the hard cutoff at the basis' cutoff (the paper has
            neither window nor cutoff: all atoms of its molecules see each other).

    Example:
        >>> conv = DTNNConv(30, 60)
        >>> conv(torch.randn(2, 30), torch.tensor([[1, 0], [0, 1]]), torch.tensor([1.1, 1.1])).shape
        torch.Size([2, 30])
    """

    def __init__(
        self,
        hidden_channels: int = 30,
        num_factors: int = 60,
        basis: nn.Module | None = None,
        window: nn.Module | None = None,
    ) -> None:
        super().__init__(aggr="sum", node_dim=0)
        if window is None:
            window = HardCutoff(10.0 if basis is None else basis.cutoff)
        self.window = window
        self.basis = GaussianBasis(cutoff=window.cutoff) if basis is None else basis
        self.hidden_channels = hidden_channels
        self.num_factors = num_factors
        self.lin_features = dense(hidden_channels, num_factors)  # W^cf, b^f1
        self.lin_dist = dense(self.basis.num_gaussians, num_factors)  # W^df, b^f2
        self.lin_out = dense(num_factors, hidden_channels, bias=False)  # W^fc

    @property
    def cutoff(self) -> float:
        """Distance in Å from which on no message is sent."""
        return self.window.cutoff

    @property
    def in_channels(self) -> int:
        """Size of the atom features, as PyG's explainers ask for it."""
        return self.hidden_channels

    @property
    def out_channels(self) -> int:
        """Size of the sums of messages, that of the atom features."""
        return self.hidden_channels

    def reset_parameters(self) -> None:
        """Draw new weights (Glorot uniform) and set biases to zero."""
        super().reset_parameters()
        reset_parameters(self.basis, self.lin_features, self.lin_dist, self.lin_out)

    def forward(
        self,
        x: Features,
        edge_index: Tensor,
        edge_dist: Tensor,
        edge_ptr: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Sum of messages, shape ``[N_dst, F]``; arguments as in :meth:`CFConv.forward`."""
        check_features(x, self.hidden_channels)
        edge_index = check_edges(edge_index, edge_dist)
        if isinstance(x, Tensor):
            edge_dist = exclude_self_loops(edge_index, edge_dist, self.cutoff)
            x = (x, x)
        x_src, x_dst = x
        return self.propagate(
            edge_index,
            x=(x_src if self._explains_features() else self._factors(x_src), x_dst),
            factors=self.lin_dist(self.basis(edge_dist)),  # [E, num_factors]
            window=self.window(edge_dist).unsqueeze(-1),  # [E, 1]
            edge_ptr=edge_ptr if is_forward(self) else None,
            size=size,
        )

    def _factors(self, x: Tensor) -> Tensor:
        """Features in the factor space, shape ``[N, num_factors]``."""
        return self.lin_features(x)

    def _explains_features(self) -> bool:
        """Whether messages are made from features as they are, whose size explainers are told by ``in_channels``."""
        return bool(self.explain) and type(self).message is DTNNConv.message and "message" not in vars(self)

    def message(self, x_j: Tensor, factors: Tensor, window: Tensor) -> Tensor:
        """Summand of eq. (6), shape ``[E, F]``."""
        x_j = self._factors(x_j) if self._explains_features() else x_j
        return torch.tanh(self.lin_out(x_j * factors)) * window

    def aggregate(self, inputs: Tensor, index: Tensor, edge_ptr: Tensor | None, dim_size: int) -> Tensor:
        """Sum over the neighbours of each target, shape ``[N_dst, F]``."""
        return aggregate_messages(self, inputs, index, edge_ptr, dim_size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hidden_channels}, {self.num_factors}, {self.basis}, {self.window})"

"""Filters tabulated over the distance: the same network, evaluated on a grid instead of on every edge."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from pyg_schnet.kernels import SplineGraph, bspline_weights, locate, spline_coefficients, spline_graph
from pyg_schnet.kernels.bspline import OVERHANG
from pyg_schnet.nn.filters import FilterNetwork

TOLERANCE = 1e-5
"""Error of the forces that is aimed at, relative to the largest force."""

_ERROR_AT_WIDTH = 0.02
"""Relative error of forces with one node for each width of the Gaussians, extrapolated by the third power; measured by
``benchmarks/spline_error.py`` over random and trained models, and rounded up."""


class SplineEdges(NamedTuple):
    """Edges as splined filters see them; shared by all layers with the same grid.

    Attributes:
        weights: Weights of the four coefficients of each edge, differentiable in the distances, shape ``[E, 4]``.
        graph: The edges in the orders of the kernels.
        cutoff: End of the grid in Å.
        num_nodes: Nodes of the grid.
    """

    weights: Tensor
    graph: SplineGraph
    cutoff: float
    num_nodes: int


def num_nodes_for(resolution: float, cutoff: float, tolerance: float = TOLERANCE) -> int:
    r"""Number of nodes for a wanted error of the forces.

    .. math:: G = 1 + \frac{r_c}{\sigma} \sqrt[3]{\kappa / \varepsilon}

    Slopes of a cubic spline err by the third power of the spacing over the finest detail σ, values by the fourth; the
    factor κ is measured.

    Args:
        resolution: Finest detail σ of the filters in Å, the width of the Gaussians.
        cutoff: End of the grid in Å.
        tolerance: Error ε of the forces, relative to the largest one.

    Raises:
        ValueError: If the tolerance is not positive.

    Example:
        >>> num_nodes_for(5.0 / 49, cutoff=5.0, tolerance=1e-5) > num_nodes_for(5.0 / 49, cutoff=5.0, tolerance=1e-3)
        True
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be a positive relative error of forces, got {tolerance!r}")
    return max(8, 1 + math.ceil(cutoff / resolution * (_ERROR_AT_WIDTH / tolerance) ** (1 / 3)))


class SplineFilter:
    r"""A filter network tabulated on a uniform grid over ``[0, cutoff]`` and interpolated by a cubic B-spline.

    .. math:: \tilde W(d) = \sum_{m=0}^{3} h_m(t)\, \mathbf{C}_{k + m}, \qquad k + t = \frac{d}{\Delta}

    The network is evaluated at the G nodes and no longer on every edge; its weights receive gradients through the
    coefficients **C** (:func:`pyg_schnet.kernels.spline_coefficients`). Two derivatives are continuous, and distances
    receive the exact derivative of the spline, so forces are the exact gradient of the energy. Where the window ends
    smoothly, value and slope at the cutoff are exactly zero. Values err by the fourth power of the spacing.

    The window is continued beyond both ends as its mirror image, which the cosine and the hard window are; a window
    with a kink there is less accurate near it.

    In evaluation mode the coefficients are kept until a weight changes. Weights changed behind autograd's back, by
    ``parameter.data``, are noticed at a sample of their elements only; :meth:`forget` makes sure.

    This is no module and holds no weights: it is another way to evaluate ``network``.

    Args:
        network: Filter network, whose basis has a ``resolution`` unless ``num_nodes`` is given.
        num_nodes: Nodes G of the grid; ``None`` takes :func:`num_nodes_for` the tolerance.
        tolerance: Error of forces that is aimed at, relative to the largest one.

    Raises:
        ValueError: If the number of nodes is too small, or cannot be found because the basis has no ``resolution``.

    Example:
        >>> from pyg_schnet.nn import CosineCutoff
        >>> network = FilterNetwork(8, window=CosineCutoff(5.0))
        >>> dist = torch.linspace(0.5, 6.0, 50)
        >>> bool((SplineFilter(network)(dist) - network(dist)).abs().max() < 1e-5)
        True
    """

    def __init__(self, network: FilterNetwork, num_nodes: int | None = None, tolerance: float = TOLERANCE) -> None:
        if num_nodes is None:
            resolution = getattr(network.basis, "resolution", None)
            if resolution is None:
                raise ValueError(
                    f"the number of nodes for {network.basis} is not known, as it has no fixed resolution (Å); give "
                    "num_nodes, or take the exact filters"
                )
            num_nodes = num_nodes_for(resolution, network.cutoff, tolerance)
        if num_nodes < 8:
            raise ValueError(f"num_nodes must be at least 8, got {num_nodes!r}")
        self.network = network
        self.num_nodes = int(num_nodes)
        self._kept = _Kept()

    @property
    def cutoff(self) -> float:
        """End of the grid in Å; filters are zero from there on."""
        return self.network.cutoff

    @property
    def spacing(self) -> float:
        """Distance between two nodes in Å."""
        return self.cutoff / (self.num_nodes - 1)

    def forget(self) -> None:
        """Compute the coefficients anew when they are needed next."""
        self._kept = _Kept()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": _Kept()}

    def edges(
        self,
        edge_index: Tensor,
        edge_dist: Tensor,
        edge_ptr: Tensor | None,
        size: tuple[int, int],
        *,
        needs_order: bool | None = None,
    ) -> SplineEdges:
        """Edges for the kernels.

        Args:
            edge_index: ``(j, i)``, shape ``[2, E]``.
            edge_dist: Distances in Å, shape ``[E]``.
            edge_ptr: Begin and end of each target's edges where they are sorted, shape ``[N_dst + 1]``.
            size: ``(N_src, N_dst)``.
            needs_order: Whether the edges are also put in the orders that gradients need; ``None`` does so where
                gradients are recorded. Orders that are missing are made in every backward pass.
        """
        bins, fraction = locate(edge_dist, self.cutoff, self.num_nodes - 1)
        weights = bspline_weights(fraction, edge_dist < self.cutoff)
        graph = spline_graph(bins, edge_index, size[1], edge_ptr)
        if torch.is_grad_enabled() if needs_order is None else needs_order:
            graph = graph.with_sources(size[0])
            if self.network.training:
                graph = graph.with_bins(self.num_nodes - 1)
        return SplineEdges(weights, graph, self.cutoff, self.num_nodes)

    def fits(self, edges: SplineEdges) -> bool:
        """Whether edges were prepared for this grid."""
        return edges.num_nodes == self.num_nodes and edges.cutoff == self.cutoff

    def coefficients(self) -> Tensor:
        """Spline coefficients, differentiable in the weights of the network, shape ``[num_nodes + 2, num_filters]``."""
        if self.network.training:
            return self.compute()
        parameters, buffers = list(self.network.parameters()), list(self.network.buffers())
        if not self._kept.holds([*parameters, *buffers]):
            self._kept.keep(parameters, buffers, self.compute_precisely)
        values = self._kept.values
        if values is None:
            return self.compute()
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
            return _Recalled.apply(self, values, *parameters)
        return values

    def compute(self) -> Tensor:
        """The coefficients, computed now, in the precision of the weights."""
        return self._tabulate(self.network)

    def compute_precisely(self) -> Tensor:
        """The coefficients without gradients, computed in float64 where the device has it, and then rounded.

        Rounding errors of the network differ from node to node, and slopes divide them by the spacing.
        """
        weight = self.network.lin1.weight
        if weight.dtype == torch.float64 or weight.device.type == "mps":
            return self.compute()
        return self._tabulate(copy.deepcopy(self.network).to(torch.float64)).to(weight.dtype)

    def _tabulate(self, network: FilterNetwork) -> Tensor:
        weight = network.lin1.weight
        wide = torch.float32 if weight.device.type == "mps" else torch.float64
        nodes = self.spacing * torch.arange(-OVERHANG, self.num_nodes + OVERHANG, device=weight.device, dtype=wide)
        window = self._window(nodes).to(weight.dtype).unsqueeze(-1)
        samples = network.amplitude(network.basis(nodes.to(weight.dtype))) * window
        return spline_coefficients(samples, self._vanishes())

    def _window(self, nodes: Tensor) -> Tensor:
        """The window continued as its mirror image beyond both ends."""
        dist = nodes.abs()
        dist = torch.where(dist > self.cutoff, 2.0 * self.cutoff - dist, dist)
        return self.network.window(dist.clamp(max=self.cutoff * (1.0 - 1e-9)))  # the end itself counts as outside

    def _vanishes(self) -> bool:
        """Whether the window ends with value and slope zero."""
        end = torch.tensor([1.0 - 1e-4], dtype=torch.float64) * self.cutoff
        return bool(self.network.window(end).abs() < 1e-6)

    def __call__(self, dist: Tensor) -> Tensor:
        """Filters at ``dist`` [Å], shape ``[E]``; returns shape ``[E, num_filters]``."""
        bins, fraction = locate(dist, self.cutoff, self.num_nodes - 1)
        weights, coefficients = bspline_weights(fraction, dist < self.cutoff), self.coefficients()
        return sum(weights[:, m : m + 1] * coefficients.index_select(0, bins + m) for m in range(weights.size(1)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.network}, num_nodes={self.num_nodes})"


class _Kept:
    """Coefficients and the state of the weights they were computed with."""

    def __init__(self) -> None:
        self.values: Tensor | None = None
        self._state: list[tuple[int, int]] = []
        self._samples: list[tuple[Any, int, float]] = []

    def holds(self, tensors: list[Tensor]) -> bool:
        """Whether the coefficients are those of these weights."""
        if self.values is None or torch._C._functorch.maybe_current_level() is not None:
            return False
        try:
            state = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        except RuntimeError:  # a tensor without memory of its own, or of inference mode
            return False
        return state == self._state and all(flat[k] == value for flat, k, value in self._samples)

    def keep(self, parameters: list[Tensor], buffers: list[Tensor], compute: Callable[[], Tensor]) -> None:
        """Compute and keep the coefficients, unless a change of the weights would not be noticed."""
        self.__init__()
        tensors = [*parameters, *buffers]
        if torch._C._functorch.maybe_current_level() is not None or torch.compiler.is_compiling():
            return
        if not all(type(parameter) is torch.nn.Parameter for parameter in parameters):
            return
        if any(type(tensor) is FakeTensor or tensor.is_inference() or tensor.is_meta for tensor in tensors):
            return
        with torch.inference_mode(False), torch.no_grad():
            values = compute()
        if type(values) is not Tensor:
            return
        self.values = values
        self._state = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        for tensor in tensors:
            if tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.numel() > 0:
                flat = tensor.detach().view(-1).numpy()
                middle = flat.size // 2
                self._samples.append((flat, middle, flat[middle]))


class _Recalled(torch.autograd.Function):
    """Kept coefficients as a function of the weights; computed with a graph only if their gradient is asked for."""

    @staticmethod
    def forward(ctx: Any, spline: SplineFilter, values: Tensor, *parameters: Tensor) -> Tensor:
        ctx.spline = spline
        ctx.save_for_backward(*parameters)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        parameters = ctx.saved_tensors
        chosen = [p for p in parameters if p.requires_grad]
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            values = ctx.spline.compute()
        gradients = iter(torch.autograd.grad(values, chosen, grad, create_graph=create_graph, allow_unused=True))
        return None, None, *(next(gradients) if p.requires_grad else None for p in parameters)

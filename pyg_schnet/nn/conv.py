"""Convolutions on the edges of atomic graphs, as PyG message passing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import scatter

from pyg_schnet.nn.aggregation import sum_to_targets
from pyg_schnet.nn.basis import GaussianBasis
from pyg_schnet.nn.cutoff import HardCutoff
from pyg_schnet.nn.dense import dense

Features = Tensor | tuple[Tensor, Tensor]


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


class CFConv(MessagePassing):
    r"""Continuous-filter convolution, eq. (9) and (13) of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_.

    .. math:: \mathbf{x}'_i = \sum_{j \ne i} \mathbf{x}_j \circ W(\lVert \mathbf{r}_j - \mathbf{r}_i \rVert)

    With ``normalize`` the sum is divided by the number of neighbours within the cutoff, eq. (18), which the chapter
    uses with the hard cutoff on crystals:

    .. math:: \mathbf{x}'_i = \frac{1}{n_i} \sum_{j \ne i} \mathbf{x}_j \circ W(r_{ij})

    That count jumps when a neighbour crosses the cutoff, and the energy with it.

    Features may be a pair ``(x_src, x_dst)`` of which only the first is read: messages then go from atoms to other
    points, at which the convolution is evaluated (eq. 8 and 19).

    Args:
        filter_network: Maps distances ``[E]`` in Å to filters ``[E, F]`` that vanish from its ``cutoff`` on.
        normalize: Whether to divide by the number of neighbours, eq. (18).

    Example:
        >>> from pyg_schnet.nn import CFConv, FilterNetwork
        >>> conv = CFConv(FilterNetwork(8))
        >>> edge_index, edge_dist = torch.tensor([[1, 0], [0, 1]]), torch.tensor([1.1, 1.1])
        >>> conv(torch.randn(2, 8), edge_index, edge_dist).shape
        torch.Size([2, 8])
    """

    def __init__(self, filter_network: nn.Module, *, normalize: bool = False) -> None:
        super().__init__(aggr="sum", node_dim=0)
        self.filter_network = filter_network
        self.normalize = normalize

    def reset_parameters(self) -> None:
        """Draw new weights for the filter network."""
        super().reset_parameters()
        self.filter_network.reset_parameters()

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
                makes the sum a segment reduction, see :func:`pyg_schnet.nn.sum_to_targets`.
            size: ``(N_src, N_dst)``; needed only for ``x = (x_src, None)``.

        Returns:
            Convolved features, shape ``[N_dst, F]``.
        """
        if isinstance(x, Tensor):
            edge_dist = exclude_self_loops(edge_index, edge_dist, self.filter_network.cutoff)
            x = (x, x)
        filters = self.filter_network(edge_dist)  # [E, F]
        out = self.propagate(edge_index, x=x, filters=filters, edge_ptr=edge_ptr, size=size)
        if self.normalize:
            out = out / neighbor_counts(edge_index, edge_dist, self.filter_network.cutoff, out.size(0)).unsqueeze(-1)
        return out

    def message(self, x_j: Tensor, filters: Tensor) -> Tensor:
        """Summand of eq. (9), shape ``[E, F]``."""
        return x_j * filters

    def aggregate(self, inputs: Tensor, index: Tensor, edge_ptr: Tensor | None, dim_size: int) -> Tensor:
        """Sum over the neighbours of each target, shape ``[N_dst, F]``."""
        return sum_to_targets(inputs, index, dim_size, edge_ptr)

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

    def reset_parameters(self) -> None:
        """Draw new weights (Glorot uniform) and set biases to zero."""
        super().reset_parameters()
        for module in (self.basis, self.lin_features, self.lin_dist, self.lin_out):
            module.reset_parameters()

    def forward(
        self,
        x: Features,
        edge_index: Tensor,
        edge_dist: Tensor,
        edge_ptr: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Sum of messages, shape ``[N_dst, F]``; arguments as in :meth:`CFConv.forward`."""
        if isinstance(x, Tensor):
            edge_dist = exclude_self_loops(edge_index, edge_dist, self.cutoff)
            x = (x, x)
        x_src, x_dst = x
        return self.propagate(
            edge_index,
            x=(self.lin_features(x_src), x_dst),
            factors=self.lin_dist(self.basis(edge_dist)),  # [E, num_factors]
            window=self.window(edge_dist).unsqueeze(-1),  # [E, 1]
            edge_ptr=edge_ptr,
            size=size,
        )

    def message(self, x_j: Tensor, factors: Tensor, window: Tensor) -> Tensor:
        """Summand of eq. (6), shape ``[E, F]``."""
        return torch.tanh(self.lin_out(x_j * factors)) * window

    def aggregate(self, inputs: Tensor, index: Tensor, edge_ptr: Tensor | None, dim_size: int) -> Tensor:
        """Sum over the neighbours of each target, shape ``[N_dst, F]``."""
        return sum_to_targets(inputs, index, dim_size, edge_ptr)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hidden_channels}, {self.num_factors}, {self.basis}, {self.window})"

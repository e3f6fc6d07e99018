"""The tensor interaction of the deep tensor neural network, as PyG message passing."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from pyg_schnet.nn._inputs import check_edges, check_ends, check_features, check_parts, sizes_of
from pyg_schnet.nn.aggregation import aggregate_messages, is_forward
from pyg_schnet.nn.basis import GaussianBasis
from pyg_schnet.nn.conv import Features, exclude_self_loops
from pyg_schnet.nn.cutoff import HardCutoff
from pyg_schnet.nn.dense import dense, reset_parameters
from pyg_schnet.ops.checks import whole_numbers


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
            neither window nor cutoff: all atoms of a molecule interact).

    Example:
        >>> conv = DTNNConv(30, 60)
        >>> conv(torch.randn(2, 30), torch.tensor([[1, 0], [0, 1]]), torch.tensor([1.1, 1.1])).shape
        torch.Size([2, 30])
    """

    basis: Any  # a module with num_gaussians
    window: Any  # a module with a cutoff

    def __init__(
        self,
        hidden_channels: int = 30,
        num_factors: int = 60,
        basis: nn.Module | None = None,
        window: nn.Module | None = None,
    ) -> None:
        super().__init__(aggr="sum", node_dim=0)
        check_parts(basis, window)
        if window is None:
            window = HardCutoff(10.0 if basis is None else cast(Any, basis).cutoff)
        self.window = window
        self.basis = GaussianBasis(cutoff=self.window.cutoff) if basis is None else basis
        self.hidden_channels, self.num_factors = whole_numbers(hidden_channels=hidden_channels, num_factors=num_factors)
        self.lin_features = dense(self.hidden_channels, self.num_factors)  # W^cf, b^f1
        self.lin_dist = dense(self.basis.num_gaussians, self.num_factors)  # W^df, b^f2
        self.lin_out = dense(self.num_factors, self.hidden_channels, bias=False)  # W^fc

    @property
    def cutoff(self) -> float:
        """Distance in Å from which on no message is sent."""
        return self.window.cutoff

    @property
    def in_channels(self) -> int:
        """Size of the atom features, used by PyG's explainers."""
        return self.hidden_channels

    @property
    def out_channels(self) -> int:
        """Size of the sums of messages, equal to that of the atom features."""
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
        """Sum of messages, shape ``[N_dst, F]``; arguments as in :meth:`pyg_schnet.nn.CFConv.forward`."""
        check_features(x, self.hidden_channels)
        edge_index = check_edges(edge_index, edge_dist)
        if isinstance(x, Tensor):
            edge_dist = exclude_self_loops(edge_index, edge_dist, self.cutoff)
            x = (x, x)
        x_src, x_dst = x
        check_ends(edge_index, edge_ptr, sizes_of(x, size), forward=is_forward(self))
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
        """Whether messages are made from the features themselves, whose size explainers take from ``in_channels``."""
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

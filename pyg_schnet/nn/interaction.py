"""Interaction blocks: a convolution, an atom-wise update, a residual."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pyg_schnet.nn._inputs import check_features, check_filter_network
from pyg_schnet.nn.activation import ShiftedSoftplus
from pyg_schnet.nn.conv import CFConv, Features, Filters
from pyg_schnet.nn.dense import dense, reset_parameters
from pyg_schnet.nn.dtnn_conv import DTNNConv
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.ops.checks import whole_number
from pyg_schnet.ops.modules import registered


@registered(lin_in=nn.Linear, conv=CFConv, lin1=nn.Linear, act=ShiftedSoftplus, lin2=nn.Linear)
class SchNetInteraction(nn.Module):
    r"""SchNet's interaction block, eq. (5) and Fig. 1 of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_.

    .. math::
        \mathbf{x}_i \leftarrow \mathbf{x}_i + \mathbf{v}_i, \qquad
        \mathbf{v} = \mathrm{dense} \circ \mathrm{ssp} \circ \mathrm{dense} \circ \mathrm{cfconv} \circ \mathrm{dense}\,
        (\mathbf{x})

    The first dense layer has no bias, as in PyTorch Geometric and SchNetPack.

    Args:
        hidden_channels: Size F of the atom features.
        filter_network: Continuous filter; ``None`` takes :class:`FilterNetwork` with 128 filters up to 10 Å.
        normalize: Whether the convolution is divided by the number of neighbours, eq. (18).
        filters: ``"auto"``, ``"exact"`` or ``"spline"``, see :class:`CFConv`.
        num_grid_points: Number of grid points of the spline, see :class:`CFConv`.

    Example:
        >>> import torch
        >>> block = SchNetInteraction(16, FilterNetwork(32))
        >>> block(torch.randn(2, 16), torch.tensor([[1, 0], [0, 1]]), torch.tensor([1.1, 1.1])).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        hidden_channels: int = 128,
        filter_network: nn.Module | None = None,
        *,
        normalize: bool = False,
        filters: Filters = "auto",
        num_grid_points: int | None = None,
    ) -> None:
        super().__init__()
        network: Any = FilterNetwork() if filter_network is None else filter_network
        self.hidden_channels = hidden_channels = whole_number(hidden_channels, "hidden_channels")
        check_filter_network(network)
        self.lin_in = dense(hidden_channels, network.num_filters, bias=False)
        self.conv = CFConv(network, normalize=normalize, filters=filters, num_grid_points=num_grid_points)
        self.lin1 = dense(network.num_filters, hidden_channels)
        self.act = ShiftedSoftplus()
        self.lin2 = dense(hidden_channels, hidden_channels)

    def reset_parameters(self) -> None:
        """Draw new weights (Glorot uniform) and set biases to zero."""
        reset_parameters(self.lin_in, self.conv, self.lin1, self.lin2)

    def forward(self, x: Features, edge_index: Tensor, edge_dist: Tensor, edge_ptr: Tensor | None = None) -> Tensor:
        """Updated features.

        Args:
            x: Features ``[N, F]``, or ``(x_src, x_dst)`` to update ``x_dst`` by messages from ``x_src``.
            edge_index: ``(j, i)``, shape ``[2, E]``.
            edge_dist: Distances in Å, shape ``[E]``.
            edge_ptr: Begin and end of each target's edges where they are sorted, shape ``[N_dst + 1]``.

        Returns:
            ``x_i + v_i``, shape ``[N_dst, F]``.
        """
        check_features(x, self.hidden_channels)
        if isinstance(x, Tensor):
            x_dst, hidden = x, self.lin_in(x)
        else:
            x_dst, hidden = x[1], (self.lin_in(x[0]), x[1])
        hidden = self.conv(hidden, edge_index, edge_dist, edge_ptr)
        return x_dst + self.lin2(self.act(self.lin1(hidden)))


class DTNNInteraction(nn.Module):
    r"""Interaction of the deep tensor neural network: the messages of :class:`DTNNConv` added to the features.

    Eq. (5) of `Schütt et al., Nat. Commun. 8, 13890 (2017) <https://doi.org/10.1038/ncomms13890>`_:

    .. math:: \mathbf{c}_i \leftarrow \mathbf{c}_i + \sum_{j \ne i} \mathbf{v}_{ij}

    Args:
        conv: Convolution; ``None`` takes :class:`DTNNConv` with its defaults.

    Example:
        >>> import torch
        >>> block = DTNNInteraction(DTNNConv(30, 60))
        >>> block(torch.randn(2, 30), torch.tensor([[1, 0], [0, 1]]), torch.tensor([1.1, 1.1])).shape
        torch.Size([2, 30])
    """

    def __init__(self, conv: DTNNConv | None = None) -> None:
        super().__init__()
        if conv is not None and not isinstance(conv, nn.Module):
            raise TypeError(f"conv must be a DTNNConv or another module, got a {type(conv).__name__}")
        self.conv = DTNNConv() if conv is None else conv

    def reset_parameters(self) -> None:
        """Draw new weights (Glorot uniform) and set biases to zero."""
        reset_parameters(self.conv)

    def forward(self, x: Features, edge_index: Tensor, edge_dist: Tensor, edge_ptr: Tensor | None = None) -> Tensor:
        """Updated features, shape ``[N_dst, F]``; arguments as in :meth:`SchNetInteraction.forward`."""
        x_dst = x if isinstance(x, Tensor) else x[1]
        return x_dst + self.conv(x, edge_index, edge_dist, edge_ptr)

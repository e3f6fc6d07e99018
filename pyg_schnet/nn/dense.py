"""Atom-wise dense layers with the initialisation of SchNet."""

from __future__ import annotations

from torch import Tensor
from torch_geometric.nn.dense import Linear

from pyg_schnet.kernels import linear


class Dense(Linear):
    r"""Atom-wise layer :math:`\mathbf{x}_i \mathbf{W} + \mathbf{b}`, eq. (10) of the chapter.

    PyG's ``Linear``, with the same weights and repr, multiplied by :func:`pyg_schnet.kernels.linear`.

    Example:
        >>> import torch
        >>> Dense(3, 2)(torch.zeros(4, 3)).shape
        torch.Size([4, 2])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map rows ``[N, in_channels]`` to ``[N, out_channels]``."""
        return linear(x, self.weight, self.bias)

    def __repr__(self) -> str:
        return f"Linear({self.in_channels}, {self.out_channels}, bias={self.bias is not None})"


def dense(in_channels: int, out_channels: int, bias: bool = True) -> Dense:
    r"""Atom-wise layer :math:`\mathbf{x}_i \mathbf{W} + \mathbf{b}`, eq. (10) of the chapter.

    Glorot-uniform weights and zero biases, as in the SchNet of PyTorch Geometric; ``reset_parameters`` draws anew.

    Args:
        in_channels: Size of each input row.
        out_channels: Size of each output row.
        bias: Whether a bias is added.

    Example:
        >>> dense(3, 2)
        Linear(3, 2, bias=True)
    """
    return Dense(in_channels, out_channels, bias=bias, weight_initializer="glorot", bias_initializer="zeros")

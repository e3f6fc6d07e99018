"""Atom-wise dense layers with the initialisation of SchNet."""

from __future__ import annotations

from torch_geometric.nn.dense import Linear


def dense(in_channels: int, out_channels: int, bias: bool = True) -> Linear:
    r"""Atom-wise layer :math:`\mathbf{x}_i \mathbf{W} + \mathbf{b}`, eq. (10) of the chapter, PyG's ``Linear``.

    Glorot-uniform weights and zero biases, as in the SchNet of PyTorch Geometric; ``reset_parameters`` draws anew.

    Args:
        in_channels: Size of each input row.
        out_channels: Size of each output row.
        bias: Whether a bias is added.

    Example:
        >>> dense(3, 2)
        Linear(3, 2, bias=True)
    """
    return Linear(in_channels, out_channels, bias=bias, weight_initializer="glorot", bias_initializer="zeros")

"""Checks of the inputs of layers: shapes and types only, so that nothing waits for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.typing import SparseTensor


def as_edge_index(edge_index: Any) -> Tensor:
    """Edges ``(j, i)`` as a plain tensor ``[2, E]`` of int64.

    Args:
        edge_index: Tensor or PyG's ``EdgeIndex``, of int64 or int32.

    Raises:
        ValueError: If it is anything else, such as a sparse adjacency; the message says how to convert it.

    Example:
        >>> as_edge_index(torch.tensor([[1, 0], [0, 1]], dtype=torch.int32))
        tensor([[1, 0],
                [0, 1]])
    """
    if isinstance(edge_index, EdgeIndex):
        edge_index = edge_index.as_tensor()
    if isinstance(edge_index, SparseTensor):
        raise ValueError(
            "edge_index must be [2, E] of int64, (j, i) in its rows, got a SparseTensor; for adj_t write "
            "row, col, _ = adj_t.coo(); edge_index = torch.stack([col, row])"
        )
    if not isinstance(edge_index, Tensor):
        raise ValueError(f"edge_index must be a tensor [2, E] of int64, got a {type(edge_index).__name__}")
    if edge_index.layout != torch.strided:
        raise ValueError(
            f"edge_index must be [2, E] of int64, (j, i) in its rows, got a sparse adjacency {list(edge_index.shape)}; "
            "write edge_index = torch_geometric.utils.to_edge_index(adj)[0], for adj_t also .flip(0)"
        )
    if edge_index.dim() != 2 or edge_index.size(0) != 2 or edge_index.dtype not in (torch.int64, torch.int32):
        transposed = edge_index.dim() == 2 and edge_index.size(1) == 2
        hint = "; write edge_index.t()" if transposed else ""
        raise ValueError(
            f"edge_index must be [2, E] of int64, (j, i) in its rows, got {list(edge_index.shape)} of "
            f"{edge_index.dtype}{hint}"
        )
    return edge_index.long()


def check_edges(edge_index: Any, edge_dist: Any) -> Tensor:
    """Edges as :func:`as_edge_index` gives them, with one distance for each.

    Args:
        edge_index: ``(j, i)``, shape ``[2, E]``.
        edge_dist: Distances in Å, shape ``[E]``.

    Raises:
        ValueError: If a shape or type does not fit.
    """
    edge_index = as_edge_index(edge_index)
    if not isinstance(edge_dist, Tensor):
        raise ValueError(f"edge_dist must be a tensor of distances in Å, [E], got a {type(edge_dist).__name__}")
    if edge_dist.dim() != 1 or edge_dist.size(0) != edge_index.size(1) or not edge_dist.is_floating_point():
        column = edge_dist.dim() == 2 and edge_dist.size(1) == 1
        hint = "; write edge_dist.squeeze(-1)" if column else ""
        raise ValueError(
            f"edge_dist must hold one distance in Å for each of the {edge_index.size(1)} edges, [E]; got "
            f"{list(edge_dist.shape)} of {edge_dist.dtype}{hint}"
        )
    return edge_index


def check_parts(basis: Any, window: Any) -> None:
    """Raise a TypeError unless a basis and a window are modules that know their cutoff, and the basis its size."""
    for name, part, needed in (("basis", basis, ("num_gaussians",)), ("window", window, ("cutoff",))):
        if part is not None and (not isinstance(part, nn.Module) or any(not hasattr(part, one) for one in needed)):
            raise TypeError(
                f"{name} must be a module with the attribute {needed[0]}, such as "
                f"{'GaussianBasis' if name == 'basis' else 'CosineCutoff'}; got a {type(part).__name__}"
            )


def check_filter_network(network: Any, needed: str = "num_filters") -> None:
    """Raise a TypeError unless a filter network is a module that knows its number of filters."""
    if not isinstance(network, nn.Module) or not hasattr(network, needed):
        raise TypeError(
            f"filter_network must be a module with the attribute {needed}, such as FilterNetwork; got a "
            f"{type(network).__name__}"
        )


def check_features(x: Any, channels: int | None) -> None:
    """Check that features have shape ``[N, channels]``, or the first entry of a pair has.

    Args:
        x: Features, or ``(x_src, x_dst)``.
        channels: Size of the features; ``None`` where it is not known.

    Raises:
        ValueError: If the shape or type does not fit.
    """
    x = x[0] if isinstance(x, (tuple, list)) else x
    if not isinstance(x, Tensor):
        raise ValueError(f"x must be a tensor of atom features, [N, {channels or 'F'}], got a {type(x).__name__}")
    if x.dim() != 2 or (channels is not None and x.size(1) != channels):
        raise ValueError(f"x must hold atom features, [N, {channels or 'F'}], got {list(x.shape)}")

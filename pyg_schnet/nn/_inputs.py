"""Checks of the inputs of layers: shapes and types only, so that nothing waits for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.typing import SparseTensor

from pyg_schnet.ops.checks import check_atoms_of_structures, check_index, check_pointer, described


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


def check_ends(
    edge_index: Tensor, edge_ptr: Any, sizes: tuple[int, int], *, forward: bool = True, ends_known: bool = False
) -> None:
    """Check that edges name atoms that there are, and where those of each target begin; values on CPUs only.

    Args:
        edge_index: ``(j, i)``, shape ``[2, E]``.
        edge_ptr: Begin and end of each target's edges, shape ``[N_dst + 1]``; ``None`` if it was not given.
        sizes: Numbers of sources and targets.
        forward: Whether messages go from the first row to the second.
        ends_known: Whether what sums over the edges checks their ends itself.

    Raises:
        ValueError: If the pointer is not that of the edges.
        IndexError: If an end is out of range.
    """
    if not ends_known:
        check_index(edge_index if forward else edge_index.flip(0), *sizes)
    if edge_ptr is not None and forward:
        check_pointer(edge_ptr, edge_index[1], sizes[1])


def sizes_of(x: tuple[Tensor, Tensor | None], size: Any) -> tuple[int, int]:
    """Numbers of sources and targets.

    Args:
        x: Features ``(x_src, x_dst)``, of which the second may be ``None``.
        size: ``(N_src, N_dst)`` as given; ``None`` if it was not.

    Raises:
        ValueError: If the number of targets is not known, or ``size`` contradicts the features.
    """
    first, second = (None if one is None else one.size(0) for one in x)
    found: tuple[Any, Any] = first, second
    if size is None and found[1] is not None:
        return found
    given = tuple(size) if isinstance(size, (tuple, list)) and len(size) == 2 else None
    if (
        given is None
        or any(isinstance(one, (bool, float, str)) for one in given)
        or (None in found and given[1] is None)
    ):
        raise ValueError(f"size must be (N_src, N_dst), needed where x is (x_src, None); got {size!r}")
    for known, stated, what in zip(found, given, ("sources", "targets"), strict=True):
        if stated is not None and (stated < 0 or known not in (None, stated)):
            raise ValueError(f"size says that there are {stated} {what}, but x has {known}; leave size out")
    return found[0], given[1] if found[1] is None else found[1]


def check_readout(x: Any, z: Any, batch: Any, batch_size: Any, pos: Any = None) -> None:
    """Check that features, atomic numbers and structures are of the same atoms; values are not read.

    Args:
        x: Features, shape ``[N, F]``.
        z: Atomic numbers, shape ``[N]``.
        batch: Structure of each atom, shape ``[N]``.
        batch_size: Number of structures.
        pos: Positions, shape ``[N, 3]``, where they are used.

    Raises:
        ValueError: If a shape or type does not fit.
    """
    check_atoms_of_structures(z, batch, batch_size)
    n_atoms = z.size(0)
    if not isinstance(x, Tensor) or x.dim() != 2 or x.size(0) != n_atoms:
        raise ValueError(f"x must hold features of the {n_atoms} atoms, [N, F]; got {described(x)}")
    if pos is not None and (not isinstance(pos, Tensor) or pos.shape != (n_atoms, 3)):
        raise ValueError(f"pos must hold positions of the {n_atoms} atoms in Å, [N, 3]; got {described(pos)}")


def check_features(x: Any, channels: int | None) -> None:
    """Check that features have shape ``[N, channels]``, or the first entry of a pair has.

    Args:
        x: Features, or ``(x_src, x_dst)``.
        channels: Size of the features; ``None`` where it is not known.

    Raises:
        ValueError: If the shape or type does not fit.
    """
    if isinstance(x, (tuple, list)):
        if len(x) != 2 or not (x[1] is None or isinstance(x[1], Tensor)):
            raise ValueError(f"x must be features [N, F] or a pair (x_src, x_dst), got {len(x)} entries")
        x = x[0]
    if not isinstance(x, Tensor):
        raise ValueError(f"x must be a tensor of atom features, [N, {channels or 'F'}], got a {type(x).__name__}")
    if x.dim() != 2 or (channels is not None and x.size(1) != channels) or not x.is_floating_point():
        raise ValueError(f"x must hold atom features, [N, {channels or 'F'}], got {described(x)}")

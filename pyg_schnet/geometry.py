"""Pure tensor functions of positions, cells and edges."""

from __future__ import annotations

import torch
from torch import Tensor


def safe_norm(vec: Tensor, dim: int = -1, keepdim: bool = False) -> Tensor:
    r"""Euclidean norm whose derivatives of every order are finite, and zero, at the zero vector.

    The derivative of :math:`\sqrt{v \cdot v}` at :math:`v = 0` is :math:`0 / 0`; one NaN there (two atoms in the same
    place, a dipole that vanishes by symmetry) would spoil the gradient of a whole batch. Both branches of the
    ``where`` are kept finite, because the gradient of a ``where`` multiplies the branch not taken by zero.

    Args:
        vec: Vectors, any shape.
        dim: Dimension to reduce.
        keepdim: Whether the reduced dimension stays, with size one.

    Returns:
        Norms, ``vec``'s shape without ``dim``.

    Example:
        >>> v = torch.zeros(1, 3, requires_grad=True)
        >>> safe_norm(v).sum().backward()
        >>> v.grad
        tensor([[0., 0., 0.]])
    """
    square = (vec * vec).sum(dim, keepdim=keepdim)
    zero = square == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())


def edge_vectors(
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None = None,
    cell: Tensor | None = None,
    batch: Tensor | None = None,
) -> Tensor:
    r"""Vector of every edge, from its centre i to its neighbour j.

    .. math:: \mathbf{v}_{ij} = \mathbf{r}_j - \mathbf{r}_i + \mathbf{S}_{ij} \mathbf{H}

    This line is the sign convention of the whole package. It is differentiable in positions and cell.

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        edge_index: Row 0 holds j (neighbour, source), row 1 holds i (centre, target), shape ``[2, E]``.
        edge_shift: Lattice images crossed, integers S, shape ``[E, 3]``; ``None`` for open boundaries.
        cell: Lattice vectors in rows H, in Å, shape ``[B, 3, 3]`` or ``[3, 3]``; needed with ``edge_shift``.
        batch: Structure of each atom, shape ``[N]``; needed when ``cell`` holds more than one.

    Returns:
        Edge vectors in Å, shape ``[E, 3]``.

    Raises:
        ValueError: If ``edge_shift`` comes without ``cell``, or several cells without ``batch``.

    Example:
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]])
        >>> edge_vectors(pos, torch.tensor([[1], [0]]))
        tensor([[0.0000, 0.0000, 1.5000]])
    """
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(f"edge_index must hold (j, i) of each edge, shape [2, E]; got {list(edge_index.shape)}")
    vec = pos.index_select(0, edge_index[0]) - pos.index_select(0, edge_index[1])
    offset = edge_offsets(edge_index, edge_shift, cell, batch, pos.dtype)
    return vec if offset is None else vec + offset


def edge_offsets(
    edge_index: Tensor, edge_shift: Tensor | None, cell: Tensor | None, batch: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    r"""Lattice vectors that edges cross, :math:`\mathbf{S}_{ij} \mathbf{H}` in Å, shape ``[E, 3]``, in ``dtype``.

    ``None`` for open boundaries; arguments and errors of :func:`edge_vectors`.

    Example:
        >>> index, shift = torch.tensor([[0], [0]]), torch.tensor([[1, 0, -1]])
        >>> edge_offsets(index, shift, 4.0 * torch.eye(3), None, torch.float32)
        tensor([[ 4.,  0., -4.]])
    """
    if edge_shift is None:
        return None
    if cell is None:
        raise ValueError("edge_shift counts lattice vectors, so it needs cell ([B, 3, 3], rows in Å); got cell=None")
    if edge_shift.shape != (edge_index.size(1), 3):
        raise ValueError(
            f"edge_shift must count the lattice vectors crossed by each of the {edge_index.size(1)} edges, [E, 3]; got "
            f"{list(edge_shift.shape)}"
        )
    shift = edge_shift.to(dtype)
    if cell.dim() == 2 or cell.size(0) == 1:
        return shift @ cell.reshape(3, 3)
    if batch is None:
        raise ValueError(f"{cell.size(0)} cells need batch, the structure of each atom ([N]); got batch=None")
    edge_cell = cell.index_select(0, batch.index_select(0, edge_index[1]))  # [E, 3, 3]
    return torch.einsum("ed,edk->ek", shift, edge_cell)


def edge_distances(
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None = None,
    cell: Tensor | None = None,
    batch: Tensor | None = None,
) -> Tensor:
    """Length of every edge vector in Å, shape ``[E]``; arguments and errors of :func:`edge_vectors`.

    Example:
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]])
        >>> edge_distances(pos, torch.tensor([[1], [0]]))
        tensor([1.5000])
    """
    return safe_norm(edge_vectors(pos, edge_index, edge_shift, cell, batch))


def volume(cell: Tensor) -> Tensor:
    """Volume of cells ``[B, 3, 3]`` (rows in Å) in Å³, shape ``[B]``, whatever their handedness.

    Example:
        >>> volume(-2.0 * torch.eye(3).unsqueeze(0))
        tensor([8.])
    """
    return torch.linalg.det(cell).abs()


def has_volume(cell: Tensor) -> Tensor:
    """Whether cells ``[B, 3, 3]`` (rows in Å) have a volume, so that a stress is defined, shape ``[B]``.

    A cell whose volume is less than 1e-6 of the product of its lengths counts as flat: its vectors depend on each other
    up to rounding.

    Example:
        >>> has_volume(torch.stack([torch.eye(3), torch.ones(3, 3), torch.zeros(3, 3)]))
        tensor([ True, False, False])
    """
    return volume(cell) > 1e-6 * torch.linalg.vector_norm(cell, dim=-1).prod(-1)


def apply_strain(pos: Tensor, cell: Tensor, strain: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    r"""Deform structures: positions and lattice vectors together.

    .. math:: \mathbf{r} \leftarrow \mathbf{r}\,(1 + \boldsymbol\varepsilon), \qquad
              \mathbf{H} \leftarrow \mathbf{H}\,(1 + \boldsymbol\varepsilon)

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``.
        strain: Strain ε, shape ``[B, 3, 3]``.
        batch: Structure of each atom, shape ``[N]``.

    Returns:
        Deformed positions in Å, shape ``[N, 3]``, and lattice vectors in Å, shape ``[B, 3, 3]``.

    Example:
        >>> pos, cell = torch.ones(1, 3), 4.0 * torch.eye(3).unsqueeze(0)
        >>> apply_strain(pos, cell, 0.5 * torch.eye(3).unsqueeze(0), torch.tensor([0]))[0]
        tensor([[1.5000, 1.5000, 1.5000]])
    """
    pos = pos + torch.einsum("nd,nde->ne", pos, strain.index_select(0, batch))
    return pos, cell + cell @ strain

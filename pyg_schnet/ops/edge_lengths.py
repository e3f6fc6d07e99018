"""Operator 1: lengths of edges."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.geometry import edge_vectors, safe_norm
from pyg_schnet.ops._autograd import below_autograd, gradients_of, needs_grad, register
from pyg_schnet.ops.checks import check_edge_index, check_edge_shift, described
from pyg_schnet.ops.dispatch import Backend, kernels_for, wide_dtype
from pyg_schnet.ops.sort_edges import check_keys

_WHOLE = (torch.int64, torch.int32)
_library = torch.library.Library("pyg_schnet", "FRAGMENT")
_library.define(
    "edge_lengths(Tensor pos, Tensor edge_index, Tensor? edge_shift, Tensor? cell, Tensor? batch, float loop_length, "
    "str backend) -> Tensor"
)
_operator = torch.ops.pyg_schnet.edge_lengths.default


def edge_lengths(
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None = None,
    cell: Tensor | None = None,
    batch: Tensor | None = None,
    *,
    loop_length: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    r"""Length of every edge, differentiable any number of times with respect to positions and cells.

    .. math:: d_e = \lVert \mathbf{r}_j - \mathbf{r}_i + \mathbf{S}_e \mathbf{H} \rVert

    The derivatives of a length of zero are zero.

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        edge_index: Neighbour j and centre i of each edge, shape ``[2, E]``.
        edge_shift: Lattice images S crossed by each edge, integers, shape ``[E, 3]``; ``None`` for open boundaries.
        cell: Lattice vectors in rows H in Å, shape ``[B, 3, 3]`` or ``[3, 3]``; needed with ``edge_shift``.
        batch: Structure of each atom, shape ``[N]``; needed where ``cell`` holds more than one.
        loop_length: Length in Å given to edges from an atom to itself, those of length zero with i = j.
        backend: How it is computed, see :func:`pyg_schnet.ops.kernels_for`.

    Returns:
        Lengths in Å, shape ``[E]``.

    Raises:
        ValueError: If the shape of an argument does not fit, or one is missing.
        IndexError: If an index of an atom or structure is out of range.

    Example:
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]])
        >>> edge_lengths(pos, torch.tensor([[1, 0], [0, 0]]), loop_length=5.0)
        tensor([1.5000, 5.0000])
    """
    cell, batch = _lattice(pos, edge_index, edge_shift, cell, batch)
    inputs = pos, edge_index, edge_shift, cell, batch
    kernels = kernels_for(backend, *inputs, unless=_refusal(*inputs))
    if kernels is None:
        _check_places(*inputs)
        return _composition(*inputs, loop_length)
    if torch.is_grad_enabled() and (pos.requires_grad or (cell is not None and cell.requires_grad)):
        return _operator(*inputs, loop_length, backend)
    return _measured(kernels, *inputs, loop_length)


def _lattice(
    pos: Tensor, edge_index: Tensor, edge_shift: Tensor | None, cell: Tensor | None, batch: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Cells, ``[B, 3, 3]``, and the structure of each atom; raises unless shapes fit, which kernels do not check."""
    if not isinstance(pos, Tensor) or pos.dim() != 2 or pos.size(1) != 3 or not pos.is_floating_point():
        raise ValueError(f"pos must hold positions in Å, shape [N, 3]; got {described(pos)}")
    check_edge_index(edge_index)
    if edge_shift is None:
        return None, None
    check_edge_shift(edge_shift, edge_index.size(1))
    if cell is None:
        raise ValueError("edge_shift counts lattice vectors, so it needs cell ([B, 3, 3], rows in Å); got cell=None")
    is_cell = isinstance(cell, Tensor) and cell.dim() in (2, 3) and cell.shape[-2:] == (3, 3)
    if not is_cell or not cell.is_floating_point() or cell.numel() == 0:
        raise ValueError(f"cell must hold lattice vectors in rows, [B, 3, 3] in Å; got {described(cell)}")
    cell = cell.unsqueeze(0) if cell.dim() == 2 else cell
    if cell.size(0) == 1:
        return cell, None
    if batch is None:
        raise ValueError(f"{cell.size(0)} cells need batch, the structure of each atom ([N]); got batch=None")
    if not isinstance(batch, Tensor) or batch.shape != pos.shape[:1] or batch.dtype not in _WHOLE:
        raise ValueError(f"batch must name the structure of each of the {pos.size(0)} atoms; got {described(batch)}")
    return cell, batch


def _check_places(pos: Tensor, edge_index: Tensor, *lattice: Tensor | None) -> None:
    """Raise unless edges name atoms, and atoms cells; checked on CPUs only, where kernels do so themselves."""
    _, cell, batch = lattice
    try:
        check_keys(edge_index.flatten(), pos.size(0))
        if batch is not None and cell is not None:
            check_keys(batch, cell.size(0))
    except IndexError:
        raise _out_of_range(pos, edge_index, *lattice) from None


def _refusal(
    pos: Tensor, edge_index: Tensor, shift: Tensor | None, cell: Tensor | None, batch: Tensor | None
) -> str | None:
    """Reason why there are no kernels for these types; ``None`` if there are."""
    if (
        not pos.is_floating_point()
        or edge_index.dtype != torch.int64
        or (batch is not None and batch.dtype != torch.int64)
    ):
        return "positions must be floating-point numbers, edge_index and batch int64"
    if shift is not None and cell is not None and (shift.dtype not in _WHOLE or cell.dtype != pos.dtype):
        return f"edge_shift must be int32 or int64 and cell {pos.dtype}, got {shift.dtype} and {cell.dtype}"
    return None


def _composition(
    pos: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor | None,
    cell: Tensor | None,
    batch: Tensor | None,
    loop_length: float,
) -> Tensor:
    """Lengths by plain operations of torch."""
    wide = wide_dtype(pos)  # gradients of the many edges of an atom are summed in it
    vec = edge_vectors(pos.to(wide), edge_index, edge_shift, None if cell is None else cell.to(wide), batch)
    dist = safe_norm(vec)
    itself = (edge_index[0] == edge_index[1]) & (dist == 0)
    return torch.where(itself, loop_length, dist).to(pos.dtype)


def _computed(pos: Tensor, edge_index: Tensor, *rest: Any) -> Tensor:
    """Kernel of the registered operator, not differentiable."""
    *arguments, backend = rest
    kernels = kernels_for(backend, pos, edge_index, *arguments[:-1])
    if kernels is None:
        return _composition(pos, edge_index, *arguments)
    return _measured(kernels, pos, edge_index, *arguments)


def _measured(kernels: ModuleType, pos: Tensor, edge_index: Tensor, *rest: Any) -> Tensor:
    """Lengths by kernels; raises if an index is out of range."""
    *lattice, loop_length = rest
    dist = kernels.edge_lengths(pos, edge_index, *_with_batch(pos, *lattice), loop_length)
    if dist is None:
        raise _out_of_range(pos, edge_index, *lattice)
    return dist


def _with_batch(
    pos: Tensor, edge_shift: Tensor | None, cell: Tensor | None, batch: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The lattice, with ``batch`` also where there is only one structure."""
    if edge_shift is None or batch is not None:
        return edge_shift, cell, batch
    return edge_shift, cell, torch.zeros(pos.size(0), dtype=torch.int64, device=pos.device)


def _out_of_range(
    pos: Tensor, edge_index: Tensor, _: Tensor | None, cell: Tensor | None, batch: Tensor | None
) -> IndexError:
    (source, target), n_atoms = edge_index, pos.size(0)
    message = (
        f"edges must name atoms 0 to {n_atoms - 1}; got sources {source.min()} to {source.max()} and targets "
        f"{target.min()} to {target.max()}"
    )
    if batch is not None and batch.numel() > 0 and cell is not None:
        message += f"; and atoms cells 0 to {cell.size(0) - 1}, got batch from {batch.min()} to {batch.max()}"
    return IndexError(message)


class _EdgeLengths(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pos: Tensor, edge_index: Tensor, *rest: Any) -> Tensor:
        *lattice, ctx.loop_length, ctx.backend = rest
        with below_autograd():
            dist = _operator(pos, edge_index, *rest)
        ctx.save_for_backward(pos, edge_index, *lattice, dist)
        return dist

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pos, edge_index, shift, cell, batch, dist = ctx.saved_tensors
        needs_pos, needs_cell = ctx.needs_input_grad[0], cell is not None and needs_grad(ctx, 3)
        kernels = kernels_for(ctx.backend, grad, pos, edge_index, shift, cell, batch)
        if kernels is None:
            constants: tuple[Any, ...] = edge_index, shift, batch, ctx.loop_length
            grad_pos, grad_cell = _composed_gradients(grad, pos, cell, constants)
        elif torch.is_grad_enabled():
            constants = edge_index, shift, batch, dist.detach(), needs_cell, ctx.loop_length, ctx.backend
            grad_pos, grad_cell = _Backward.apply(grad, pos, cell, *constants)
        else:
            lattice = _with_batch(pos, shift, cell, batch)
            arguments = grad, pos, edge_index, *lattice, dist
            grad_pos, grad_cell = kernels.edge_lengths_backward(*arguments, needs_cell=needs_cell)
        grad_pos, grad_cell = grad_pos if needs_pos else None, grad_cell if needs_cell else None
        return grad_pos, None, None, grad_cell, None, None, None


class _Backward(torch.autograd.Function):
    """Gradients with respect to positions and cells, as a differentiable function of their inputs."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, pos: Tensor, cell: Tensor | None, *constants: Any) -> tuple[Tensor, ...]:
        edge_index, shift, batch, dist, ctx.needs_cell, ctx.loop_length, ctx.backend = constants
        kernels, lattice = kernels_for(ctx.backend, pos), _with_batch(pos, shift, cell, batch)
        ctx.save_for_backward(grad, pos, cell, edge_index, shift, batch, dist)
        ctx.set_materialize_grads(False)
        return kernels.edge_lengths_backward(grad, pos, edge_index, *lattice, dist, needs_cell=ctx.needs_cell)

    @staticmethod
    def backward(ctx: Any, tangent_pos: Tensor | None, tangent_cell: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, pos, cell, edge_index, shift, batch, dist = ctx.saved_tensors
        needs_cell = cell is not None and needs_grad(ctx, 2)
        tangent_pos = torch.zeros_like(pos) if tangent_pos is None else tangent_pos
        kernels = kernels_for(ctx.backend, tangent_pos, tangent_cell, grad, pos, cell)
        if torch.is_grad_enabled() or kernels is None:
            constants = edge_index, shift, batch, ctx.loop_length
            tangents = tangent_pos, tangent_cell
            found = gradients_of(
                lambda grad, pos, cell: _composed_gradients(grad, pos, cell, constants), (grad, pos, cell), tangents
            )
        else:
            lattice = _with_batch(pos, shift, cell, batch)
            arguments = tangent_pos, tangent_cell, grad, pos, edge_index, *lattice, dist
            found = kernels.edge_lengths_double_backward(*arguments, needs_cell=needs_cell)
        return *found, *(None for _ in range(7))


def _composed_gradients(grad: Tensor, pos: Tensor, cell: Tensor | None, constants: tuple) -> list[Tensor | None]:
    """:class:`_Backward` by operations that autograd knows."""
    edge_index, shift, batch, loop_length = constants
    return gradients_of(
        lambda pos, cell: _composition(pos, edge_index, shift, cell, batch, loop_length), (pos, cell), grad
    )


register(
    _library,
    "edge_lengths",
    _computed,
    _EdgeLengths,
    lambda pos, edge_index, *_: pos.new_empty(edge_index.size(1)),
)

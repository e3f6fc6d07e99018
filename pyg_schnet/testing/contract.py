"""Checks that raise ``AssertionError`` and say what differs by how much; see :mod:`pyg_schnet.testing`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Model = Callable[..., Tensor]


def random_rotation(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Rotation matrix R drawn evenly from all rotations, shape ``[3, 3]``; rows turn by ``pos @ R``.

    Example:
        >>> rotation = random_rotation()
        >>> bool(torch.det(rotation) > 0.999)
        True
    """
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    q = q * r.diagonal().sign()  # without the signs, QR prefers some rotations
    return (q * torch.linalg.det(q).sign()).to(dtype)


def check_rotation(
    model: Model,
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None = None,
    *,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
    vector: bool = False,
    tol: float = 1e-10,
    seed: int = 0,
) -> None:
    r"""Rotated structures have the same scalars, and rotated vectors: :math:`f(\mathbf{r} R) = f(\mathbf{r}) [R]`.

    Args:
        model: Model, see above.
        z: Atomic numbers, shape ``[N]``.
        pos: Positions in Å, shape ``[N, 3]``.
        batch: Structure of each atom, shape ``[N]``; ``None`` for one structure.
        cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``; they rotate with the atoms.
        pbc: Periodic axes, shape ``[B, 3]``; needed with ``cell``.
        vector: Whether outputs are vectors, shape ``[B, 3]``.
        tol: Largest relative difference.
        seed: Seed of the rotation.

    Raises:
        AssertionError: If outputs differ.
    """
    _check_transform(model, random_rotation(seed, pos.dtype), "rotation", z, pos, batch, cell, pbc, vector, tol)


def check_reflection(
    model: Model,
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None = None,
    *,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
    vector: bool = False,
    tol: float = 1e-10,
    seed: int = 0,
) -> None:
    """Mirror images have the same scalars, and mirrored vectors; arguments as in :func:`check_rotation`."""
    mirror = random_rotation(seed, pos.dtype) * torch.tensor([1.0, 1.0, -1.0], dtype=pos.dtype)
    _check_transform(model, mirror, "reflection", z, pos, batch, cell, pbc, vector, tol)


def check_translation(
    model: Model,
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None = None,
    *,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
    shift: Sequence[float] = (1.3, -0.7, 2.1),
    tol: float = 1e-10,
) -> None:
    """Structures moved by ``shift`` Å have the same outputs; other arguments as in :func:`check_rotation`."""
    expected = _call(model, z, pos, batch, cell, pbc)
    _same(_call(model, z, pos + pos.new_tensor(shift), batch, cell, pbc), expected, tol, "translation")


def check_permutation(
    model: Model,
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None = None,
    *,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
    tol: float = 1e-10,
    seed: int = 0,
) -> None:
    """The order of atoms within a structure does not matter; arguments as in :func:`check_rotation`."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(z.numel(), generator=generator)
    if batch is not None:
        order = order[batch[order].argsort(stable=True)]
    moved = _call(model, z[order], pos[order], batch, cell, pbc)
    _same(moved, _call(model, z, pos, batch, cell, pbc), tol, "permutation")


def check_batching(
    model: Model,
    z: Tensor,
    pos: Tensor,
    batch: Tensor,
    *,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
    tol: float = 1e-10,
) -> None:
    """Structures have the same outputs together as alone, and none has a gradient from another.

    Arguments as in :func:`check_rotation`; ``batch`` must hold at least two structures.

    Raises:
        AssertionError: If outputs differ or a gradient crosses structures.
    """
    pos = pos.detach().requires_grad_()
    together = _call(model, z, pos, batch, cell, pbc)
    for k in range(int(batch.max()) + 1):
        own = batch == k
        own_cell = None if cell is None else cell[k : k + 1]
        own_pbc = None if pbc is None else pbc[k : k + 1]
        alone = _call(model, z[own], pos[own], None, own_cell, own_pbc)
        _same(alone, together[k : k + 1], tol, f"structure {k} alone and in the batch")
        (gradient,) = torch.autograd.grad(together[k].sum(), pos, retain_graph=True, allow_unused=True)
        if gradient is not None and gradient[~own].any():
            raise AssertionError(f"the output of structure {k} has a gradient at atoms of other structures")


def check_extensivity(
    model: Model, z: Tensor, pos: Tensor, batch: Tensor, *, distance: float = 1000.0, tol: float = 1e-10
) -> None:
    """Outputs of molecules far apart add up; ``distance`` in Å lies between them, other arguments as above."""
    apart = pos + distance * torch.nn.functional.pad(batch.to(pos.dtype).unsqueeze(-1), (0, 2))
    total = _call(model, z, pos, batch, None, None).sum(0, keepdim=True)
    _same(_call(model, z, apart, None, None, None), total, tol, "far fragments")


def check_smoothness(
    model: Model, cutoff: float, *, numbers: tuple[int, int] = (6, 8), step: float = 1e-5, tol: float = 1e-3
) -> None:
    """The output of two atoms has neither a jump nor a kink at the cutoff.

    Values ``step`` Å before and behind the cutoff, and the slope before it, are compared with the steepest slope
    between half the cutoff and the cutoff, so the unit of the output does not matter.

    Args:
        model: Model, see above; weights in float64.
        cutoff: Its cutoff in Å.
        numbers: Atomic numbers of the two atoms.
        step: Distance from the cutoff in Å.
        tol: Largest jump in units of steepest slope times 1 Å, and largest slope in units of the steepest.

    Raises:
        AssertionError: If there is a jump or a kink, or if the output does not depend on the distance at all.
    """
    inside = torch.linspace(0.5 * cutoff, 0.99 * cutoff, 50, dtype=torch.float64)
    dist = torch.cat([inside, inside.new_tensor([cutoff - step, cutoff + step])]).requires_grad_()
    pos = torch.nn.functional.pad(torch.stack([0.0 * dist, dist], dim=1).unsqueeze(-1), (0, 2)).reshape(-1, 3)
    batch = torch.arange(dist.numel()).repeat_interleave(2)
    value = _call(model, torch.tensor(numbers).repeat(dist.numel()), pos, batch, None, None)
    (slope,) = torch.autograd.grad(value.sum(), dist)
    steepest = slope[:-2].abs().max().item()
    if steepest == 0:
        raise AssertionError("the output does not depend on the distance of two atoms within the cutoff")
    jump = (value[-1] - value[-2]).abs().max().item() / steepest
    kink = (slope[-1] - slope[-2]).abs().item() / steepest
    if not (jump <= tol and kink <= tol):
        raise AssertionError(f"not smooth at the cutoff: jump {jump:.3g} Å and kink {kink:.3g} of the steepest slope")


def check_finite_gradients(
    model: Model,
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None = None,
    *,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
) -> None:
    """Outputs, and their first and second derivatives with respect to positions and weights, are finite.

    Meant for degenerate input: coincident or isolated atoms, padding, vanishing dipoles. Arguments as in
    :func:`check_rotation`.

    Raises:
        AssertionError: If something is NaN or infinite.
    """
    pos = pos.detach().requires_grad_()
    value = _call(model, z, pos, batch, cell, pbc)
    weights = list(model.parameters()) if isinstance(model, nn.Module) else []
    weights = [weight for weight in weights if weight.requires_grad]
    first = torch.autograd.grad(value.sum(), [pos, *weights], create_graph=True, allow_unused=True)
    second: Sequence[Tensor | None] = ()
    if first[0] is not None and first[0].requires_grad:
        # forces enter losses squared
        second = torch.autograd.grad(first[0].square().sum() + first[0].sum(), [pos, *weights], allow_unused=True)
    for what, found in (("output", (value,)), ("first derivative", first), ("second derivative", second)):
        if not all(bool(torch.isfinite(entry).all()) for entry in found if entry is not None):
            raise AssertionError(f"{what} is not finite")


def check_derivatives(
    model: Model,
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None = None,
    *,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
    second: bool = True,
) -> None:
    """First and second derivatives with respect to positions agree with finite differences, in float64.

    Arguments as in :func:`check_rotation`; ``second`` is whether second derivatives are checked as well. No distance
    may lie within 1e-6 Å of a hard cutoff.

    Raises:
        RuntimeError: If derivatives differ (``torch.autograd.GradcheckError``).
    """
    pos = pos.detach().requires_grad_()

    def function(pos: Tensor) -> Tensor:
        return _call(model, z, pos, batch, cell, pbc)

    torch.autograd.gradcheck(function, (pos,))
    if second:
        torch.autograd.gradgradcheck(function, (pos,))


def check_supercell(
    model: Model,
    z: Tensor,
    pos: Tensor,
    cell: Tensor,
    pbc: Tensor,
    *,
    repeats: tuple[int, int, int] = (2, 1, 3),
    extensive: bool = True,
    tol: float = 1e-10,
) -> None:
    """A crystal described by a larger cell has the outputs of its primitive cells together.

    Args:
        model: Model, see above.
        z: Atomic numbers, shape ``[N]``.
        pos: Positions in Å, shape ``[N, 3]``.
        cell: Lattice vectors in rows in Å, shape ``[1, 3, 3]``.
        pbc: Periodic axes, shape ``[1, 3]``.
        repeats: Repeats along each axis; axes that are not periodic are not repeated.
        extensive: Whether outputs grow with the number of atoms or stay.
        tol: Largest relative difference.

    Raises:
        AssertionError: If outputs differ.
    """
    times = torch.where(pbc[0].cpu(), torch.tensor(repeats), 1)
    images = torch.tensor(list(itertools.product(*map(range, times.tolist()))), dtype=pos.dtype)
    large_pos = (pos + (images @ cell[0]).unsqueeze(1)).reshape(-1, 3)  # [images * N, 3]
    large = _call(model, z.repeat(len(images)), large_pos, None, cell * times.to(pos.dtype).unsqueeze(-1), pbc)
    small = _call(model, z, pos, None, cell, pbc)
    _same(large, small * (len(images) if extensive else 1), tol, "supercell")


def check_rewrapping(
    model: Model, z: Tensor, pos: Tensor, cell: Tensor, pbc: Tensor, *, tol: float = 1e-10, seed: int = 0
) -> None:
    """Atoms moved by lattice vectors are the same crystal; arguments as in :func:`check_supercell`."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(-2, 3, pos.shape, generator=generator) * pbc[0].long()
    moved = _call(model, z, pos + images.to(pos.dtype) @ cell[0], None, cell, pbc)
    _same(moved, _call(model, z, pos, None, cell, pbc), tol, "atoms wrapped by lattice vectors")


def _call(
    model: Model, z: Tensor, pos: Tensor, batch: Tensor | None, cell: Tensor | None, pbc: Tensor | None
) -> Tensor:
    batch = torch.zeros_like(z) if batch is None else batch
    return model(z, pos, batch) if cell is None else model(z, pos, batch, cell=cell, pbc=pbc)


def _check_transform(
    model: Model,
    matrix: Tensor,
    what: str,
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None,
    cell: Tensor | None,
    pbc: Tensor | None,
    vector: bool,
    tol: float,
) -> None:
    expected = _call(model, z, pos, batch, cell, pbc)
    moved = _call(model, z, pos @ matrix, batch, None if cell is None else cell @ matrix, pbc)
    _same(moved, expected @ matrix if vector else expected, tol, what)


def _same(actual: Tensor, expected: Tensor, tol: float, what: str) -> None:
    if actual.shape != expected.shape:
        raise AssertionError(f"{what}: expected shape {tuple(expected.shape)}, got {tuple(actual.shape)}")
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    difference = (actual - expected).abs().max().item() / scale if expected.numel() else 0.0
    if not difference <= tol:  # also if it is NaN
        raise AssertionError(f"{what}: outputs differ by {difference:.3g} (relative), allowed are {tol:.3g}")

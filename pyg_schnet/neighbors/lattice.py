"""Lattices with any number of periodic axes: completed cells, wrapping, and the images that a cutoff can reach."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyg_schnet.ops.dispatch import is_at_hand, list_of


def complete_cell(cell: Tensor, pbc: Tensor) -> Tensor:
    """Replace the rows of axes that are not periodic by unit vectors perpendicular to the other rows.

    Slabs, wires and molecules then have a cell of three independent vectors, with any vector along the vacuum.

    Args:
        cell: Lattice vectors in rows, in Å, shape ``[B, 3, 3]``; rows of non-periodic axes may be zero.
        pbc: Periodic axes, shape ``[B, 3]``.

    Returns:
        Cells of shape ``[B, 3, 3]``, singular only where periodic rows are linearly dependent.

    Example:
        >>> cell = torch.tensor([[[4.0, 0.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 0.0]]])
        >>> complete_cell(cell, torch.tensor([[True, True, False]]))
        tensor([[[4., 0., 0.],
                 [1., 3., 0.],
                 [0., 0., 1.]]])
    """
    if is_at_hand(pbc) and bool(pbc.all()):  # a look at another device would wait for it
        return cell
    rows = list(torch.where(pbc[:, :, None], cell, 0.0).unbind(1))
    axes = torch.eye(3, dtype=cell.dtype, device=cell.device)
    for k in range(3):
        one, two = rows[(k + 1) % 3], rows[(k + 2) % 3]
        both = (one != 0).any(1, keepdim=True) & (two != 0).any(1, keepdim=True)
        known = one + two  # the only row known, where there are not both
        side = torch.linalg.cross(known, axes[known.abs().argmin(1)])  # away from the axis it is closest to
        normal = torch.where(both, torch.linalg.cross(one, two), side)
        length = torch.linalg.vector_norm(normal, dim=1, keepdim=True)
        unit = torch.where(length > 0, normal / length.clamp(min=torch.finfo(cell.dtype).tiny), axes[k])
        rows[k] = torch.where(pbc[:, k : k + 1], rows[k], unit)
    return torch.stack(rows, dim=1)


class Lattice(NamedTuple):
    """Completed cells of a batch and quantities derived from them."""

    cell: Tensor  # [B, 3, 3] completed, rows in Å
    pbc: Tensor  # [B, 3]
    dual: Tensor  # [B, 3, 3] rows d_k in 1/Å with d_k · a_l = 1 for k = l, else 0
    height: Tensor  # [B, 3] distance between neighbouring lattice planes of each axis, Å
    orthogonality: Tensor  # [B] volume over the product of edge lengths: 1 for a cuboid, 0 for a singular cell

    @classmethod
    def from_cell(cls, cell: Tensor, pbc: Tensor) -> Lattice:
        """Complete the cells and compute their dual vectors."""
        cell = complete_cell(cell, pbc)
        normal = torch.linalg.cross(cell[:, [1, 2, 0]], cell[:, [2, 0, 1]])
        volume = (normal[:, 0] * cell[:, 0]).sum(1)
        length = torch.linalg.vector_norm(cell, dim=2)
        dual = normal / volume[:, None, None]
        return cls(cell, pbc, dual, 1 / torch.linalg.vector_norm(dual, dim=2), volume.abs() / length.prod(1))

    def fractional(self, pos: Tensor, batch: Tensor) -> Tensor:
        """Coordinates along the lattice vectors, shape ``[N, 3]``."""
        if self.cell.size(0) == 1:
            return pos @ self.dual[0].T
        return torch.einsum("nd,nkd->nk", pos, self.dual.index_select(0, batch))

    def cartesian(self, frac: Tensor, batch: Tensor) -> Tensor:
        """Vectors in Å of coordinates along the lattice vectors, shape ``[N, 3]``."""
        if self.cell.size(0) == 1:
            return frac @ self.cell[0]
        return torch.einsum("nk,nkd->nd", frac, self.cell.index_select(0, batch))


def open_lattice(batch_size: int, like: Tensor) -> Lattice:
    """Unit cells without periodic axes, in the dtype and on the device of ``like``."""
    cell = torch.eye(3, dtype=like.dtype, device=like.device).expand(batch_size, 3, 3)
    return Lattice.from_cell(cell, torch.zeros(batch_size, 3, dtype=torch.bool, device=like.device))


MOST_IMAGES = 10**7
"""Largest number of images of all atoms together, about 1.5 GB, unless there are fewer than 27 of each atom."""


def check_images(batch: Tensor, lattice: Lattice, cutoff: float, cell: Tensor) -> None:
    r"""Raise where so many lattice images are within the cutoff that they would take all memory.

    .. math:: n_b \approx \sum_i \prod_k \Bigl( 1 + \frac{2 r_\mathrm{cut}}{h_k} \Bigr)

    over the periodic axes k with distances h of lattice planes: 1 in a large cell, 8e9 in one of 0.005 Å.

    Args:
        batch: Structure of each atom, shape ``[N]``.
        lattice: Cells of the structures.
        cutoff: Cutoff in Å.
        cell: Lattice vectors as the caller gave them, for the message, shape ``[B, 3, 3]``.

    Raises:
        ValueError: If there are more than :data:`MOST_IMAGES`; the message names the cell.
    """
    of_atom, n_atoms = expected_images(batch, lattice, cutoff)
    total = float((of_atom * n_atoms).sum())
    if total <= max(MOST_IMAGES, 27 * batch.size(0)):
        return
    k = int((of_atom * (n_atoms > 0)).nan_to_num(torch.inf, torch.inf).argmax())
    heights = ", ".join(f"{height:.3g}" for height in list_of(lattice.height[k]))
    raise ValueError(
        f"structure {k} has {float(of_atom[k] * n_atoms[k]):.3g} lattice images of its atoms within the cutoff of "
        f"{cutoff} Å, at most {MOST_IMAGES:.0e} are possible; its lattice planes are {heights} Å apart, "
        f"cell={cell[k].tolist()}; give the cell in Å, or take a smaller cutoff"
    )


def expected_images(batch: Tensor, lattice: Lattice, cutoff: float) -> tuple[Tensor, Tensor]:
    """Images of an atom, and atoms, of each structure, see :func:`check_images`; shapes ``[B]``."""
    of_atom = torch.where(lattice.pbc, 1.0 + 2.0 * cutoff / lattice.height, 1.0).prod(1)
    return of_atom, torch.zeros_like(of_atom).scatter_add_(0, batch, of_atom.new_ones(batch.size(0)))


class ImageCounts(NamedTuple):
    """Which images of each atom may lie within a cutoff, before they are listed."""

    wrap: Tensor  # [N, 3] lattice vectors that move atoms into the cell along periodic axes
    first: Tensor  # [N, 3] lowest image along each axis
    count: Tensor  # type: ignore[assignment]  # [N, 3] images along each axis
    end: Tensor  # [N + 1] first image of each atom, and their number


class Images(NamedTuple):
    """Every image of every atom that may lie within the cutoff of the wrapped atoms."""

    points: Tensor  # [M, 3] Å
    ptr: Tensor  # [B + 1] first image of each structure
    atom: Tensor  # [M]
    shift: Tensor  # [M, 3] int32 lattice vectors between the given position of the atom and the image
    wrapped: Tensor  # [N, 3] atoms moved into the cell along periodic axes, Å
    wrap: Tensor  # [N, 3] int32 lattice vectors that moved them
    own: Tensor  # [N] the image that is the wrapped atom itself


def images_within(pos: Tensor, batch: Tensor, ptr: Tensor, lattice: Lattice, cutoff: float) -> Images:
    """List the images of atoms within the cutoff of the box, aligned with the cell, that holds the wrapped atoms.

    Along each axis an atom keeps the images between the lowest atom minus the cutoff and the highest plus the cutoff,
    measured across lattice planes. So skewed cells get as many images as they need, empty parts of the cell cost
    nothing, and a large cell gets few images besides its own atoms.

    Args:
        pos: Positions in Å, shape ``[N, 3]``, N > 0, in the dtype of the lattice.
        batch: Structure of each atom, shape ``[N]``.
        ptr: First atom of each structure, shape ``[B + 1]``.
        lattice: Cells of the structures.
        cutoff: Cutoff in Å, with an allowance for rounding.

    Returns:
        Images in the order of their atoms.

    Example:
        >>> lattice = Lattice.from_cell(2.0 * torch.eye(3)[None], torch.tensor([[True, False, False]]))
        >>> zero = torch.tensor([0])
        >>> images_within(torch.tensor([[5.0, 0.0, 0.0]]), zero, torch.tensor([0, 1]), lattice, 3.0).points
        tensor([[-1.,  0.,  0.],
                [ 1.,  0.,  0.],
                [ 3.,  0.,  0.]])
    """
    counts = count_images(pos, batch, lattice, cutoff)
    return list_images(pos, batch, ptr, lattice, counts, int(counts.end[-1]))


def count_images(pos: Tensor, batch: Tensor, lattice: Lattice, cutoff: float | Tensor) -> ImageCounts:
    """How many images :func:`images_within` lists, without a look at them; the cutoff may be a tensor of one number."""
    periodic = lattice.pbc.index_select(0, batch)
    frac = lattice.fractional(pos, batch)
    wrap = torch.where(periodic, -frac.floor(), 0.0)
    frac = frac + wrap
    index = batch[:, None].expand(-1, 3)
    extreme = frac.new_full((lattice.cell.size(0), 3), torch.inf)
    margin = cutoff / lattice.height
    low = extreme.scatter_reduce(0, index, frac, "amin") - margin
    high = (-extreme).scatter_reduce(0, index, frac, "amax") + margin
    first = torch.where(periodic, (low.index_select(0, batch) - frac).ceil(), 0.0).long()
    count = torch.where(periodic, (high.index_select(0, batch) - frac).floor(), 0.0).long() - first + 1  # [N, 3]
    n_images = count.prod(1)
    return ImageCounts(wrap, first, count, torch.cat([n_images.new_zeros(1), n_images.cumsum(0)]))


def list_images(pos: Tensor, batch: Tensor, ptr: Tensor, lattice: Lattice, counts: ImageCounts, total: int) -> Images:
    """The images that were counted, ``total`` of all atoms; other arguments as for :func:`images_within`."""
    wrap, first, count, end = counts
    n_images = end.diff()
    atom = torch.repeat_interleave(n_images, output_size=total)
    number = torch.arange(total, device=pos.device) - end.index_select(0, atom)
    count_y, count_z = count[:, 1].index_select(0, atom), count[:, 2].index_select(0, atom)
    column = number.div(count_z, rounding_mode="floor")
    x = column.div(count_y, rounding_mode="floor")
    shift = torch.stack([x, column - x * count_y, number - column * count_z], dim=1) + first.index_select(0, atom)
    wrapped = pos + lattice.cartesian(wrap, batch)
    points = wrapped.index_select(0, atom) + lattice.cartesian(shift.to(pos.dtype), batch.index_select(0, atom))
    wrap = wrap.to(torch.int32)
    own = end[:-1] - (first[:, 0] * count[:, 1] + first[:, 1]) * count[:, 2] - first[:, 2]
    shift = shift.to(torch.int32) + wrap.index_select(0, atom)
    return Images(points, end.index_select(0, ptr), atom, shift, wrapped, wrap, own)


def rounding_allowance(pos: Tensor, batch: Tensor, lattice: Lattice, cutoff: float, dtype: torch.dtype) -> float:
    """Upper bound in Å of the rounding error of an edge length near the cutoff.

    The edge formula rounds in ``dtype``; positions, differences and translations add up to the spread of the atoms
    along the lattice vectors plus the images that the cutoff crosses. Candidates are searched this much farther.

    Args:
        pos: Positions in Å, shape ``[N, 3]``, N > 0, in the dtype of the lattice.
        batch: Structure of each atom, shape ``[N]``.
        lattice: Cells of the structures.
        cutoff: Cutoff in Å.
        dtype: Dtype of the positions that the caller gave.

    Raises:
        ValueError: If rounding may exceed the cutoff, or lattice images would not fit in int32.
    """
    allowance, n_cells, farthest = list_of(rounding_numbers(pos, batch, lattice, cutoff, dtype))
    if not (allowance <= cutoff and n_cells <= 2**30):
        raise ValueError(
            f"positions up to {farthest:.3g} Å are too far away: in {dtype} lengths may be wrong by {allowance:.3g} Å "
            f"(cutoff {cutoff} Å), and {n_cells:.3g} cells are crossed (at most 2**30); wrap the atoms into the cell"
            + (" or use float64" if dtype == torch.float32 else "")
        )
    return allowance


def rounding_numbers(pos: Tensor, batch: Tensor, lattice: Lattice, cutoff: float, dtype: torch.dtype) -> Tensor:
    """What :func:`rounding_allowance` reads: the bound, cells crossed, and the farthest coordinate, shape ``[3]``."""
    index = batch[:, None].expand(-1, 3)
    frac = lattice.fractional(pos, batch)
    extreme = frac.new_full((lattice.cell.size(0), 3), torch.inf)
    low, high = extreme.scatter_reduce(0, index, frac, "amin"), (-extreme).scatter_reduce(0, index, frac, "amax")
    length = torch.linalg.vector_norm(lattice.cell, dim=2)
    crossed = (((high - low).clamp(min=0.0) + cutoff / lattice.height + 1) * length).sum(1)
    farthest = pos.abs().max()
    error = torch.finfo(dtype).eps * (cutoff + crossed)
    error = error + torch.finfo(pos.dtype).eps * farthest * (length / lattice.height).sum(1)
    n_cells = farthest / lattice.height.masked_fill(~lattice.pbc, torch.inf).min()
    return torch.stack([16 * error.max(), n_cells, farthest])

"""Smooth surfaces around molecules, as triangle meshes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.analysis._model import to_numpy
from pyg_schnet.analysis._surroundings import Surroundings
from pyg_schnet.data import to_data
from pyg_schnet.data.structure import near_origin
from pyg_schnet.nn import cosine_cutoff

if TYPE_CHECKING:
    from ase import Atoms

LEVEL = 3.8
"""Level in Å⁻² of the surfaces of Schütt et al. (2017)."""

_EVERYWHERE = 1e6  # Å: without a window every atom counts
_TOLERANCE = 1e-12  # Å, of a length near 0.5 Å
_PAIRS = 2**22  # of vertices and atoms at a time, to bound the memory


@dataclass(frozen=True, eq=False)
class Surface:
    """Triangle mesh of a surface.

    Attributes:
        vertices: Points of the surface in Å, shape ``[V, 3]``.
        faces: Three vertices each, counter-clockwise for those who look at the atoms from outside, int64, ``[F, 3]``.
    """

    vertices: np.ndarray
    faces: np.ndarray


def molecular_surface(atoms: Atoms, level: float = LEVEL, *, spacing: float = 0.15, reach: float = 3.0) -> Surface:
    r"""Smooth surface of a structure, on which to place probes.

    It is that of `Schütt et al. (2017) <https://doi.org/10.1038/ncomms13890>`_:

    .. math:: \sum_i \lVert \mathbf{r} - \mathbf{r}_i \rVert^{-2} = 3.8\ \text{Å}^{-2}

    `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_ print
    :math:`\sum_i \lVert \mathbf{r} - \mathbf{r}_i \rVert = 3.7\ \text{Å}`, which is a misprint: around two atoms
    that is an ellipsoid, and in all but the smallest molecules the sum is larger everywhere, in methane at least 4.4 Å
    and in benzene 23 Å, so that there is no such surface. The formula above, of the earlier paper, is what is meant.

    Around a single atom it is a sphere of radius 0.513 Å; neighbouring atoms push it outwards.

    Over periodic images the sum diverges: linearly with their distance in crystals, by the logarithm in layers. So
    where any axis is periodic, every term is multiplied by the cosine window, eq. (15), that ends at ``reach``:

    .. math:: \sum_i \frac{f(\lVert \mathbf{r} - \mathbf{r}_i \rVert)}{\lVert \mathbf{r} - \mathbf{r}_i \rVert^2}
              = 3.8\ \text{Å}^{-2}

    Such a surface fills one cell, from the origin to the sum of the lattice vectors, and is open where that ends:
    vertices on opposite sides of the cell differ by a lattice vector, so that copies fit together. In dense crystals
    the sum may exceed a level everywhere; higher levels, or shorter reaches, then show the spheres around atoms.

    The mesh is that of marching cubes (Lewiner et al. (2003), by scikit-image) on a grid of
    :math:`\rho^{-1/2}`, with the sum :math:`\rho`. That is a length, and zero at the nuclei, where the sum has poles;
    around one atom it is the distance itself. Each vertex is then moved onto the surface by Newton steps along the
    gradient, until it is off by less than 1e-12 Å.

    Args:
        atoms: Structure, periodic along any axes.
        level: In Å⁻².
        spacing: Spacing of the grid in Å; about the length of the edges of triangles.
        reach: End of the window in Å; only for periodic structures.

    Returns:
        The mesh; closed unless the structure is periodic.

    Raises:
        ImportError: If scikit-image is not installed.
        ValueError: If an option is not positive, the grid is too coarse to see single atoms, or there is no such
            surface in a periodic structure.
        RuntimeError: If the surface all but touches itself, so that vertices do not find it.

    Example:
        >>> from ase import Atoms
        >>> surface = molecular_surface(Atoms("H"))
        >>> bool(np.allclose(np.linalg.norm(surface.vertices, axis=1), 3.8**-0.5, atol=1e-12))
        True
    """
    _check_options(level, spacing, reach)
    data = to_data(atoms, dtype=torch.float64)
    origin = _far_origin(atoms)
    data.pos = data.pos - torch.from_numpy(origin)
    field = _Field(data.pos, data.cell, data.pbc, reach)
    grid = _Grid.around(field, level, spacing)
    values = field.on_grid(grid) - level**-0.5  # negative inside
    if not (bool((values < 0).any()) and bool((values > 0).any())):
        low, high = ((value + level**-0.5) ** -2 for value in (values.max(), values.min()))
        raise ValueError(
            f"there is no surface at level {level} Å⁻²: the sum lies on one side of it everywhere in the cell, between "
            f"{low:.3g} and {high:.3g} Å⁻²; choose another level, or another reach (now {reach} Å)"
        )
    corners, faces = _marching_cubes(values)
    if torch.linalg.det(grid.steps) < 0:
        faces = faces[:, ::-1]  # a left-handed cell is a mirror
    parts = (grid.origin + corners @ grid.steps).split(max(1, _PAIRS // len(field.images.pos)))
    vertices = torch.cat([_onto_surface(points, field, level**-0.5, spacing) for points in parts])
    return Surface(to_numpy(vertices) + origin, np.ascontiguousarray(faces, dtype=np.int64))


def _far_origin(atoms: Atoms) -> np.ndarray:
    """Middle of a structure far out in Å, where vertices could not be told to 1e-12 Å; without what is along the cell.

    Across periodic axes alone: along them the surface begins at the origin of the coordinates.
    """
    origin = near_origin(atoms.get_positions(), torch.float32)[1]
    axes = atoms.cell.array[atoms.pbc]
    return origin - origin @ np.linalg.pinv(axes) @ axes


def _check_options(level: float, spacing: float, reach: float) -> None:
    for name, value, unit in (("level", level, "Å⁻²"), ("spacing", spacing, "Å"), ("reach", reach, "Å")):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and in {unit}, got {value!r}")
    if spacing > level**-0.5:
        raise ValueError(
            f"spacing must be at most {level**-0.5:.3f} Å, the radius of the surface around a single atom at level "
            f"{level} Å⁻², got {spacing} Å"
        )


class _Grid(NamedTuple):
    """Points in space: one cell along periodic axes, all that may be inside the surface along the others."""

    origin: Tensor  # [3] first point in Å
    steps: Tensor  # [3, 3] vectors between neighbouring points in Å, in rows
    shape: list[int]  # points along each axis; along periodic ones the last is an image of the first

    @classmethod
    def around(cls, field: _Field, level: float, spacing: float) -> _Grid:
        """Grid with about that spacing in Å."""
        lattice, atoms = field.images.lattice, field.images.pos
        cell, periodic = lattice.cell[0], lattice.pbc[0]
        frac = lattice.fractional(atoms, torch.zeros_like(field.images.atom))  # in Å along axes that are not periodic
        margin = field.images.reach if field.windowed else _margin(frac, level)
        begin = torch.where(periodic, 0.0, frac.amin(0) - margin)
        extent = torch.where(periodic, 1.0, frac.amax(0) + margin - begin)
        count = (extent * cell.norm(dim=1) / spacing).ceil().clamp(min=2.0)
        return cls(begin @ cell, (extent / count)[:, None] * cell, [int(n) + 1 for n in count])


class _Field:
    """The sum ρ over atoms, and ρ^(-1/2), of which surfaces are made."""

    def __init__(self, pos: Tensor, cell: Tensor, pbc: Tensor, reach: float) -> None:
        self.windowed = bool(pbc.any())
        self.images = Surroundings(pos, cell, pbc, reach if self.windowed else _EVERYWHERE)

    def on_grid(self, grid: _Grid) -> Tensor:
        """ρ^(-1/2) in Å at all points of a grid; at most 10 Å."""
        inverse, reach = torch.linalg.inv(grid.steps), self.images.reach
        total = grid.steps.new_zeros(grid.shape)
        place = (self.images.pos - grid.origin) @ inverse  # of the images, in steps
        limit, steps = torch.tensor(grid.shape), reach * inverse.norm(dim=0)
        first = torch.minimum((place - steps).ceil().clamp(min=0.0).long(), limit).tolist()
        last = torch.minimum(((place + steps).floor() + 1.0).clamp(min=0.0).long(), limit).tolist()
        for image, begin, end in zip(place, first, last, strict=True):
            part = total[begin[0] : end[0], begin[1] : end[1], begin[2] : end[2]]
            legs = [(torch.arange(begin[k], end[k]) - image[k])[:, None] * grid.steps[k] for k in range(3)]
            square = sum((legs[0][:, None, None, c] + legs[1][:, None, c] + legs[2][:, c]).square_() for c in range(3))
            part += self.terms(square)
        for axis, periodic in enumerate(self.images.lattice.pbc[0].tolist()):
            if periodic:  # to the last bit, so that copies of the surface fit together
                total.select(axis, -1).copy_(total.select(axis, 0))
        return total.rsqrt_().clamp_(max=10.0)

    def terms(self, square: Tensor) -> Tensor:
        """Terms of the sum in Å⁻² for squared distances in Å²."""
        return cosine_cutoff(square.sqrt(), self.images.reach) / square if self.windowed else square.reciprocal()

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """ρ^(-1/2) in Å, shape ``[P]``, and its gradient, shape ``[P, 3]``."""
        (_, target), vec = self.images.pairs(points)
        square = vec.square().sum(1)
        terms, reach = self.terms(square), self.images.reach
        slopes = 2.0 * terms / square
        if self.windowed:  # the slope of the window
            dist = square.sqrt()
            slopes += 0.5 * math.pi / reach * torch.sin(math.pi / reach * dist) / (square * dist)
        total = terms.new_zeros(len(points)).index_add_(0, target, terms)
        rising = torch.zeros_like(points).index_add_(0, target, slopes.unsqueeze(1) * vec)
        return total.rsqrt(), -0.5 * (total**-1.5).unsqueeze(1) * rising


def _margin(pos: Tensor, level: float) -> Tensor:
    """How far the surface of a molecule may reach beyond its atoms along each axis in Å, shape ``[3]``.

    At a distance m from the plane of the outermost atom, those at depth d behind it are at least m + d away.
    """
    depth = torch.stack([pos.amax(0) - pos, pos - pos.amin(0)])  # [2, N, 3]
    low, high = depth.new_zeros(2, 3), depth.new_full((2, 3), math.sqrt(len(pos) / level))
    for _ in range(50):
        middle = 0.5 * (low + high)
        inside = (middle[:, None] + depth).square().reciprocal().sum(1) > level
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return high.amax(0) + 0.1


def _marching_cubes(values: Tensor) -> tuple[Tensor, np.ndarray]:
    """Vertices in steps of the grid, shape ``[V, 3]``, and faces of the surface of zeros, negative inside."""
    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise ImportError("surfaces need scikit-image; install it with `pip install pyg_schnet[analysis]`") from error
    vertices, faces, _, _ = marching_cubes(values.numpy(), 0.0)
    return torch.from_numpy(vertices.astype(np.float64)), faces


def _onto_surface(points: Tensor, field: _Field, radius: float, longest: float) -> Tensor:
    """Points moved along the gradient until ρ^(-1/2) equals the radius, by steps no longer than given in Å."""
    for _ in range(30):
        value, gradient = field.at(points)
        off = radius - value
        if bool((off.abs() <= _TOLERANCE).all()):
            return points
        step = (off / gradient.square().sum(1)).unsqueeze(1) * gradient
        points = points + step * (longest / step.norm(dim=1, keepdim=True)).clamp(max=1.0)
    raise RuntimeError(
        f"{int((off.abs() > _TOLERANCE).sum())} vertices do not find the surface, which all but touches itself there; "
        "choose another level or spacing"
    )

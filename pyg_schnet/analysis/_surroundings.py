"""The atoms and periodic images near any point in space, for analyses at points where no atom is."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_schnet.neighbors import radius
from pyg_schnet.neighbors.lattice import images_within
from pyg_schnet.neighbors.periodic import check_periodic

_SLACK = 1e-6  # Å, for points that rounding puts outside the cell


class Surroundings:
    r"""Atoms within reach of points; those of every periodic image, as in eq. (17) of Schütt et al. (2020).

    Along periodic axes points are moved into the cell, where the images are known. Molecules and crystals are treated
    alike: without periodic axes each atom is its only image.

    Args:
        pos: Positions in Å, shape ``[N, 3]``.
        cell: Lattice vectors in rows in Å, shape ``[1, 3, 3]``; rows of axes that are not periodic may be zero.
        pbc: Periodic axes, shape ``[1, 3]``.
        reach: Distance in Å.

    Attributes:
        pos: Positions of the M images within reach of the cell in Å, shape ``[M, 3]``.
        atom: Atom that each is an image of, shape ``[M]``.
        lattice: The cell, completed along axes that are not periodic.

    Raises:
        ValueError: If there is no usable cell for the periodic axes.

    Example:
        >>> chain = torch.zeros(1, 3, dtype=torch.float64)
        >>> cell = torch.diag(torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64))[None]
        >>> around = Surroundings(chain, cell, torch.tensor([[True, False, False]]), reach=1.5)
        >>> around.pairs(chain + 5.0 * cell[0, :1] / 2)[1]  # half way between two images
        tensor([[-1.,  0.,  0.],
                [ 1.,  0.,  0.]], dtype=torch.float64)
    """

    def __init__(self, pos: Tensor, cell: Tensor, pbc: Tensor, reach: float) -> None:
        structures, _, self.lattice = check_periodic(pos, cell, pbc)
        n_atoms, batch = pos.size(0), torch.zeros(pos.size(0) + 2, dtype=torch.int64, device=pos.device)
        # two corners among the atoms, so that images are listed that are within reach of any point of the cell
        corners = self.lattice.cell.new_tensor([[0.0] * 3, [1.0 - 1e-12] * 3])
        points = torch.cat([structures.pos.to(corners.dtype), self.lattice.cartesian(corners, batch[:2])])
        ptr = torch.tensor([0, len(batch)], device=pos.device)
        images = images_within(points, batch, ptr, self.lattice, reach + _SLACK)
        real = torch.nonzero(images.atom < n_atoms).squeeze(1)
        self.pos, self.atom = images.points[real].to(pos.dtype), images.atom[real]
        self.reach = reach

    def pairs(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Images closer to points than the reach.

        Args:
            points: In Å, anywhere, shape ``[P, 3]``; the vectors are differentiable in them.

        Returns:
            Image and point of each pair, sorted by point, shape ``[2, E]``, and the vector from point to image in Å,
            shape ``[E, 3]``.
        """
        points = self._wrap(points)
        index = radius(self.pos, points, self.reach)
        return index, self.pos.index_select(0, index[0]) - points.index_select(0, index[1])

    def _wrap(self, points: Tensor) -> Tensor:
        """Points moved into the cell along periodic axes."""
        if not bool(self.lattice.pbc.any()):
            return points
        batch = torch.zeros(points.size(0), dtype=torch.int64, device=points.device)
        cells = self.lattice.fractional(points.detach().to(self.lattice.cell.dtype), batch).floor()
        cells = torch.where(self.lattice.pbc, cells, 0.0)
        return points - self.lattice.cartesian(cells, batch).to(points.dtype)

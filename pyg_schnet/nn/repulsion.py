r"""Screened repulsion of nuclei, for atoms that are closer than any in training data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyg_schnet.nn.atomref import MAX_Z
from pyg_schnet.ops.checks import real_number
from pyg_schnet.ops.dispatch import is_followed

COULOMB = 14.399645478
r""":math:`e^2 / 4 \pi \varepsilon_0` in eV Å (CODATA 2018)."""

_SCREENING_LENGTH = 0.8854 * 0.529177210903  # Å; 0.8854 is that of Thomas and Fermi
_HEIGHTS = (0.18175, 0.50986, 0.28022, 0.02817)
_RATES = (3.19980, 0.94229, 0.40290, 0.20162)


def zbl_energy(dist: Tensor, first: Tensor, second: Tensor) -> Tensor:
    r"""Universal screened repulsion of two nuclei in eV.

    .. math::
        V(d) = \frac{e^2}{4 \pi \varepsilon_0} \frac{Z_1 Z_2}{d}\, \varphi(d / a), \qquad
        a = \frac{0.8854\, a_0}{Z_1^{0.23} + Z_2^{0.23}}, \\
        \varphi(x) = 0.18175\,e^{-3.1998 x} + 0.50986\,e^{-0.94229 x} + 0.28022\,e^{-0.4029 x}
        + 0.02817\,e^{-0.20162 x}

    of Ziegler, Biersack, Littmark, *The Stopping and Range of Ions in Matter*, vol. 1 (1985), eq. (2-74) to (2-76), as
    in LAMMPS' ``pair_style zbl``.

    Args:
        dist: Distances in Å, not zero, any shape.
        first: Atomic number of one atom, of the same shape; 0 repels nothing.
        second: Atomic number of the other.

    Example:
        >>> zbl_energy(torch.tensor([0.5]), torch.tensor([6]), torch.tensor([6])).round(decimals=1)
        tensor([122.])
    """
    charges = first.to(dist.dtype), second.to(dist.dtype)
    length = _SCREENING_LENGTH / (charges[0].pow(0.23) + charges[1].pow(0.23)).clamp(min=1.0)
    x = dist / length
    screening = sum(height * torch.exp(-rate * x) for height, rate in zip(_HEIGHTS, _RATES, strict=True))
    return COULOMB * charges[0] * charges[1] / dist * screening


def smooth_switch(dist: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    r"""One up to ``inner``, zero from ``outer`` on, with two continuous derivatives at both.

    .. math:: s(x) = (1 - x)^3 (1 + 3 x + 6 x^2), \qquad x = \frac{d - d_\mathrm{inner}}{d_\mathrm{outer} -
              d_\mathrm{inner}} \in [0, 1]

    Args:
        dist: Distances in Å.
        inner: Where it begins to fall in Å, less than ``outer``.
        outer: Where it ends in Å.

    Example:
        >>> smooth_switch(torch.tensor([0.5, 1.5, 2.5]), torch.tensor(1.0), torch.tensor(2.0))
        tensor([1.0000, 0.5000, 0.0000])
    """
    x = ((dist - inner) / (outer - inner)).clamp(0.0, 1.0)
    return (1.0 - x).pow(3) * (1.0 + 3.0 * x + 6.0 * x.square())


class ZBLRepulsion(nn.Module):
    r"""Repulsion of close atoms that is added to what a network has learned, and not learned itself.

    .. math::
        E_i = \frac{c}{2} \sum_{j \ne i} V_{Z_i Z_j}(d_{ij})\, s(d_{ij})

    with V of :func:`zbl_energy` and s of :func:`smooth_switch` from ``inner`` to ``outer`` times the sum of the
    covalent radii of the two atoms. At distances of bonds it is zero.

    Args:
        outer: Where the repulsion ends, in sums of covalent radii.
        inner: Up to where it is not switched, in sums of covalent radii.

    Attributes:
        scale: Factor c from eV to the unit of the output of a model.

    Raises:
        ValueError: Unless ``inner`` is at least 0 and less than ``outer``.

    Example:
        >>> repulsion = ZBLRepulsion()
        >>> z, index = torch.tensor([6, 6]), torch.tensor([[0, 1], [1, 0]])
        >>> repulsion(z, index, torch.tensor([1.5, 1.5])).tolist()  # a bond
        [0.0, 0.0]
        >>> bool((repulsion(z, index, torch.tensor([0.5, 0.5])) > 10).all())
        True
    """

    radii: Tensor
    scale: Tensor

    def __init__(self, outer: float = 0.8, inner: float = 0.4) -> None:
        from ase.data import covalent_radii  # here, since models do without ASE

        super().__init__()
        self.outer, self.inner = real_number(outer, "outer"), real_number(inner, "inner")
        if not 0.0 <= self.inner < self.outer:
            raise ValueError(f"inner must be at least 0 and less than outer, got inner={inner!r} and outer={outer!r}")
        radii = torch.tensor(covalent_radii[: MAX_Z + 1], dtype=torch.get_default_dtype())
        self.register_buffer("radii", radii, persistent=False)
        self.register_buffer("scale", torch.ones(()))

    def _ends(self, z: Tensor, edge_index: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Atomic numbers of both ends of each edge, and the sum of their covalent radii in Å."""
        first, second = z.index_select(0, edge_index[0]), z.index_select(0, edge_index[1])
        radii = self.radii.to(dtype)
        return first, second, radii.index_select(0, first) + radii.index_select(0, second)

    def near(self, z: Tensor, edge_index: Tensor, edge_dist: Tensor) -> Tensor:
        """Numbers of the edges that are short enough for a repulsion, shape ``[n]``."""
        *_, radii = self._ends(z, edge_index, edge_dist.dtype)
        return (edge_dist < self.outer * radii).nonzero().squeeze(1)

    def forward(self, z: Tensor, edge_index: Tensor, edge_dist: Tensor, both_ends: bool = False) -> Tensor:
        """Repulsion of each atom, in the unit of the model.

        Args:
            z: Atomic numbers, shape ``[N]``.
            edge_index: Edges ``(j, i)``, shape ``[2, E]``.
            edge_dist: Distances in Å, shape ``[E]``.
            both_ends: Whether there is one edge for each pair of atoms (a half list), not two directions of it.

        Returns:
            Energies, half of each pair for either atom, shape ``[N]``.
        """
        if not is_followed():
            near = self.near(z, edge_index, edge_dist.detach())
            edge_index, edge_dist = edge_index.index_select(1, near), edge_dist.index_select(0, near)
        first, second, radii = self._ends(z, edge_index, edge_dist.dtype)
        outer = self.outer * radii
        inside = edge_dist < outer
        dist = torch.where(inside, edge_dist, outer)
        switch = smooth_switch(dist, self.inner * radii, outer)
        energy = torch.where(inside, 0.5 * self.scale * zbl_energy(dist, first, second) * switch, 0.0)
        total = energy.new_zeros(z.size(0)).index_add(0, edge_index[1], energy)
        return total.index_add(0, edge_index[0], energy) if both_ends else total

"""Radial expansions of distances."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyg_schnet.ops.checks import as_real, positive_length, shown, whole_number
from pyg_schnet.ops.modules import registered

MOST_GAUSSIANS = 10_000
"""Largest number of Gaussians of a basis."""

FINEST = 0.9e-4
"""Smallest width of Gaussians as a part of the cutoff; splines of finer ones would need millions of grid points."""


def gaussian_basis(dist: Tensor, centers: Tensor, gamma: float | Tensor) -> Tensor:
    r"""Expand distances in Gaussians, eq. (14) of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_.

    .. math:: e_k(d) = \exp(-\gamma (d - \mu_k)^2)

    Args:
        dist: Distances in Å, shape ``[E]``.
        centers: Centres :math:`\mu_k` in Å, shape ``[K]``.
        gamma: Inverse squared width in Å⁻²; one number, or one for each centre, shape ``[K]``.

    Returns:
        Dimensionless features, shape ``[E, K]``.

    Example:
        >>> gaussian_basis(torch.tensor([1.0]), torch.tensor([1.0, 2.0]), gamma=10.0)
        tensor([[1.0000e+00, 4.5400e-05]])
    """
    return torch.exp(-gamma * (dist.unsqueeze(-1) - centers) ** 2)


@registered()
class GaussianBasis(nn.Module):
    r"""Evenly spaced Gaussians from zero to the cutoff, eq. (14) of Schütt et al. (2020); see :func:`gaussian_basis`.

    There are three conventions for the width:

    - Schütt et al. (2020): spacing :math:`\Delta\mu = 0.1` Å and :math:`\gamma = 10` Å⁻² (:meth:`from_spacing`);
    - PyTorch Geometric and SchNetPack: :math:`\gamma = 1 / (2 \Delta\mu^2)`, the default here;
    - anything else by ``gamma``.

    Args:
        num_gaussians: Number K of Gaussians; at least 2, unless ``gamma`` is given.
        cutoff: Centre of the last Gaussian in Å.
        gamma: Inverse squared width in Å⁻²; ``None`` takes :math:`1 / (2 \Delta\mu^2)`.
        trainable: Whether centres and widths are learned (one width for each centre).

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> GaussianBasis(num_gaussians=51, cutoff=5.0)
        GaussianBasis(num_gaussians=51, cutoff=5.0 Å, gamma=50 Å⁻²)
    """

    centers: Tensor

    def __init__(
        self, num_gaussians: int = 50, cutoff: float = 10.0, *, gamma: float | None = None, trainable: bool = False
    ) -> None:
        super().__init__()
        self.cutoff = positive_length(cutoff)
        self.num_gaussians = whole_number(num_gaussians, "num_gaussians", most=MOST_GAUSSIANS)
        if self.num_gaussians == 1 and gamma is None:
            raise ValueError(
                "num_gaussians must be at least 2 (1 if gamma is given, as the spacing then sets no width), got 1"
            )
        self.gamma = 0.5 / (self.cutoff / (self.num_gaussians - 1)) ** 2 if gamma is None else _check_gamma(gamma)
        if math.sqrt(0.5 / self.gamma) < FINEST * self.cutoff:
            raise ValueError(
                f"gamma must be at most {0.5 / (FINEST * self.cutoff) ** 2:.3g} Å⁻² for a cutoff of {self.cutoff} Å, "
                f"where Gaussians are {FINEST:g} of the cutoff wide, got {gamma!r}"
            )
        self.trainable = trainable
        centers = torch.empty(self.num_gaussians)
        if trainable:
            self.centers = nn.Parameter(centers)
            self.gammas = nn.Parameter(torch.empty(self.num_gaussians))
        else:
            self.register_buffer("centers", centers)
        self.reset_parameters()

    @property
    def resolution(self) -> float | None:
        r"""Width :math:`1 / \sqrt{2 \gamma}` of the Gaussians in Å, the finest detail of filters made from them.

        ``None`` where widths are trained. Bases with a resolution are smooth on the whole line, also outside
        ``[0, cutoff]``, and can be put on a grid (:class:`pyg_schnet.nn.SplineFilter`).
        """
        return None if self.trainable else math.sqrt(0.5 / self.gamma)

    @classmethod
    def from_spacing(
        cls, spacing: float = 0.1, cutoff: float = 5.0, *, gamma: float = 10.0, trainable: bool = False
    ) -> GaussianBasis:
        r"""Basis with Gaussians every ``spacing`` Å from zero to ``cutoff`` Å, by default those of the paper.

        Raises:
            ValueError: If ``cutoff`` is not a multiple of ``spacing``.

        Example:
            >>> GaussianBasis.from_spacing(0.1, cutoff=5.0)
            GaussianBasis(num_gaussians=51, cutoff=5.0 Å, gamma=10 Å⁻²)
        """
        return cls(num_gaussians_for_spacing(spacing, cutoff), cutoff, gamma=gamma, trainable=trainable)

    def reset_parameters(self) -> None:
        """Reset centres and widths to the even grid."""
        with torch.no_grad():
            self.centers.copy_(torch.linspace(0.0, self.cutoff, self.num_gaussians))
            if self.trainable:
                self.gammas.fill_(self.gamma)

    def forward(self, dist: Tensor) -> Tensor:
        """Expand ``dist`` [Å], shape ``[E]``, to shape ``[E, num_gaussians]``."""
        return gaussian_basis(dist, self.centers, self.gammas if self.trainable else self.gamma)

    def __repr__(self) -> str:
        trainable = ", trainable" if self.trainable else ""
        return (
            f"{type(self).__name__}(num_gaussians={self.num_gaussians}, cutoff={self.cutoff} Å, "
            f"gamma={self.gamma:.4g} Å⁻²{trainable})"
        )


def _check_gamma(gamma: float) -> float:
    number = as_real(gamma)
    if number is None or not math.isfinite(number) or not number >= _LEAST_GAMMA:
        raise ValueError(f"gamma must be a positive inverse squared width in Å⁻², got {shown(gamma)}")
    return number


_LEAST_GAMMA = 1e-20  # Å⁻²; Gaussians are constant up to the longest cutoff, and not zero in float32


def num_gaussians_for_spacing(spacing: float, cutoff: float) -> int:
    """Number of Gaussians, both ends included, for one every ``spacing`` Å up to ``cutoff`` Å.

    Raises:
        ValueError: If ``cutoff`` is not a multiple of ``spacing``.

    Example:
        >>> num_gaussians_for_spacing(0.1, 30.0)
        301
    """
    spacing, cutoff = positive_length(spacing, "spacing"), positive_length(cutoff)
    intervals = round(cutoff / spacing)
    if intervals < 1 or not math.isclose(intervals * spacing, cutoff, rel_tol=1e-6):
        raise ValueError(
            f"cutoff must be a multiple of spacing={spacing} Å, so that the grid ends on it; got {cutoff} Å"
        )
    return whole_number(intervals + 1, "the number of Gaussians", 2, MOST_GAUSSIANS)

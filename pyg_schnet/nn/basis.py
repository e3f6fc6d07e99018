"""Radial expansions of distances."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyg_schnet.ops.modules import registered


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

    def __init__(
        self, num_gaussians: int = 50, cutoff: float = 10.0, *, gamma: float | None = None, trainable: bool = False
    ) -> None:
        super().__init__()
        if not (math.isfinite(cutoff) and cutoff > 0):
            raise ValueError(f"cutoff must be a positive length in Å, got {cutoff!r}")
        if num_gaussians < (2 if gamma is None else 1):
            raise ValueError(
                f"num_gaussians must be at least 2 (1 if gamma is given, as the spacing then sets no width), "
                f"got {num_gaussians!r}"
            )
        if gamma is not None and not (math.isfinite(gamma) and gamma > 0):
            raise ValueError(f"gamma must be a positive inverse squared width in Å⁻², got {gamma!r}")
        self.num_gaussians = num_gaussians
        self.cutoff = float(cutoff)
        self.gamma = 0.5 / (self.cutoff / (num_gaussians - 1)) ** 2 if gamma is None else float(gamma)
        self.trainable = trainable
        centers = torch.empty(num_gaussians)
        if trainable:
            self.centers = nn.Parameter(centers)
            self.gammas = nn.Parameter(torch.empty(num_gaussians))
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


def num_gaussians_for_spacing(spacing: float, cutoff: float) -> int:
    """Number of Gaussians, both ends included, for one every ``spacing`` Å up to ``cutoff`` Å.

    Raises:
        ValueError: If ``cutoff`` is not a multiple of ``spacing``.

    Example:
        >>> num_gaussians_for_spacing(0.1, 30.0)
        301
    """
    if not spacing > 0:
        raise ValueError(f"spacing must be a positive length in Å, got {spacing!r}")
    intervals = round(cutoff / spacing)
    if intervals < 1 or not math.isclose(intervals * spacing, cutoff, rel_tol=1e-6):
        raise ValueError(
            f"cutoff must be a multiple of spacing={spacing} Å, so that the grid ends on it; got {cutoff} Å"
        )
    return intervals + 1

"""The radial filters that a SchNet has learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyg_schnet.analysis._model import Source, own_atomistic_copy, place_of, to_numpy


@dataclass(frozen=True, eq=False)
class RadialFilters:
    """Filters of every interaction over distance.

    Attributes:
        distances: In Å, shape ``[D]``.
        values: Filters, dimensionless, shape ``[T, D, F]``; interactions that share weights are repeated.
        cutoff: Distance in Å from which on all of them are zero.
    """

    distances: np.ndarray
    values: np.ndarray
    cutoff: float


def radial_filters(model: Source, distances: np.ndarray | Sequence[float] | None = None) -> RadialFilters:
    r"""Learned filters of every interaction over distance, eq. (14) to (16) of Schütt et al. (2020).

    .. math::
        W^t(d) = f(d)\; \mathrm{ssp}\bigl(\mathbf{W}_2^t\, \mathrm{ssp}(\mathbf{W}_1^t \mathbf{e}(d) + \mathbf{b}_1^t)
        + \mathbf{b}_2^t\bigr)

    (`Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_), the outer softplus where the model has it. They are
    computed by the filter networks themselves (:class:`pyg_schnet.nn.FilterNetwork`), in float64, also where the model
    uses splined ones.

    Args:
        model: A :class:`~pyg_schnet.models.SchNet`, its file, or the name of a pretrained one.
        distances: In Å; ``None`` takes 501 from zero to the cutoff.

    Returns:
        Arrays in float64.

    Raises:
        TypeError: If the model's interactions have no filter network.
        ValueError: If a distance is negative or not finite.

    Example:
        >>> from pyg_schnet import SchNet
        >>> radial_filters(SchNet(16, 32, 2, 20, 5.0), [1.0, 2.0, 5.0]).values.shape
        (2, 3, 32)
    """
    network = own_atomistic_copy(model, "radial_filters")
    blocks: list[Any] = [getattr(getattr(block, "conv", None), "filter_network", None) for block in network.blocks()]
    if any(block is None for block in blocks):
        raise TypeError(f"expected a model with filter networks, such as SchNet, got {type(network.model).__name__}")
    distances = np.linspace(0.0, network.cutoff, 501) if distances is None else np.array(distances, dtype=np.float64)
    if distances.ndim != 1 or not (np.isfinite(distances) & (distances >= 0)).all():
        raise ValueError(f"distances must be in Å and not negative, [D]; got {distances.tolist()}")
    device, dtype = place_of(network)
    dist = torch.from_numpy(distances).to(device=device, dtype=dtype)
    with torch.no_grad():
        values = torch.stack([block(dist) for block in blocks])  # [T, D, F]
    return RadialFilters(distances, to_numpy(values), network.cutoff)

"""Learning rates over the course of training, as functions of how much of it has passed."""

from __future__ import annotations

import math


def cosine_factor(progress: float, warmup: float = 0.0) -> float:
    r"""Linear rise, then half a cosine down to zero.

    Args:
        progress: Part of the training that has passed, 0 to 1.
        warmup: Part of the training in which the rate rises.

    Returns:
        Factor on the learning rate, 0 to 1.

    Example:
        >>> [round(cosine_factor(p, warmup=0.1), 3) for p in (0.05, 0.1, 0.55, 1.0)]
        [0.5, 1.0, 0.5, 0.0]
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))


def warm_restart_factor(epoch: float, period: float, multiplier: float = 1.0, decay: float = 1.0) -> float:
    r"""Cosine annealing with warm restarts, eq. (5) of `Loshchilov and Hutter (2017) <https://arxiv.org/abs/1608.03983>`_.

    .. math::
        \eta = \delta^c\, \tfrac{1}{2} \left( 1 + \cos(\pi\, T_\mathrm{cur} / T_c) \right), \qquad
        T_c = T_0\, m^c

    `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_ train with Adam and such restarts.

    Args:
        epoch: Epochs that have passed, whole or not.
        period: Length :math:`T_0` of the first cycle in epochs.
        multiplier: By how much each cycle is longer than the one before, m ≥ 1.
        decay: By how much the rate is lower at each restart, δ.

    Returns:
        Factor on the learning rate, 0 to 1.

    Raises:
        ValueError: If the period is not positive or the multiplier is below 1.

    Example:
        >>> [round(warm_restart_factor(e, period=10, multiplier=2), 3) for e in (0, 5, 10, 20, 30)]
        [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    if period <= 0 or multiplier < 1:
        raise ValueError(f"period must be positive and multiplier at least 1, got {period} and {multiplier}")
    cycle = 0
    while epoch >= period:
        epoch -= period
        period *= multiplier
        cycle += 1
    return decay**cycle * 0.5 * (1.0 + math.cos(math.pi * epoch / period))

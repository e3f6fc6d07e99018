"""Activations and their first two derivatives: why energies and forces made from them are smooth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pyg_schnet.nn import shifted_softplus

_ACTIVATIONS = {"shifted softplus": shifted_softplus, "softplus": F.softplus, "ELU": F.elu, "ReLU": F.relu}


@dataclass(frozen=True, eq=False)
class ActivationCurves:
    """Activations over their argument; all numbers are dimensionless.

    Attributes:
        x: Arguments, shape ``[P]``.
        names: What the A activations are called.
        values: Shape ``[A, P]``.
        first: First derivatives, shape ``[A, P]``.
        second: Second derivatives, shape ``[A, P]``.
    """

    x: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray
    first: np.ndarray
    second: np.ndarray


def activation_curves(
    x: np.ndarray | Sequence[float] | None = None,
    names: Sequence[str] = ("shifted softplus", "softplus", "ELU"),
) -> ActivationCurves:
    r"""Activations with their first and second derivatives by automatic differentiation.

    .. math::
        \mathrm{ssp}(x) = \ln\left(\tfrac{1}{2} e^x + \tfrac{1}{2}\right), \qquad
        \mathrm{softplus}(x) = \ln(1 + e^x), \qquad
        \mathrm{ELU}(x) = \begin{cases} x & x > 0 \\ e^x - 1 & x \le 0 \end{cases}

    Eq. (11) of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_ and `Clevert et al. (2015)
    <https://arxiv.org/abs/1511.07289>`_. Forces need the first derivative of an activation, and learning from forces
    the second; that of ELU jumps at zero.

    Args:
        x: Arguments; ``None`` takes 601 from -5 to 5.
        names: Which ones: ``"shifted softplus"``, ``"softplus"``, ``"ELU"``, ``"ReLU"``.

    Returns:
        Arrays in float64.

    Raises:
        ValueError: If an activation is none of these.

    Example:
        >>> curves = activation_curves([-1.0, 0.0, 1.0])
        >>> curves.first[0].round(3)
        array([0.269, 0.5  , 0.731])
    """
    unknown = [name for name in names if name not in _ACTIVATIONS]
    if unknown or not names:
        raise ValueError(f"names must be some of {', '.join(_ACTIVATIONS)}; got {', '.join(unknown) or 'none'}")
    array = np.linspace(-5.0, 5.0, 601) if x is None else np.array(x, dtype=np.float64)
    curves = [_derivatives(name, torch.tensor(array)) for name in names]
    values, first, second = (np.stack(order) for order in zip(*curves, strict=True))
    return ActivationCurves(array, tuple(names), values, first, second)


def _derivatives(name: str, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = x.requires_grad_(True)
    with torch.enable_grad():
        function: Any = _ACTIVATIONS[name]
        value = function(x)
        (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        second = torch.zeros_like(x)
        if first.requires_grad:  # that of a piecewise linear function is a constant
            (second,) = torch.autograd.grad(first.sum(), x, materialize_grads=True)
    return value.detach().numpy(), first.detach().numpy(), second.numpy()

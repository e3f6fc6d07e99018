"""Pictures of activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pyg_schnet.plotting.style import axes_or_new, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyg_schnet.analysis import ActivationCurves


def plot_activation_curves(result: ActivationCurves, ax: Axes | None = None, *, order: Literal[0, 1, 2] = 0) -> Axes:
    """Draw activations, or one of their derivatives; all numbers are dimensionless.

    Args:
        result: From :func:`pyg_schnet.analysis.activation_curves`.
        ax: Where to draw; ``None`` makes a new figure.
        order: 0 for the activations, 1 and 2 for their derivatives.

    Returns:
        The axes.

    Raises:
        ValueError: If the order is none of these.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from pyg_schnet.analysis import activation_curves
        >>> plot_activation_curves(activation_curves(), ax=Figure().subplots(), order=1).get_ylabel()
        'first derivative (dimensionless)'
    """
    if order not in (0, 1, 2):
        raise ValueError(f"order must be 0 (values), 1 or 2 (derivatives), got {order!r}")
    curves = (result.values, result.first, result.second)[order]
    label = ("activation", "first derivative", "second derivative")[order]
    with style():
        ax = axes_or_new(ax)
        # dashes as well: curves lie upon each other in places
        for name, curve, dashes in zip(result.names, curves, ("-", "--", "-.", ":"), strict=False):
            ax.plot(result.x, curve, dashes, label=name)
        ax.set(xlabel="x (dimensionless)", ylabel=f"{label} (dimensionless)")
        if len(result.names) > 1:
            ax.legend()
        else:
            ax.set_title(result.names[0])
    return ax

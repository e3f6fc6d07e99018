"""Picture of a run: curves of the training, and predictions for its test structures."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from pyg_schnet.plotting.style import COLORS, style
from pyg_schnet.train.report import in_report_units, report_units
from pyg_schnet.units import factor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyg_schnet.train.history import Curve
    from pyg_schnet.train.predictions import Predicted, Predictions

_SHOWN_ELEMENTS = 20
_ERROR = re.compile(r"val/(.+)_mae \[(.+)\]")
_GROUPS = 12  # of sizes
_MANY = 3000  # points that are counted in hexagons rather than drawn


@dataclass(frozen=True)
class Run:
    """What is drawn of a run.

    Attributes:
        name: Title of the picture.
        facts: Line below it.
        curves: From :func:`pyg_schnet.train.history.read_history`.
        best_epoch: Epoch, from 0, whose weights were saved; ``None`` if not known.
        predictions: From :func:`pyg_schnet.train.predictions.predict_test`.
        absent: Why there are no predictions.
    """

    name: str
    facts: str
    curves: dict[str, Curve]
    best_epoch: int | None = None
    predictions: Predictions | None = None
    absent: str = ""


def draw_run(run: Run) -> Figure:
    """Draw a run: loss, validation errors and learning rate; predictions, errors by element and by size.

    Args:
        run: What is drawn.

    Returns:
        The figure: the three curves in a row; below them, where there are predictions, three panels more, and two
        beside all of them where forces were learned.

    Example:
        >>> figure = draw_run(Run("energy", "no result yet", {}, absent="no model yet"))
        >>> [ax.get_title() for ax in figure.axes][:3]
        ['loss', 'validation error', 'learning rate']
    """
    predictions: Any = run.predictions
    quantities: tuple[Any, ...] = () if predictions is None else predictions.quantities
    rows, columns = 1 + (len(quantities) > 0), 3 + (len(quantities) > 1)
    lines = [run.name, run.facts, *textwrap.wrap(run.absent, 110)]
    with style():
        figure = Figure(figsize=(3.2 * columns, 2.6 * rows + 0.2 * len(lines)))
        axes = figure.subplots(rows, columns, squeeze=False)
        figure.suptitle("\n".join(lines))
        _draw_loss(axes[0, 0], run)
        _draw_validation(axes[0, 1], run)
        _draw_rate(axes[0, 2], run)
        if rows > 1:
            _draw_parity(axes[1, 0], predictions, quantities[0])
            _draw_elements(axes[1, 1], predictions, quantities[0])
            _draw_sizes(axes[1, 2], predictions, quantities[0])
        if columns > 3:
            _draw_parity(axes[0, 3], predictions, quantities[1])
            _draw_elements(axes[1, 3], predictions, quantities[1])
    return figure


def _say(ax: Axes, title: str, text: str) -> None:
    """A panel without data, which says why."""
    ax.set_title(title)
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", wrap=True, transform=ax.transAxes, color="0.4")


def _draw_loss(ax: Axes, run: Run) -> None:
    found = {name: run.curves[name] for name in ("train/loss", "val/loss") if name in run.curves}
    if not found:
        return _say(ax, "loss", "no loss was logged")
    for name, color in (("train/loss", "blue"), ("val/loss", "vermillion")):
        if name in found:
            curve = found[name].by_epoch() if name == "train/loss" else found[name]
            _plot(ax, curve, color=COLORS[color], label="training" if name == "train/loss" else "validation")
    _mark_best(ax, run)
    ax.legend()
    _over_epochs(ax, "loss", "loss")
    return None


def _draw_validation(ax: Axes, run: Run) -> None:
    found = _validation_errors(run.curves)
    if not found:
        return _say(ax, "validation error", "no validation error was logged")
    for k, ((name, unit), curve) in enumerate(found.items()):
        here, color = ax.twinx() if k else ax, COLORS[("blue", "green")[k]]
        _plot(here, curve, color=color)
        here.set_ylabel(f"MAE of {name} [{unit}]", color=color)
        here.spines["right"].set_visible(bool(k))
    _mark_best(ax, run)
    _over_epochs(ax, "validation error")
    return None


def _validation_errors(curves: dict[str, Curve]) -> dict[tuple[str, str], Curve]:
    """Curves of the first two quantities, in the unit in which errors are reported first, by name and unit."""
    units: dict[str, list[str]] = {}
    for key in curves:
        if (match := _ERROR.fullmatch(key)) and match[1] not in ("energy_per_atom", "stress"):
            units.setdefault(match[1], []).append(match[2])
    chosen = [(name, min(found, key=lambda unit: not unit.startswith("meV"))) for name, found in units.items()]
    return {(name, unit): curves[f"val/{name}_mae [{unit}]"] for name, unit in chosen[:2]}


def _draw_rate(ax: Axes, run: Run) -> None:
    if "train/lr" not in run.curves:
        return _say(ax, "learning rate", "the learning rate was not logged")
    curve = run.curves["train/lr"]
    ax.plot(curve.epochs, curve.values, color=COLORS["purple"])
    ax.set_ylim(bottom=0.0)
    _over_epochs(ax, "learning rate", "learning rate")
    return None


def _plot(ax: Axes, curve: Curve, **options: Any) -> None:
    ax.plot(curve.epochs, curve.values, ".-" if len(curve.values) < 100 else "-", markersize=2, **options)
    if (curve.values > 0).all():
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(_Numbers())
        ax.yaxis.set_minor_formatter(_Numbers(minor_thresholds=(2.0, 0.5)))


class _Numbers(LogFormatter):
    """Numbers on a logarithmic axis, as they are."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _mark_best(ax: Axes, run: Run) -> None:
    if run.best_epoch is not None and "val/loss" in run.curves:
        last = run.curves["val/loss"].epochs.max()  # in an epoch that time may have cut short
        ax.axvline(min(run.best_epoch + 1, last), color="0.6", linewidth=0.8, linestyle=":", zorder=0)


def _over_epochs(ax: Axes, title: str, label: str | None = None) -> None:
    ax.set(title=title, xlabel="epochs")
    if label is not None:
        ax.set_ylabel(label)


def _draw_parity(ax: Axes, predictions: Predictions, quantity: Predicted) -> None:
    unit = quantity.unit
    if len(quantity.true) == 0:
        return _say(ax, f"{quantity.name}: prediction and label", "no test structure has a label")
    low = min(quantity.true.min(), quantity.predicted.min())
    high = max(quantity.true.max(), quantity.predicted.max())
    margin = 0.03 * (high - low) or 1.0
    ends = (low - margin, high + margin)
    ax.plot(ends, ends, color="0.6", linewidth=0.6, zorder=0)
    if len(quantity.true) > _MANY:
        ax.hexbin(quantity.true, quantity.predicted, gridsize=70, bins="log", extent=(*ends, *ends), mincnt=1)
    else:
        ax.plot(quantity.true, quantity.predicted, ".", markersize=2, color=COLORS["blue"], rasterized=True)
    what = f"{quantity.name} − Σ references" if quantity.relative else quantity.name
    ax.set(xlim=ends, ylim=ends, xlabel=f"label: {what} [{unit}]", ylabel=f"prediction [{unit}]", aspect="equal")
    shown = len(predictions.n_atoms)
    number = f"{shown:,}" if shown == predictions.num_test else f"{shown:,} of {predictions.num_test:,}"
    errors = (("MAE", quantity.error.mean()), ("RMSE", float(np.sqrt(np.square(quantity.error).mean()))))
    lines = [
        f"{name} " + ", ".join(f"{_rounded(value)} {one}" for one, value in in_report_units(float(error), unit).items())
        for name, error in errors
    ]
    ax.text(0.03, 0.97, "\n".join(lines), va="top", transform=ax.transAxes, fontsize="small")
    ax.set_title(f"{quantity.name}, {number} test structures")
    return None


def _rounded(value: float) -> str:
    """About three digits.

    Example:
        >>> _rounded(1179.7), _rounded(20.4123), _rounded(0.000123)
        ('1,180', '20.4', '0.000123')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _draw_elements(ax: Axes, predictions: Predictions, quantity: Predicted) -> None:
    unit = report_units(quantity.unit)[0]
    found = predictions.error_by_element(quantity)
    title = f"{quantity.name}, by element" + ("" if quantity.element is not None else " in the structure")
    if not found:
        return _say(ax, title, "no test structure has a label")
    shown = dict(sorted(found.items(), key=lambda one: -one[1])[:_SHOWN_ELEMENTS])
    shown = {symbol: error for symbol, error in found.items() if symbol in shown}  # in the order of the periodic table
    values = [factor(quantity.unit, unit) * error for error in shown.values()]
    ax.bar(list(shown), values, color=COLORS["sky"])
    if len(found) > len(shown):
        title += f" ({len(shown)} of {len(found)} with the largest)"
    ax.tick_params(axis="x", labelsize="small" if len(shown) > 12 else None)
    ax.set(title=title, ylabel=f"MAE [{unit}]")
    return None


def _draw_sizes(ax: Axes, predictions: Predictions, quantity: Predicted) -> None:
    unit = report_units(quantity.unit)[0]
    title = f"{quantity.name}, by number of atoms"
    if len(quantity.true) == 0:
        return _say(ax, title, "no test structure has a label")
    sizes = predictions.n_atoms[quantity.structure]
    errors = factor(quantity.unit, unit) * quantity.error
    ax.plot(sizes, errors, ".", markersize=1.5, color="0.7", rasterized=True, zorder=0)
    bins = sizes
    if len(np.unique(sizes)) > _GROUPS:  # of about as many structures each
        bins = np.searchsorted(np.quantile(sizes, np.linspace(0.0, 1.0, _GROUPS + 1)[1:-1]), sizes)
    means = [(sizes[bins == one].mean(), errors[bins == one].mean()) for one in np.unique(bins)]
    ax.plot(*zip(*means, strict=True), "o-", markersize=3, color=COLORS["vermillion"], label="mean error")
    ax.set_ylim(0.0, 1.1 * max(np.quantile(errors, 0.98), max(error for _, error in means)))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    ax.set(title=title, xlabel="atoms", ylabel=f"absolute error [{unit}]")
    return None


def save(figure: Figure, path: Path, kind: str) -> None:
    """Write a figure.

    Args:
        figure: The figure.
        path: File.
        kind: ``"png"``, ``"svg"`` or ``"pdf"``.
    """
    with style():
        figure.savefig(path, dpi=160, format=kind)

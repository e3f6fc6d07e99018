"""Tables and pictures of ``compare_gnns.py``: means over seeds and their spread."""

import statistics

from harness import Table

from pyg_schnet.train.report import report_units
from pyg_schnet.units import dimension, factor

# Okabe and Ito's colours, told apart with every kind of colour vision; yellow is left out, as it is pale on white
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX*"


def summarize(runs):
    """A row for each model and budget: means over seeds, and the sample standard deviations of errors.

    Args:
        runs: A row for each training.
    """
    groups = {}
    for run in runs:
        groups.setdefault((run["budget"], run["model"]), []).append(run)
    rows = []
    for group in groups.values():
        row = dict(group[0])
        if len(group) > 1:
            for name in ("seconds", "steps", "epochs", "rate", "test_rate"):
                row[name] = statistics.fmean(run[name] for run in group)
            row["spread"] = {}
            for stage in ("val", "test"):
                by_unit = {unit: [run[stage][unit] for run in group] for unit in row[stage]}
                row[stage] = {unit: statistics.fmean(errors) for unit, errors in by_unit.items()}
                row["spread"][stage] = {unit: statistics.stdev(errors) for unit, errors in by_unit.items()}
            row["seed"] = [run["seed"] for run in group]
            row["curve"] = []
            row["runs"] = group
        rows.append(row)
    return rows


def make_table(target, rows=(), *, each=False):
    """Table whose last columns are the errors, in all units of the target.

    Args:
        target: Target.
        rows: Rows that it is going to hold, as far as they are known.
        each: Whether a row is a training of one seed, and others follow.
    """
    columns = {"model": "{model:12}"}
    if len({row.get("budget") for row in rows}) > 1:
        columns["budget"] = "{budget}"
    if each:
        columns["seed"] = "{seed}"
    columns |= {
        "parameters": "{parameters:,}",
        "largest rate": "{lr:g}",
        "epochs": "{epochs:.2f}",
        "molecules/s": "{rate:,.0f}",
    }
    spread = any("spread" in row for row in rows)
    for stage in ("val", "test"):
        for unit in report_units(target.unit):
            deviation = f" ± {{spread[{stage}][{unit}]:.2g}}" if spread else ""
            columns[f"{stage} MAE [{unit}]"] = f"{{{stage}[{unit}]:.4g}}{deviation}"
    return Table(columns)


def print_rows(rows, target):
    """Print rows as a table."""
    table = make_table(target, rows)
    for row in rows:
        table.add(row)


def budgets_of(rows):
    """Budgets of training, in the order of their rows; files of one seed and budget do not name it."""
    return list(dict.fromkeys(row.get("budget") for row in rows))


def draw(rows, target, *axes):
    """For each budget the error against its time or steps of training, and against the number of parameters."""
    colors = list(dict.fromkeys(row["model"] for row in rows))
    for place, budget in enumerate(budgets_of(rows)):
        chosen = [row for row in rows if row.get("budget") == budget]
        draw_budget(chosen, target, colors, *axes[2 * place : 2 * place + 2])
    for letter, ax in zip("abcdefgh", axes, strict=False):
        ax.set_title(f"({letter})", loc="left", fontsize="medium")
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize="small")


def draw_budget(rows, target, colors, against_time, against_size):
    """Learning curves of all seeds, and errors with their spread; arguments as of :func:`draw`."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    unit, *others = report_units(target.unit)
    by_steps = "steps" in str(rows[0].get("budget"))
    for row in rows:
        k = colors.index(row["model"])
        style = {"color": _COLORS[k % len(_COLORS)], "marker": _MARKERS[k % len(_MARKERS)]}
        for number, run in enumerate(row.get("runs", [row])):
            curve = [(point["steps" if by_steps else "seconds"], point["val"][unit]) for point in run["curve"]]
            label = row["model"] if number == 0 else None
            against_time.loglog(*zip(*curve, strict=True), **style, markersize=3, linewidth=1.2, label=label)
        deviation = row["spread"]["test"][unit] if "spread" in row else None
        against_size.errorbar(
            row["parameters"], row["test"][unit], deviation, **style, linestyle="none", markersize=7, capsize=3
        )
    against_size.loglog()
    what = "steps of training" if by_steps else "time of training [s]"
    against_time.set(xlabel=what, ylabel=f"validation MAE of {target.name} [{unit}]")
    against_size.set(xlabel="number of parameters", ylabel=f"test MAE of {target.name} [{unit}]")
    against_size.margins(x=0.25, y=0.25)
    against_size.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    against_size.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200k
    against_size.xaxis.set_minor_formatter(NullFormatter())
    if others:
        scale = factor(unit, others[0])
        right = against_size.secondary_yaxis("right", functions=(lambda y: y * scale, lambda y: y / scale))
        right.set_ylabel(f"test MAE of {target.name} [{others[0]}]")
    for ax in (against_time, against_size):
        ax.grid(which="major", color="0.9", linewidth=0.6)
        if dimension(target.unit) == "energy":
            ax.axhline(factor("kcal/mol", unit), color="0.4", linestyle="--", linewidth=0.8, label="1 kcal/mol")

"""How does the time of a training step grow with edges, features and grid points, for PyG's SchNet and both filters?

Run: python benchmarks/scaling.py --json scaling.json --plot scaling.png

With --ranks another question: how efficient is LAMMPS over MPI on many ranks? See halo.py.

Run: python benchmarks/scaling.py --ranks --json ranks.json
"""

import sys
from functools import partial
from typing import NamedTuple

import halo
from harness import BURST, Table, make_parser, parse, save, save_figure, spread, summary, time_in_turn
from peers import Ours, PyG, pyg_model
from systems import Structures
from tasks import TOLERANCES, Task, check, make_step

TRAIN = Task(training=True)
CUTOFF = 5.0  # Å
SWEEPS = {
    "molecules": (1, 4, 16, 64, 256),
    "features": (32, 64, 128, 256),
    "grid_points": (128, 256, 512, 1024, 2048),
}
_AXES = {
    "molecules": ("edges", "edges"),
    "features": ("features", "features"),
    "grid_points": ("grid_points", "grid points of the spline"),
}
_FEW_POINTS = dict.fromkeys(TOLERANCES, 0.1)  # the error of few grid points is the subject of spline_error.py


class Point(NamedTuple):
    """What is varied, one at a time."""

    molecules: int = 100
    features: int = 128
    grid_points: int | None = None  # default


def measure(sweep, value, options):
    """Check and time one point; one row for each way."""
    point = Point(**{sweep: value})
    model, system = pyg_model(CUTOFF, point.features), Structures().qm9(point.molecules, CUTOFF)
    exact = Ours(model, system, "exact", filters="exact")
    spline = Ours(model, system, "spline", filters="spline", num_grid_points=point.grid_points)
    peers = [PyG(model, system), exact, spline]
    deviations = check(TRAIN, peers, _FEW_POINTS if sweep == "grid_points" else TOLERANCES)
    steps = {peer.name: make_step(TRAIN, peer) for peer in peers}
    times = time_in_turn(steps, options.repeats, seconds=options.seconds, burst=BURST)
    shared = {"sweep": sweep, **point._asdict(), **system.sizes(), "deviations": deviations}
    shared["grid_points"] = spline.model.interactions[0].conv.spline.num_grid_points
    return [{**shared, "way": name, "time_ms": summary(values)} for name, values in times.items()]


def draw(rows, *axes):
    """One panel for each sweep."""
    for ax, sweep in zip(axes, dict.fromkeys(row["sweep"] for row in rows), strict=True):
        key, label = _AXES[sweep]
        for way in dict.fromkeys(row["way"] for row in rows):
            points = [row for row in rows if row["sweep"] == sweep and row["way"] == way]
            x, times = [row[key] for row in points], [row["time_ms"] for row in points]
            (line,) = ax.loglog(x, [time["median"] for time in times], "o-", label=way)
            low, high = [time["p10"] for time in times], [time["p90"] for time in times]
            ax.fill_between(x, low, high, color=line.get_color(), alpha=0.2)
        ax.set_xticks(x, labels=x)
        ax.minorticks_off()
        ax.set(xlabel=label, ylabel="training step [ms]")
    axes[0].legend()


def main():
    parser = make_parser(__doc__, repeats=20, plot=True)
    parser.add_argument("--only", nargs="+", choices=SWEEPS, default=list(SWEEPS), help="what to vary")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each point, after three rounds")
    parser.add_argument("--ranks", action="store_true", help="instead: LAMMPS on 1 and 2 ranks, predicted beyond")
    parser.add_argument("--cells", type=int, default=8, help="with --ranks: cells of the crystal in each direction")
    details = {"dtype": "float64"} if "--ranks" in sys.argv else {}
    options = parse(parser, **details)
    if options.ranks:
        save(options, halo.report(options.cells, options.repeats), **details)
        return

    columns = {
        "sweep": "{sweep:11}",
        "edges": "{edges:5}",
        "features": "{features}",
        "grid points": "{grid_points}",
        "way": "{way:6}",
    }
    table = Table({**columns, "step [ms] (10 to 90 %)": spread("time_ms")})
    for sweep in options.only:
        for value in SWEEPS[sweep]:
            for row in measure(sweep, value, options):
                table.add(row)
    save(options, table.rows)
    save_figure(options, partial(draw, table.rows), num_axes=len(options.only))


if __name__ == "__main__":
    main()

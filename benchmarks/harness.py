"""What the benchmarks share: options, timing in turn, summaries, tables in Markdown with JSON beside them."""

import argparse
import json
import math
import platform
import subprocess
import sys
import time
from pathlib import Path

import numba
import numpy as np
import torch
import torch_geometric

import pyg_schnet

_FEWEST_ROUNDS = 3  # however long they take


def make_parser(doc, repeats=None, *, plot=False):
    """Parser with the options that benchmarks share.

    Args:
        doc: Docstring of the file.
        repeats: Rounds to time unless told otherwise; ``None`` for those that time nothing.
        plot: Whether there is something to plot.
    """
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats, help="rounds")
    parser.add_argument("--threads", type=int, help="threads of torch and numba; default: what torch takes")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    if plot:
        parser.add_argument("--plot", type=Path, help="file for the plot (needs matplotlib)")
    return parser


def parse(parser, **details):
    """Options; sets the threads and prints where the numbers come from, with ``details`` as in :func:`about`."""
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(", ".join(f"{key} {value}" for key, value in about(**details).items()) + "\n")
    return options


def about(dtype="float32", **versions):
    """Where and with what the numbers were measured."""
    return {
        "command": "python " + " ".join(sys.argv),
        "commit": _commit(),
        "device": "cpu",
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_geometric": torch_geometric.__version__,
        "numba": numba.__version__,
        "numpy": np.__version__,
        "pyg_schnet": pyg_schnet.__version__,
        **versions,
    }


def _commit():
    command = ["git", "describe", "--always", "--dirty"]
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


BURST = 0.1
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds of consecutive calls of a model in its turn."""


def time_in_turn(ways, repeats, warmup=1, seconds=math.inf, burst=0.0, clock=time.perf_counter):
    """Milliseconds of each way, a list in the order of the rounds.

    In each round every way has its turn, so that a disturbance of the machine hits all of them, and ratios are taken
    within a round. A turn is one call, or calls one after the other as in training and dynamics; then the first one is
    not counted, as it finds the caches as the others have left them.

    Args:
        ways: Functions without arguments by name.
        repeats: Number of rounds.
        warmup: Rounds before these that are not timed.
        seconds: Time after which no further round begins, once there are three.
        burst: Seconds that a turn lasts at least, beside the first call; 0 for single calls.
        clock: Tells seconds, one of :data:`CLOCKS`.
    """
    times = {name: [] for name in ways}
    begin = time.perf_counter()
    for k in range(-warmup, repeats):
        if k >= _FEWEST_ROUNDS and time.perf_counter() - begin > seconds:
            break
        for name, way in ways.items():
            if burst:
                way()
            milliseconds = _mean_time(way, burst if k >= 0 else 0.0, clock)
            if k >= 0:
                times[name].append(milliseconds)
    return times


def _mean_time(way, at_least, clock):
    """Milliseconds of a call, the mean of those that fit into some seconds, but of one at least."""
    calls, start, elapsed = 0, clock(), 0.0
    while calls == 0 or elapsed < at_least:
        way()
        calls, elapsed = calls + 1, clock() - start
    return 1e3 * elapsed / calls


def summary(values):
    """Median, and the range in which four of five values lie."""
    low, median, high = np.percentile(values, [10, 50, 90])
    return {"median": float(median), "p10": float(low), "p90": float(high)}


def ratio(reference, values):
    """Summary of how many times longer the reference took, round by round."""
    return summary([a / b for a, b in zip(reference, values, strict=True)])


def spread(key, digits=1):
    """Format of a summary, for the columns of a :class:`Table`."""
    median, low, high = (f"{{{key}[{part}]:.{digits}f}}" for part in ("median", "p10", "p90"))
    return f"{median} ({low} to {high})"


class Table:
    """Table in Markdown, printed row by row.

    Args:
        columns: Format of each column by its title, filled from the entries of a row: ``{"ratio": "{ratio:.1f}"}``. A
            cell whose entry a row does not have holds a dash.
    """

    def __init__(self, columns):
        self.columns = columns
        self.rows = []
        self._print(columns)
        self._print({title: "-" * len(title) for title in columns}.values())

    def add(self, row):
        """Print and keep a row."""
        self.rows.append(row)
        self._print(self._cell(form, row) for form in self.columns.values())

    def _cell(self, form, row):
        try:
            return form.format(**row)
        except KeyError:
            return "–"

    def _print(self, cells):
        padded = (cell.ljust(len(title)) for cell, title in zip(cells, self.columns, strict=True))
        print(f"| {' | '.join(padded)} |", flush=True)


def save(options, results, **details):
    """Write the results where ``--json`` says; ``details`` as in :func:`about`."""
    if options.json:
        content = {"about": about(**details), "options": vars(options), "results": results}
        options.json.write_text(json.dumps(content, indent=1, default=str, ensure_ascii=False) + "\n", encoding="utf-8")


def save_figure(options, draw, num_axes=1):
    """Draw, with ``draw(axes)``, and write the figure where ``--plot`` says."""
    if options.plot:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(1, num_axes, figsize=(4.5 * num_axes, 3.5), layout="constrained", squeeze=False)
        draw(*axes[0])
        figure.savefig(options.plot, dpi=150)

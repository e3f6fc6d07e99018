"""The two pictures of README, from the numbers that other benchmarks wrote.

Run: python benchmarks/pictures.py --speed benchmarks/results/speed.json --output benchmarks/results

``speed.png`` has the time of PyTorch Geometric's and SchNetPack's steps over ours (``speed.py --json``), ``errors.png``
the errors of our recipes over published ones (``paper/results``).
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parent / "paper"))
import table
from experiments import EXPERIMENTS

from pyg_schnet.plotting import style
from pyg_schnet.plotting.style import COLORS

RESULTS = Path(__file__).parent / "results"
PALETTE = list(COLORS.values())
TASKS = {
    "train-qm9-5": "train on energies\n100 molecules of QM9",
    "train-forces-aspirin": "train on forces\n32 frames of aspirin",
    "train-perovskites": "train on energies\n64 perovskites",
    "energy-qm9": "energies\n100 molecules of QM9",
    "forces-silicon": "energy and forces\n13,824 silicon atoms",
    "forces-aspirin-frozen": "energy and forces\none aspirin",
}
"""Workloads of ``speed.py`` that are drawn, and what they are called."""


def draw_speed(rows, details):
    """Bars: how many times as long the steps of other packages take, by workload."""
    rows = {row["workload"]: row for row in rows}
    names = [name for name in TASKS if name in rows]
    if not names:
        raise SystemExit(f"none of {', '.join(TASKS)} is in the file of speed.py")
    peers = list(dict.fromkeys(peer for name in names for peer in rows[name]["ratios"]))
    height = 0.8 / len(peers)
    _, ax = plt.subplots(figsize=(6.4, 0.62 * len(names) + 0.9), layout="constrained")
    for k, peer in enumerate(peers):
        for n, name in enumerate(names):
            ratio = rows[name]["ratios"].get(peer)
            if ratio is None:
                continue
            y = n + (k - (len(peers) - 1) / 2) * height
            ax.barh(y, ratio["median"], height, color=PALETTE[k], label=peer if n == 0 else None)
            ax.text(ratio["median"], y, f" {ratio['median']:.0f}×", va="center", fontsize=8)
    ax.axvline(1.0, color="black", linewidth=0.8)
    ax.set(
        yticks=range(len(names)),
        yticklabels=[TASKS[name] for name in names],
        xscale="log",
        xlabel=f"time over that of pyg_schnet, same weights and edges, {details['threads']} thread(s)",
    )
    ax.invert_yaxis()
    ax.legend(loc="lower right", frameon=False)
    return ax


def draw_errors(results):
    """Points: mean absolute error over the published one, by experiment; below one is better."""
    rows = [row for row in EXPERIMENTS if row.published is not None and results.get(row.series)]
    _, ax = plt.subplots(figsize=(6.4, 0.32 * len(rows) + 0.9), layout="constrained")
    for n, row in enumerate(rows):
        mean, spread = table.mean_and_spread(
            [table.error(run, row.quantity, "mae", row.unit) / row.published for run in results[row.series]]
        )
        ax.errorbar(mean, n, xerr=spread, fmt="o", color=PALETTE[0 if mean <= 1 else 1])
    ax.axvline(1.0, color="black", linewidth=0.8)
    ax.set(
        yticks=range(len(rows)),
        yticklabels=[row.row for row in rows],
        xlabel="mean absolute error over the published one",
    )
    ax.invert_yaxis()
    return ax


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--speed", type=Path, default=RESULTS / "speed.json", help="what speed.py wrote")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the pictures")
    options = parser.parse_args()
    speed = json.loads(options.speed.read_text(encoding="utf-8"))
    with style():
        for name, ax in {
            "speed": draw_speed(speed["results"], speed["about"]),
            "errors": draw_errors(table.read_results(table.RESULTS)),
        }.items():
            path = options.output / f"{name}.png"
            ax.figure.savefig(path, dpi=110)
            print(path)


if __name__ == "__main__":
    main()

"""How much faster or slower are our steps than at another commit, measured in turn?

Run: git worktree add ../before COMMIT && python benchmarks/commits.py ../before --data FOLDER --json commits.json

Every workload of ``speed.py`` that both commits have is timed, ours alone, in processes that take turns.
"""

import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

from harness import Table, make_parser, parse, save, spread, summary

ROOT = Path(__file__).resolve().parents[1]

STEPS = """
import json, statistics, sys, time
import torch
import speed
from peers import Ours, PyG, pyg_model
from systems import Structures
from tasks import make_step

data, threads, seconds, *names = sys.argv[1:]
torch.set_num_threads(int(threads))
structures, found = Structures(None if data == "None" else __import__("pathlib").Path(data)), {}
for name, workload in speed.WORKLOADS.items():
    if names and name not in names:
        continue
    system = workload.structures(structures, workload.count, workload.cutoff)
    kind = (getattr(workload, "kinds", None) or (PyG, Ours))[1]
    step = make_step(workload.task, kind(pyg_model(workload.cutoff, workload.features), system))
    for _ in range(3):
        step()
    times, end = [], time.perf_counter() + float(seconds)
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    found[name] = 1e3 * statistics.median(times)
print("steps: " + json.dumps(found))
"""
"""What a process does: the median of the times of each workload in ms."""

SAME = {"forces-aspirin-frozen": "forces-aspirin"}
"""Workloads that are compared with another one where a commit does not have them."""


def times_of(checkout, options, threads):
    """Times in ms of all workloads in one process with the package and the benchmarks of a checkout."""
    command = [sys.executable, "-c", STEPS, str(options.data), str(threads), str(options.seconds), *options.only]
    path = os.pathsep.join(map(str, (checkout, checkout / "benchmarks")))
    variables = {**os.environ, "PYTHONPATH": path}
    result = subprocess.run(command, cwd=checkout, env=variables, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"the steps of {checkout} failed:\n{result.stderr[-2000:]}")
    line = next(line for line in result.stdout.splitlines() if line.startswith("steps: "))
    return json.loads(line.removeprefix("steps: "))


def compare(before, options, threads):
    """Rows with the ratios of the times before to those now, pair by pair."""
    found = {}
    for k in range(options.pairs):
        order = (before, ROOT) if k % 2 == 0 else (ROOT, before)
        pair = {checkout: times_of(checkout, options, threads) for checkout in order}
        for name, now in pair[ROOT].items():
            old = pair[before].get(name, pair[before].get(SAME.get(name)))
            if old is not None:
                found.setdefault(name, []).append((old, now))
    for name, times in found.items():
        old, now = (statistics.median(values) for values in zip(*times, strict=True))
        yield {
            "workload": name,
            "threads": threads,
            "before": old,
            "now": now,
            "ratio": summary([a / b for a, b in times]),
        }


def main():
    parser = make_parser(__doc__)
    parser.add_argument("before", type=Path, help="folder with a checkout of the other commit")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of processes")
    parser.add_argument("--data", type=Path, help="folder of rmd17_aspirin/ and perovskites_castelli/")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each workload")
    parser.add_argument("--only", nargs="+", default=[], help="workloads to measure")
    options = parse(parser)
    options.data = options.data.resolve() if options.data else None
    table = Table(
        {
            "workload": "{workload:22}",
            "threads": "{threads}",
            "before [ms]": "{before:.2f}",
            "now [ms]": "{now:.2f}",
            "before / now (10 to 90 %)": spread("ratio", 2),
        }
    )
    for threads in [options.threads] if options.threads else [1, 2]:
        for row in compare(options.before.resolve(), options, threads):
            table.add(row)
    mean = math.exp(statistics.fmean(math.log(row["ratio"]["median"]) for row in table.rows))
    print(f"\ngeometric mean {mean:.3f}, lowest {min(row['ratio']['median'] for row in table.rows):.3f}")
    save(options, table.rows)


if __name__ == "__main__":
    main()

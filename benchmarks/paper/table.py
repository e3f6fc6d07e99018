"""How close do our recipes come to the numbers of the paper?

The table is made from the files in ``results``, one for each training run, which ``pyg-schnet train`` wrote as
``result.json``. ``--add RUN_DIR ...`` takes in more of them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from experiments import CLAIMS, EXPERIMENTS, Claim, Experiment, series

RESULTS = Path(__file__).parent / "results"


def read_results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Results of all runs by series, in the order of their names."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(series(result["recipe"], "merged" in result), []).append(result)
    return found


def add_result(run_dir: Path, folder: Path) -> Path:
    """Take in the result of a run, as ``RECIPE-SEED.json`` or ``RECIPE-merged.json``.

    Raises:
        ValueError: If the run is of no recipe of the table.
    """
    text = (run_dir / "result.json").read_text(encoding="utf-8")
    result = json.loads(text)
    known = {experiment.recipe for experiment in EXPERIMENTS}
    if result["recipe"] not in known:
        raise ValueError(f"{run_dir} is a run of {result['recipe']!r}, expected one of {', '.join(sorted(known))}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['recipe']}-{'merged' if 'merged' in result else result['seed']}.json"
    path.write_text(text, encoding="utf-8")
    return path


def error(result: dict[str, Any], quantity: str, measure: str, unit: str) -> float:
    """One error of a run, in the unit asked for."""
    return result["errors"][quantity][measure][unit]


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation of the single run; zero for one run."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def number(value: float, spread: float = 0.0) -> str:
    """Three digits, and the spread with as many decimals."""
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{decimals}f}" + (f" ± {spread:.{decimals}f}" if spread else "")


def row(experiment: Experiment, results: Sequence[dict[str, Any]]) -> list[str]:
    """Cells of one experiment."""
    published = "–" if experiment.published is None else number(experiment.published)
    head = [experiment.row, experiment.unit, published, experiment.source]
    if not results:
        return [*head, "–", "–", "–", "–", "–", "–", "–"]
    errors = {
        measure: [error(result, experiment.quantity, measure, experiment.unit) for result in results]
        for measure in ("mae", "rmse")
    }
    training = [result["training"] for result in results]
    commits = sorted({start["commit"] or start["version"] for run in training for start in run["starts"]})
    return [
        *head,
        number(*mean_and_spread(errors["mae"])),
        number(*mean_and_spread(errors["rmse"])),
        str(len(results)),
        f"{statistics.fmean(run['epochs'] for run in training):.0f}",
        f"{statistics.fmean(run['seconds'] for run in training) / 60:.0f}",
        f"{statistics.fmean(run['structures_per_second'] for run in training):,.0f}",
        ", ".join(commits),
    ]


def verdict(claim: Claim, results: dict[str, list[dict[str, Any]]]) -> str:
    """Whether a claim is confirmed, with the numbers."""
    both = [results.get(recipe, []) for recipe in (claim.better, claim.worse)]
    if not all(both):
        return f"{claim.text}: not measured"
    means = [
        mean_and_spread([error(result, claim.quantity, claim.measure, claim.unit) for result in runs])[0]
        for runs in both
    ]
    holds = "confirmed" if means[0] < means[1] else "not confirmed"
    return (
        f"{claim.text}: {holds}, {claim.measure.upper()} {number(means[0])} {claim.unit} with {claim.better}, "
        f"{number(means[1])} with {claim.worse}"
    )


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """The whole table and the claims, in Markdown."""
    columns = ["", "unit", "published MAE", "source", "our MAE", "our RMSE", "runs", "epochs", "minutes"]
    columns += ["structures/s", "commit"]
    lines = [columns, ["---"] * len(columns)]
    lines += [row(experiment, results.get(experiment.series, [])) for experiment in EXPERIMENTS]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return text + "\n\n" + "\n".join(f"- {verdict(claim, results)}" for claim in CLAIMS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--add", nargs="+", type=Path, default=[], metavar="RUN_DIR", help="runs to take in first")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    options = parser.parse_args()
    for run_dir in options.add:
        print(f"added {add_result(run_dir, options.results).name}", file=sys.stderr)
    print(table(read_results(options.results)))


if __name__ == "__main__":
    main()

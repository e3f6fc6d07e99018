"""What a run has left, collected for its picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from pyg_schnet.models import load
from pyg_schnet.plotting.report import Run, draw_run, save
from pyg_schnet.train.evaluation import configuration_of, split_of_run
from pyg_schnet.train.files import CONFIG_FILE, MODEL_FILE, RESULT_FILE, SPLIT_FILE
from pyg_schnet.train.history import Curve, read_history
from pyg_schnet.train.predictions import Predictions, predict_test

_ENDINGS = (".png", ".svg", ".pdf")
_PARTS = {"num_train": "training", "num_val": "validation", "num_test": "test"}


def report_run(run: str, output: str | None, data_dir: str | None, structures: int, batch_size: int) -> None:
    """Draw a run; for the arguments see :func:`pyg_schnet.cli.report.report_run`."""
    folder = Path(run)
    if not (folder / CONFIG_FILE).is_file() and not (folder / MODEL_FILE).is_file():
        raise ValueError(f"there is no run in {run}: a folder with {CONFIG_FILE} or {MODEL_FILE} was expected")
    path = folder / "report.png" if output is None else Path(output)
    if path.suffix.lower() not in _ENDINGS:
        raise ValueError(f"output must end in {', '.join(_ENDINGS)}, got {output}")
    if structures < 0:
        raise ValueError(f"structures must not be negative, got {structures}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    result = _read(folder / RESULT_FILE)
    curves = read_history(folder)
    predictions, absent = None, "no predictions: --structures is 0"
    if structures:
        predictions, absent = _predictions(folder, data_dir, structures, batch_size)
    best = (result.get("training") or {}).get("best_epoch")
    name = f"{_target(folder)}: {folder.resolve().name}"
    drawn = Run(name, _facts(result, curves), curves, best, predictions, absent)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(draw_run(drawn), path)
    if absent:
        print(absent[0].upper() + absent[1:])
    print(f"Picture in {path}")


def _predictions(
    folder: Path, data_dir: str | None, structures: int, batch_size: int
) -> tuple[Predictions | None, str]:
    """Predictions for the test structures, or why there are none."""
    if not (folder / MODEL_FILE).is_file():
        return None, f"no predictions: there is no {MODEL_FILE} in the run (yet)"
    network = load(folder / MODEL_FILE)
    try:
        given = configuration_of(network, folder / CONFIG_FILE, required=False)
        beside = folder / SPLIT_FILE
        split = split_of_run(network, given, None, beside if beside.is_file() else None)
        return predict_test(network, given, split, data_dir, batch_size, structures), ""
    except (ValueError, OSError, ImportError) as error:  # data that are elsewhere, changed, or need a package
        return None, f"no predictions: {' '.join(str(error).split())}"


def _read(path: Path) -> dict[str, Any]:
    """Content of a JSON file; nothing where there is none yet."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _target(folder: Path) -> str:
    """Name of what was learned."""
    path = folder / CONFIG_FILE
    given = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    target = (given.get("data") or {}).get("target", "property")
    return target.get("name", "property") if isinstance(target, dict) else str(target)


def _facts(result: dict[str, Any], curves: dict[str, Curve]) -> str:
    """Sizes and length of a run, on one line."""
    if not result:
        epochs = max((curve.epochs[-1] for curve in curves.values() if len(curve.epochs)), default=0.0)
        return f"running or interrupted, {epochs:,.3g} epochs so far"
    split, training = result.get("split") or {}, result.get("training") or {}
    parts = [f"{split[key]:,} {label}" for key, label in _PARTS.items() if key in split]
    facts = [f"{', '.join(parts)} structures"] if parts else []
    if "epochs" in training:
        facts.append(f"{training['epochs']:,} epochs in {_duration(training.get('seconds', 0.0))}")
    if training.get("best_epoch") is not None:
        facts.append(f"best weights after {training['best_epoch'] + 1:,}")
    if training.get("ended_by"):
        facts.append(f"ended by {training['ended_by']}")
    return "; ".join(facts)


def _duration(seconds: float) -> str:
    """A time as it is said.

    Example:
        >>> _duration(42.0), _duration(4500.0), _duration(10800.0)
        ('42 s', '75 min', '3.0 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

"""What a run has left, collected for its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyg_schnet.cli._options import of_configuration
from pyg_schnet.cli._outputs import check_output
from pyg_schnet.cli._sentences import explained
from pyg_schnet.models import as_one, load
from pyg_schnet.models.reading import read_json
from pyg_schnet.models.writing import written
from pyg_schnet.plotting.report import Run, draw_run, save
from pyg_schnet.train.configuration import read_configuration
from pyg_schnet.train.evaluation import configuration_of, split_of_run
from pyg_schnet.train.files import CONFIG_FILE, MODEL_FILE, RESULT_FILE, SPLIT_FILE
from pyg_schnet.train.history import Curve, read_history
from pyg_schnet.train.predictions import Predictions, predict_test

_ENDINGS = (".png", ".svg", ".pdf")
_PARTS = {"num_train": "training", "num_val": "validation", "num_test": "test"}


def report_run(
    run: str, output: str | None, config: str | None, data_dir: str | None, structures: int, batch_size: int
) -> None:
    """Draw a run; for the arguments see :func:`pyg_schnet.cli.report.report_run`."""
    folder = Path(run)
    if not (folder / CONFIG_FILE).is_file() and not (folder / MODEL_FILE).is_file():
        raise ValueError(f"there is no run in {run}: a folder with {CONFIG_FILE} or {MODEL_FILE} was expected")
    path = check_output(folder / "report.png" if output is None else output, endings=_ENDINGS)
    if structures < 0:
        raise ValueError(f"structures must not be negative, got {structures}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    result = read_json(folder / RESULT_FILE) if (folder / RESULT_FILE).exists() else {}
    curves = read_history(folder)
    predictions, absent = None, "no predictions: --structures is 0"
    if structures:
        predictions, absent = _predictions(folder, config, data_dir, structures, batch_size)
    best = (result.get("training") or {}).get("best_epoch")
    name, noted = f"{_target(folder)}: {folder.resolve().name}", result.get("errors") or {}
    if predictions is None and noted:
        absent += f"; noted test errors: {_noted(noted)}"
    drawn = Run(name, _facts(result, curves), curves, best, predictions, absent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as partial:
        save(draw_run(drawn), partial, path.suffix[1:])
    if absent:
        print(absent[0].upper() + absent[1:])
    print(f"Picture in {path}")


def _predictions(
    folder: Path, config: str | None, data_dir: str | None, structures: int, batch_size: int
) -> tuple[Predictions | None, str]:
    """Predictions for the test structures, or why there are none."""
    if not (folder / MODEL_FILE).is_file():
        return None, f"no predictions: there is no {MODEL_FILE} in the run (yet)"
    model = folder / MODEL_FILE
    network = as_one(load(model))
    path = folder / CONFIG_FILE if config is None else Path(config)
    beside = folder / SPLIT_FILE
    try:
        given = configuration_of(network, path, required=config is not None, model=str(model))
        with of_configuration(f"the configuration of {model}" if config is None else config):
            split = split_of_run(network, given, None, beside if beside.is_file() else None)
            return predict_test(network, given, split, data_dir, batch_size, structures), ""
    except (ValueError, OSError, ImportError) as error:  # data that are elsewhere, changed, or need a package
        return None, f"no predictions: {explained(error)}"


def _target(folder: Path) -> str:
    """Name of what was learned."""
    path = folder / CONFIG_FILE
    given = read_configuration(path) if path.is_file() else {}
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
        facts.append(f"best weights of epoch {training['best_epoch'] + 1:,}")
    if training.get("ended_by"):
        facts.append(f"ended by {training['ended_by']}")
    return "; ".join(facts)


def _noted(errors: dict[str, Any]) -> str:
    """Mean absolute errors that the run has noted itself.

    Example:
        >>> _noted({"U0": {"mae": {"meV": 13.44, "kcal/mol": 0.31}}, "mu": {"mae": {"D": 0.02}}})
        'U0 13.4 meV, mu 0.02 D'
    """
    first = {name: next(iter(found["mae"].items())) for name, found in errors.items()}
    return ", ".join(f"{name} {value:.3g} {unit}" for name, (unit, value) in first.items() if value is not None)


def _duration(seconds: float) -> str:
    """A time as it is said.

    Example:
        >>> _duration(42.0), _duration(4500.0), _duration(10800.0)
        ('42 s', '75 min', '3.0 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

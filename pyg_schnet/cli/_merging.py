"""The models of several runs as one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np

from pyg_schnet.cli._options import of_configuration
from pyg_schnet.cli._spread import rounding_in_words, rounding_of, spread_in_words
from pyg_schnet.data import Split
from pyg_schnet.interfaces import calibrate
from pyg_schnet.models import SchNetCommittee, as_one, join_ensemble, load, rounded
from pyg_schnet.models.committee import CALIBRATION
from pyg_schnet.models.reading import described, read_json
from pyg_schnet.models.storage import Storage
from pyg_schnet.models.writing import write_whole
from pyg_schnet.train.configuration import check_run, read_configuration
from pyg_schnet.train.evaluation import errors_of
from pyg_schnet.train.files import CONFIG_FILE, MODEL_FILE, RESULT_FILE, RUN, SPLIT_FILE, as_json, write_json
from pyg_schnet.train.labelled import kept_aside
from pyg_schnet.train.report import NO_TEST, format_errors
from pyg_schnet.train.split_note import note_split, together


def merge_runs(
    runs: list[str], run_dir: str, committee: bool, storage: Storage | None, data_dir: str | None, batch_size: int
) -> None:
    """Save the mean of several runs and its errors; for the arguments see :func:`pyg_schnet.cli.merge.merge_runs`."""
    folders = [Path(run) for run in runs]
    if not folders:
        raise ValueError("give the folders of the runs to merge, for example '[runs/seed-0, runs/seed-1]'")
    for folder in folders:
        if missing := [name for name in (MODEL_FILE, RESULT_FILE) if not (folder / name).is_file()]:
            raise FileNotFoundError(f"no finished run in {folder}: there is no file {missing[0]}")
    out = Path(run_dir)
    if out.exists():
        raise ValueError(f"{run_dir} is there already; choose another --run_dir")
    results = [_result(folder / RESULT_FILE) for folder in folders]
    _check(folders, results)
    models = [load(folder / MODEL_FILE) for folder in folders]
    exact = SchNetCommittee(models) if committee else join_ensemble(models)
    model = exact if storage is None else rounded(exact, storage)
    training = _together(folders, [result.get("training") for result in results])
    training["parameters"] = sum(weight.numel() for weight in model.parameters())
    config = folders[0] / CONFIG_FILE
    given = check_run(read_configuration(config), str(config), origin="beside")
    splits = [Split.load(folder / SPLIT_FILE) for folder in folders]
    first = models[0].card  # says where the test structures are
    if not isinstance(first.get(RUN), dict) or not isinstance((first.get("split") or {}).get("num_test"), int):
        raise ValueError(f"{folders[0] / MODEL_FILE} does not note its run and its split, as training does")
    noted = {**first["split"], "structures": note_split(together(splits), given["data"].get("seed", 0))}
    card = {RUN: first[RUN], "split": noted, "merged": [result["seed"] for result in results]}
    errors: list[Any] = []
    with of_configuration(str(config)):
        if first["split"]["num_test"] > 0:
            errors, size = errors_of(copy.deepcopy(as_one(model)), given, splits[0], data_dir, batch_size)
            print(format_errors(errors, size))
        else:
            print(NO_TEST)
        if committee or storage is not None:
            learned = np.concatenate([split.train for split in splits])
            validation, test = kept_aside(as_one(model), given, splits[0], learned, data_dir)
            if storage is not None:
                card["rounding"] = rounding_of(exact, model, test or validation)
                print(rounding_in_words(card["rounding"], storage))
            if committee and validation:
                calibrate(model, validation, test=test)
                print("\n".join(spread_in_words(model.card[CALIBRATION], len(cast(Any, model)))))
    card |= {"training": training, "test": {row.name: row.as_dict() for row in errors}}
    path = model.save(out / MODEL_FILE, storage=storage, **as_json(card))
    for name in (CONFIG_FILE, SPLIT_FILE):
        write_whole(out / name, (folders[0] / name).read_bytes())
    result = {**results[0], "merged": card["merged"], "training": training, "errors": card["test"]}
    write_json(out / RESULT_FILE, result)
    print(f"Model saved to {path}")


_NUMBERS = ("seconds", "epochs", "steps", "structures_per_second")


def _result(path: Path) -> dict[str, Any]:
    """Result of a run, with what is used of it.

    Raises:
        ValueError: If something is missing.
    """
    result = read_json(path)
    kinds: dict[str, Any] = {"recipe": (str, type(None)), "seed": (int, type(None)), RUN: dict}
    for name, kind in kinds.items():
        if not isinstance(result, dict) or not isinstance(result.get(name), kind):
            raise ValueError(f"{path} is no result of a run: it has no entry {name!r} as training writes it")
    if not isinstance(result[RUN].get("data"), dict):
        raise ValueError(f"{path} is no result of a run: it has no entry 'data' as training writes it")
    return result


def _check(folders: list[Path], results: list[dict[str, Any]]) -> None:
    """Raise unless all runs learned the same of one data set, and test structures of the first were kept from all."""
    first, split = results[0], Split.load(folders[0] / SPLIT_FILE)
    for folder, result in zip(folders, results, strict=True):
        targets = [one[RUN]["data"].get("target") for one in (first, result)]
        if targets[0] != targets[1]:
            raise ValueError(f"{folder} has learned {targets[1]}, {folders[0]} {targets[0]}")
        tests = [one[RUN]["data"].get("test_dataset") for one in (first, result)]
        other = Split.load(folder / SPLIT_FILE)
        if tests[0] != tests[1] or split.fingerprint != other.fingerprint:
            raise ValueError(f"{folder} is a run on other data than {folders[0]}")
        if tests[0] is None and np.isin(split.test, np.concatenate([other.train, other.val])).any():
            raise ValueError(
                f"{folder} has learned from test structures of {folders[0]}; merge runs of one split (data.seed)"
            )


def _together(folders: list[Path], training: list[Any]) -> dict[str, Any]:
    """Counts of all runs.

    Raises:
        ValueError: If a run does not note them.
    """
    for folder, run in zip(folders, training, strict=True):
        noted = run if isinstance(run, dict) else {}
        if not all(isinstance(noted.get(name), int | float) for name in _NUMBERS) or not isinstance(
            noted.get("starts"), list
        ):
            raise ValueError(
                f"{folder / RESULT_FILE} is no result of a run: 'training' must note {', '.join(_NUMBERS)} and starts, "
                f"got {described(run)}"
            )
    seconds = sum(run["seconds"] for run in training)
    structures = sum(run["structures_per_second"] * run["seconds"] for run in training)
    return {
        "epochs": sum(run["epochs"] for run in training),
        "steps": sum(run["steps"] for run in training),
        "seconds": round(seconds, 3),
        "structures_per_second": round(structures / max(seconds, 1e-9), 1),
        "starts": [start for run in training for start in run["starts"]],
    }

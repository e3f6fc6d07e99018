"""What comes out of a run: the weights that are taken, the model file and the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import yaml
from lightning.pytorch import Trainer

from pyg_schnet.data.loader import collate_indices
from pyg_schnet.models import AtomisticModel
from pyg_schnet.models.convert import like_pyg
from pyg_schnet.train.best_checkpoint import ModelCheckpoint
from pyg_schnet.train.checkpoint_files import CheckpointFiles, load_whole
from pyg_schnet.train.datamodule import StructureDataModule
from pyg_schnet.train.files import (
    CONFIG_FILE,
    MODEL_FILE,
    RESULT_FILE,
    RUN,
    anonymous_data,
    as_json,
    name_of_model,
    write_json,
)
from pyg_schnet.train.report import Errors
from pyg_schnet.train.split_note import note_split
from pyg_schnet.train.task import PropertyTask


def take_best(trainer: Trainer, task: PropertyTask) -> int | None:
    """Take the best weights of a run, where there was a validation to tell which.

    Args:
        trainer: Trainer of the run.
        task: What is learned; changed in place.

    Returns:
        Their epoch; ``None`` where the present weights stay.

    Raises:
        OSError: If checkpoints could not be written, because the disk is still full.
    """
    files = trainer.strategy.checkpoint_io
    if isinstance(files, CheckpointFiles) and (error := files.write_waiting()):
        raise type(error)(error.errno, f"{error.strerror}, so the newest checkpoints are lost", error.filename)
    found = [callback for callback in cast(Any, trainer).callbacks if isinstance(callback, ModelCheckpoint)]
    best = found[0].best_model_path if found else ""
    if not best or not Path(best).is_file():
        return None
    checkpoint = load_whole(best, task.device)
    task.load_state_dict(checkpoint["state_dict"])
    return checkpoint["epoch"]


def check_numbers(task: PropertyTask, data: StructureDataModule) -> None:
    """Raise for weights, or a prediction of a training structure, that are not finite.

    Args:
        task: What was learned.
        data: Its structures.

    Raises:
        ValueError: If there is such a number.
    """
    first = collate_indices(data.train_set, [0]).to(task.device)
    with torch.no_grad():
        numbers = [*task.network.parameters(), task.eval().predict_step(first, 0)]
    if not all(bool(torch.isfinite(number).all()) for number in numbers):
        raise ValueError(
            "training diverged: weights or predictions are NaN or infinite, so there is no model to save; choose a "
            f"lower learning rate than {task.lr:g} (--model.init_args.lr)"
        )


def save_result(
    run_dir: Path,
    task: PropertyTask,
    data: StructureDataModule,
    config: Any,
    training: dict[str, Any],
    errors: list[Errors] | None,
) -> Path | None:
    """Save what came out, with all that describes the run, and the model with the part its users need.

    Args:
        run_dir: Folder of the run.
        task: What was learned, with its network.
        data: Its structures.
        config: Options of the run.
        training: What the run was, as JSON can hold it.
        errors: Of the test; ``None`` where there is none yet, or none at all.

    Returns:
        Model file; ``None`` for networks of other packages, which are not exported.
    """
    given = yaml.safe_load((run_dir / CONFIG_FILE).read_text(encoding="utf-8"))
    card = {
        **config.card,
        **({} if config.start_from is None else {"started_from": name_of_model(config.start_from)}),
        RUN: {"model": {"class_path": given["model"]["class_path"]}, "data": anonymous_data(given["data"])},
        "elements": data.training_elements(task.needed()),
        "split": {
            "num_train": len(data.train_set),
            "num_val": len(data.val_set),
            "num_test": len(data.test_set),
            "fingerprint": data.split.fingerprint,
            "structures": note_split(data.split, data.seed),
        },
        "training": {**training, "parameters": sum(weight.numel() for weight in task.network.parameters())},
        "test": {row.name: row.as_dict() for row in errors or []},
    }
    recipes = [Path(str(path)).stem for path in config.config or []]
    result = {"recipe": recipes[0] if recipes else None, "seed": given["seed_everything"], **card}
    result["errors"] = result.pop("test")
    result["tested"] = errors is not None
    limits = {name: given["trainer"].get(name) for name in ("max_time", "max_epochs", "max_steps")}
    result[RUN] = {**card[RUN], "model": given["model"], "trainer": limits}
    path = None
    if isinstance(task.network, (AtomisticModel, like_pyg.SchNet)):
        path = task.export().save(run_dir / MODEL_FILE, **as_json(card))
    write_json(run_dir / RESULT_FILE, result)
    return path

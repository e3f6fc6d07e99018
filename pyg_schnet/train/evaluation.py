"""Errors of models on test structures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jsonargparse
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from torch_geometric.data import Dataset

from pyg_schnet.data import Property, Split
from pyg_schnet.data.properties import find_properties
from pyg_schnet.models import AtomisticModel
from pyg_schnet.models.domain import Domain
from pyg_schnet.models.reading import described
from pyg_schnet.models.targets import units_of_targets
from pyg_schnet.train.configuration import check_run, read_configuration
from pyg_schnet.train.datamodule import StructureDataModule
from pyg_schnet.train.files import RUN, check_files, locate_data
from pyg_schnet.train.potential import PotentialTask
from pyg_schnet.train.processes import one_process
from pyg_schnet.train.relaxed import RelaxedTask
from pyg_schnet.train.report import Errors
from pyg_schnet.train.split_note import check_untrained, split_of
from pyg_schnet.train.task import PropertyTask


def errors_of(
    network: AtomisticModel, given: dict[str, Any], split: Split | None, data_dir: str | None, batch_size: int
) -> tuple[list[Errors], int]:
    """Errors of each quantity on the test structures of a run, and the number of these.

    Args:
        network: Model; its references are taken out.
        given: Configuration of the run.
        split: Split whose test structures are taken; ``None`` takes the one that the configuration draws.
        data_dir: Folder of the files that the data sets name.
        batch_size: Structures in a batch.

    Raises:
        ValueError: If there is nothing to test on, the model was trained on something else, or on test structures.
    """
    data, task_class = run_of(network, given, split, data_dir, batch_size)
    check_untrained(network.card, data.split)
    if len(data.test_set) == 0:
        raise ValueError("the run kept no structures for a test; give others with --split or test_dataset")
    data.check_places(network, test_only=True)
    elements = network.card.get("elements")
    if elements is not None and (said := data.absent_elements(elements)):
        print(said)
    return test_errors(task_of_run(network, data, task_class), data), len(data.test_set)


def configuration_of(
    network: AtomisticModel, path: Path, *, required: bool, model: str = "the model"
) -> dict[str, Any]:
    """Configuration of a training run, from its file or from the card of its model.

    Only a file that was asked for may name classes of other packages; see
    :func:`pyg_schnet.train.configuration.check_run`.

    Args:
        network: Model of the run.
        path: Where the file is expected.
        required: Whether it was asked for, so that the card does not do.
        model: Name of the file of the model, for the message.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no such configuration, or names what it may not.
    """
    if path.exists() or path.is_symlink():
        return check_run(read_configuration(path), str(path), origin="user" if required else "beside")
    if required or RUN not in network.card:
        raise FileNotFoundError(f"no configuration at {path}; name that of the training run with --config")
    return check_run(network.card[RUN], f"the card of {model}", origin="card")


def split_of_run(
    network: AtomisticModel, given: dict[str, Any], stated: str | None, beside: Path | None
) -> Split | None:
    """The split to test on; ``None`` for the one that the configuration draws, where the model file is an old one.

    Args:
        network: Model of the run.
        given: Configuration of the run.
        stated: File of a split to take instead.
        beside: File of the split of the run, where it is there.

    Raises:
        ValueError: If the model was trained with a split of its own that is not there.
    """
    if stated is not None:
        return Split.load(stated)
    found = split_of(network.card)
    if found is not None or beside is not None:
        found = Split.load(cast(Path, beside)) if found is None else found
        return replace(found, fingerprint=None)  # compared by check_untrained, whose words fit a model
    if given["data"].get("split") is not None:
        raise ValueError(
            f"the model was trained with a split of its own, {Path(given['data']['split']).name}, and does not "
            "remember which structures are in it; give the file with --split"
        )
    return None


def run_of(
    network: AtomisticModel, given: dict[str, Any], split: Split | None, data_dir: str | None, batch_size: int
) -> tuple[StructureDataModule, type[PropertyTask]]:
    """Data and kind of task of a training run, from its configuration; of several targets those of the model."""
    options = locate_data(given["data"], data_dir)
    chosen = {name: options.get(name) for name in ("dataset", "target", "test_dataset")}
    check_files(chosen)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Dataset, "dataset")
    parser.add_subclass_arguments(Dataset, "test_dataset", required=False)
    parser.add_argument("--target", type=str | Property | list[str | Property])
    made = parser.instantiate_classes(parser.parse_object({k: v for k, v in chosen.items() if v is not None}))
    given_targets = made.target if isinstance(made.target, list) else [made.target]
    targets: dict[str, Any] = dict(
        zip((one.name for one in find_properties(made.dataset, made.target)), given_targets, strict=True)
    )
    known = str(network.card.get("target"))  # which may be one of several
    data = StructureDataModule(
        made.dataset,
        targets.get(known, made.target),
        **{name: options[name] for name in ("num_train", "num_val", "num_test", "seed", "split_by") if name in options},
        split=cast(Any, split),
        eval_batch_size=batch_size,
        test_dataset=made.get("test_dataset"),
    )
    _check_targets(network, data.properties)
    tasks: dict[str, type[PropertyTask]] = {cls.__name__: cls for cls in (PropertyTask, PotentialTask, RelaxedTask)}
    tasks |= {"DistilledTask": PropertyTask, "DistilledPotentialTask": PotentialTask}  # tested without their teacher
    task = tasks.get(given["model"]["class_path"].rsplit(".", 1)[-1])
    if task is None:
        path = given["model"]["class_path"]
        raise ValueError(f"the task of the run must be one of {', '.join(tasks)}, got {described(path)}")
    return data, task


def task_of_run(network: AtomisticModel, data: StructureDataModule, task_class: type[PropertyTask]) -> PropertyTask:
    """Task that evaluates what a training run has learned; its model's references are taken out.

    Args:
        network: Model, changed in place.
        data: Data of the run, from :func:`run_of`.
        task_class: Kind of its task, from there as well.
    """
    task = task_class.from_model(network, data.properties)
    if isinstance(task, PotentialTask):  # which has errors of the stress where that counts
        domain = Domain.of(network.card)
        task.stress_weight = 1.0 if domain is not None and domain.stress else 0.0
    return task


def _check_targets(model: AtomisticModel, targets: list[Property]) -> None:
    one: dict[Any, Any] = {model.card.get("target"): model.card.get("unit")}
    trained: dict[Any, Any] = units_of_targets(model.card) or one
    given = {target.name: target.unit for target in targets}
    if trained != given:
        ours, theirs = (", ".join(f"{name} in {unit}" for name, unit in each.items()) for each in (trained, given))
        raise ValueError(f"the model was trained on {ours}, the configuration has {theirs}")


def test_errors(task: PropertyTask, data: StructureDataModule) -> list[Errors]:
    """Errors of each quantity on the test structures that have a label."""
    metrics = evaluator().test(task, datamodule=data, verbose=False)[0]
    return [
        Errors(name, unit, metrics[f"test/{name}_mae"], metrics[f"test/{name}_rmse"])
        for name, unit in task.quantities().items()
        if f"test/{name}_mae" in metrics
    ]


class Evaluator(Trainer):
    """Trainer that only evaluates; variables that Lightning reads for its own class (``PL_TRAINER_...``) do not act."""


def evaluator() -> Evaluator:
    """Trainer that only evaluates, in this process alone: no logs, no checkpoints."""
    return Evaluator(
        devices=1,
        plugins=[one_process()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        inference_mode=False,  # forces need gradients
        callbacks=[TQDMProgressBar(refresh_rate=10)],
    )

"""``pyg-schnet train``: a run from its options to the saved model."""

from __future__ import annotations

import inspect
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import jsonargparse
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet.cli._options import readable_errors
from pyg_schnet.cli._prepare import prepare_torch
from pyg_schnet.data import Split, collate_indices
from pyg_schnet.models import AtomisticModel, load
from pyg_schnet.models.convert import like_pyg
from pyg_schnet.train.best_checkpoint import ModelCheckpoint
from pyg_schnet.train.datamodule import StructureDataModule
from pyg_schnet.train.early_stopping import EarlyStopping
from pyg_schnet.train.ema import EMA
from pyg_schnet.train.ending import ending_of, ending_sentence
from pyg_schnet.train.evaluation import test_errors
from pyg_schnet.train.files import (
    CONFIG_FILE,
    MODEL_FILE,
    RESULT_FILE,
    RUN,
    SPLIT_FILE,
    anonymous_data,
    as_json,
    check_files,
    locate_data,
    write_json,
)
from pyg_schnet.train.last_checkpoint import LastCheckpoint, check_checkpoint
from pyg_schnet.train.processes import (
    SHARED_FOLDER,
    check_first,
    environment_plugins,
    is_follower,
    is_one_process,
    started_by_others,
)
from pyg_schnet.train.record import RunRecord
from pyg_schnet.train.report import NO_TEST, Errors, format_errors
from pyg_schnet.train.resuming import check_split, clear, interruption, is_missing
from pyg_schnet.train.split_note import note_split, num_seen
from pyg_schnet.train.switches import check_strategy, check_switches, has_validation
from pyg_schnet.train.task import SHOWN_EVERY, PropertyTask
from pyg_schnet.train.transfer import start_from

_QUICK_NETWORK = {
    "hidden_channels": 64,
    "num_filters": 64,
    "num_interactions": 3,
    "num_gaussians": 25,
    "cutoff": 5.0,
}


class TrainCLI(LightningCLI):
    """Lightning's command line with the callbacks, loggers and folder of a run."""

    given: ClassVar[list[str]] = []  # arguments of the command line

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options beside those of task, data and trainer; and the defaults, which are the five-minute run on QM9."""
        parser.add_argument(
            "--run_dir", type=str, default=None, help="folder of the run; default runs/TARGET-DATE-TIME"
        )
        parser.add_argument(
            "--resume", type=str | None, default=None, help="checkpoint to go on from, as RUN_DIR/checkpoints/last.ckpt"
        )
        parser.add_argument(
            "--start_from",
            type=str | None,
            default=None,
            help="trained model, file or name, whose embeddings and interactions are taken over; the readout is new",
        )
        parser.add_argument(
            "--data_dir", type=str | None, default=None, help="folder of the files that the data sets name"
        )
        parser.add_argument(
            "--card", type=dict[str, str], default={}, help="what to note in the model file: source, licence, ..."
        )
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.set_defaults(
            {
                "model": {
                    "class_path": "pyg_schnet.train.PropertyTask",
                    "init_args": {"network": {"class_path": "pyg_schnet.SchNet", "init_args": _QUICK_NETWORK}},
                },
                "data.dataset": {"class_path": "pyg_schnet.data.QM9"},
                "data.target": "U0",
                "data.num_train": 110_000,
                "early_stopping.monitor": "val/loss",
                "early_stopping.patience": 50,
                "early_stopping.check_on_train_epoch_end": False,
                "checkpoint.monitor": "val/loss",
                "checkpoint.filename": "best",
                "checkpoint.enable_version_counter": False,
                "checkpoint.auto_insert_metric_name": False,
            }
        )

    def before_instantiate_classes(self) -> None:
        """Decide on the folder of the run and send everything there."""
        config = self.config
        check_switches(config.trainer)
        if is_one_process(config.trainer):
            check_first()
        if config.resume is not None and not Path(config.resume).is_file():
            raise FileNotFoundError(f"no checkpoint to resume from at {config.resume}")
        config.run_dir = self._folder()
        taken = (Path(config.run_dir) / CONFIG_FILE).exists() and not is_follower(config.trainer)
        if config.resume is None and taken:
            raise ValueError(f"{config.run_dir} holds a run already; choose another --run_dir, or --resume it")
        own_split = Path(config.run_dir) / SPLIT_FILE
        if config.resume is not None and own_split.is_file() and is_missing(config.data.split):
            config.data.split = str(own_split)
        config.data = locate_data(config.data, config.data_dir)
        check_files(config.data)
        config.trainer.default_root_dir = config.run_dir
        config.checkpoint.dirpath = str(Path(config.run_dir) / "checkpoints")
        if config.trainer.enable_progress_bar is False:
            self.trainer_defaults.pop("callbacks")

    def _folder(self) -> str:
        """Folder of the run: as stated, that of the checkpoint to go on from, or a new one."""
        config = self.config
        if is_follower(config.trainer) and SHARED_FOLDER in os.environ:
            return os.environ[SHARED_FOLDER]
        stated = any(one == "--run_dir" or one.startswith("--run_dir=") for one in self.given)
        if config.resume is not None and not stated:  # not the place that config.yaml says, where it was at the start
            checkpoints = Path(os.path.abspath(config.resume)).parent
            if checkpoints.name == "checkpoints":
                return (
                    os.path.relpath(checkpoints.parent)
                    if not Path(config.resume).is_absolute()
                    else str(checkpoints.parent)
                )
        if config.run_dir is not None:
            return config.run_dir
        if started_by_others(config.trainer):
            raise ValueError("several processes share one run, so its folder has to be stated: give --run_dir")
        return f"runs/{getattr(config.data.target, 'name', config.data.target)}-{datetime.now():%Y%m%d-%H%M%S}"

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with as many processes as its options say and no more."""
        options = self.config.trainer
        stated = self.config_init["trainer"].get("plugins") or []
        stated = list(stated) if isinstance(stated, (list, tuple)) else [stated]
        plugins = environment_plugins(options) if not stated else []
        try:
            trainer = super().instantiate_trainer(plugins=[*stated, *plugins] or None, **kwargs)
        except (TypeError, RuntimeError, ImportError, KeyError, MisconfigurationException) as error:
            raise ValueError(
                f"the trainer cannot be made with these options: {' '.join(str(error).split())}"
            ) from error
        check_strategy(trainer)
        return trainer


def run(args: list[str]) -> None:
    """Run the command with its arguments."""
    prepare_torch()
    with readable_errors("train"):
        train_model(["--help" if one == "--help_all" else one for one in args])


def train_model(args: list[str]) -> None:
    """Train, test with the best weights, and save the model with its errors.

    --model.help CLASS explains the options of pyg_schnet.train.PropertyTask (one property), PotentialTask (energies
    and forces) or RelaxedTask (energies of relaxed structures), --model.init_args.network.help CLASS those of
    pyg_schnet.SchNet, DTNN or another network, and
    --data.dataset.help CLASS those of pyg_schnet.data.QM9, AtomsDataset, MD17, MaterialsDataset, MLearn or another
    data set. --print_config writes a file of all options, which --config reads.
    """
    TrainCLI.given = list(args)
    cli = TrainCLI(
        PropertyTask,
        StructureDataModule,
        trainer_class=Trainer,
        trainer_defaults={
            "max_time": "00:00:05:00",
            "max_epochs": -1,
            "accelerator": "auto",
            "devices": 1,
            "num_sanity_val_steps": 0,
            "gradient_clip_val": 10.0,
            "log_every_n_steps": 20,
            "enable_model_summary": False,
            "inference_mode": False,
            "callbacks": [TQDMProgressBar(refresh_rate=SHOWN_EVERY)],
        },
        save_config_callback=None,
        subclass_mode_model=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        args=args,
        run=False,
        parser_kwargs={
            "prog": "pyg-schnet train",
            "exit_on_error": False,
            "description": inspect.cleandoc(train_model.__doc__),
        },
    )
    trainer, task, data, config = cli.trainer, cli.model, cli.datamodule, cli.config
    task.find_targets(data)
    said = task.check(data)
    _check_call(task, data)
    run_dir = Path(config.run_dir)
    if config.resume is not None:
        check_checkpoint(config.resume, task)
        check_split(run_dir / SPLIT_FILE, data.split)
    if config.start_from is not None and config.resume is None:
        _start_from(task, load(config.start_from), data.split)
    if trainer.is_global_zero:
        run_dir.mkdir(parents=True, exist_ok=True)
        kept = config.clone()
        kept.resume = None  # a run that takes these options begins at the beginning
        kept.data_dir = None  # its files have been found
        cli.parser.save(kept, run_dir / CONFIG_FILE, overwrite=True)
        data.save_split(run_dir / SPLIT_FILE)
        _say(
            f"Training on {len(data.train_set):,} structures, validating on {len(data.val_set):,}; run in {run_dir}",
            *said,
        )
    _set_loggers(trainer, config.trainer, run_dir)
    record = RunRecord()
    trainer.callbacks.append(record)
    _set_callbacks(trainer, data, config.resume)
    if trainer.world_size > 1:
        os.environ[SHARED_FOLDER] = os.path.abspath(run_dir)
    try:
        trainer.fit(task, datamodule=data, ckpt_path=config.resume)
    except (ValueError, MisconfigurationException):
        if config.resume is None and trainer.is_global_zero and not (run_dir / "checkpoints" / "last.ckpt").is_file():
            clear(run_dir)  # so that the command can be given again
        raise
    except SystemExit as error:
        sys.exit(error.code if (said := interruption(trainer, error, run_dir)) is None else f"pyg-schnet train: {said}")
    finally:
        os.environ.pop(SHARED_FOLDER, None)
    if not trainer.is_global_zero:
        return
    _say(ending_sentence(trainer))
    best_epoch = _load_best(trainer, task)
    _check_numbers(task, data)
    training = {**record.summary(trainer), "ended_by": ending_of(trainer), "best_epoch": best_epoch}
    errors = test_errors(task, data) if len(data.test_set) else []
    _say(*(one for one in said if " test structure" in one))
    print("\n" + format_errors(errors, len(data.test_set)) if errors else NO_TEST)
    _save_result(run_dir, task, data, config, training, errors)


def _check_call(task: PropertyTask, data: StructureDataModule) -> None:
    """Raise for a network of another package that is called in another way."""
    network = task.network
    if isinstance(network, (AtomisticModel, like_pyg.SchNet, PyGSchNet)):
        return
    try:
        with torch.no_grad():
            task(collate_indices(data.train_set, [0]))
    except (TypeError, RuntimeError, IndexError, AttributeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"a {type(network).__name__} cannot be called as network(z, pos, batch): {reason}") from error


def _start_from(task: PropertyTask, trained: AtomisticModel, split: Split) -> None:
    """Take over what a model has learned, unless it did so from the structures of the test."""
    noted = (trained.card.get("split") or {}).get("fingerprint")
    if noted == split.fingerprint and (seen := num_seen(trained.card, split)):
        raise ValueError(
            f"the model to start from has learned from {seen:,} of the {len(split.test):,} test structures; take its "
            "split (--data.split)"
        )
    start_from(task.network, trained)


def _say(*sentences: str | None) -> None:
    for sentence in filter(None, sentences):
        print(sentence)


def _set_loggers(trainer: Trainer, options: Any, run_dir: Path) -> None:
    """A table and a TensorBoard of the run, unless its options say otherwise."""
    if options.logger is True or options.logger is None:
        # a version of its own for every start, so that resuming deletes nothing
        table = CSVLogger(run_dir, name="logs")
        trainer.loggers = [table, TensorBoardLogger(run_dir, name="logs", version=table.version)]


def _set_callbacks(trainer: Trainer, data: StructureDataModule, resume: str | None) -> None:
    """Tell callbacks where the run was; without validation, none waits for it."""
    if not has_validation(trainer, data):
        if trainer.is_global_zero:
            _say("There is no validation, so the model is that of the last step")
        if not len(data.val_set):
            trainer.limit_val_batches = 0
        trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, (EarlyStopping, ModelCheckpoint))]
    for one in trainer.callbacks:
        if isinstance(one, ModelCheckpoint) and resume is not None:
            one.resumed_from = Path(resume).parent


def _load_best(trainer: Trainer, task: PropertyTask) -> int | None:
    """Take the best weights of the run, where there was a validation to tell which; returns their epoch."""
    found = [callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint)]
    best = found[0].best_model_path if found else ""
    if not best or not Path(best).is_file():
        return None
    checkpoint = torch.load(best, map_location=task.device, weights_only=True)
    task.load_state_dict(checkpoint["state_dict"])
    return checkpoint["epoch"]


def _check_numbers(task: PropertyTask, data: StructureDataModule) -> None:
    """Raise for weights, or a prediction of a training structure, that are no numbers."""
    first = collate_indices(data.train_set, [0]).to(task.device)
    with torch.no_grad():
        numbers = [*task.network.parameters(), task.eval().predict_step(first, 0)]
    if not all(bool(torch.isfinite(number).all()) for number in numbers):
        raise ValueError(
            "training diverged: weights or predictions are NaN or infinite, so there is no model to save; choose a "
            f"lower learning rate than {task.lr:g} (--model.init_args.lr)"
        )


def _save_result(
    run_dir: Path,
    task: PropertyTask,
    data: StructureDataModule,
    config: jsonargparse.Namespace,
    training: dict[str, Any],
    errors: list[Errors],
) -> None:
    """Save what came out, with all that describes the run, and the model with the part its users need."""
    given = yaml.safe_load((run_dir / CONFIG_FILE).read_text(encoding="utf-8"))
    card = {
        **config.card,
        **({} if config.start_from is None else {"started_from": Path(config.start_from).stem}),
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
        "test": {row.name: row.as_dict() for row in errors},
    }
    recipes = [Path(str(path)).stem for path in config.config or []]
    result = {"recipe": recipes[0] if recipes else None, "seed": given["seed_everything"], **card}
    result["errors"] = result.pop("test")
    limits = {name: given["trainer"].get(name) for name in ("max_time", "max_epochs", "max_steps")}
    result[RUN] = {**card[RUN], "model": given["model"], "trainer": limits}
    write_json(run_dir / RESULT_FILE, result)
    if not isinstance(task.network, (AtomisticModel, like_pyg.SchNet)):
        print(f"Checkpoints and logs are in {run_dir}; networks of other packages are not exported")
        return
    path = task.export().save(run_dir / MODEL_FILE, **as_json(card))
    print(f"Model saved to {path}")
    print(f"Next: pyg-schnet predict --model {path} molecule.xyz")

"""``pyg-schnet train``: a run from its options to the saved model."""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from contextlib import ExitStack, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch_geometric.nn.models import SchNet as PyGSchNet

from pyg_schnet.cli._options import readable_errors
from pyg_schnet.cli._prepare import prepare_torch
from pyg_schnet.data import Split
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.models import AtomisticModel, SchNetCommittee, load
from pyg_schnet.models.convert import like_pyg
from pyg_schnet.models.writing import remove_partial, written
from pyg_schnet.train.best_checkpoint import ModelCheckpoint
from pyg_schnet.train.datamodule import StructureDataModule
from pyg_schnet.train.early_stopping import EarlyStopping
from pyg_schnet.train.ema import EMA
from pyg_schnet.train.ending import ending_of, ending_sentence
from pyg_schnet.train.evaluation import test_errors
from pyg_schnet.train.files import CHECKPOINTS, CONFIG_FILE, SPLIT_FILE, check_files, locate_data
from pyg_schnet.train.finite import not_finite
from pyg_schnet.train.last_checkpoint import LastCheckpoint, read_checkpoint
from pyg_schnet.train.lock import locked
from pyg_schnet.train.logs import run_loggers
from pyg_schnet.train.processes import (
    SHARED_FOLDER,
    check_devices,
    check_first,
    environment_plugins,
    is_follower,
    is_one_process,
    started_by_others,
)
from pyg_schnet.train.ranks import looking_left_to_first
from pyg_schnet.train.record import RunRecord
from pyg_schnet.train.report import NO_TEST, format_errors
from pyg_schnet.train.result import check_numbers, save_result, take_best
from pyg_schnet.train.resuming import (
    Begun,
    check_same_run,
    interruption,
    is_missing,
    is_taken,
    leaving_nothing,
    may_begin_again,
)
from pyg_schnet.train.shared import SHOWN_EVERY
from pyg_schnet.train.signals import Ended, Signals
from pyg_schnet.train.split_note import num_seen
from pyg_schnet.train.switches import check_strategy, check_switches, has_validation
from pyg_schnet.train.task import PropertyTask
from pyg_schnet.train.team import Lost, team
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
    folder: ClassVar[str] = ""  # of the run
    open_until_end: ClassVar[ExitStack] = ExitStack()  # the lock of the folder, given back at the end of the command

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options beside those of task, data and trainer; and the defaults, which are the five-minute run on QM9."""
        parser.add_argument(
            "--run_dir", type=str, default=None, help="folder of the run; default runs/TARGET-DATE-TIME"
        )
        parser.add_argument(
            "--resume", type=str | None, default=None, help="checkpoint to continue from: RUN_DIR/checkpoints/last.ckpt"
        )
        parser.add_argument(
            "--start_from",
            type=str | None,
            default=None,
            help="trained model, file or name, from which embeddings and interactions are copied; the readout is new",
        )
        parser.add_argument("--data_dir", type=str | None, default=None, help="folder with the files of the data sets")
        parser.add_argument(
            "--card", type=dict[str, str], default={}, help="notes for the model file: source, licence, ..."
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
        config.run_dir = TrainCLI.folder = self._folder()
        if config.resume is not None and not Path(config.resume).is_file():
            if not may_begin_again(config.resume):
                raise FileNotFoundError(f"no checkpoint to resume from at {config.resume}")
            _say(f"The run in {config.run_dir} has no checkpoint yet, so it begins again")
            config.resume = None
        if is_follower(config.trainer):
            self.open_until_end.enter_context(looking_left_to_first())
        else:
            self.open_until_end.enter_context(locked(Path(config.run_dir)))
            if config.resume is None and is_taken(Path(config.run_dir)):
                raise ValueError(f"{config.run_dir} holds a run already; choose another --run_dir, or --resume it")
        own_split = Path(config.run_dir) / SPLIT_FILE
        if config.resume is not None and own_split.is_file() and is_missing(config.data.split):
            config.data.split = str(own_split)
        config.data = locate_data(config.data, config.data_dir)
        check_files(config.data)
        config.trainer.default_root_dir = config.run_dir
        config.checkpoint.dirpath = str(Path(config.run_dir) / CHECKPOINTS)
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
            if checkpoints.name == CHECKPOINTS:
                return (
                    os.path.relpath(checkpoints.parent)
                    if not Path(config.resume).is_absolute()
                    else str(checkpoints.parent)
                )
        if config.run_dir is not None:
            return config.run_dir
        if started_by_others(config.trainer):
            raise ValueError("several processes share one run, so its folder must be given by --run_dir")
        targets = config.data.target if isinstance(config.data.target, list) else [config.data.target]
        name = getattr(targets[0], "name", targets[0]) if len(targets) == 1 else f"{len(targets)}-targets"
        return f"runs/{name}-{datetime.now():%Y%m%d-%H%M%S}"

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
        check_devices(trainer)
        return trainer


def run(args: list[str]) -> None:
    """Run the command with its arguments."""
    prepare_torch()
    with readable_errors("train", args):
        train_model(["--help" if one == "--help_all" else one for one in args])


def train_model(args: list[str]) -> None:
    """Train, test with the best weights, and save the model with its errors.

    --model.help CLASS explains the options of pyg_schnet.train.PropertyTask (one property), PotentialTask (energies
    and forces), RelaxedTask (energies of relaxed structures) or DistilledTask (from another model, too),
    --model.init_args.network.help CLASS those of pyg_schnet.SchNet, DTNN or another network, and
    --data.dataset.help CLASS those of pyg_schnet.data.QM9, AtomsDataset, MD17, MaterialsDataset, MLearn or another
    data set. --print_config writes a file of all options, which --config reads.
    """
    with Signals() as signals, ExitStack() as stack:
        TrainCLI.given, TrainCLI.open_until_end = list(args), stack
        try:
            _train(_command_line(args), signals)
        except (Ended, Lost, SIGTERMException) as error:
            code, said = interruption(error, TrainCLI.folder)
            if not getattr(error, "silent", False):
                print(f"pyg-schnet train: {said}", file=sys.stderr, flush=True)
            sys.exit(code)


def _command_line(args: list[str]) -> TrainCLI:
    """Options of the command, and what they make."""
    return TrainCLI(
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
            "description": inspect.cleandoc(str(train_model.__doc__)),
        },
    )


def _train(cli: TrainCLI, signals: Signals) -> None:
    trainer, task, data, config = cli.trainer, cli.model, cli.datamodule, cli.config
    data.trainer = trainer  # which says how many processes share a step
    signals.is_silent = not trainer.is_global_zero
    task.find_targets(data)
    run_dir = Path(config.run_dir)
    said, checkpoint = _checked(cli) if trainer.is_global_zero else ([], {})
    if config.start_from is not None and config.resume is None:
        taken = _start_from(task, load(config.start_from), data.split)
        said = [*said, f"{taken} ({config.start_from})"]
    if trainer.is_global_zero:
        remove_partial(run_dir / CHECKPOINTS)
        remove_partial(run_dir)
        _say(
            f"Training on {len(data.train_set):,} structures, validating on {len(data.val_set):,}; run in {run_dir}",
            *said,
        )
    if config.trainer.logger in (True, None):
        trainer.loggers = [*run_loggers(run_dir)]
    record, begun = RunRecord(), Begun(lambda: _save_options(cli, run_dir))
    cast(Any, trainer).callbacks[:0] = [begun, record]  # before checkpoints, which are to hold what it counts
    _set_callbacks(trainer, data, config.resume, signals)
    leaving = leaving_nothing(run_dir, config.resume, begun) if trainer.is_global_zero else nullcontext()
    with leaving, team(trainer, ["train", *cli.given], str(run_dir), _say_lost):
        trainer.fit(task, datamodule=data, ckpt_path=config.resume, weights_only=True)
    if not trainer.is_global_zero:
        return
    _say(ending_sentence(trainer))
    if not begun:  # all was done before
        _save_options(cli, run_dir)
        if config.resume is not None:
            task.load_state_dict(checkpoint["state_dict"])
    best_epoch = take_best(trainer, task)
    check_numbers(task, data)
    training = {**record.summary(trainer), "ended_by": ending_of(trainer), "best_epoch": best_epoch}
    path = save_result(run_dir, task, data, config, training, None)
    if path is None:
        print(f"Checkpoints and logs are in {run_dir}; networks of other packages are not exported")
    else:
        print(f"Model saved to {path}" + (", to be tested now" if len(data.test_set) else ""), flush=True)
    if len(data.test_set):
        errors = test_errors(task, data)
        save_result(run_dir, task, data, config, training, errors)
        _say(*(one for one in said if " test structure" in one))
        print("\n" + format_errors(errors, len(data.test_set)))
    else:
        print(NO_TEST)
    if path is not None:
        print(f"Next: pyg-schnet predict --model {shlex.quote(str(path))} molecule.xyz")


def _checked(cli: TrainCLI) -> tuple[list[str], dict[str, Any]]:
    """What is said of data that have been checked, and the checkpoint to go on from."""
    said = cli.model.check(cli.datamodule)
    _check_call(cli.model, cli.datamodule)
    if cli.config.resume is None:
        return said, {}
    checkpoint = read_checkpoint(cli.config.resume, cli.model)
    check_same_run(cli.config.resume, checkpoint, cli.datamodule)
    return said, checkpoint


def _say_lost(reason: str) -> None:
    print(f"pyg-schnet train: {interruption(Lost(reason), TrainCLI.folder)[1]}", file=sys.stderr, flush=True)


def _save_options(cli: TrainCLI, run_dir: Path) -> None:
    """Write down what a run is made of, once it has begun."""
    if not cli.trainer.is_global_zero:
        return
    kept = cli.config.clone()
    kept.resume = None  # a run that takes these options begins at the beginning
    kept.data_dir = None  # its files have been found
    with written(run_dir / CONFIG_FILE) as partial:
        cli.parser.save(kept, partial, overwrite=True)
    cli.datamodule.save_split(run_dir / SPLIT_FILE)


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


def _start_from(task: PropertyTask, trained: AtomisticModel | SchNetCommittee, split: Split) -> str:
    """Take over what a model has learned, unless it did so from the structures of the test; says what was taken."""
    noted = (trained.card.get("split") or {}).get("fingerprint")
    if noted == split.fingerprint and (seen := num_seen(trained.card, split)):
        raise ValueError(
            f"the model to start from has learned from {seen:,} of the {len(split.test):,} test structures; use its "
            "split (--data.split)"
        )
    if name := not_finite(trained.state_dict()):
        raise ValueError(f"the training of the model to start from diverged: {name} is NaN or infinite")
    return start_from(task.network, trained)


def _say(*sentences: str | None) -> None:
    for sentence in filter(None, sentences):
        print(sentence)


def _set_callbacks(trainer: Trainer, data: StructureDataModule, resume: str | None, signals: Signals) -> None:
    """Tell callbacks where the run was and what ends it; without validation, none waits for it."""
    if not has_validation(trainer, data):
        if trainer.is_global_zero:
            _say("There is no validation, so the model is that of the last step")
        if not len(data.val_set):
            trainer.limit_val_batches = 0
        callbacks = cast(Any, trainer).callbacks
        kept = [one for one in callbacks if not isinstance(one, (EarlyStopping, ModelCheckpoint))]
        cast(Any, trainer).callbacks = kept
    for one in cast(Any, trainer).callbacks:
        if isinstance(one, ModelCheckpoint) and resume is not None:
            one.resumed_from = Path(resume).parent
        if isinstance(one, LastCheckpoint):
            one.signals = signals

"""``pyg-schnet train``: a run from its options to the saved model."""

from __future__ import annotations

import inspect
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonargparse
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from pyg_schnet.models import AtomisticModel, like_pyg, load
from pyg_schnet.train.datamodule import StructureDataModule
from pyg_schnet.train.early_stopping import EarlyStopping
from pyg_schnet.train.ema import EMA
from pyg_schnet.train.evaluation import test_errors
from pyg_schnet.train.files import CONFIG_FILE, MODEL_FILE, RESULT_FILE, RUN, SPLIT_FILE, anonymous_data, locate_data
from pyg_schnet.train.last_checkpoint import LastCheckpoint
from pyg_schnet.train.record import RunRecord
from pyg_schnet.train.report import Errors, format_errors
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
        if config.resume is not None and not Path(config.resume).is_file():
            raise FileNotFoundError(f"no checkpoint to resume from at {config.resume}")
        if config.run_dir is None:
            config.run_dir = (
                str(Path(config.resume).parents[1])
                if config.resume is not None
                else f"runs/{getattr(config.data.target, 'name', config.data.target)}-{datetime.now():%Y%m%d-%H%M%S}"
            )
        if config.resume is None and (Path(config.run_dir) / CONFIG_FILE).exists():
            raise ValueError(f"{config.run_dir} holds a run already; choose another --run_dir, or --resume it")
        config.data = locate_data(config.data, config.data_dir)
        config.trainer.default_root_dir = config.run_dir
        config.checkpoint.dirpath = str(Path(config.run_dir) / "checkpoints")
        if config.trainer.enable_progress_bar is False:
            self.trainer_defaults.pop("callbacks")


def train_model(args: list[str]) -> None:
    """Train, test with the best weights, and save the model with its errors.

    --model.help CLASS explains the options of pyg_schnet.train.PropertyTask (one property), PotentialTask (energies
    and forces) or RelaxedTask (energies of relaxed structures), --model.init_args.network.help CLASS those of
    pyg_schnet.SchNet, DTNN or another network, and
    --data.dataset.help CLASS those of pyg_schnet.data.QM9, AtomsDataset, MD17, MaterialsDataset, MLearn or another
    data set. --print_config writes a file of all options, which --config reads.
    """
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
        parser_kwargs={"prog": "pyg-schnet train", "description": inspect.cleandoc(train_model.__doc__)},
    )
    run_dir = Path(cli.config.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    cli.parser.save(cli.config, run_dir / CONFIG_FILE, overwrite=True)
    cli.datamodule.save_split(run_dir / SPLIT_FILE)
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    table = CSVLogger(run_dir, name="logs")  # a version of its own for every start, so that resuming deletes nothing
    trainer.loggers = [table, TensorBoardLogger(run_dir, name="logs", version=table.version)]
    print(f"Training on {len(data.train_set):,} structures, validating on {len(data.val_set):,}; run in {run_dir}")
    if cli.config.start_from is not None and cli.config.resume is None:
        start_from(task.network, load(cli.config.start_from))
    record = RunRecord()
    trainer.callbacks.append(record)
    trainer.fit(task, datamodule=data, ckpt_path=cli.config.resume)
    best_epoch = _load_best(trainer, task)
    training = {**record.summary(trainer), "best_epoch": best_epoch}
    errors = test_errors(task, data)
    print("\n" + format_errors(errors, len(data.test_set)))
    _save_result(run_dir, task, data, cli.config, training, errors)


def _load_best(trainer: Trainer, task: PropertyTask) -> int | None:
    """Take the best weights of the run, where there was a validation to tell which; returns their epoch."""
    best = next(callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint)).best_model_path
    if not best:
        return None
    checkpoint = torch.load(best, map_location=task.device, weights_only=True)
    task.load_state_dict(checkpoint["state_dict"])
    return checkpoint["epoch"]


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
        "elements": data.training_elements(),
        "split": {
            "num_train": len(data.train_set),
            "num_val": len(data.val_set),
            "num_test": len(data.test_set),
            "fingerprint": data.split.fingerprint,
        },
        "training": {**training, "parameters": sum(weight.numel() for weight in task.network.parameters())},
        "test": {row.name: row.as_dict() for row in errors},
    }
    recipes = [Path(str(path)).stem for path in config.config or []]
    result = {"recipe": recipes[0] if recipes else None, "seed": given["seed_everything"], **card}
    result["errors"] = result.pop("test")
    limits = {name: given["trainer"].get(name) for name in ("max_time", "max_epochs", "max_steps")}
    result[RUN] = {**card[RUN], "model": given["model"], "trainer": limits}
    (run_dir / RESULT_FILE).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if not isinstance(task.network, (AtomisticModel, like_pyg.SchNet)):
        print(f"Checkpoints and logs are in {run_dir}; networks of other packages are not exported")
        return
    path = task.export().save(run_dir / MODEL_FILE, **card)
    print(f"Model saved to {path}")
    print(f"Next: pyg-schnet predict --model {path} molecule.xyz")

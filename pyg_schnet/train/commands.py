"""What the commands of ``pyg-schnet`` do; every option is a parameter of a function or class, and explained there."""

from __future__ import annotations

import csv
import inspect
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch_geometric.data import Dataset

from pyg_schnet.data import Property, StructureLoader
from pyg_schnet.data.ase_files import AtomsDataset
from pyg_schnet.models import AtomisticModel, load
from pyg_schnet.train.datamodule import StructureDataModule
from pyg_schnet.train.ema import EMA
from pyg_schnet.train.last_checkpoint import LastCheckpoint
from pyg_schnet.train.potential import PotentialTask
from pyg_schnet.train.report import Errors, format_errors
from pyg_schnet.train.task import PropertyTask

_QUICK_NETWORK = {
    "hidden_channels": 64,
    "num_filters": 64,
    "num_interactions": 3,
    "num_gaussians": 25,
    "cutoff": 5.0,
}
MODEL_FILE, SPLIT_FILE, CONFIG_FILE, RESULT_FILE = "model.safetensors", "split.json", "config.yaml", "result.json"


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
                else f"runs/{config.data.target}-{datetime.now():%Y%m%d-%H%M%S}"
            )
        if config.resume is None and (Path(config.run_dir) / CONFIG_FILE).exists():
            raise ValueError(f"{config.run_dir} holds a run already; choose another --run_dir, or --resume it")
        config.trainer.default_root_dir = config.run_dir
        config.checkpoint.dirpath = str(Path(config.run_dir) / "checkpoints")
        if config.trainer.enable_progress_bar is False:
            self.trainer_defaults.pop("callbacks")


def train_model(args: list[str]) -> None:
    """Train, test with the best weights, and save the model with its errors.

    --model.help CLASS explains the options of pyg_schnet.train.PropertyTask (one property) or PotentialTask (energies
    and forces), --model.init_args.network.help CLASS those of pyg_schnet.SchNet, DTNN or another network, and
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
            "callbacks": [TQDMProgressBar(refresh_rate=10)],
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
    trainer.fit(task, datamodule=data, ckpt_path=cli.config.resume)
    _load_best(trainer, task)
    _report(run_dir, task, data, test_errors(task, data))


def _load_best(trainer: Trainer, task: PropertyTask) -> None:
    """Take the best weights of the run, where there was a validation to tell which."""
    best = next(callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint)).best_model_path
    if best:
        task.load_state_dict(torch.load(best, map_location=task.device, weights_only=True)["state_dict"])


def test_errors(task: PropertyTask, data: StructureDataModule) -> list[Errors]:
    """Errors of each quantity on the test structures."""
    metrics = _evaluator().test(task, datamodule=data, verbose=False)[0]
    return [
        Errors(name, unit, metrics[f"test/{name}_mae"], metrics[f"test/{name}_rmse"])
        for name, unit in task.quantities().items()
        if f"test/{name}_mae" in metrics
    ]


def _evaluator() -> Trainer:
    """Trainer that only evaluates: no logs, no checkpoints."""
    return Trainer(
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        inference_mode=False,  # forces need gradients
        callbacks=[TQDMProgressBar(refresh_rate=10)],
    )


def _report(run_dir: Path, task: PropertyTask, data: StructureDataModule, errors: list[Errors]) -> None:
    """Print the errors, and save them and the model."""
    print("\n" + format_errors(errors, len(data.test_set)))
    result = {
        "num_train": len(data.train_set),
        "num_val": len(data.val_set),
        "num_test": len(data.test_set),
        "errors": {row.name: row.as_dict() for row in errors},
    }
    (run_dir / RESULT_FILE).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if not isinstance(task.network, AtomisticModel):
        print(f"Checkpoints and logs are in {run_dir}; networks of other packages are not exported")
        return
    path = task.export().save(run_dir / MODEL_FILE, data=type(data.dataset).__name__, test=result)
    print(f"Model saved to {path}")
    print(f"Next: pyg-schnet predict --model {path} molecule.xyz")


def evaluate_model(
    model: str,
    *,
    config: str | None = None,
    split: str | None = None,
    batch_size: int = 250,
) -> None:
    """Error of a saved model on the test structures of its run.

    Args:
        model: Model file, for example RUN_DIR/model.safetensors.
        config: Configuration that names data set and target; by default config.yaml beside the model.
        split: Saved split whose test structures are taken; by default split.json beside the model.
        batch_size: Structures in a batch.
    """
    folder = Path(model).parent
    network = load(model)
    data, task_class = _run_of(Path(config or folder / CONFIG_FILE), split or folder / SPLIT_FILE, batch_size)
    _check_target(network, data.property)
    print(format_errors(test_errors(task_class.from_model(network, data.property), data), len(data.test_set)))


def _run_of(
    config: Path, split: str | os.PathLike[str], batch_size: int
) -> tuple[StructureDataModule, type[PropertyTask]]:
    """Data and kind of task of a training run, from its configuration."""
    if not config.is_file():
        raise FileNotFoundError(f"no configuration at {config}; name that of the training run with --config")
    given = yaml.safe_load(config.read_text(encoding="utf-8"))
    chosen = {name: given["data"].get(name) for name in ("dataset", "target", "test_dataset")}
    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(Dataset, "dataset")
    parser.add_subclass_arguments(Dataset, "test_dataset", required=False)
    parser.add_argument("--target", type=str)
    made = parser.instantiate_classes(parser.parse_object({k: v for k, v in chosen.items() if v is not None}))
    data = StructureDataModule(
        made.dataset,
        made.target,
        split=split,
        eval_batch_size=batch_size,
        test_dataset=made.get("test_dataset"),
    )
    tasks = {cls.__name__: cls for cls in (PropertyTask, PotentialTask)}
    return data, tasks[given["model"]["class_path"].rsplit(".", 1)[-1]]


def _check_target(model: AtomisticModel, target: Property) -> None:
    trained = (model.card.get("target"), model.card.get("unit"))
    if trained != (target.name, target.unit):
        raise ValueError(
            f"the model was trained on {trained[0]} in {trained[1]}, the configuration asks for {target.name} "
            f"in {target.unit}"
        )


def predict_file(
    structures: str,
    *,
    model: str,
    output: str | None = None,
    format: Literal["auto", "csv", "extxyz"] = "auto",
    batch_size: int = 250,
) -> None:
    """Property of the structures in any file that ASE reads.

    Args:
        structures: File of structures (.xyz, .extxyz, .db, .cif, ... or compressed with .gz), positions in Å.
        model: Model file, for example RUN_DIR/model.safetensors.
        output: File to write; by default only a table is printed.
        format: csv (one line for each structure) or extxyz (the structures with the property); auto goes by the
            ending of the output.
        batch_size: Structures in a batch.
    """
    network = load(model)
    name, unit = network.card.get("target") or "property", network.card.get("unit") or "1"
    dataset = AtomsDataset(structures)
    task = PropertyTask.from_model(network, Property(name, unit))
    loader = StructureLoader(dataset, batch_size)
    values = torch.cat(_evaluator().predict(task, loader)).tolist()
    formulas = [atoms.get_chemical_formula() for atoms in _atoms(dataset)]
    if output is None:
        print(f"{'structure':>9}  {'formula':<16}  {name} [{unit}]")
        for k, (formula, value) in enumerate(zip(formulas, values, strict=True)):
            print(f"{k:>9}  {formula:<16}  {value:.6f}")
        return
    _write(Path(output), format, dataset, formulas, values, name, unit)
    print(f"{len(values):,} values of {name} in {unit} written to {output}")


def _atoms(dataset: AtomsDataset) -> list[Any]:
    from pyg_schnet.data import to_atoms

    return [to_atoms(data) for data in dataset]


def _write(
    path: Path, format: str, dataset: AtomsDataset, formulas: list[str], values: list[float], name: str, unit: str
) -> None:
    if format == "auto":
        format = "csv" if path.suffix == ".csv" else "extxyz"
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["structure", "formula", f"{name} [{unit}]"])
            writer.writerows(zip(range(len(values)), formulas, map(repr, values), strict=True))
        return
    import ase.io

    images = _atoms(dataset)
    for atoms, value in zip(images, values, strict=True):
        atoms.calc = None
        atoms.info[f"predicted_{name}"] = value
        atoms.info[f"predicted_{name}_unit"] = unit
    ase.io.write(path, images, format="extxyz")


def run(command: str, args: list[str]) -> None:
    """Run one command with its arguments."""
    torch.set_float32_matmul_precision("high")
    if command == "train":
        train_model(args)
    else:
        function = {"test": evaluate_model, "predict": predict_file}[command]
        jsonargparse.auto_cli(function, args=args, prog=f"pyg-schnet {command}")

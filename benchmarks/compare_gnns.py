"""Which graph neural network predicts a property of QM9 best after the same time, or the same steps, of training?

All models learn from the same batches in the same order, by the same loss, optimiser and schedule, one after the other.
With several seeds, each has its own split, order and weights; the spread over them says what differences mean.
What they are, and how to add one, is in ``gnns.py``; examples/guides/models.md says how to read the result.

Run: python benchmarks/compare_gnns.py --seeds 3 --json gnns.json --plot gnns.pdf
"""

import copy
import json
import pkgutil
import time
from argparse import ArgumentTypeError
from datetime import timedelta
from functools import partial
from pathlib import Path

import lightning
import numpy as np
import torch
from epoch import quiet
from gnn_report import budgets_of, draw, make_table, print_rows, summarize
from gnns import MODELS, Candidate
from harness import make_parser, parse, save, save_figure
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from peers import Ours, PyG
from systems import make_system
from tasks import Task, check, deviation
from typing_extensions import override

from pyg_schnet import testing
from pyg_schnet.data import QM9, find_property
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.train import EMA, PropertyTask, StructureDataModule
from pyg_schnet.train.report import report_units
from pyg_schnet.units import factor

TOLERANCE = 1e-4  # relative, float32
_CHECKED = 8  # molecules
_POINTS = 16  # of a learning curve
_FIRST = 0.01  # part of the budget after which the curve begins
VERSIONS = {"lightning": lightning.__version__}


class Budget(Timer):
    """Clock of the training, and the validation errors by it.

    The clock stands still during validation: neither how often there is one nor how long it takes costs a model
    anything. Validations are spaced evenly on a logarithmic axis, and the last one is at the end.

    Args:
        seconds: Time after which the training ends; ``None`` if steps limit it.
    """

    def __init__(self, seconds=None):
        super().__init__(None if seconds is None else timedelta(seconds=seconds), verbose=False)
        self.curve = []
        self.molecules = 0  # seen in training
        self._validating = 0.0  # seconds
        self._due = np.geomspace(_FIRST, 1.0, _POINTS).tolist()

    @override
    def time_elapsed(self, stage="train"):
        """Seconds of a stage; those of training without validation."""
        elapsed = super().time_elapsed(stage)
        return elapsed - self._validating if stage == "train" else elapsed

    @override
    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        """End the training where its time is over, and ask for a validation where one is due."""
        super().on_train_batch_end(trainer, task, outputs, batch, batch_idx)
        self.molecules += batch.num_graphs
        passed = sum(part <= task.progress() for part in self._due)  # a slow step may pass several
        self._due = self._due[passed:]
        trainer.val_check_batch = 1 if passed else trainer.val_check_interval

    @override
    def on_validation_end(self, trainer, task):
        """Stop the clock for as long as it took, and note the error."""
        super().on_validation_end(trainer, task)
        self._validating += self.time_elapsed("validate")
        error = trainer.callback_metrics[f"val/{task.property.name}_mae"]
        self.curve.append(
            {
                "seconds": self.time_elapsed(),
                "steps": trainer.global_step,
                "molecules": self.molecules,
                "val": in_units(error, task.property),
            }
        )


def in_units(error, target):
    """An error in each unit in which it is reported."""
    return {unit: float(error) * factor(target.unit, unit) for unit in report_units(target.unit)}


def check_network(name, network, batch):
    """Stop unless a network gives each molecule one number, the same in a batch as alone, rotated and renumbered.

    Args:
        name: Name of the network.
        network: Network in any mode; not changed.
        batch: A few molecules.
    """
    network = copy.deepcopy(network)
    output = network(batch.z, batch.pos, batch.batch)
    if output.shape not in ((batch.num_graphs,), (batch.num_graphs, 1)):
        raise SystemExit(f"{name} must return shape [B] or [B, 1], got {list(output.shape)} for {batch.num_graphs}")
    output.square().mean().backward()  # which also compiles what is compiled at the first call
    if not all(weight.grad.isfinite().all() for weight in network.parameters() if weight.grad is not None):
        raise SystemExit(f"{name} has gradients that are not finite")
    for look in (testing.check_batching, testing.check_rotation, testing.check_permutation):
        try:
            look(network.eval(), batch.z, batch.pos, batch.batch, tol=TOLERANCE)
        except AssertionError as error:
            raise SystemExit(f"{name} fails {look.__name__}: {error}") from error


def check_pyg(model, system):
    """Stop unless PyG's SchNet and ours are the same function of weights, and its own graph is the given one."""
    reference = PyG(model, system)
    check(Task(training=True), [reference, Ours(model, system)])
    with torch.no_grad():
        own = model(system.z, system.pos, system.batch).squeeze(-1)
        difference = deviation(own, reference.energy(system.pos))
    if not difference <= TOLERANCE:
        raise SystemExit(f"PyG's SchNet on its own graph differs from that on the given one by {difference}, relative")


def build(models, data, seed):
    """Networks by name, with weights of this seed, and checked."""
    batch = collate_indices(data.train_set, range(_CHECKED))
    networks = {}
    for name, candidate in models.items():
        torch.manual_seed(seed)
        networks[name] = candidate.build()
        check_network(name, networks[name], batch)
    if "PyG-SchNet" in networks:
        theirs = networks["PyG-SchNet"]
        check_pyg(theirs, make_system("QM9", data.train_set, range(_CHECKED), theirs.cutoff))
    return networks


def train(network, data, lr, budget, options):
    """Train and test one network.

    Args:
        network: Network with random weights.
        data: What it learns from.
        lr: Largest learning rate.
        budget: ``{"minutes": ...}`` or ``{"steps": ...}`` of training.
        options: Options of the command.

    Returns:
        What a row of the table holds, and the learning curve.
    """
    steps = budget.get("steps")
    task = PropertyTask(network, loss=options.loss, lr=lr, optimizer="adam", pooling="sum")
    clock = Budget(60.0 * budget["minutes"] if steps is None else None)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        max_steps=-1 if steps is None else steps,
        check_val_every_n_epoch=None,  # the budget says when
        val_check_interval=2**62,
        num_sanity_val_steps=0,
        gradient_clip_val=10.0,
        callbacks=[EMA(), clock],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        inference_mode=False,
    )
    trainer.fit(task, datamodule=data)
    seconds = clock.time_elapsed()
    started = time.perf_counter()
    metrics = trainer.test(task, datamodule=data, verbose=False)[0]
    return {
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "lr": lr,
        "seconds": seconds,
        "steps": trainer.global_step,
        "epochs": clock.molecules / len(data.train_set),
        "rate": clock.molecules / seconds,
        "test_rate": len(data.test_set) / (time.perf_counter() - started),
        "val": clock.curve[-1]["val"],
        "test": in_units(metrics[f"test/{data.property.name}_mae"], data.property),
        "curve": clock.curve,
    }


def redraw(options):
    """Print and draw what an earlier run has written."""
    saved = json.loads(options.draw.read_text(encoding="utf-8"))
    target = QM9.properties[saved["options"]["target"]]
    rows = saved["results"]["models"]
    print_rows(rows, target)
    save_figure(options, partial(draw, rows, target), num_axes=2 * len(budgets_of(rows)))


def learning_rates(texts, models):
    """Largest learning rate of each model, from ``0.001`` for all of them or ``NAME=0.001`` for one."""
    rates = {name: candidate.lr for name, candidate in models.items()}
    for text in texts:
        name, equals, number = text.rpartition("=")
        if equals and name not in models:
            raise SystemExit(f"--lr names {name!r}, which is none of {', '.join(models)}")
        try:
            rates.update(dict.fromkeys([name] if equals else models, float(number)))
        except ValueError:
            raise SystemExit(f"--lr takes numbers and NAME=number, got {text!r}") from None
    return rates


def named_candidate(text):
    """Name and candidate of ``NAME=package.module:callable``, the argument of ``--model``."""
    name, _, path = text.partition("=")
    if not name or ":" not in path:
        raise ArgumentTypeError(f"expected NAME=package.module:callable, got {text!r}")
    try:
        return name, Candidate(pkgutil.resolve_name(path))
    except (ImportError, AttributeError) as error:
        raise ArgumentTypeError(f"cannot import {path!r}: {error}") from error


def main():
    parser = make_parser(__doc__, plot=True)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS), help="which of those in gnns.py")
    parser.add_argument(
        "--model",
        action="append",
        type=named_candidate,
        default=[],
        metavar="NAME=package.module:callable",
        help="one more, made by a call without arguments; may be repeated",
    )
    parser.add_argument("--target", default="U0", help="a property of QM9 that is a sum over atoms")
    parser.add_argument("--minutes", type=float, help="time of training for each model; default 5, none with --steps")
    parser.add_argument("--steps", type=int, help="steps of training for each model; with --minutes, besides a time")
    parser.add_argument("--num-train", type=int, default=110_000, help="training molecules")
    parser.add_argument("--num-val", type=int, default=1_000, help="validation molecules")
    parser.add_argument("--num-test", type=int, help="test molecules; default: all that are left")
    parser.add_argument("--batch-size", type=int, default=32, help="molecules in a batch of training")
    parser.add_argument("--loss", choices=("mae", "mse", "huber"), default="mae", help="what is minimised")
    parser.add_argument("--lr", nargs="+", default=[], help="largest learning rate of all, or NAME=rate of one")
    parser.add_argument("--seed", type=int, default=0, help="of split, order of batches and weights; the first of them")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, each with its split, order and weights")
    parser.add_argument("--source", help="folder of other files in the format of qm9pack")
    parser.add_argument("--root", help="folder of the cache of QM9")
    parser.add_argument("--draw", type=Path, help="file of --json to print and draw; nothing is trained")
    options = parse(parser, **VERSIONS)
    if options.draw:
        redraw(options)
        return
    quiet()

    models = {name: MODELS[name] for name in options.models} | dict(options.model)
    rates = learning_rates(options.lr, models)
    if options.seeds < 1:
        raise SystemExit(f"--seeds is a number of seeds, at least 1, got {options.seeds}")
    dataset = QM9(options.root, source=options.source)
    target, runs = find_property(dataset, options.target), []
    seeds = range(options.seed, options.seed + options.seeds)
    budgets = make_budgets(options)
    table = make_table(target, [{"budget": name} for name in budgets], each=len(seeds) > 1)
    for seed in seeds:  # the outer loop, so that a disturbance of the machine hits no model alone
        data = StructureDataModule(
            dataset,
            options.target,
            num_train=options.num_train,
            num_val=options.num_val,
            num_test=options.num_test,
            seed=seed,
            batch_size=options.batch_size,
            eval_batch_size=100,
        )
        for name, budget in budgets.items():
            for model, network in build(models, data, seed).items():
                notes = {"model": model, "network": repr(network), "seed": seed, "budget": name}
                runs.append({**notes, **train(network, data, rates[model], budget, options)})
                table.add(runs[-1])
                save(options, {"unit": target.unit, "models": summarize(runs)}, **VERSIONS)  # what there is so far
    rows = summarize(runs)
    if len(seeds) > 1:
        print(f"\nMean over {len(seeds)} seeds ± sample standard deviation")
        print_rows(rows, target)
    save_figure(options, partial(draw, rows, target), num_axes=2 * len(budgets))


def make_budgets(options):
    """What each training may take, by name: a time, a number of steps, or one after the other."""
    minutes = 5.0 if options.minutes is None and options.steps is None else options.minutes
    found = {} if minutes is None else {f"{minutes:g} min": {"minutes": minutes}}
    return found | ({} if options.steps is None else {f"{options.steps:,} steps": {"steps": options.steps}})


if __name__ == "__main__":
    main()

"""How many molecules of QM9 does training go through in a second, loading included?

PyG's SchNet is trained by a plain loop over PyG's DataLoader, ours by Lightning as ``pyg-schnet train`` does. Both have
the same weights at the beginning and the data set in memory, and build their graphs in every step. PyG's own graph
needs pyg-lib, so PyG's model gets the ``InteractionGraph`` of this package.

Run: python benchmarks/epoch.py --json epoch.json
"""

import copy
import logging
import tempfile
import time
import warnings
from itertools import islice

import torch
import torch.nn.functional as F
from harness import Table, make_parser, parse, ratio, save, spread, summary
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from peers import Ours, PyG, pyg_model
from systems import Structures
from tasks import Task, check
from torch_geometric.loader import DataLoader

from pyg_schnet import InteractionGraph, SchNet
from pyg_schnet.data import QM9, find_property, target_values
from pyg_schnet.train import EMA, PropertyTask, StructureDataModule

CUTOFF = 5.0  # Å
TARGET = "U0"
_WARMUP = 5  # batches


class Clock(Callback):
    """Notes when each batch is done."""

    def __init__(self):
        self.times = []

    def on_train_batch_end(self, *_):
        """Called by the trainer."""
        self.times.append(time.perf_counter())


def train_pyg(model, data, num_batches):
    """Plain loop over PyG's loader, as in PyG's examples; returns when each batch was done."""
    dataset, target = data.train_set, find_property(data.dataset, TARGET)
    mean, std = data.dataset.mean(TARGET), data.dataset.std(TARGET)
    optimizer = torch.optim.Adam(model.parameters())
    times = []
    for batch in islice(DataLoader(dataset, data.batch_size, shuffle=True, drop_last=True), num_batches):
        optimizer.zero_grad()
        wanted = ((target_values(batch, target) - mean) / std).float()
        F.mse_loss(model(batch.z, batch.pos, batch.batch).view(-1), wanted.view(-1)).backward()
        optimizer.step()
        times.append(time.perf_counter())
    return times


def train_ours(model, data, num_batches):
    """Lightning with the settings of ``pyg-schnet train``; returns when each batch was done."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            limit_train_batches=num_batches,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            gradient_clip_val=10.0,
            log_every_n_steps=20,
            logger=CSVLogger(folder),
            callbacks=[EMA(), clock],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            inference_mode=False,
        )
        trainer.fit(PropertyTask(model, optimizer="adam"), datamodule=data)  # as PyG's loop
    return clock.times


def rate(times, batch_size):
    """Molecules in a second, without the first batches."""
    return batch_size * (len(times) - 1 - _WARMUP) / (times[-1] - times[_WARMUP])


def quiet():
    """Silence what Lightning says about itself."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")


def main():
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("--batches", type=int, default=100, help="batches of each round")
    parser.add_argument("--whole-epoch", action="store_true", help="all batches of an epoch instead")
    parser.add_argument("--batch-size", type=int, default=100, help="molecules in a batch")
    options = parse(parser)
    quiet()

    theirs = pyg_model(CUTOFF)
    system = Structures().qm9(options.batch_size, CUTOFF)
    check(Task(training=True), [PyG(theirs, system), Ours(theirs, system)])
    theirs.interaction_graph = InteractionGraph(CUTOFF)

    data = StructureDataModule(QM9(), TARGET, num_train=110_000, batch_size=options.batch_size)
    num_batches = len(data.train_set) // options.batch_size if options.whole_epoch else options.batches
    rates = {"PyG, DataLoader, plain loop": [], "pyg_schnet, StructureLoader, Lightning": []}
    for _ in range(options.repeats):
        trained = (
            train_pyg(copy.deepcopy(theirs), data, num_batches),
            train_ours(SchNet.from_pyg(theirs), data, num_batches),
        )
        for values, times in zip(rates.values(), trained, strict=True):
            values.append(rate(times, options.batch_size))

    first = next(iter(rates.values()))
    table = Table({"training": "{training:38}", "molecules/s": spread("rate", 0), "ratio to PyG": spread("ratio")})
    for name, values in rates.items():
        table.add({"training": name, "batches": num_batches, "rate": summary(values), "ratio": ratio(values, first)})
    save(options, table.rows)


if __name__ == "__main__":
    main()

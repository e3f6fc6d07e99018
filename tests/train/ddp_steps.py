"""One of two processes that train together; started by ``test_ddp.py``, and what it finds is written to a folder."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from pyg_schnet import SchNet
from pyg_schnet.data import Property, StructureDataset
from pyg_schnet.data.store import StructureStore
from pyg_schnet.train import EMA, LastCheckpoint, PotentialTask, PropertyTask, RelaxedTask, StructureDataModule
from pyg_schnet.train.parts import loads_of_batch
from pyg_schnet.train.ranks import looking_left_to_first
from pyg_schnet.train.signals import Signals

NUMBER = 29


def dataset():
    """Periodic structures of one to five atoms; some have no energy, some no forces."""
    draw = torch.Generator().manual_seed(0)
    sizes = torch.arange(NUMBER) * 7 % 5 + 1
    n_atoms = int(sizes.sum())
    rows = {
        "z": torch.randint(1, 4, (n_atoms,), generator=draw),
        "pos": 3.0 * torch.rand(n_atoms, 3, generator=draw, dtype=torch.float64),
        "forces": torch.randn(n_atoms, 3, generator=draw, dtype=torch.float64),
    }
    energy = -10.0 * sizes + torch.randn(NUMBER, generator=draw, dtype=torch.float64)
    found = StructureDataset()
    found.set_store(
        sizes,
        rows,
        {
            "energy": energy,
            "has_energy": torch.arange(NUMBER) % 5 != 0,
            "has_forces": torch.arange(NUMBER) % 4 != 1,
            "cell": (4.0 + torch.rand(NUMBER, 1, 1, generator=draw)).double() * torch.eye(3).double(),
            "pbc": torch.ones(NUMBER, 3, dtype=torch.bool),
        },
    )
    found.properties = {"energy": Property("energy", "eV"), "forces": Property("forces", "eV/Å", "atom")}
    return found


class OwnLoss(PropertyTask):
    """A loss that is no sum of terms, as those of others."""

    def total_loss(self, pairs):
        return torch.stack([self.loss_of(pair) for pair in pairs.values()]).sum() * 3.0


class Diverging(PropertyTask):
    """A loss that is no number in one process, once."""

    def loss_of_batch(self, batch):
        loss = super().loss_of_batch(batch)
        return loss * float("nan") if self.trainer.global_step == 2 and self.trainer.global_rank == 1 else loss


TASKS = {"property": PropertyTask, "potential": PotentialTask, "relaxed": RelaxedTask, "own": OwnLoss}


class Notes(Callback):
    """What each step has, in this process."""

    def __init__(self):
        self.energies, self.edges, self.losses, self.draws = [], [], [], []

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.energies.append(batch.energy.tolist())
        self.edges.append(int(loads_of_batch(batch).sum()))
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        self.draws.append(torch.rand(2).tolist())


class SignalIn(Callback):
    """Notes a signal in one process."""

    def __init__(self, signals, rank, step):
        self.signals, self.rank, self.step = signals, rank, step

    def on_before_optimizer_step(self, trainer, task, optimizer):
        if trainer.global_rank == self.rank and trainer.global_step + 1 == self.step:
            self.signals.received = 15


def fit(
    folder, devices, batch_size, kind="property", dtype=torch.float64, structures=None, resume=None, stop=None, **more
):
    """Train a small network; what it was."""
    torch.manual_seed(3)
    backend = "auto" if dtype == torch.float32 else "reference"  # kernels for float64 may have to be compiled
    network = SchNet(8, 8, 2, 8, cutoff=3.0, backend=backend).to(dtype)
    task = {**TASKS, "diverging": Diverging}[kind](
        network, lr=0.01, **({"forces_weight": 0.3} if kind == "potential" else {})
    )
    data = StructureDataModule(
        dataset() if structures is None else structures, "energy", num_train=18, num_val=5, batch_size=batch_size,
        eval_batch_size=2,
    )  # fmt: skip
    notes, last, signals = Notes(), LastCheckpoint(str(folder)), Signals()
    last.signals = signals
    callbacks = [notes, EMA(decay=0.9, every=1), last]
    if stop is not None:
        callbacks.insert(0, SignalIn(signals, *stop))
    options = {"max_epochs": 3, "num_sanity_val_steps": 0, "log_every_n_steps": 1, "gradient_clip_val": 10.0, **more}
    strategy = DDPStrategy(process_group_backend="gloo") if devices > 1 else "auto"
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, logger=False, enable_progress_bar=False,
        enable_model_summary=False, inference_mode=False, callbacks=callbacks, default_root_dir=folder, **options,
    )  # fmt: skip
    ended = None
    try:
        trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    except (SystemExit, ValueError) as error:
        ended = type(error).__name__, str(error)
    found = {
        "steps": trainer.global_step,
        "ended": ended,
        "weights": {name: value.clone() for name, value in task.state_dict().items()},
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items() if "[" not in name},
        **{name: getattr(notes, name) for name in ("energies", "edges", "losses", "draws")},
    }
    if ended is None and kind == "potential":
        found["test"] = trainer.test(task, datamodule=data, verbose=False)[0]
    return found


def of_store(folder, rank):
    """A run whose structures are on disk, and which of them this process has read."""
    store, read = StructureStore(folder / "store"), []
    several, one = store.multi_get, store.get

    def get_several(index, *more):
        read.extend(index)
        return several(index, *more)

    def get_one(index):
        read.append(index)
        return one(index)

    store.multi_get, store.get = get_several, get_one
    with looking_left_to_first() if rank > 0 else nullcontext():
        found = fit(folder / "of_store", 2, 3, structures=store, max_epochs=1)
    return {**found, "read": read}


def main(folder):
    """Everything that the tests look at, in one start, as that is what takes time."""
    rank, folder = int(os.environ["LOCAL_RANK"]), Path(folder)
    torch.set_num_threads(1)
    found = {kind: fit(folder / kind, 2, 3, kind) for kind in TASKS}
    found["single"] = fit(folder / "single", 2, 3, "potential", torch.float32)
    found["stopped"] = fit(folder / "stopped", 2, 3, stop=(1, 4))
    found["resumed"] = fit(folder / "resumed", 2, 3, resume=folder / "stopped" / "last.ckpt")
    found["timed"] = fit(folder / "timed", 2, 3, max_epochs=-1, max_time="00:00:00:01")
    found["store"] = of_store(folder, rank)
    found["diverging"] = fit(folder / "diverging", 2, 3, "diverging", max_epochs=1)
    torch.save(found, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])

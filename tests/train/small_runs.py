"""Small trainings that are stopped and go on, for tests."""

import torch
from lightning.pytorch import Callback, Trainer

from pyg_schnet.data import Property, StructureDataset
from pyg_schnet.train import EMA, LastCheckpoint, PropertyTask, StructureDataModule
from pyg_schnet.train.best_checkpoint import ModelCheckpoint
from pyg_schnet.train.signals import Ended, Signals


class Drops(torch.nn.Module):
    """Network that draws random numbers in training, as those with dropout do."""

    def __init__(self):
        super().__init__()
        self.lin1, self.lin2 = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)

    def forward(self, z, pos, batch, batch_size):
        x = torch.nn.functional.dropout(torch.tanh(self.lin1(pos)), 0.3, self.training)
        return pos.new_zeros(batch_size, 1).index_add(0, batch, self.lin2(x)).squeeze(1)


def dataset(number=22):
    """Structures of one to three atoms with random energies."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.arange(number) % 3 + 1
    pos = torch.randn(int(sizes.sum()), 3, generator=generator)
    found = StructureDataset()
    energy = torch.randn(number, generator=generator, dtype=torch.float64)
    found.set_store(sizes, {"z": torch.ones(len(pos), dtype=torch.int64), "pos": pos}, {"energy": energy})
    found.properties = {"energy": Property("energy", "eV")}
    return found


class SignalAt(Callback):
    """Notes a signal while a step is made."""

    def __init__(self, step, signals, number):
        self.step, self.signals, self.number = step, signals, number

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step + 1 == self.step:
            self.signals.received = self.number


class Steps(Callback):
    """Notes the structures that are learned from in each step."""

    def __init__(self):
        self.energies = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.energies.append(batch.energy.tolist())


def fit(
    folder,
    resume=None,
    stop_at=None,
    number=15,
    network=Drops,
    batch_size=4,
    minutes=5.0,
    best=None,
    signals=None,
    more=(),
    **options,
):
    """Train; returns the task, the trainer, its steps and whether a signal has ended it."""
    torch.manual_seed(1 if resume is None else 2)
    task = PropertyTask(network(), pooling="sum", lr=0.05, warmup=0.1)
    data = StructureDataModule(dataset(), "energy", num_train=18, num_val=3, batch_size=batch_size, eval_batch_size=2)
    signals, steps = signals or Signals(), Steps()
    last = LastCheckpoint(str(folder), minutes=minutes)
    last.signals = signals
    best = ModelCheckpoint(folder, "best", monitor="val/loss", enable_version_counter=False) if best is None else best
    callbacks = [*more, steps, EMA(decay=0.9, every=2), best, last]
    if stop_at is not None:
        callbacks.insert(0, SignalAt(stop_at, signals, number))
    options = {"max_epochs": 3, "num_sanity_val_steps": 0, "log_every_n_steps": 1, **options}
    trainer = Trainer(
        logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", callbacks=callbacks,
        default_root_dir=folder, **options,
    )  # fmt: skip
    try:
        trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    except Ended:
        return task, trainer, steps, True
    return task, trainer, steps, False


def weights(task):
    return {name: value.clone() for name, value in task.state_dict().items()}

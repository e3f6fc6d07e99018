"""How much faster do two processes train than one?

Molecules of ASE's G2 set, rattled, with random energies and forces, which makes no difference to the speed. One process
with one thread takes batches of ``--batch`` molecules; then ``--processes`` of them with one thread each take parts of
batches as large (the same steps), and of batches as many times larger (as much work for each as before). Each is timed
in processes of its own, without the first steps. Where there are fewer cores than processes, nothing is gained.

Run: python benchmarks/ddp.py --json ddp.json
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ase.build import molecule
from ase.collections import g2
from harness import Table, make_parser, parse, save
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from pyg_schnet import SchNet
from pyg_schnet.data import AtomsDataset
from pyg_schnet.train import EMA, PotentialTask, PropertyTask, StructureDataModule

_WARMUP = 10  # steps
_TASKS = {"energies": PropertyTask, "energies and forces": PotentialTask}


class Clock(Callback):
    """Notes when each step is done, and how many molecules all processes have learned from in it."""

    def __init__(self):
        self.times, self.molecules = [], []

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        """Called by the trainer."""
        self.times.append(time.perf_counter())
        self.molecules.append(task.structures_of_step or batch.num_graphs)

    def rate(self):
        """Molecules in a second."""
        return sum(self.molecules[_WARMUP:]) / (self.times[-1] - self.times[_WARMUP - 1])


def molecules(number):
    """Molecules of 6 to 14 atoms with random labels."""
    known = [one for one in map(molecule, g2.names) if 6 <= len(one) <= 14 and set(one.numbers) <= {1, 6, 7, 8, 9}]
    draw, found = np.random.default_rng(0), []
    for k in range(number):
        atoms = known[k % len(known)].copy()
        atoms.rattle(0.05, seed=k)
        atoms.info["energy"] = float(draw.normal())
        atoms.arrays["forces"] = draw.normal(size=(len(atoms), 3))
        found.append(atoms)
    return AtomsDataset(found, properties={"energy": "eV", "forces": "eV/Å"})


def train(kind, batch_size, steps, devices, features):
    """Rate of a training in this process and those beside it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    size = batch_size * devices
    data = StructureDataModule(
        molecules(max(4 * size, 1000)), "energy", num_train=max(4 * size, 1000), num_val=0, batch_size=batch_size
    )
    task = _TASKS[kind](SchNet(features, features, 3, 25, cutoff=5.0), schedule="constant")
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            devices=devices,
            strategy=DDPStrategy(process_group_backend="gloo") if devices > 1 else "auto",
            max_steps=steps + _WARMUP,
            limit_val_batches=0,
            gradient_clip_val=10.0,
            log_every_n_steps=20,
            logger=False,
            callbacks=[EMA(), clock],
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            inference_mode=False,
        )
        trainer.fit(task, datamodule=data)
    return clock.rate()


def started(kind, batch_size, devices, options):
    """Rate of a training in processes of its own, with one thread each."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    given = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    given |= {"MASTER_PORT": str(port), "PYTHONWARNINGS": "ignore"}
    asked = json.dumps([kind, batch_size, options.steps, devices, options.features])
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "rate.json"
        command = [sys.executable, __file__, "--one", asked, str(answer)]
        processes = [
            subprocess.Popen(command, env={**given, "LOCAL_RANK": str(rank)}, stderr=subprocess.DEVNULL)
            for rank in range(devices)
        ]
        codes = [process.wait() for process in processes]
        if any(codes):
            raise RuntimeError(f"a process has failed; to see why: {' '.join(map(repr, command))}")
        return json.loads(answer.read_text())


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--batch", type=int, default=64, help="molecules of a step of one process")
    parser.add_argument("--steps", type=int, default=100, help="steps that are timed")
    parser.add_argument("--features", type=int, default=128, help="features of the network")
    parser.add_argument("--processes", type=int, default=2)
    options = parse(parser)
    number = options.processes
    table = Table(
        {
            "task": "{task}",
            "one process, molecules/s": "{one:,.0f}",
            f"{number}, same batch": "{same_batch:,.0f}",
            "faster": "{same_faster:.2f} ×",
            f"{number}, larger batch": "{larger_batch:,.0f}",
            "faster ": "{larger_faster:.2f} ×",
        }
    )
    for kind in _TASKS:
        one = started(kind, options.batch, 1, options)
        same = started(kind, options.batch // number, number, options)
        larger = started(kind, options.batch, number, options)
        rates = {"one": one, "same_batch": same, "larger_batch": larger}
        table.add({"task": kind, **rates, "same_faster": same / one, "larger_faster": larger / one})
    save(options, table.rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        found = train(*json.loads(sys.argv[2]))
        if os.environ["LOCAL_RANK"] == "0":
            Path(sys.argv[3]).write_text(json.dumps(found))
    else:
        main()

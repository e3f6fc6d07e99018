"""Train SchNet on QM9 from Python, look at its test error, save it and use it.

The same as the command `pyg-schnet train`, but every piece is in your hands.

Run: python examples/02_train_qm9.py --minutes 5
"""

import argparse
from pathlib import Path

import torch
from ase.build import molecule
from lightning.pytorch import Trainer, seed_everything

from pyg_schnet import SchNet
from pyg_schnet.data import QM9, to_data
from pyg_schnet.train import EMA, Errors, PropertyTask, StructureDataModule, format_errors


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="time to train")
    parser.add_argument("--num-train", type=int, default=110_000, help="training molecules")
    parser.add_argument("--num-val", type=int, default=1_000, help="validation molecules")
    parser.add_argument("--target", default="U0", help="any name of QM9.targets")
    parser.add_argument("--source", help="folder of other files in the format of qm9pack")
    parser.add_argument("--root", help="folder of the cache")
    parser.add_argument("--output", type=Path, default=Path("runs/example/model.safetensors"), help="model file")
    options = parser.parse_args()

    seed_everything(0)
    dataset = QM9(root=options.root, source=options.source)
    print(dataset.targets[options.target])
    data = StructureDataModule(dataset, options.target, num_train=options.num_train, num_val=options.num_val)

    network = SchNet(hidden_channels=64, num_filters=64, num_interactions=3, num_gaussians=25, cutoff=5.0)
    task = PropertyTask(network, lr=5e-3, schedule="cosine")
    trainer = Trainer(
        max_epochs=-1,
        max_time={"seconds": 60 * options.minutes},
        callbacks=[EMA(0.999)],
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(task, datamodule=data)
    metrics = trainer.test(task, datamodule=data, verbose=False)[0]
    mae, rmse = (metrics[f"test/{options.target}_{measure}"] for measure in ("mae", "rmse"))
    print(format_errors([Errors(options.target, data.property.unit, mae, rmse)], len(data.test_set)))

    data.save_split(options.output.parent / "split.json")
    path = task.export().save(options.output)
    model = SchNet.load(path)
    water = to_data(molecule("H2O"))
    with torch.no_grad():
        value = model(water.z, water.pos).item()
    print(f"{path}: {options.target} of water is {value:.3f} {model.card['unit']}")


if __name__ == "__main__":
    main()

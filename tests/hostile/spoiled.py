"""Files that are valid, and what is done to them."""

import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from pyg_schnet import SchNet
from pyg_schnet.cli import main

DATASET = {"class_path": "pyg_schnet.data.AtomsDataset", "init_args": {"source": "data.xyz", "dtype": "torch.float32"}}
CARD = {
    "target": "energy",
    "unit": "eV",
    "elements": ["H", "C", "O"],
    "run": {
        "model": {"class_path": "pyg_schnet.train.PropertyTask"},
        "data": {"dataset": DATASET, "target": "energy", "num_train": 3, "num_val": 1, "seed": 0},
    },
    "split": {"num_train": 3, "num_val": 1, "num_test": 2},
}


class Trap:
    """An object whose pickle makes a file when it is loaded.

    Args:
        marker: The file.
    """

    def __init__(self, marker):
        self.marker = Path(marker)

    def __reduce__(self):
        return Path.touch, (self.marker,)


def trap(marker):
    """Bytes of a pickle that makes the file ``marker``."""
    return pickle.dumps(Trap(marker), protocol=2)


def save_trap(path, marker):
    """A file of ``torch.save`` that makes the file ``marker``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(Trap(marker), path)
    return path


def structures(path, count=6):
    """A file of a few labelled molecules."""
    frames = [molecule(("H2O", "CH4", "CH3OH")[k % 3]) for k in range(count)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.02, seed=k)
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 * len(atoms) + 0.1 * k)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].write(path, format="extxyz")
    for atoms in frames[1:]:
        atoms.write(path, format="extxyz", append=True)
    return path


def model_file(path, change=None, text=None):
    """A model file of a small network.

    Args:
        path: File to write.
        change: Called with the header, which it changes.
        text: What to write for the header instead.
    """
    torch.manual_seed(0)
    model = SchNet(8, 8, 1, 8, 4.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path, **json.loads(json.dumps(CARD)))
    if change is None and text is None:
        return path
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    outer = json.loads(content[8 : 8 + size])
    header = json.loads(outer["__metadata__"]["pyg_schnet"])
    if change is not None:
        change(header)
    outer["__metadata__"]["pyg_schnet"] = json.dumps(header) if text is None else text
    head = json.dumps(outer).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + content[8 + size :])
    return path


def refused(*arguments):
    """Exit code and sentence of a command that ends with one."""
    with pytest.raises(SystemExit) as found:
        main([str(one) for one in arguments])
    assert found.value.code in (1, 2)
    said = str(found.value)
    assert "\n" not in said
    assert said.isprintable()
    assert len(said) < 700
    return found.value.code, said


def raises(read, path, message, error=ValueError):
    """The reader refuses the file in one sentence that names it."""
    with pytest.raises(error, match=message) as found:
        read(path)
    said = str(found.value)
    assert str(path) in said
    assert "\n" not in said
    assert len(said) < 600

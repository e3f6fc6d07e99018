"""The way of one call through the files of the package: short, and described in ``examples/guides/house.md``.

``python tests/test_walk.py`` prints the walks.
"""

import re
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from ase import Atoms

import pyg_schnet
from pyg_schnet import SchNet
from pyg_schnet.data import StructureLoader
from pyg_schnet.data.base import StructureDataset
from pyg_schnet.interfaces import SchNetCalculator

PACKAGE = Path(pyg_schnet.__file__).parent
GUIDE = Path(__file__).parents[1] / "examples" / "guides" / "house.md"
WATER = Atoms("OHH", [[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])


@contextmanager
def walk():
    """Names of the functions that are called, by the file they are in, in the order of the first call of each."""
    seen = {}

    def note(frame, event, argument):
        if event != "call":
            return
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            name = path.relative_to(PACKAGE).as_posix()
            functions = seen.setdefault("backends" if name.startswith("backends/") else name, [])
            if frame.f_code.co_name not in functions:
                functions.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(before)


def model():
    torch.manual_seed(0)
    return SchNet(16, 16, 3, 25, 5.0)


def calculator_walk():
    """Energy and forces of a molecule that has moved."""
    atoms = WATER.copy()
    network = model().eval()
    network.card.update(target="energy", unit="eV")
    atoms.calc = SchNetCalculator(network)
    for step in range(3):
        atoms.positions[1, 1] += 0.01
        with walk() as seen:
            atoms.get_forces()
            atoms.get_potential_energy()
        assert seen, step
    return seen


def training_walk():
    """Batch, energies, loss, gradients and a step of the optimiser."""
    dataset, network = StructureDataset(), model()
    pos = torch.tensor(WATER.positions, dtype=torch.float32).repeat(4, 1)
    dataset.set_store(torch.tensor([3] * 4), {"z": torch.tensor([8, 1, 1] * 4), "pos": pos}, {"energy": torch.zeros(4)})
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    for _ in range(2):
        for batch in StructureLoader(dataset, batch_size=2):
            with walk() as seen:
                energy = network(batch.z, batch.pos, batch.batch, batch_size=batch.num_graphs)
                loss = (energy - batch.energy).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return seen


def said(seen):
    """A walk as text, one file a line."""
    return "\n".join(f"{file}: {', '.join(functions)}" for file, functions in seen.items())


def test_one_call_of_the_calculator_is_a_short_walk():
    seen = calculator_walk()
    assert len(seen) <= 14, said(seen)


def test_the_guide_describes_it():
    steps = re.findall(r"^\d+\. (.*?):", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    described = [name.rstrip("/") for step in steps for name in re.findall(r"`([\w/.]+)`", step)]
    assert len(described) >= 12
    assert [name for name in described if name not in calculator_walk()] == []


def test_one_step_of_training_is_a_short_walk():
    seen = training_walk()
    assert len(seen) <= 22, said(seen)


if __name__ == "__main__":
    for title, seen in (("calculator", calculator_walk()), ("training", training_walk())):
        print(f"{title}, {len(seen)} files\n{said(seen)}\n")

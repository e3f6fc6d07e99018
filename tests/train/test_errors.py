"""Errors of test structures: a network that always predicts zero is wrong by the label itself."""

import math

import pytest
import torch
from lightning.pytorch import Trainer

from pyg_schnet.data import Property, Split, StructureDataset
from pyg_schnet.train import PotentialTask, PropertyTask, StructureDataModule
from pyg_schnet.train.evaluation import test_errors as errors_of

LABELS = [0.0, 0.0, 3.0, -4.0, 12.0]  # of structures with 1, 2, 2, 4 and 3 atoms, in eV
SIZES = [1, 2, 2, 4, 3]


class Zero(torch.nn.Module):
    """Says zero for every structure, whatever the positions."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, z, pos, batch, batch_size):
        return self.weight * pos.new_zeros(batch_size).index_add(0, batch, pos.square().sum(1))


def module(tmp_path, eval_batch_size, has_energy=None, has_forces=None, test=(2, 3)):
    dataset, n_atoms = StructureDataset(), sum(SIZES)
    forces = torch.zeros(n_atoms, 3, dtype=torch.float64)
    forces[3:5] = torch.tensor([0.0, 0.0, 6.0])  # the third structure: components 0, 0, 6 at two atoms
    dataset.set_store(
        torch.tensor(SIZES),
        {"z": torch.ones(n_atoms, dtype=torch.int64), "pos": torch.randn(n_atoms, 3), "forces": forces},
        {
            "energy": torch.tensor(LABELS, dtype=torch.float64),
            "has_energy": torch.tensor(has_energy or [True] * 5),
            "has_forces": torch.tensor(has_forces or [True] * 5),
        },
    )
    dataset.properties = {"energy": Property("energy", "eV"), "forces": Property("forces", "eV/Å", "atom")}
    Split([0], [1], list(test), 5).save(tmp_path / "split.json")
    return StructureDataModule(dataset, "energy", split=tmp_path / "split.json", eval_batch_size=eval_batch_size)


def errors(task, data):
    return {row.name: (row.mae, row.rmse) for row in errors_of(task, data)}


@pytest.mark.parametrize("eval_batch_size", [1, 2])
def test_errors_of_3_and_4(tmp_path, eval_batch_size):
    found = errors(PropertyTask(Zero(), pooling="none"), module(tmp_path, eval_batch_size))
    assert found == {"energy": (pytest.approx(3.5), pytest.approx(math.sqrt(12.5)))}


@pytest.mark.parametrize("eval_batch_size", [1, 3])
def test_structures_without_label_have_no_error(tmp_path, eval_batch_size):
    data = module(tmp_path, eval_batch_size, has_energy=[True, True, True, True, False], test=(4, 2, 3))
    found = errors(PropertyTask(Zero(), pooling="none"), data)
    assert found == {"energy": (pytest.approx(3.5), pytest.approx(math.sqrt(12.5)))}


@pytest.mark.parametrize("eval_batch_size", [1, 2, 3])
def test_batches_of_other_sizes_weigh_by_structures(tmp_path, eval_batch_size):
    found = errors(PropertyTask(Zero(), pooling="none"), module(tmp_path, eval_batch_size, test=(2, 3, 4)))
    assert found["energy"] == (pytest.approx(19 / 3), pytest.approx(math.sqrt(169 / 3)))


@pytest.mark.parametrize("eval_batch_size", [1, 3])
def test_energies_per_atom_and_forces(tmp_path, eval_batch_size):
    # the first test structure has no energy, the last one no forces
    data = module(
        tmp_path,
        eval_batch_size,
        has_energy=[True, True, True, True, False],
        has_forces=[True, True, True, True, False],
        test=(4, 2, 3),
    )
    found = errors(PotentialTask(Zero(), pooling="none"), data)
    assert found["energy"] == (pytest.approx(3.5), pytest.approx(math.sqrt(12.5)))
    per_atom = 3.0 / 2, 4.0 / 4
    assert found["energy_per_atom"] == (
        pytest.approx(sum(per_atom) / 2),
        pytest.approx(math.sqrt((per_atom[0] ** 2 + per_atom[1] ** 2) / 2)),
    )
    # six atoms with forces, 18 components, two of which are 6
    assert found["forces"] == (pytest.approx(12 / 18), pytest.approx(math.sqrt(72 / 18)))


def test_the_progress_bar_shows_the_mean_absolute_error(tmp_path):
    task, data = PropertyTask(Zero(), pooling="none"), module(tmp_path, 2)
    trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu", default_root_dir=tmp_path)
    trainer.validate(task, data, verbose=False)
    shown = set(trainer.progress_bar_metrics)
    assert shown == {"val/energy_mae [meV]", "val/energy_mae [kcal/mol]"}

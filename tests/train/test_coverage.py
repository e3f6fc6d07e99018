"""What is noted of training structures, against ASE's distances and explicit counts."""

import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from pyg_schnet import SchNet
from pyg_schnet.data import AtomsDataset, StructureLoader, StructureStore
from pyg_schnet.models.domain import Domain
from pyg_schnet.train import PotentialTask, PropertyTask, RelaxedTask, StructureDataModule
from pyg_schnet.train.coverage import domain_of


def structures():
    salt = bulk("NaCl", "rocksalt", a=5.64)
    slab = fcc111("Al", (1, 1, 3), vacuum=8.0)
    return [molecule("H2O"), molecule("CH3CH2OH"), salt, salt.repeat(2), slab]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("on_disk", [False, True])
def test_facts_are_those_of_the_structures(batch_size, on_disk, tmp_path):
    dataset = AtomsDataset(structures())
    if on_disk:
        dataset = StructureStore.create(tmp_path / "store", dataset)
    found = domain_of(StructureLoader(dataset, batch_size))
    molecules, slabs, crystals = (found.systems[name] for name in ("molecule", "slab", "crystal"))
    assert set(found.systems) == {"molecule", "slab", "crystal"}
    assert (molecules.structures, molecules.atoms, molecules.compositions) == (2, (3, 9), ("C2H6O", "H2O"))
    assert molecules.elements == {"H": (2, 6), "C": (0, 2), "O": (1, 1)}
    assert (crystals.structures, crystals.atoms, crystals.compositions) == (2, (2, 16), ("ClNa",))
    assert crystals.elements == {"Na": (0.5, 0.5), "Cl": (0.5, 0.5)}
    assert slabs.compositions == ("Al",)
    assert found.elements == ["H", "C", "O", "Na", "Al", "Cl"]


def test_shortest_distances_are_those_of_ase():
    found = domain_of(StructureLoader(AtomsDataset(structures(), dtype=torch.float64), 3)).shortest
    expected = {}
    for atoms in structures():
        large = atoms.repeat([3 if axis else 1 for axis in atoms.pbc])
        dist, numbers = large.get_all_distances(mic=True), large.numbers
        np.fill_diagonal(dist, np.inf)
        for i, j in zip(*np.nonzero(dist < 4.0), strict=True):
            pair = tuple(sorted((int(numbers[i]), int(numbers[j]))))
            expected[pair] = min(expected.get(pair, np.inf), dist[i, j])
    assert set(found) == set(expected)
    np.testing.assert_allclose([found[pair] for pair in expected], list(expected.values()), atol=1e-6)


def test_many_compositions_become_ranges():
    atoms = [Atoms(f"C{n}H{2 * n + 2}", np.random.default_rng(n).uniform(0, 9, (3 * n + 2, 3))) for n in range(1, 26)]
    found = domain_of(StructureLoader(AtomsDataset(atoms), 10)).systems["molecule"]
    assert found.compositions is None
    assert found.elements == {"H": (4, 52), "C": (1, 25)}
    assert found.atoms == (5, 77)


def labelled(forces):
    found = []
    for seed in range(4):
        atoms = molecule("H2O")
        atoms.rattle(0.02, seed=seed)
        results = {"energy": float(seed), **({"forces": np.ones((3, 3))} if forces and seed < 3 else {})}
        atoms.calc = SinglePointCalculator(atoms, **results)
        found.append(atoms)
    return AtomsDataset(found)


def trained(cls, dataset, network=None, **options):
    task = cls(network or SchNet(8, 8, 1, 8, 4.0), **options)
    data = StructureDataModule(dataset, "energy", num_train=3, num_val=1, num_test=0, batch_size=3)
    task.trainer = type("Trainer", (), {"datamodule": data, "ckpt_path": None})()
    task.setup("fit")
    return task.export()


CASES = {
    "energies": (PropertyTask, {}, False, "none"),
    "forces": (PotentialTask, {}, True, "forces"),
    "forces without weight": (PotentialTask, {"forces_weight": 0.0}, True, "none"),
    "relaxed": (RelaxedTask, {"pressure_weight": 0.0}, False, "relaxed"),
}


@pytest.mark.parametrize(("cls", "options", "forces", "gradients"), CASES.values(), ids=CASES)
def test_trained_models_know_whether_they_saw_forces(cls, options, forces, gradients, tmp_path):
    model = trained(cls, labelled(forces), **options)
    found = Domain.of(SchNet.load(model.save(tmp_path / "model.safetensors")).card)
    assert found.gradients == gradients
    assert found.systems["molecule"].compositions == ("H2O",)
    assert model.card["elements"] == ["H", "O"]


def test_a_second_training_says_what_it_saw_itself():
    potential = trained(PotentialTask, labelled(True))
    again = trained(PropertyTask, labelled(False), network=copy.deepcopy(potential))
    assert (Domain.of(potential.card).gradients, Domain.of(again.card).gradients) == ("forces", "none")

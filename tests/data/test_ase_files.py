import gzip
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from torch_geometric.data import Batch

from pyg_schnet.data import AtomsDataset, target_mask, to_atoms
from pyg_schnet.data.loader import collate_indices

SHARED = Path(__file__).parents[3] / "shared" / "data"


def labelled(seed: int):
    rng = np.random.default_rng(seed)
    atoms = molecule("CH3OH")
    atoms.rattle(0.1, seed=seed)
    atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=rng.normal(size=(len(atoms), 3)))
    atoms.info["gap"] = 0.5 * seed
    return atoms


@pytest.fixture
def files(tmp_path):
    frames = [labelled(seed) for seed in range(4)]
    crystal = bulk("NaCl", "rocksalt", a=5.6)
    crystal.calc = SinglePointCalculator(crystal, energy=-1.0, stress=np.arange(6.0))
    ase.io.write(tmp_path / "a.xyz", frames, format="extxyz")
    (tmp_path / "a.xyz.gz").write_bytes(gzip.compress((tmp_path / "a.xyz").read_bytes()))
    ase.io.write(tmp_path / "b.extxyz", [crystal], format="extxyz")
    ase.io.write(tmp_path / "c.cif", bulk("Si"))
    with connect(tmp_path / "d.db") as rows:
        for frame in frames:
            rows.write(frame, gap=frame.info["gap"])
    return tmp_path


@pytest.mark.parametrize("name", ["a.xyz", "a.xyz.gz", "d.db"])
def test_formats_give_the_same_numbers(files, name):
    dataset = AtomsDataset(files / name, properties={"gap": "eV"}, dtype=torch.float64)
    assert len(dataset) == 4
    assert list(dataset.properties) == ["energy", "forces", "gap"]
    for seed, data in enumerate(dataset):
        expected = labelled(seed)
        np.testing.assert_allclose(data.pos, expected.positions, atol=1e-8)
        np.testing.assert_allclose(data.forces, expected.get_forces(), atol=1e-8)
        assert data.energy.item() == pytest.approx(expected.get_potential_energy(), abs=1e-8)
        assert data.gap.tolist() == [0.5 * seed]


def test_labels_that_some_structures_lack(files):
    dataset = AtomsDataset([files / "a.xyz", files / "b.extxyz", files / "c.cif"], properties={"gap": "eV"})
    batch = collate_indices(dataset, range(6))
    assert list(dataset.properties) == ["energy", "forces", "stress", "gap"]
    masks = {name: target_mask(batch, target).tolist() for name, target in dataset.properties.items()}
    assert masks == {
        "energy": [True] * 5 + [False],
        "forces": [True] * 4 + [False] * 2,
        "stress": [False] * 4 + [True, False],
        "gap": [True] * 4 + [False] * 2,
    }
    assert all(torch.isfinite(batch[name]).all() for name in dataset.properties)
    assert not batch.forces[batch.batch >= 4].any()
    assert batch.stress.shape == (6, 3, 3)
    assert batch.stress[4].tolist() == [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
    assert dataset.values("forces").shape == (4 * 6, 3)
    assert dataset.mean("gap") == 0.75
    assert to_atoms(dataset[4]).calc.results.keys() == {"energy", "stress"}
    assert to_atoms(dataset[5]).calc is None
    assert torch.equal(Batch.from_data_list(list(dataset)).forces, batch.forces)


def test_patterns_and_slices(files):
    assert len(AtomsDataset(str(files / "*.xyz"))) == 4
    assert len(AtomsDataset([str(files / "a.*"), files / "c.cif"], index="::2")) == 2 + 2 + 1
    assert AtomsDataset(files / "a.xyz", index="-1").energy.item() == pytest.approx(
        labelled(3).get_potential_energy(), abs=1e-7
    )
    for name in ("a.xyz", "d.db"):
        dataset = AtomsDataset(files / name, properties={"gap": "eV"}, index="1:3")
        assert dataset.gap.tolist() == [0.5, 1.0]


def test_other_names_and_no_box(tmp_path):
    # as some files of rMD17 are: labels under other names, molecules in a periodic box
    atoms = molecule("H2O", vacuum=8.0)
    atoms.pbc = True
    atoms.info["REF_energy"], atoms.arrays["REF_forces"] = -1.0, np.ones((3, 3))
    ase.io.write(tmp_path / "ref.xyz", [atoms, atoms], format="extxyz")
    dataset = AtomsDataset(tmp_path / "ref.xyz", keys={"energy": "REF_energy", "forces": "REF_forces"}, pbc=False)
    assert dataset.energy.tolist() == [-1.0, -1.0]
    assert not dataset.pbc.any()
    assert not AtomsDataset(tmp_path / "ref.xyz").properties  # nothing is guessed


def test_lists_of_atoms():
    dataset = AtomsDataset([molecule("H2O"), labelled(0)], properties={"gap": "meV"})
    assert dataset.has_energy.tolist() == [False, True]
    assert dataset.properties["gap"].unit == "eV"


def test_bad_sources_are_named(files):
    with pytest.raises(FileNotFoundError, match=r"no file .*missing\.xyz"):
        AtomsDataset(files / "missing.xyz")
    with pytest.raises(FileNotFoundError, match=r"no file .*\*\.traj"):
        AtomsDataset(files / "*.traj")
    with pytest.raises(ValueError, match=r"a\.xyz has no structures \(index='7:'\)"):
        AtomsDataset(files / "a.xyz", index="7:")
    with pytest.raises(ValueError, match="no structures"):
        AtomsDataset([])
    with pytest.raises(ValueError, match=r"no structure has 'band_gap'; atoms\.info and atoms\.arrays have gap"):
        AtomsDataset(files / "a.xyz", properties={"band_gap": "eV"})
    (files / "bad.xyz").write_text((files / "a.xyz").read_text() + "3\n\nH 0 0 x\n")
    with pytest.raises(ValueError, match=r"ASE cannot read structure \d of .*bad\.xyz"):
        AtomsDataset(files / "bad.xyz")
    (files / "noise.xyz.gz").write_bytes(b"noise")
    with pytest.raises(ValueError, match=r"noise\.xyz\.gz cannot be decompressed"):
        AtomsDataset(files / "noise.xyz.gz")
    (files / "nan.xyz").write_text("1\n\nH 0 0 0\n1\n\nH 0 0 nan\n")
    with pytest.raises(ValueError, match=r"nan\.xyz, structure 1: the position of atom 0"):
        AtomsDataset(files / "nan.xyz")


def test_labels_of_different_kind_are_refused():
    first, second = molecule("H2O"), molecule("H2O")
    first.info["q"], second.arrays["q"] = 1.0, np.ones(3)
    with pytest.raises(ValueError, match="structure 1: 'q' is of each atom, but of each structure before"):
        AtomsDataset([first, second], properties={"q": "1"})
    del second.arrays["q"]
    second.info["q"] = [1.0, 2.0]
    with pytest.raises(ValueError, match="'q' does not have the same shape in all structures"):
        AtomsDataset([first, second], properties={"q": "1"})


@pytest.mark.skipif(not SHARED.exists(), reason="needs published data files in ../shared/data")
def test_published_files():
    aspirin = AtomsDataset(SHARED / "rmd17_aspirin" / "test_800.xyz.gz")
    assert len(aspirin) == 800
    assert aspirin.mean("energy") == pytest.approx(-17617.7, abs=0.1)
    assert float(aspirin.values("forces").abs().mean()) == pytest.approx(0.948, abs=0.02)
    ethanol = AtomsDataset([SHARED / "ethanol" / "test_dimers.xyz.gz", SHARED / "ethanol" / "isolated_atoms.xyz"])
    assert list(ethanol.properties) == ["energy"]

"""The command ``reference-data``, and training on what it makes."""

import json
import re

import ase.io
import pytest
from ase.build import molecule

from pyg_schnet.cli import main
from pyg_schnet.data import QM9, ReferenceData
from pyg_schnet.data.reference import from_qm9
from pyg_schnet.data.reference.frames import number_of
from pyg_schnet.data.reference.topology import Topology
from pyg_schnet.data.shards import counts_of, shards_in

NAMES = ["CH3CH2OH", "H2O", "CH4", "CH3CONH2", "NH3", "CH3OCH3", "C2H6", "HCN", "CH3CHO", "C2H4"]
LENNARD_JONES = ["--method=ase.calculators.lj.LennardJones", "--max_force=1e6", "--max_energy=1e6"]
CHEAP = ["--method=ase.calculators.emt.EMT", "--max_force=1000", "--max_energy=100"]


def names_in(folder):
    return [name for shard in shards_in(folder) for name in counts_of(shard)["names"]]


@pytest.fixture
def files(tmp_path):
    ase.io.write(tmp_path / "ten.extxyz", [molecule(name) for name in NAMES])
    return tmp_path


def made(folder, *options, capsys):
    main(["reference-data", str(folder), *options])
    return capsys.readouterr().out


def test_ten_molecules_are_labelled_and_learned(files, capsys):
    kinds = "--kinds={given: 1, modes: 3, torsions: 1}"
    said = made(files / "data", f"--files={files}/ten.extxyz", kinds, *CHEAP, capsys=capsys)
    assert re.search(r"^\d+ labels of 10 molecules in .*, \d+ of them new \([\d,]+ an hour\)$", said, re.MULTILINE)
    assert "given 10, modes 30" in said
    again = made(files / "data", f"--files={files}/ten.extxyz", kinds, *CHEAP, capsys=capsys)
    assert ", 0 of them new" in again
    main(
        [
            "train",
            "--data.dataset=pyg_schnet.data.ReferenceData",
            "--data.dataset.source=data",
            f"--data_dir={files}",
            "--data.target=energy",
            "--data.split_by=molecule",
            "--data.num_train=null",
            "--data.num_val=8",
            "--data.num_test=8",
            "--data.batch_size=8",
            "--model=pyg_schnet.train.PotentialTask",
            "--model.network=pyg_schnet.SchNet",
            "--model.network.hidden_channels=8",
            "--model.network.num_filters=8",
            "--model.network.num_interactions=1",
            "--model.network.cutoff=4",
            f"--run_dir={files / 'run'}",
            "--trainer.max_epochs=1",
            "--trainer.enable_progress_bar=false",
        ]
    )
    assert "Errors on 8 test structures" in capsys.readouterr().out
    split = json.loads((files / "run" / "split.json").read_text())
    groups = ReferenceData(files / "data")._data.molecule
    parts = [set(groups[split[name]].tolist()) for name in ("train", "val", "test")]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_molecules_of_qm9_to_train_on_and_to_test_on(qm9_dir, tmp_path, capsys):
    options = [f"--qm9_dir={qm9_dir}", "--held_out=6", "--leave_out=gdb_13", "--kinds={given: 1}", *LENNARD_JONES]
    said = made(tmp_path / "train", "--qm9=20", *options, capsys=capsys)
    assert "20 molecules of QM9, with none of 7 left-out graphs" in said
    said = made(tmp_path / "test", "--qm9=5", "--part=test", *options, capsys=capsys)
    assert "5 molecules of QM9, of those that are held out" in said
    train, test = names_in(tmp_path / "train"), names_in(tmp_path / "test")
    assert (len(set(train)), len(set(test)), test[0]) == (20, 5, "gdb_13")
    assert not set(train) & set(test)
    parts = [set(ReferenceData(tmp_path / name)._data.molecule.tolist()) for name in ("train", "test")]
    assert not parts[0] & parts[1]
    dataset = QM9(qm9_dir)
    held_out = {one.name for one in from_qm9(dataset, 100, "test", 6, ["gdb_13"]).molecules}
    assert set(test) < held_out
    made(tmp_path / "all", "--qm9=100", *options, capsys=capsys)  # more than there are
    assert set(names_in(tmp_path / "all")) == {one.name for one in dataset} - held_out


def test_structures_are_labelled_as_they_are(files, capsys):
    said = made(files / "again", f"--relabel={files}/ten.extxyz", "--index=::2", *CHEAP[:1], capsys=capsys)
    assert "5 labels of 5 molecules" in said
    assert "100 % became labels: given 5" in said
    data = ReferenceData(files / "again")
    assert data[1].z.tolist() == molecule("CH4").numbers.tolist()
    centered = molecule("CH4").positions - molecule("CH4").positions.mean(0)
    assert abs(data[1].pos.numpy() - centered).max() < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give molecules by --qm9, --files, --smiles or --relabel"),
        (["--relabel=a.xyz", "--smiles=C"], "--relabel takes structures as they are"),
        (["--relabel=a.xyz", "--leave_out=a.xyz"], "--relabel takes structures as they are"),
        (["--part=test", "--smiles=C"], "--part and names in --leave_out are of molecules of QM9"),
        (["--files=a.xyz", "--leave_out=gdb_1"], "--part and names in --leave_out are of molecules of QM9"),
        (["--files=a.xyz", "--leave_out=a.xyz"], "there are no molecules to make geometries of"),
        (["--files=a.xyz", "--kinds={mode: 1}"], "kinds are given, "),
        (["--files=nowhere.xyz"], "there is no file nowhere.xyz"),
        (["--files=a.xyz", "--seed=x"], "--seed"),
        (["--relabel=a.xyz", "--exchange={O: S}"], "--relabel takes structures as they are"),
        (["--files=a.xyz", "--exchange={O: S}"], "none of 1 molecules has O, which --exchange replaces"),
        (["--files=a.xyz", "--exchange={O: Su}"], "such as O: S, got {'O': 'Su'}"),
        (["--files=a.xyz", "--exchange={C: Si}", "--kinds={modes: 1}"], "have to be relaxed: give relaxed: 1"),
    ],
)
def test_wrong_options(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    molecule("CH4").write("a.xyz")
    with pytest.raises(SystemExit):
        main(["reference-data", "data", "--method=ase.calculators.emt.EMT", *options])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_molecules_of_files_are_left_out_by_their_graphs(files, capsys):
    for name in ("CH3CH2OH", "CH4"):
        molecule(name).write(files / f"{name}.xyz")
    options = [f"--files={files}/ten.extxyz", "--kinds={given: 1, fragments: 4}", *CHEAP]
    said = made(
        files / "data", *options, f"--leave_out=[{files}/CH3CH2OH.xyz,{files}/CH4.xyz]", capsys=capsys
    )  # fmt: skip
    assert "2 molecules have a graph that is left out, and are left out, too" in said
    assert "given 8" in said
    assert not [one for one in ReferenceData(files / "data") if sorted(one.z.tolist()) == [1, 1, 1, 1, 6]]


def test_elements_are_exchanged(files, capsys):
    options = [f"--files={files}/ten.extxyz", "--exchange={O: S, N: P}", "--kinds={given: 1, relaxed: 1}"]
    said = made(files / "data", *options, *LENNARD_JONES, capsys=capsys)
    assert "7 of 10 molecules have O or N, and got other elements" in said
    assert len(names_in(files / "data")) == 7
    assert all(set(one.z.tolist()) & {15, 16} for one in ReferenceData(files / "data"))


@pytest.mark.parametrize("kind", ["given", "modes"])
def test_a_run_without_labels_is_an_error(kind, files, capsys):
    command = ["reference-data", str(files / "data"), f"--files={files}/ten.extxyz", f"--kinds={{{kind}: 1}}"]
    with pytest.raises(SystemExit) as ending:
        main([*command, "--method=ase.calculators.emt.EMT", "--max_force=1e-6"])
    assert ending.value.code == 1
    assert "no geometry was labelled; left out: a force is above 1e-06 eV/Å 10" in capsys.readouterr().err


@pytest.mark.slow
def test_gfn2_on_ten_molecules(files, capsys):
    pytest.importorskip("tblite")
    said = made(files / "data", f"--files={files}/ten.extxyz", capsys=capsys)
    data = ReferenceData(files / "data")
    kept = dict(re.findall(r"(\w+) (\d+)", said.split("became labels: ")[1].splitlines()[0]))
    assert set(kept) >= {"given", "relaxed", "modes", "langevin", "bonds", "torsions", "fragments", "pairs", "dimers"}
    relaxed = ReferenceData(files / "data", kinds=["relaxed"])
    assert relaxed._data.forces.norm(dim=1).max() < 0.02
    assert data._data.forces.norm(dim=1).max() <= 20.0


@pytest.mark.slow
def test_gfn2_on_exchanged_elements(files, capsys):
    pytest.importorskip("tblite")
    kinds = "--kinds={relaxed: 1, modes: 2}"
    made(files / "data", f"--files={files}/ten.extxyz", "--exchange={O: S, N: P}", kinds, capsys=capsys)
    relaxed = ReferenceData(files / "data", kinds=["relaxed"])
    assert len(relaxed) == 7  # all have converged, and none fell apart
    assert relaxed._data.forces.norm(dim=1).max() < 0.02
    for data in relaxed:
        topology = Topology(data.z.numpy(), data.pos.numpy())
        assert min(len(near) for near in topology.neighbors) > 0
        assert number_of(topology.key()) == int(data.molecule)

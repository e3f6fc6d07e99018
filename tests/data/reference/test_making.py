"""Data come out the same with any number of processes and interruptions, and training reads them."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule

from pyg_schnet.data import ReferenceData, StructureStore
from pyg_schnet.data.reference import Method, Molecule, Sampling, from_files, from_qm9, from_smiles, making
from pyg_schnet.data.reference.frames import number_of
from pyg_schnet.data.reference.making import NOTE, make_reference_data
from pyg_schnet.data.reference.molecules import partners_of
from pyg_schnet.data.shards import COUNTS, KIND_NAMES, shards_in, write_shard
from pyg_schnet.data.split import group_split

EMT = "ase.calculators.emt.EMT"
NAMES = ["CH3CH2OH", "H2O", "CH4", "CH3CONH2", "NH3", "CH3OCH3", "C2H6", "HCN", "CH3CHO", "C2H4"]
SAMPLING = Sampling(
    kinds={
        "given": 1,
        "modes": 2,
        "langevin": 1,
        "bonds": 0.5,
        "torsions": 1,
        "fragments": 0.5,
        "pairs": 1,
        "dimers": 2,
    },
    every=2,
    max_energy=100.0,
    max_force=1000.0,
)


def molecules(names=NAMES):
    return [Molecule(name, atoms.numbers, atoms.positions) for name in names for atoms in [molecule(name)]]


def make(folder, given=None, sampling=SAMPLING, **options):
    options = {"method": EMT, "shard_size": 3, **options}
    return make_reference_data(folder, molecules() if given is None else given, sampling, **options)


def content(folder):
    """All numbers of a folder, and its counts."""
    found = {}
    for shard in shards_in(Path(folder)):
        store = StructureStore(shard)
        found[shard.name] = (
            [{key: value.tolist() for key, value in structure.to_dict().items()} for structure in store],
            json.loads((shard / COUNTS).read_text()),
        )
        store.close()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, make(folder)


def test_what_is_made(whole):
    folder, done = whole
    assert (done.shards, done.of_shards, done.molecules) == (5, 5, 10)
    data = ReferenceData(folder)
    assert len(data) == done.labels == done.new == sum(done.counts["kept"].values())
    kinds = data._data.kind
    for name, number in done.counts["kept"].items():
        assert int((kinds == KIND_NAMES.index(name)).sum()) == number
    assert done.counts["kept"]["given"] == 10
    assert done.counts["kept"]["dimers"] == 2 * 10  # pairs of H, C, N, O
    assert set(done.counts["kept"]) == {
        "given",
        "modes",
        "langevin",
        "bonds",
        "torsions",
        "fragments",
        "pairs",
        "dimers",
    }
    note = json.loads((folder / NOTE).read_text())
    assert note["counts"] == done.counts
    assert note["options"]["sampling"]["seed"] == 0
    (versions,) = note["versions"]
    assert versions["method"].startswith("ase ")
    assert versions["shards_before"] == 0
    assert data[0].energy.dtype == torch.float64
    assert data[0].pos.dtype == data[0].forces.dtype == torch.float32


def test_processes_do_not_change_the_data(whole, tmp_path):
    done = make(tmp_path / "two", processes=2)
    assert content(tmp_path / "two") == content(whole[0])
    assert done.counts == whole[1].counts


def test_shards_that_were_in_work_at_the_end_are_counted(tmp_path, monkeypatch):
    def worked(jobs, work, processes, stop):
        """As two processes do that are stopped after the first shard, while others are in work."""
        for job in jobs[:3]:
            making._make_shard(job, work, Method(work.method))
            if job is jobs[0]:
                yield job.number

    monkeypatch.setattr(making, "_worked", worked)
    calls = []
    done = make(tmp_path, processes=2, progress=calls.append)
    assert len(shards_in(tmp_path)) == 3
    assert [one.shards for one in calls] == [1, 2, 3]
    assert (done.shards, done.of_shards, done.molecules) == (3, 5, 6)  # the first one has dimers
    note = json.loads((tmp_path / NOTE).read_text())
    assert note["shards"] == [3, 5]
    assert note["counts"] == done.counts
    assert done.labels == done.new == len(ReferenceData(tmp_path))


def test_a_run_that_was_ended_goes_on(whole, tmp_path):
    calls = []
    done = make(tmp_path, stop=lambda: len(shards_in(tmp_path)) >= 2)
    assert done.shards == 2
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shards/*/*")}
    done = make(tmp_path, progress=calls.append)
    assert done.shards == 5
    assert [one.shards for one in calls] == [3, 4, 5]
    assert done.new < done.labels
    assert content(tmp_path) == content(whole[0])
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert make(tmp_path).new == 0


KILLED = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[3]), str(Path(__file__).parent)]!r}
import test_making
if __name__ == "__main__":
    test_making.make(sys.argv[1], processes=int(sys.argv[2]))
"""


def _is_there(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_was_killed_goes_on(processes, whole, tmp_path):
    script = tmp_path / "make.py"
    script.write_text(KILLED)
    folder = tmp_path / "data"
    run = subprocess.Popen([sys.executable, script, folder, str(processes)], start_new_session=True)
    deadline = time.monotonic() + 120
    while not shards_in(folder) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(run.pid, signal.SIGKILL)  # the first process alone; the others end by themselves
    run.wait()
    (folder / "shards" / "partial-000004-999999999").mkdir()
    deadline = time.monotonic() + 60
    while _is_there(run.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_there(run.pid)
    assert 1 <= len(shards_in(folder)) <= 5
    make(folder)
    assert content(folder) == content(whole[0])
    assert not list(folder.glob("shards/partial-*"))


def test_versions_of_all_runs_are_told(tmp_path, monkeypatch):
    def versions():
        return [(one["numpy"], one["shards_before"]) for one in json.loads((tmp_path / NOTE).read_text())["versions"]]

    def go_on(version, shards):
        told = {"python": "3", "numpy": version, "method": "ase 3"}
        monkeypatch.setattr(making, "_versions", lambda method: told)
        make(tmp_path, sampling=sampling, stop=lambda: len(shards_in(tmp_path)) >= shards)

    sampling = Sampling(kinds={"given": 1}, max_force=1000.0)
    go_on("1", 1)
    go_on("1", 2)
    assert versions() == [("1", 0)]
    go_on("2", 3)
    go_on("2", 3)
    go_on("1", 9)
    assert versions() == [("1", 0), ("2", 2), ("1", 3)]
    note = json.loads((tmp_path / NOTE).read_text())
    note["versions"] = {name: value for name, value in note["versions"][0].items() if name != "shards_before"}
    (tmp_path / NOTE).write_text(json.dumps(note))  # as notes were before
    go_on("3", 9)
    assert versions() == [("1", 0), ("3", 4)]
    assert json.loads((tmp_path / NOTE).read_text())["shards"] == [4, 4]
    monkeypatch.setattr(making, "_versions", lambda method: {"numpy": "3", "method": "ase 4"})
    with pytest.raises(ValueError, match='holds data with version of the method: "ase 3", now it is "ase 4"'):
        make(tmp_path, sampling=sampling)


def test_other_options_are_refused(whole, tmp_path):
    folder, _ = whole
    with pytest.raises(ValueError, match=r"holds data with sampling: .*; go on with the same, or choose another"):
        make(folder, sampling=Sampling(kinds={"modes": 3}))
    with pytest.raises(ValueError, match="holds data with method"):
        make(folder, method="ase.calculators.lj.LennardJones")
    with pytest.raises(ValueError, match="holds data with molecules"):
        make(folder, given=molecules(NAMES[:3]))
    with pytest.raises(ValueError, match="shard_size must be at least 1"):
        make(tmp_path, shard_size=0)
    with pytest.raises(ValueError, match="no molecules"):
        make(tmp_path, given=[])


def test_molecules_are_made_alone_and_repeated_with_other_numbers(whole, tmp_path):
    make(tmp_path, shard_size=10, repeats=2)
    data, first = ReferenceData(tmp_path, kinds=["modes"]), ReferenceData(whole[0], kinds=["modes"])
    assert torch.equal(data._data.pos[: len(first._data.pos)], first._data.pos)
    assert len(data) > 1.5 * len(first)
    assert len({tuple(one.pos.flatten().tolist()) for one in data}) == len(data)
    assert set(data._data.molecule.tolist()) == set(first._data.molecule.tolist())


def test_a_shard_without_labels(tmp_path):
    done = make(tmp_path, given=molecules(["CH4", "H2O"]), sampling=Sampling(kinds={"given": 1}, max_force=1e-6))
    assert done.labels == 0
    assert done.counts["left_out"] == {"a force is above 1e-06 eV/Å": 2}
    with pytest.raises(ValueError, match="no structures of the kinds"):
        ReferenceData(tmp_path)


def test_reading_chooses_kinds_and_joins_folders(whole, tmp_path):
    folder, done = whole
    data = ReferenceData(folder, kinds=["torsions", "given"])
    assert len(data) == done.counts["kept"]["torsions"] + done.counts["kept"]["given"]
    assert set(data._data.kind.tolist()) == {0, 6}
    assert all(one.z.numel() == int(one.n_atoms) == len(one.forces) for one in data)
    assert len(ReferenceData([folder, folder])) == 2 * done.labels
    with pytest.raises(ValueError, match=r"kinds of geometries are given, .* got 'mode'"):
        ReferenceData(folder, kinds=["mode"])
    with pytest.raises(FileNotFoundError, match="has no shards; pyg-schnet reference-data"):
        ReferenceData(tmp_path)
    torch.save({}, tmp_path / "other")
    foreign = tmp_path / "shards" / "000000"
    StructureStore.create(foreign, list(data[:2])).close()
    (foreign / COUNTS).write_text("{}")
    assert len(ReferenceData(tmp_path)) == 2


def test_no_fragment_or_partner_is_a_molecule_that_is_left_out(tmp_path):
    sampling = Sampling(kinds={"fragments": 8, "pairs": 2}, max_energy=100.0, max_force=1000.0)
    given = molecules(["CH3CH2OH", "CH3CONH2"])
    methane, ethane = molecules(["CH4", "C2H6"])
    make(tmp_path, given=given, sampling=sampling, forbidden=frozenset([methane.key()]))
    data = ReferenceData(tmp_path, kinds=["fragments"])
    assert not [one for one in data if sorted(one.z.tolist()) == [1, 1, 1, 1, 6]]
    left_out = json.loads((tmp_path / NOTE).read_text())["counts"]["left_out"]
    assert left_out["a fragment is a molecule that is left out"] > 0
    assert ethane.key() in {one.key() for one in partners_of(given)}
    assert methane.key() not in {one.key() for one in partners_of(given, frozenset([methane.key()]))}


def test_pairs_and_fragments_know_what_they_are_made_of(tmp_path):
    sampling = Sampling(kinds={"given": 1, "fragments": 6, "pairs": 6}, max_energy=100.0, max_force=1000.0)
    given = molecules(["CH3CH2OH", "CH3CONH2", "CH4", "C2H6", "NH3"])
    make(tmp_path, given=given, sampling=sampling)
    data = ReferenceData(tmp_path)._data
    number = {one.name: number_of(one.key()) for one in given}
    whole = data.kind == KIND_NAMES.index("given")
    assert data.molecule[whole].tolist() == list(number.values())
    assert torch.equal(data.molecule_partner[whole], data.molecule[whole])
    of_fragments = ReferenceData(tmp_path, kinds=["fragments"])
    methane = [one for one in of_fragments if sorted(one.z.tolist()) == [1, 1, 1, 1, 6]]
    assert methane
    assert {(int(one.molecule), int(one.molecule_partner)) for one in methane} == {(number["CH4"],) * 2}
    atoms = {number_of(one.key()): sorted(one.numbers.tolist()) for one in partners_of(given)}
    atoms |= {number_of(one.key()): sorted(one.numbers.tolist()) for one in given}
    pairs = ReferenceData(tmp_path, kinds=["pairs"])
    assert len({int(one.molecule_partner) for one in pairs} - set(number.values())) > 1  # with ASE's small ones
    for one in pairs:
        assert sorted(one.z.tolist()) == sorted(atoms[int(one.molecule)] + atoms[int(one.molecule_partner)])


def test_no_molecule_of_validation_is_in_training_as_a_fragment_or_partner(tmp_path):
    sampling = Sampling(kinds={"given": 1, "fragments": 6, "pairs": 6}, max_energy=100.0, max_force=1000.0)
    make(tmp_path, sampling=sampling)
    dataset = ReferenceData(tmp_path)
    for seed in range(5):
        split = group_split(dataset, "molecule", None, 12, 12, seed)
        train, val, test = split.apply(dataset)
        held_out = {int(one.molecule) for part in (val, test) for one in part}
        assert not held_out & {int(number) for one in train for number in (one.molecule, one.molecule_partner)}
        assert len(train) > 12


def test_shards_without_partners_are_read(whole, tmp_path):
    structures = [structure.clone() for structure in ReferenceData(whole[0])[:4]]
    for one in structures:
        del one.molecule_partner
    write_shard(tmp_path, 0, structures, {})
    data = ReferenceData(tmp_path)._data
    assert torch.equal(data.molecule_partner, data.molecule)


class Listed(list):
    """QM9 as a list."""

    def __init__(self, names):
        from torch_geometric.data import Data

        atoms = [molecule(name) for name in names]
        super().__init__(
            Data(z=torch.tensor(one.numbers), pos=torch.tensor(one.positions), name=f"gdb_{k}")
            for k, one in enumerate(atoms)
        )
        self._data = Data(name=[f"gdb_{k}" for k in range(len(names))])


def test_molecules_of_qm9(tmp_path):
    dataset = Listed([*NAMES, "CH3CH2OH"])  # the last one is the first again
    train = from_qm9(dataset, 100, held_out=4)
    test = from_qm9(dataset, 100, "test", held_out=4)
    assert len(test.molecules) == 4
    assert {one.key() for one in test.molecules} == train.forbidden
    assert not {one.key() for one in train.molecules} & train.forbidden
    assert [one.name for one in from_qm9(dataset, 2, held_out=4).molecules] == [one.name for one in train.molecules[:2]]
    water = molecule("H2O")
    water.write(tmp_path / "water.xyz")
    other = from_qm9(dataset, 100, held_out=2, leave_out=["gdb_0", str(tmp_path / "water.xyz")])
    names = {one.name for one in other.molecules}
    assert not names & {"gdb_0", "gdb_10", "gdb_1"}
    assert from_qm9(dataset, 1, "test", 2, ["gdb_5"]).molecules[0].name == "gdb_5"
    with pytest.raises(ValueError, match="no molecule 'gdb_999'"):
        from_qm9(dataset, 1, leave_out=["gdb_999"])
    with pytest.raises(ValueError, match="must not be negative"):
        from_qm9(dataset, -1)


def test_molecules_of_files(tmp_path):
    atoms = molecule("CH3CH2OH")
    atoms.write(tmp_path / "a.xyz")
    (found,) = from_files(tmp_path / "a.xyz")
    assert found.name == "a.xyz, structure 0"
    np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-7)
    atoms.cell, atoms.pbc = [9.0, 9.0, 9.0], True
    atoms.write(tmp_path / "b.extxyz")
    with pytest.raises(ValueError, match="is periodic, expected a molecule; --pbc false"):
        from_files(tmp_path / "b.extxyz")
    assert len(from_files(tmp_path / "b.extxyz", pbc=False)) == 1


def test_charge_and_spin_of_files_are_warned_of(tmp_path):
    ion, radical = molecule("CH4"), molecule("CH3")
    ion.info["charge"] = -1
    ase.io.write(tmp_path / "a.extxyz", [molecule("H2O"), ion, radical])
    said = r"a\.extxyz, structure 1 has charge=-1, and 1 more structures have charge or spin; .* the one --charge and"
    with pytest.warns(UserWarning, match=said):
        assert len(from_files(tmp_path / "a.extxyz")) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(from_files(tmp_path / "a.extxyz", index="0")) == 1


def test_molecules_of_smiles(tmp_path, monkeypatch):
    pytest.importorskip("rdkit")
    first, second = from_smiles("CCO", conformers=2)
    assert [first.name, second.name] == ["CCO", "CCO #1"]
    assert first.key() == second.key() == molecules(["CH3CH2OH"])[0].key()
    (tmp_path / "a.smi").write_text("C methane\n\nO,water\n")
    assert [len(one.numbers) for one in from_smiles([str(tmp_path / "a.smi"), "N"])] == [5, 3, 4]
    for wrong, message in (("C(", "neither SMILES nor a file"), ("[NH4+]", "has a charge"), ("[CH3]", "unpaired")):
        with pytest.raises(ValueError, match=message):
            from_smiles(wrong)


def test_smiles_without_rdkit(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit.Chem", None)
    with pytest.raises(ImportError, match=r"pip install 'pyg_schnet\[smiles\]'"):
        from_smiles("C")

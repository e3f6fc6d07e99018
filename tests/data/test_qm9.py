import importlib.util

import pytest
import torch
from torch_geometric.datasets.qm9 import atomrefs

from pyg_schnet.data import QM9
from pyg_schnet.data.loader import collate_indices

HARTREE = 27.211386245988  # eV, CODATA 2018
KCAL = 4184.0 / (6.02214076e23 * 1.602176634e-19)  # eV, by the SI


def test_fields_are_those_of_pyg(qm9):
    methane = qm9[0]
    assert sorted(methane.keys()) == ["idx", "name", "pos", "y", "z"]
    assert methane.z.tolist() == [6, 1, 1, 1, 1]
    assert methane.z.dtype == torch.int64
    assert methane.pos.dtype == torch.float32
    assert methane.pos[0].tolist() == pytest.approx([-0.0126981359, 1.0858041578, 0.0080009958])
    assert methane.y.shape == (1, 19)
    assert methane.y.dtype == torch.float64
    assert methane.name == "gdb_1"
    assert methane.idx.tolist() == [0]


def test_methane_in_the_units_of_pyg(qm9):
    y = dict(zip(qm9.targets, qm9[0].y[0].tolist(), strict=True))
    assert y["mu"] == 0.0  # "0." in the file
    assert y["alpha"] == 13.21
    assert y["homo"] == pytest.approx(-0.3877 * HARTREE)
    assert y["gap"] == pytest.approx(0.5048 * HARTREE)
    assert y["r2"] == 35.3641
    assert y["zpve"] == pytest.approx(0.044749 * HARTREE)
    assert y["U0"] == pytest.approx(-40.47893 * HARTREE, abs=1e-9)
    assert y["G"] == pytest.approx(-40.498597 * HARTREE, abs=1e-9)
    assert y["cv"] == 6.469
    assert (y["A"], y["C"]) == (157.7118, 157.70699)


def test_atomization_energy_of_methane_is_that_of_moleculenet(qm9):
    # u0_atom .. g_atom of gdb_1 in gdb9.sdf.csv, in kcal/mol, the numbers that PyG multiplies by 0.04336414
    published = {
        "U0_atom": -395.999594594,
        "U_atom": -398.643290011,
        "H_atom": -401.014646522,
        "G_atom": -372.471772148,
    }
    for name, value in published.items():
        column = qm9.targets[name].column
        assert float(qm9[0].y[0, column]) == pytest.approx(value * KCAL, abs=2e-5)


def test_special_molecules(qm9):
    tiny_coordinate = qm9[qm9.idx.tolist().index(211)]
    assert float(tiny_coordinate.pos[0, 0]) == pytest.approx(2.1997e-6)  # "2.1997E-6" in the file
    assert max(structure.num_nodes for structure in qm9) == 29
    assert set(qm9.z.tolist()) == {1, 6, 7, 8, 9}
    assert qm9[-1].name == "gdb_133885"


def test_atomization_energies_follow_from_totals_and_atomref(qm9):
    batch = collate_indices(qm9, range(len(qm9)))
    for name in ("U0", "U", "H", "G"):
        atoms = torch.zeros(len(qm9), dtype=torch.float64).index_add_(0, batch.batch, qm9.atomref(name)[batch.z, 0])
        total, formation = (batch.y[:, qm9.targets[key].column] for key in (name, f"{name}_atom"))
        torch.testing.assert_close(total - atoms, formation, atol=1e-8, rtol=0)


def test_atomref_is_that_of_pyg(qm9):
    for column in range(19):
        if column not in atomrefs:
            assert qm9.atomref(column) is None
            continue
        ours = qm9.atomref(column)
        assert ours.shape == (100, 1)
        torch.testing.assert_close(
            ours[[1, 6, 7, 8, 9], 0], torch.tensor(atomrefs[column], dtype=torch.float64), rtol=1e-8, atol=0
        )
        assert int((ours != 0).sum()) in (0, 5)
    assert torch.equal(qm9.atomref("U0"), qm9.atomref(7))
    with pytest.raises(ValueError, match="no target 'u0'; it has mu, alpha"):
        qm9.atomref("u0")


def test_mean_and_std_follow_the_selection(qm9):
    part = qm9[2:7]
    expected = torch.stack([structure.y[0, 7] for structure in part])
    assert part.mean("U0") == pytest.approx(float(expected.mean()))
    assert part.mean(7) == part.mean("U0")
    assert part.std("U0") == pytest.approx(float(expected.std()))


def test_dtype(qm9, qm9_source, tmp_path):
    double = QM9(tmp_path, source=qm9_source, dtype=torch.float64, progress=False)
    assert double[0].pos[0, 0].item() == -0.0126981359
    assert torch.equal(double[5].pos.float(), qm9[5].pos)


def test_cache_is_used_and_force_reload_renews_it(qm9_source, tmp_path, monkeypatch):
    first = QM9(tmp_path, source=qm9_source, progress=False)
    (cache,) = (tmp_path / "processed").iterdir()
    monkeypatch.setattr("pyg_schnet.data.qm9._read", lambda *_: pytest.fail("the source was read again"))
    assert torch.equal(QM9(tmp_path, source=qm9_source).pos, first.pos)
    monkeypatch.undo()
    cache.write_bytes(cache.read_bytes()[:1000])
    with pytest.raises(OSError, match=r"damaged .* force_reload"):
        QM9(tmp_path, source=qm9_source)
    assert len(QM9(tmp_path, source=qm9_source, force_reload=True, progress=False)) == len(first)


def test_interrupted_reading_leaves_no_cache(qm9_source, tmp_path, monkeypatch):
    def interrupted(columns, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("pyg_schnet.data.qm9.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        QM9(tmp_path, source=qm9_source, progress=False)
    assert list((tmp_path / "processed").iterdir()) == []


def test_default_folder_is_the_cache_of_the_user(qm9_source, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    QM9(source=qm9_source, progress=False)
    assert len(list((tmp_path / "pyg_schnet" / "qm9" / "processed").glob("*.safetensors"))) == 1


def test_missing_qm9pack_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install pyg_schnet\[qm9\]"):
        QM9(tmp_path)


def test_missing_and_broken_sources(qm9_source, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file qm9_part\*\.csv"):
        QM9(tmp_path, source=tmp_path)
    lines = (qm9_source / "qm9_part1.csv").read_text().splitlines(keepends=True)
    for old, new, message in (
        ("157.7118", "nan", "not finite"),
        ("['C',", "['C','H',", "5 atoms, 6 elements and 15 coordinates"),
        ("['C',", "['Xx',", "Xx"),
        ("-40.47893,", "x,", "InternalEnergy_0K_au must be a number, got 'x'"),
    ):
        (tmp_path / "qm9_part1.csv").write_text(lines[0] + lines[1].replace(old, new) + lines[2])
        with pytest.raises(ValueError, match=f"qm9_part1.csv, line 2, is not a molecule of QM9: .*{message}"):
            QM9(tmp_path, source=tmp_path, progress=False)
    (tmp_path / "qm9_part1.csv").write_text(lines[0] + lines[2] + lines[1])
    with pytest.raises(ValueError, match="not in the order of their Index"):
        QM9(tmp_path, source=tmp_path, progress=False)


def test_a_single_molecule(qm9_source, tmp_path):
    lines = (qm9_source / "qm9_part1.csv").read_text().splitlines(keepends=True)
    (tmp_path / "qm9_part1.csv").write_text("".join(lines[:2]))
    dataset = QM9(tmp_path, source=tmp_path, progress=False)
    assert len(dataset) == 1
    assert dataset[0].name == "gdb_1"
    assert collate_indices(dataset, [0, 0]).name == ["gdb_1", "gdb_1"]
    assert dataset.mean("cv") == 6.469


@pytest.mark.skipif(importlib.util.find_spec("qm9pack") is None, reason="needs the package qm9pack")
def test_all_molecules_of_qm9pack(tmp_path):
    dataset = QM9(tmp_path, progress=False)
    assert len(dataset) == 130_831
    assert int(dataset.slices["pos"][-1]) == 2_359_210
    assert dataset[-1].name == "gdb_133885"
    # means over the published set, as other packages print them
    assert dataset.mean("mu") == pytest.approx(2.6730, abs=5e-4)
    assert dataset.mean("U0") == pytest.approx(-11178.966, abs=1e-3)
    assert dataset.std("U0") == pytest.approx(1085.58, abs=1e-2)


def test_isotopes_are_hydrogen():
    from pyg_schnet.data.qm9 import _SOURCE_COLUMNS, _row

    row = {column: "1.0" for column, _ in _SOURCE_COLUMNS.values()}
    row |= {"Index": "1", "N_atoms": "3", "Elements": "['O', 'D', 'T']", "XYZ_Ang": "[[0, 0, 0], [0, 0, 1], [0, 1, 0]]"}
    assert _row(row)[1] == [8, 1, 1]

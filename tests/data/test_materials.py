import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.geometry import cellpar_to_cell

from pyg_schnet.data import MaterialsDataset, MLearn, to_atoms
from pyg_schnet.data.records import _lattice

SAMPLES = Path(__file__).parent / "samples"
SHARED = Path(__file__).parents[3] / "shared" / "data"

PEROVSKITE = {
    "id": "made-up-1",
    "fold": 4,
    "e_form": 2.16,
    "cell": [3.9, 4.0, 4.1, 90.0, 85.0, 110.0],
    "sym": ["Rh", "Te", "N", "N", "N"],
    "frac": [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.0, 1.5], [0.5, 0.5, 0.0], [0.0, 0.5, -0.5]],
}
PYMATGEN = {
    "lattice": {"matrix": [[0.0, 2.7, 2.7], [2.7, 0.0, 2.7], [2.7, 2.7, 0.0]]},
    "sites": [
        {"species": [{"element": "Si", "occu": 1}], "abc": [0.0, 0.0, 0.0]},
        {"species": [{"element": "Si", "occu": 1.0}], "abc": [0.25, 0.25, 0.25]},
    ],
}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_phonons():
    dataset = MaterialsDataset(SAMPLES / "phonons.jsonl", {"last_phdos_peak": "cm-1"}, keep=("fold",))
    assert len(dataset) == 3
    assert dataset.properties["last_phdos_peak"].unit == "cm-1"
    first = dataset[0]
    assert first.name == "mb-phonons-0001"
    assert first.z.tolist() == [52, 56]
    assert first.last_phdos_peak.tolist() == [98.58577122703691]
    assert first.pbc.tolist() == [[True] * 3]
    np.testing.assert_allclose(first.pos[0], first.cell[0].sum(0) / 2, rtol=1e-6)
    assert [data.name for data in dataset[dataset.fold != 3]] == ["mb-phonons-0001", "mb-phonons-0005"]


def test_cell_parameters_are_those_of_ase(tmp_path):
    path = write(tmp_path / "a.jsonl", json.dumps(PEROVSKITE) + "\n\n" + json.dumps(PEROVSKITE) + "\n")
    dataset = MaterialsDataset(path, {"e_form": "eV"}, dtype=torch.float64)
    expected = Atoms(PEROVSKITE["sym"], cell=PEROVSKITE["cell"], scaled_positions=PEROVSKITE["frac"], pbc=True)
    for data in dataset:
        atoms = to_atoms(data)
        np.testing.assert_allclose(atoms.cell, expected.cell, atol=1e-12)
        np.testing.assert_allclose(atoms.positions, expected.positions, atol=1e-12)
    for parameters in ([3, 4, 5, 90, 90, 90], [3, 4, 5, 60, 70, 80], [3, 3, 5, 90, 90, 120]):
        np.testing.assert_allclose(_lattice(parameters), cellpar_to_cell(parameters), atol=1e-12)
    assert np.count_nonzero(_lattice([3, 4, 5, 90, 90, 90])) == 3


def test_tables_of_matbench(tmp_path):
    table = {"index": ["mb-1", "mb-2"], "columns": ["structure", "gap"], "data": [[PYMATGEN, 100.0], [PYMATGEN, None]]}
    path = tmp_path / "matbench.json.gz"
    path.write_bytes(gzip.compress(json.dumps(table).encode()))
    dataset = MaterialsDataset(path, {"band_gap": "meV"}, keys={"band_gap": "gap"})
    assert dataset.name == ["mb-1", "mb-2"]
    assert dataset.band_gap.tolist() == [0.1, 0.0]
    assert dataset.has_band_gap.tolist() == [True, False]
    assert dataset.mean("band_gap") == 0.1
    torch.testing.assert_close(dataset[0].pos[1], torch.full((3,), 1.35))


def test_mlearn():
    plain = MLearn(SAMPLES / "mlearn_li.json")
    assert list(plain.properties) == ["energy", "forces"]
    dataset = MLearn(SAMPLES / "mlearn_li.json", stress_order="xx yy zz xy yz xz")
    assert len(dataset) == 3
    entry = json.loads((SAMPLES / "mlearn_li.json").read_text())[0]
    first = dataset[0]
    assert first.group == "Elastic"
    assert first.energy.tolist() == [entry["outputs"]["energy"]]
    np.testing.assert_allclose(first.pos, [site["xyz"] for site in entry["structure"]["sites"]], atol=1e-5)
    # strained by -1 % along x: compressed, so the stress of ASE's sign is negative; kbar is 0.1 GPa
    expected = -np.array(entry["outputs"]["virial_stress"][:3]) * 0.1 / 160.21766208
    np.testing.assert_allclose(torch.diagonal(first.stress[0]), expected, rtol=1e-8)
    assert expected[0] < 0
    with pytest.raises(ValueError, match="must name xx yy zz yz xz xy in some order, got 'xx yy'"):
        MLearn(SAMPLES / "mlearn_li.json", stress_order="xx yy")


def test_shear_components_follow_the_stated_order(tmp_path):
    outputs = {"energy": 1.0, "forces": [[0.0] * 3] * 2, "virial_stress": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
    path = write(tmp_path / "a.json", [{"structure": PYMATGEN, "outputs": outputs, "group": "x"}] * 2)
    stress = MLearn(path, stress_order="xx yy zz xy yz xz")[0].stress[0] * -1602.1766208
    torch.testing.assert_close(
        stress, torch.tensor([[1.0, 4.0, 6.0], [4.0, 2.0, 5.0], [6.0, 5.0, 3.0]], dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sym": ["Xx", "Te", "N", "N", "N"]}, "'Xx' is not the symbol of an element"),
        ({"frac": [[0.0, 0.0, 0.0]]}, "do not fit together"),
        ({"cell": [1.0, 1.0, 1.0, 90.0, 90.0, 180.0]}, "'cell' must be positive lengths and angles below 180 degrees"),
        ({"cell": [1.0, 1.0]}, r"'cell' must be a, b, c in Å and three angles in degrees, got \[1\.0, 1\.0\]"),
        ({"e_form": "high"}, "'e_form' must be a number or an array of numbers, got 'high'"),
        ({"e_form": float("nan")}, "'e_form' holds numbers that are not finite"),
        (
            {"structure": {"lattice": PYMATGEN["lattice"], "sites": [{"species": [{"element": "Si", "occu": 0.5}]}]}},
            "shared",
        ),
    ],
)
def test_bad_records_are_named(tmp_path, change, message):
    path = write(tmp_path / "a.json", [PEROVSKITE, {**PEROVSKITE, "id": "bad", **change}])
    with pytest.raises(ValueError, match=rf"record 1 \(bad\) of .*a\.json is not a labelled structure: .*({message})"):
        MaterialsDataset(path, {"e_form": "eV"})


def test_records_are_selected_by_an_entry(tmp_path):
    path = write(tmp_path / "a.json", [{**PEROVSKITE, "id": f"of fold {fold}", "fold": fold} for fold in (0, 1, 2, 1)])
    chosen = MaterialsDataset(path, {"e_form": "eV"}, select={"fold": [1, 2]})
    assert [data.name for data in chosen] == ["of fold 1", "of fold 2", "of fold 1"]
    with pytest.raises(ValueError, match=r"has no structures with \{'fold': \[7\]\}"):
        MaterialsDataset(path, {"e_form": "eV"}, select={"fold": [7]})


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        MaterialsDataset(tmp_path / "missing.json", {})
    with pytest.raises(ValueError, match=r"a\.json is not JSON"):
        MaterialsDataset(write(tmp_path / "a.json", "{no"), {})
    with pytest.raises(ValueError, match="has no structures"):
        MaterialsDataset(write(tmp_path / "a.json", "[]"), {})
    with pytest.raises(ValueError, match=r"record 0 of .* is 1, expected a dictionary"):
        MaterialsDataset(write(tmp_path / "a.json", "[1]"), {})
    with pytest.raises(ValueError, match=r"no record of .* has 'gap'"):
        MaterialsDataset(write(tmp_path / "a.json", [PEROVSKITE]), {"gap": "eV"})
    with pytest.raises(ValueError, match="'cell' can only be kept if"):
        MaterialsDataset(write(tmp_path / "a.json", [PEROVSKITE]), {"e_form": "eV"}, keep=("cell",))
    with pytest.raises(ValueError, match="'energy' must be given in a unit of energy"):
        MaterialsDataset(write(tmp_path / "a.json", [PEROVSKITE]), {"energy": "eV/atom"})


@pytest.mark.skipif(not SHARED.exists(), reason="needs published data files in ../shared/data")
def test_published_files():
    perovskites = MaterialsDataset(
        SHARED / "perovskites_castelli" / "folds1-4.jsonl.gz", {"e_form": "eV"}, keep=("fold",)
    )
    assert len(perovskites) == 15_142
    values = perovskites.values("e_form")
    assert (values.min(), values.max()) == (-0.64, 5.16)
    for element, order in (("Li", "xx yy zz xy yz xz"), ("Mo", "xx yy zz xy xz yz")):
        dataset = MLearn(SHARED / "mlearn" / f"{element}_training.json.gz", stress_order=order)
        elastic = dataset[[i for i, group in enumerate(dataset.group) if group == "Elastic"]]
        volume = torch.linalg.det(elastic.cell) / torch.tensor([data.num_nodes for data in elastic])
        pressure = torch.stack([torch.diagonal(data.stress[0]).mean() for data in elastic])
        assert torch.corrcoef(torch.stack([volume.abs().double(), pressure]))[0, 1] > 0.9  # tension is positive


def test_virials_isotopes_and_shapes(tmp_path):
    record = {
        "id": "a",
        "sym": ["D", "O"],
        "frac": [[0, 0, 0], [100000.25, 0.5, 0.5]],
        "lattice": np.diag([4.0] * 3).tolist(),
    }
    record |= {"virial": [1.0] * 6, "energy": [1.0, 2.0], "forces": [[1.0, 2.0]] * 2, "e": -1.0}
    (tmp_path / "a.json").write_text(json.dumps([record]))
    data = MaterialsDataset(tmp_path / "a.json", {"energy": "eV"}, {"energy": "e"})[0]
    assert data.z.tolist() == [1, 8]
    assert float(data.pos[1, 0] - data.pos[0, 0]) % 4.0 == pytest.approx(1.0, abs=1e-6)  # far out, by 100,000 cells
    for name, key, unit, message in (
        ("stress", "virial", "eV/Å³", r"'virial' \[eV/Å³\] is a virial, -V times the stress; keep the stress"),
        ("stress", "e", "eV", "'stress' must be given in a unit of pressure, got 'eV'"),
        ("energy", "energy", "eV", r"'energy' has shape \[2\], expected \[\]"),
        ("forces", "forces", "eV/Å", r"'forces' has shape \[2, 2\], expected \[2, 3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            MaterialsDataset(tmp_path / "a.json", {name: unit}, {name: key})


@pytest.mark.parametrize("copies", [1, 20])
def test_two_atoms_in_the_same_place(tmp_path, copies):
    """Few and many atoms; an image of an atom is in its place as well."""
    frac = [[x, y, 0.3 + 0.01 * k] for k in range(copies) for x, y in ((0.0, 0.0), (0.5, 0.5), (0.0, 0.5), (0.5, 0.0))]
    record = {**PEROVSKITE, "sym": ["O"] * len(frac), "frac": frac}
    assert len(MaterialsDataset(write(tmp_path / "a.json", [record]), {"e_form": "eV"})) == 1
    record["frac"] = [*frac[:-1], [1.0, -1.0, 0.3]]
    with pytest.raises(ValueError, match=r"is not a labelled structure: atoms 0 and .* in the same place"):
        MaterialsDataset(write(tmp_path / "a.json", [record]), {"e_form": "eV"})


def test_gradients_and_energies_per_atom(tmp_path):
    record = {**PEROVSKITE, "gradient": [[1.0, -2.0, 3.0]] * 5, "energy_per_atom": -1.0}
    path = write(tmp_path / "a.json", [record])
    assert MaterialsDataset(path, {"forces": "eV/Å"}, {"forces": "gradient"})[0].forces[4].tolist() == [-1.0, 2.0, -3.0]
    with pytest.raises(ValueError, match="'energy_per_atom' is an energy per atom by its name"):
        MaterialsDataset(path, {"energy": "eV"}, {"energy": "energy_per_atom"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pbc": [True, True, False]}, "it has pbc="),
        ({"structure": {**PYMATGEN, "lattice": {**PYMATGEN["lattice"], "pbc": [True, False, True]}}}, "it has pbc="),
        ({"occupancy": [1.0, 0.5, 1.0, 1.0, 1.0]}, "a site is shared by several elements or partly empty"),
        ({"sym": [45, 52, 7, 7, 7]}, "45 is not the symbol of an element"),
        ({"cell": [0.01, 4.0, 4.0, 90.0, 90.0, 90.0]}, r"cell vectors of 0\.01, 4, 4 Å, expected at least 0\.1 Å"),
        ({"e_form": True}, "'e_form' must be a number or an array of numbers, got True"),
        ({"structure": "as text"}, "is not a labelled structure"),
    ],
)
def test_records_that_say_more_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        MaterialsDataset(write(tmp_path / "a.json", [{**PEROVSKITE, **change}]), {"e_form": "eV"})


def test_records_that_say_what_is_so(tmp_path):
    record = {**PEROVSKITE, "pbc": [True] * 3, "occupancy": [1] * 5}
    with lzma.open(tmp_path / "a.json.XZ", "wt") as file:
        file.write(json.dumps(record))
    assert MaterialsDataset(tmp_path / "a.json.XZ", {"e_form": "eV"}).e_form.tolist() == [2.16]

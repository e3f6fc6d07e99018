"""Readers say which file, which record or line, what was expected and what came."""

import bz2
import csv
import gzip
import json
import lzma
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pyg_schnet.data import MD17, QM9, AtomsDataset, MaterialsDataset, MLearn, Split, StructureStore
from pyg_schnet.models.reading import check_file, described, read_arrays, read_text

from ..train.conftest import SAMPLE
from .spoiled import raises, structures

SPLIT = {"train": [0, 1], "val": [2], "test": [3], "n_structures": 4, "fingerprint": None}
RECORD = {"id": "a", "sym": ["Na", "Cl"], "frac": [[0, 0, 0], [0.5, 0.5, 0.5]], "cell": [4, 4, 4, 90, 90, 90], "e": 1.0}
LATTICE = {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]}


SPLITS = {
    **{f"no {name}": ({key: SPLIT[key] for key in SPLIT if key != name}, f"it has no {name}") for name in SPLIT},
    "list": ([1], r"it must be a dictionary, got \[1\]"),
    "nothing": (None, "it must be a dictionary, got None"),
    "text": ({**SPLIT, "train": "x"}, "train must be a list of indices, got 'x'"),
    "number": ({**SPLIT, "train": 3}, "train must be a list of indices, got 3"),
    "inner lists": ({**SPLIT, "train": [[0, 1]]}, "train must be a list of indices"),
    "lists of different lengths": ({**SPLIT, "train": [[0], [1, 2]]}, "train must be a list of indices"),
    "texts": ({**SPLIT, "val": ["2"]}, "val must hold whole numbers"),
    "fractions": ({**SPLIT, "test": [3.0]}, "test must hold whole numbers, got float64"),
    "truth": ({**SPLIT, "train": [True, False]}, "train must hold whole numbers, got bool"),
    "too large for 64 bits": ({**SPLIT, "train": [10**30]}, "train must hold whole numbers, got object"),
    "negative": ({**SPLIT, "train": [-1]}, "indices run from -1 to 3; the data set has 4 structures"),
    "beyond": ({**SPLIT, "test": [4]}, "indices run from 0 to 4; the data set has 4 structures"),
    "overlap": ({**SPLIT, "val": [1]}, "structure 1 appears more than once in train, val and test"),
    "twice": ({**SPLIT, "train": [0, 0]}, "structure 0 appears more than once"),
    "size in words": ({**SPLIT, "n_structures": "4"}, "n_structures must be the size of a data set, .* got '4'"),
    "size with a point": ({**SPLIT, "n_structures": 4.5}, "n_structures must be the size of a data set, .* got 4.5"),
    "size that is true": ({**SPLIT, "n_structures": True}, "n_structures must be .* got True"),
    "negative size": ({**SPLIT, "n_structures": -4}, "n_structures must be .* got -4"),
    "fingerprint": ({**SPLIT, "fingerprint": 3}, "fingerprint must be a text or None, got 3"),
}


@pytest.mark.parametrize("name", SPLITS)
def test_splits_in_json(name, tmp_path):
    content, message = SPLITS[name]
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content))
    raises(Split.load, path, rf"s\.json is not a saved split: {message}")


JSON = {
    "empty": ("", "is not JSON: Expecting value in line 1, column 1"),
    "cut": ('{"train": [0,\n1', "is not JSON: Expecting .* in line 2"),
    "twice": ('{"train": [0], "train": [1]}', "is not JSON: the key 'train' appears twice"),
    "nested": ("[" * 100_000, "is not JSON that can be read: it is nested too deeply"),
    "more behind it": (json.dumps(SPLIT) + "}", "is not JSON: Extra data in line 1"),
    "digits": ('{"train": [' + "9" * 5000 + "]}", "is not JSON: Exceeds the limit"),
}


@pytest.mark.parametrize("name", JSON)
def test_files_that_are_no_json(name, tmp_path):
    text, message = JSON[name]
    path = tmp_path / "a.json"
    path.write_text(text)
    raises(Split.load, path, message.replace("is not", "it is not", 1))
    (tmp_path / "structures.json").write_text(text)
    with pytest.raises(ValueError, match=rf"structures\.json {message}"):
        StructureStore(tmp_path)
    if name != "more behind it":  # one record in each line is fine there
        raises(lambda file: MaterialsDataset(file, {"e": "eV"}), path, message)


ARCHIVES = {
    "nothing": (lambda path: path.write_bytes(b""), "no whole NumPy archive"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-60]), "no whole NumPy archive"),
    "text": (lambda path: path.write_text("hello"), "no whole NumPy archive"),
    "one array": (lambda path: path.write_bytes(array_bytes()), "it is a single array"),
    "lists": (lambda path: np.savez(path, **{**arrays(), "train": [[0, 1]]}), "train must be a list of indices"),
    "fractions": (
        lambda path: np.savez(path, **{**arrays(), "val": [2.0]}),
        "val must hold whole numbers, got float64",
    ),
    "no test": (lambda path: np.savez(path, train=[0]), "it has no val, test, n_structures, fingerprint"),
    "sizes": (lambda path: np.savez(path, **{**arrays(), "n_structures": [4, 4]}), "n_structures must be the size"),
}


def arrays():
    return {**SPLIT, "fingerprint": ""}


def array_bytes():
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    return buffer.getvalue()


@pytest.mark.parametrize("name", ARCHIVES)
def test_splits_in_archives(name, tmp_path):
    spoil, message = ARCHIVES[name]
    path = tmp_path / "s.npz"
    np.savez(path, **arrays())
    assert Split.load(path) == Split([0, 1], [2], [3], 4)
    spoil(path)
    raises(Split.load, path, rf"s\.npz is not a saved split: .*{message}")


@pytest.mark.parametrize(("value", "kind"), [(3, "a number"), ("x", "a text"), ([True], "truth"), ({}, "a dictionary")])
@pytest.mark.parametrize("entry", ["sym", "frac", "cell", "e"])
def test_entries_of_another_type(value, kind, entry, tmp_path):
    if entry == "e" and value == 3:
        pytest.skip("a label")
    path = tmp_path / "m.json"
    path.write_text(json.dumps([RECORD, {**RECORD, "id": "bad", entry: value}]))
    message = r"record 1 \(bad\) of .*m\.json is not a labelled structure: .*(must be|is not the symbol|fit together)"
    raises(lambda file: MaterialsDataset(file, {"e": "eV"}), path, message)


STRUCTURES = {
    "no elements": ({"sym": None}, "'sym' must be a list, got None"),
    "element": ({"sym": ["Na", ["Cl"]]}, r"\['Cl'\] is not the symbol of an element"),
    "one coordinate": ({"frac": [[0, 0, 0]]}, r"2 atoms and coordinates \[1, 3\] do not fit together"),
    "coordinates of different lengths": (
        {"frac": [[0, 0, 0], [0, 0]]},
        "'frac' must be a number or an array of numbers",
    ),
    "coordinate that is a text": ({"frac": [[0, 0, "0"], [0, 0, 1]]}, "'frac' must be a number or an array of numbers"),
    "coordinate that is no number": (
        {"frac": [[0, 0, float("nan")], [0.5, 0, 0]]},
        "'frac' holds numbers that are not f",
    ),
    "five numbers": (
        {"cell": [4] * 5},
        r"'cell' must be a, b, c in Å and three angles in degrees, got \[4, 4, 4, 4, 4\]",
    ),
    "no length": ({"cell": [0, 4, 4, 90, 90, 90]}, "'cell' must be positive lengths and angles below 180 degrees"),
    "negative length": ({"cell": [-4, 4, 4, 90, 90, 90]}, "'cell' must be positive lengths"),
    "no angle": ({"cell": [4, 4, 4, 0, 90, 90]}, "'cell' must be positive lengths and angles"),
    "angles": ({"cell": [4, 4, 4, 10, 10, 170]}, "the angles 10.0, 10.0, 170.0 span no volume"),
    "one vector": ({"lattice": [[4, 0, 0]]}, r"'cell' has shape \[1, 3\], expected \[3, 3\]"),
    "flat": ({"lattice": [[4, 0, 0], [4, 0, 0], [0, 0, 4]]}, "the cell is flat"),
    "one place": ({"frac": [[0, 0, 0], [1, 1, 1]]}, "atoms 0 and 1 are in the same place"),
    "label that is true": ({"e": True}, "'e' must be a number or an array of numbers, got True"),
    "label that is a text": ({"e": "1.0"}, "'e' must be a number or an array of numbers, got '1.0'"),
    "label that is empty": ({"e": []}, r"'e' must be a number or an array of numbers, got \[\]"),
    "label that is no number": ({"e": float("nan")}, "'e' holds numbers that are not finite"),
    "structure that is a text": ({"structure": "x"}, "'structure' must be a dictionary, got 'x'"),
    "structure that is empty": ({"structure": {}}, "it has no 'structure.lattice'"),
    "no matrix": ({"structure": {"lattice": {}}}, "it has no 'structure.lattice.matrix'"),
    "no sites": ({"structure": {"lattice": LATTICE}}, "it has no 'structure.sites'"),
    "sites that are none": ({"structure": {"lattice": LATTICE, "sites": 3}}, "'structure.sites' must be a list, got 3"),
    "site": ({"structure": {"lattice": LATTICE, "sites": [{}]}}, r"it has no 'structure\.sites\[0\]\.species'"),
    "species": (
        {"structure": {"lattice": LATTICE, "sites": [{"species": [{}], "abc": [0, 0, 0]}]}},
        r"structure\.sites\[0\]\.species must name an 'element', got \{\}",
    ),
    "place of a site": (
        {"structure": {"lattice": LATTICE, "sites": [{"species": [{"element": "O"}], "abc": [0, 0]}]}},
        r"'structure\.sites\[0\]\.abc' has shape \[2\], expected \[3\]",
    ),
    "occupancy": ({"occu": "x"}, "'occupancy' must be a number or an array of numbers, got 'x'"),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_records_of_crystals(name, tmp_path):
    change, message = STRUCTURES[name]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in (RECORD, {**RECORD, "id": "bad\x1b", **change})))
    message = rf"record 1 \(bad\\x1b\) of .*m\.jsonl is not a labelled structure: .*{message}"
    raises(lambda file: MaterialsDataset(file, {"e": "eV"}), path, message)


TABLES = {
    "columns": ({"columns": 3, "data": []}, "'columns' must be a list, got 3"),
    "rows": ({"columns": ["e"], "data": 3}, "'data' must be a list, got 3"),
    "short row": ({"columns": ["e", "structure"], "data": [[1.0]]}, r"row 0 must have 2 columns, got \[1.0\]"),
    "row that is none": ({"columns": ["e"], "data": [3]}, "row 0 must have 1 columns, got 3"),
    "names of rows": ({"columns": ["e"], "data": [[1.0]], "index": []}, "it has 1 rows, and 'index' 0 names of rows"),
    "record that is none": ([RECORD, 3], "record 1 of .* is 3, expected a dictionary"),
    "null": (None, "record 0 of .* is None, expected a dictionary"),
    "shapes of labels": ([RECORD, {**RECORD, "e": [1.0, 2.0]}], "'e' does not have the same shape in all records"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_crystals(name, tmp_path):
    content, message = TABLES[name]
    path = tmp_path / "m.json"
    path.write_text(json.dumps(content))
    raises(lambda file: MaterialsDataset(file, {"e": "eV"}), path, message)


def test_lines_of_crystals_are_counted(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(RECORD) + "\n\n" + json.dumps(RECORD)[:-9])
    raises(lambda file: MaterialsDataset(file, {"e": "eV"}), path, r"line 3 of .*m\.jsonl is not JSON: Expecting")
    with pytest.raises(ValueError, match="select must give a list of values of 'e', got 3"):
        MaterialsDataset(path, {"e": "eV"}, select={"e": 3})


def test_stresses_of_mlearn(tmp_path):
    outputs = {"energy": 1.0, "forces": [[0, 0, 0]], "virial_stress": [1, 2]}
    structure = {"lattice": LATTICE, "sites": [{"species": [{"element": "Li"}], "abc": [0, 0, 0]}]}
    path = tmp_path / "m.json"
    path.write_text(json.dumps([{"structure": structure, "outputs": outputs, "group": "x"}]))
    read = lambda file: MLearn(file, stress_order="xx yy zz xy yz xz")  # noqa: E731
    raises(read, path, r"'virial_stress' has shape \[2\], expected \[6\]")


PACKED = {
    "not packed": lambda content, pack: content,
    "cut": lambda content, pack: pack(content)[:-12],
    "damaged": lambda content, pack: (
        (packed := pack(content))[:40] + bytes(one ^ 255 for one in packed[40:80]) + packed[80:]
    ),
    "nothing": lambda content, pack: b"",
}


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("name", PACKED)
def test_compressed_files(ending, name, tmp_path):
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[ending]
    content = structures(tmp_path / "data.xyz", 30).read_bytes()
    records = json.dumps([{**RECORD, "id": str(k)} for k in range(200)]).encode()
    for file, whole, read in (
        (f"a.xyz.{ending}", content, AtomsDataset),
        (f"m.json.{ending}", records, lambda path: MaterialsDataset(path, {"e": "eV"})),
    ):
        path = tmp_path / file
        path.write_bytes(PACKED[name](whole, pack))
        raises(read, path, "cannot be decompressed|is not JSON|has no structures|ASE cannot read")
        if name != "nothing":
            raises(read, path, "cannot be decompressed: ")


WATER = "O 0 0 0\nH 0 0 0.96\nH 0.9 0 -0.3\n"
SDF = "a\n\n\n  1  0\n    0.0000    0.0000    0.0000 O   0  0\n"
TEXTS = {
    "more atoms than bytes": (
        "a.xyz",
        "999999999999\n\n" + WATER,
        "structure 0 has 999999999999 atoms, but the file has",
    ),
    "more digits than bytes": ("a.xyz", "9" * 5000 + "\n\n", "it says that structure 0 has 9{30} atoms"),
    "second structure": ("a.xyz", "3\n\n" + WATER + "99999999\n\n", "it says that structure 1 has 99999999 atoms"),
    "fewer lines": ("a.xyz", "5\n\n" + WATER, "ASE cannot read structure 0"),
    "no lines": ("a.xyz", "3\n", "ASE cannot read structure 0"),
    "no number": ("a.xyz", "hello\n" + WATER, "ASE cannot read structure 0"),
    "letters": ("a.xyz", "1\n\nO a b c\n", "ASE cannot read structure 0"),
    "element": ("a.xyz", "1\n\nQq 0 0 0\n", "ASE cannot read structure 0"),
    "lattice": ("a.xyz", '3\nLattice="1 2 3"\n' + WATER, "Lattice, expecting special 3x3 matrix"),
    "boundaries": ("a.xyz", '3\npbc="maybe"\n' + WATER, "pbc must be three of T and F, .* got"),
    "data base": ("a.db", "hello", "it is no data base of SQLite, or not a whole one"),
    "no data base": ("a.db", "", "it is no data base of SQLite"),
    "ending": ("a.fly", "hello", "ASE knows no format 'fly', and none of such a name or content"),
    "short": ("a.sdf", "a\n", "a record has 1 lines, expected three lines of header, counts and atoms"),
    "count": ("a.sdf", SDF.replace("  1  0", " xy  0"), "the number of atoms must be a whole number, got ' xy'"),
    "negative count": ("a.sdf", SDF.replace("  1  0", " -1  0"), "the number of atoms must not be negative, got -1"),
    "fewer atoms": ("a.sdf", SDF.replace("  1  0", "  9  0"), "a record has 1 lines of atoms, its header says 9"),
    "position": ("a.sdf", SDF.replace("    0.0000", "       zzz"), "the position of atom 0 must be three numbers"),
    "charge": (
        "a.sdf",
        SDF + "M  CHG  1   x   1\nM  END\n",
        "an entry of the line 'M CHG' must be a whole number, got 'x'",
    ),
    "charge alone": ("a.sdf", SDF + "M  CHG  1   1\nM  END\n", "a line 'M CHG' must have pairs of"),
    "charge of no atom": ("a.sdf", SDF + "M  CHG  1   7   1\nM  END\n", "a line 'M CHG' must have pairs of"),
    "item": (
        "a.sdf",
        SDF + "M  END\n> <a\nx\n$$$$\n",
        "a data item must begin with a name, as in '> <NAME>', got '> <a'",
    ),
    "long form": (
        "a.sdf",
        "a\n\n\n  0  0  V3000\nM  V30 BEGIN ATOM\nM  V30 1 O a b c\nM  V30 END ATOM\nM  END\n",
        "the position of atom 0 must be three numbers, got 'a b c'",
    ),
    "short long form": (
        "a.sdf",
        "a\n\n\n  0  0  V3000\nM  V30 BEGIN ATOM\nM  V30 1\nM  V30 END ATOM\nM  END\n",
        "the position of atom 0 must be three numbers, got ''",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_files_of_structures(name, tmp_path):
    file, text, message = TEXTS[name]
    path = tmp_path / file
    path.write_text(text)
    raises(AtomsDataset, path, message)
    assert path.read_text() == text
    assert [one.name for one in tmp_path.iterdir()] == [file]


QM9_CELLS = [
    ("Elements", "", "Elements must be some of H, C, N, O, F, got ''"),
    ("Elements", "['Xx']", "Elements must be some of H, C, N, O, F, got 'Xx'"),
    ("XYZ_Ang", "[", "XYZ_Ang must be a number, got ''"),
    ("XYZ_Ang", "[[0, 0, nan]]", "XYZ_Ang: a number is not finite, ' nan'"),
    ("N_atoms", "5.0", "N_atoms must be a whole number, got '5.0'"),
    ("N_atoms", "-5", "N_atoms must be a whole number, got '-5'"),
    ("N_atoms", "99", "99 atoms, "),
    ("Index", "x", "Index must be a whole number, got 'x'"),
    ("InternalEnergy_0K_au", "True", "InternalEnergy_0K_au must be a number, got 'True'"),
    ("InternalEnergy_0K_au", "1e999", "InternalEnergy_0K_au: a number is not finite, '1e999'"),
    ("Dipole_debye", "", "Dipole_debye must be a number, got ''"),
]


@pytest.fixture
def source(tmp_path):
    """A folder with some molecules of QM9, and the first file of it."""
    folder = shutil.copytree(SAMPLE, tmp_path / "source")
    return folder, min(folder.glob("qm9_part*.csv"))


def read_source(folder):
    return QM9(folder.parent / "cache", source=folder, progress=False)


@pytest.mark.parametrize(("column", "value", "message"), QM9_CELLS)
def test_cells_of_qm9(column, value, message, source):
    folder, file = source
    with file.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    rows[1][column] = value
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ValueError, match=rf"{file.name}, line 3, is not a molecule of QM9: {re.escape(message)}"):
        read_source(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: b"", "line 1, is not a molecule of QM9: it has no column Dipole_debye, Elements"),
        (lambda content: content.replace(b"XYZ_Ang", b"XYZ"), "line 1, .* it has no column XYZ_Ang"),
        (lambda content: content[:-300], r"line \d+, is not a molecule of QM9: "),
        (lambda content: content[:3000] + b"\xe9" + content[3000:], "is not text in UTF-8"),
        (lambda content: content + b'"' + b"x" * 200_000, r"line \d+, is not a molecule of QM9: "),
    ],
)
def test_files_of_qm9(spoil, message, source):
    folder, file = source
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(ValueError, match=rf"{file.name}, .*{message}"):
        read_source(folder)


def test_molecules_of_qm9_are_there_once_and_apart(source):
    folder, file = source
    content = file.read_bytes()
    file.write_bytes(content + content.splitlines(keepends=True)[1])
    with pytest.raises(ValueError, match=r"appear twice: that with Index \d+ comes behind one that is not smaller"):
        read_source(folder)
    for one in folder.glob("qm9_part*.csv"):
        one.write_bytes(content.splitlines(keepends=True)[0])
    with pytest.raises(ValueError, match=r"qm9_part\*\.csv have no molecules"):
        read_source(folder)
    rows = list(csv.reader(content.decode().splitlines()))
    place = rows[0].index("XYZ_Ang")
    n_atoms = int(rows[1][rows[0].index("N_atoms")])
    rows[1][place] = str([[0.0, 0.0, 0.0]] * n_atoms)
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerows(rows)
    with pytest.raises(ValueError, match="line 2, is not a molecule of QM9: atoms 0 and 1 are in the same place"):
        read_source(folder)


CACHES = {
    "nothing": (lambda columns: b"", "header too small"),
    "no positions": (lambda columns: columns.pop("pos") is None, "it has no pos"),
    "rows": (lambda columns: columns.update(pos=torch.ones(3, 3)), r"pos has shape \[3, 3\], expected \[\d+, 3\]"),
    "counts": (lambda columns: columns["n_atoms"].mul_(2), r"z has shape \[\d+\], expected \[\d+\]"),
    "negative count": (lambda columns: columns["n_atoms"][0].fill_(-5), "n_atoms must be numbers of atoms"),
    "fractions": (lambda columns: columns.update(z=columns["z"].float()), "z is of torch.float32"),
    "targets": (lambda columns: columns.update(y=columns["y"][:, :5].clone()), r"y has shape \[\d+, 5\], expected"),
}


@pytest.mark.parametrize("name", CACHES)
def test_caches_of_qm9(name, tmp_path):
    change, message = CACHES[name]
    QM9(tmp_path, source=SAMPLE, progress=False)
    (file,) = (tmp_path / "processed").glob("*.safetensors")
    columns = load_file(file)
    changed = change(columns)
    if isinstance(changed, bytes):
        file.write_bytes(changed)
    else:
        save_file(columns, file)
    raises(
        lambda path: QM9(tmp_path, source=SAMPLE, progress=False),
        file,
        rf"is damaged .*{message}.* force_reload",
        OSError,
    )
    assert len(QM9(tmp_path, source=SAMPLE, progress=False, force_reload=True)) > 0


FRAMES = {
    "z": np.array([8, 1, 1]),
    "R": np.random.default_rng(0).normal(size=(4, 3, 3)) * 3,
    "E": np.zeros((4, 1)),
    "F": np.zeros((4, 3, 3)),
}
MD17S = {
    **{f"no {name}": ({**FRAMES, name: None}, "expected z, R, E, F") for name in FRAMES},
    **{f"{name} of texts": ({**FRAMES, name: np.array("x")}, "single numbers or nothing") for name in FRAMES},
    **{f"no {name} at all": ({**FRAMES, name: np.zeros(0)}, "nothing|do not fit together") for name in FRAMES},
    **{f"fewer {name}": ({**FRAMES, name: FRAMES[name][:-1]}, "shapes do not fit together") for name in FRAMES},
    **{f"{name} not finite": ({**FRAMES, name: FRAMES[name] * np.nan}, "finite|atomic numbers") for name in FRAMES},
    **{
        f"complex {name}": ({**FRAMES, name: FRAMES[name] * 1j}, "must be real numbers, got complex") for name in FRAMES
    },
    "unit": ({**FRAMES, "e_unit": np.array("fly")}, "it says e_unit='fly', expected one of kcal/mol"),
    "lattice": ({**FRAMES, "lattice": np.eye(3)}, "it has a lattice, expected molecules"),
}


@pytest.mark.parametrize("name", MD17S)
def test_archives_of_md17(name, tmp_path):
    content, message = MD17S[name]
    path = tmp_path / "d.npz"
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    raises(MD17, path, message)


def test_files_that_are_no_files(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "broken").symlink_to("nowhere")
    for name, error, message in (
        ("nowhere", FileNotFoundError, "there is no file"),
        ("broken", FileNotFoundError, "it is a link to nowhere, which is not there"),
        ("loop", OSError, "cannot be read: Too many levels of symbolic links"),
        (".", IsADirectoryError, "is a folder, expected a file"),
        ("a\0b", OSError, "is not the name of a file"),
        ("x" * 300, OSError, "cannot be read: File name too long"),
    ):
        with pytest.raises(error, match=message):
            check_file(tmp_path / name)
    with pytest.raises(OSError, match="/dev/null is a device, expected a regular file; copy it to one"):
        check_file("/dev/null")
    assert check_file(SAMPLE / "qm9_part1.csv").name == "qm9_part1.csv"


def test_texts_and_values(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfabc")  # with a mark of the byte order, as Windows writes it
    assert read_text(path) == "abc"
    with pytest.raises(ValueError, match=r"has 6 bytes, expected at most 5"):
        read_text(path, 5)
    path.write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match="is not text in UTF-8: byte 3 is 0xff"):
        read_text(path)
    assert described("\x1b[31m") == "'\\x1b[31m'"
    assert len(described("x" * 1000)) == 60
    np.savez(tmp_path / "a.npz", a=[1], b=[2])
    found = read_arrays(tmp_path / "a.npz", ["a", "c"])
    assert found["a"].tolist() == [1]
    assert found["b"] is None
    assert "c" not in found

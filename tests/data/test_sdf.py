"""SD files: several molecules, V3000, charges, isotopes, data items."""

import gzip

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from pyg_schnet.data import AtomsDataset
from pyg_schnet.data.ase_files import read_all


def v2000(name, rows, properties="", items="", header="  prog              3D"):
    atoms = "".join(f"{x:10.4f}{y:10.4f}{z:10.4f} {symbol:<3} 0{charge:3d}\n" for symbol, x, y, z, charge in rows)
    counts = f"{len(rows):3d}  0  0  0  0  0  0  0  0  0999 V2000"
    return f"{name}\n{header}\n\n{counts}\n{atoms}{properties}M  END\n{items}$$$$\n"


def rows_of(name, charge=0):
    return [(atom.symbol, *atom.position, charge) for atom in molecule(name)]


def test_every_molecule_with_its_data(tmp_path):
    text = v2000("water", rows_of("H2O"), items=">  <gap>  (1)\n0.25\n\n> <SMILES>\nO\n\n")
    text += v2000("methane", rows_of("CH4"), items="> <gap>\n0.5\n\n")
    (tmp_path / "a.sdf").write_text(text + v2000("ammonia", rows_of("NH3"), items="> <gap>\n1\n\n"))
    (tmp_path / "a.sdf.gz").write_bytes(gzip.compress((tmp_path / "a.sdf").read_bytes()))
    (tmp_path / "crlf.SDF").write_bytes((tmp_path / "a.sdf").read_bytes().replace(b"\n", b"\r\n"))
    for name in ("a.sdf", "a.sdf.gz", "crlf.SDF"):
        dataset = AtomsDataset(tmp_path / name, {"gap": "eV"})
        assert dataset.gap.tolist() == [0.25, 0.5, 1.0]
        for data, symbols in zip(dataset, ("H2O", "CH4", "NH3"), strict=True):
            assert data.z.tolist() == molecule(symbols).numbers.tolist()
            np.testing.assert_allclose(data.pos, molecule(symbols).positions, atol=6e-5)
    infos = [atoms.info for _, atoms in read_all(tmp_path / "a.sdf", "::2", None)]
    assert infos == [{"name": "water", "gap": 0.25, "SMILES": "O"}, {"name": "ammonia", "gap": 1.0}]


@pytest.mark.skipif(not ase.io.formats.ioformats["sdf"].can_write, reason="this version of ASE does not write them")
def test_what_ase_writes_comes_back(tmp_path):
    for name in ("a.sdf", "a.mol"):
        ase.io.write(tmp_path / name, molecule("CH3CH2OH"))
        ((_, atoms),) = read_all(tmp_path / name, ":", None)
        np.testing.assert_allclose(atoms.positions, molecule("CH3CH2OH").positions, atol=6e-5)
        assert atoms.info == {}
        assert not atoms.has("masses")


def test_numbers_that_touch(tmp_path):
    (tmp_path / "a.sdf").write_text(
        v2000("far", [("C", -1000.1234, -2000.1234, -3000.1234, 0), ("O", -1001, -2000, -3000, 0)])
    )
    ((_, atoms),) = read_all(tmp_path / "a.sdf", ":", None)
    assert atoms.positions[0].tolist() == [-1000.1234, -2000.1234, -3000.1234]


def test_columns_of_other_widths(tmp_path):
    (tmp_path / "a.sdf").write_text("x\n\n\n  2  0 V2000\n 0.0 0.0 0.1 O\n0.0 0.96 0.0 H 0 0\nM  END\n")
    ((_, atoms),) = read_all(tmp_path / "a.sdf", ":", None)
    assert (atoms.numbers.tolist(), atoms.positions.tolist()) == ([8, 1], [[0, 0, 0.1], [0, 0.96, 0]])


def test_charges_and_isotopes(tmp_path):
    text = v2000("ammonium", [("N", 0, 0, 0, 3), *[("H", *atom.position + 1, 0) for atom in molecule("CH4")[1:]]])
    text += v2000("oxide", rows_of("H2O", 5), properties="M  CHG  2   1  -2   2   1\nM  ISO  2   2   2   1  18\n")
    text += v2000("heavy", [("O", 0, 0, 0, 0), ("D", 0, 0, 0.96, 0), ("T", 0, 0.93, -0.24, 0)])
    (tmp_path / "a.sdf").write_text(text)
    ammonium, oxide, heavy = [atoms for _, atoms in read_all(tmp_path / "a.sdf", ":", None)]
    assert ammonium.info["charge"] == 1
    assert oxide.info["charge"] == -1  # the lines "M  CHG" replace what the lines of atoms say
    np.testing.assert_allclose(oxide.get_masses(), [18.0, 2.0141, 1.008], atol=1e-4)
    assert heavy.numbers.tolist() == [8, 1, 1]
    assert "charge" not in heavy.info
    np.testing.assert_allclose(heavy.get_masses(), [15.999, 2.0141, 3.0160], atol=1e-4)


def test_v3000(tmp_path):
    atoms = "".join(
        f"M  V30 {k} {atom.symbol} {atom.x:.6f} {atom.y:.6f} -\nM  V30 {atom.z:.6f} 0{' CHG=-1' if k == 1 else ''}\n"
        for k, atom in enumerate(molecule("H2O"), 1)
    )
    head = "water\n  prog              3D\n\n  0  0  0     0  0            999 V3000\n"
    counts = "M  V30 BEGIN CTAB\nM  V30 COUNTS 3 0 0 0 0\n"
    record = f"{head}{counts}M  V30 BEGIN ATOM\n{atoms}M  V30 END ATOM\nM  V30 END CTAB\nM  END\n$$$$\n"
    (tmp_path / "a.sdf").write_text(record + v2000("methane", rows_of("CH4")))
    (_, water), (_, methane) = read_all(tmp_path / "a.sdf", ":", None)
    np.testing.assert_allclose(water.positions, molecule("H2O").positions, atol=1e-6)
    assert (water.info["charge"], len(methane)) == (-1, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            v2000("flat", [("C", 0, 0, 0, 0), ("O", 1, 0, 0, 0)], header="  prog              2D"),
            "a drawing in two dimensions",
        ),
        (v2000("x", [("R#", 0, 0, 0, 0)]), "'R#' is not the symbol of an element"),
        (v2000("two", rows_of("H2O")).replace("$$$$\n", "") * 2, "put '\\$\\$\\$\\$' between molecules"),
        ("a\n\n\n  9  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n$$$$\n", "1 lines of atoms|0 lines of atoms"),
        ("a\n\n$$$$\n", "2 lines, expected three lines of header"),
    ],
)
def test_other_records_are_refused(tmp_path, text, message):
    (tmp_path / "a.sdf").write_text(text)
    with pytest.raises(ValueError, match=f"structure 0 of .*a\\.sdf: .*{message}"):
        AtomsDataset(tmp_path / "a.sdf")

"""Every structure of every file, or none: formats of ASE that take one of several, or lose something."""

import gzip
import os
import warnings

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

import pyg_schnet.data
from pyg_schnet.data import AtomsDataset
from pyg_schnet.data.ase_files import read_all

FRAME = "1\n{}\nCu 0 0 0\n"


def sizes(path, **options):
    return [len(atoms) for _, atoms in read_all(path, options.pop("index", ":"), options.pop("format", None))]


@pytest.mark.parametrize(
    ("flag", "pbc"),
    [
        ("", [True, True, True]),
        ('pbc="T T F"', [True, True, False]),
        ('pbc="t t f"', [True, True, False]),
        ('pbc="1 1 0"', [True, True, False]),
        ('pbc="[1, 0, 1]"', [True, False, True]),
        ('pbc="True false True"', [True, False, True]),
        ('PBC="F F T"', [False, False, True]),
        ("pbc=F", [False, False, False]),
        ("pbc=T", [True, True, True]),
    ],
)
@pytest.mark.parametrize("lattice", ["Lattice", "lattice"])
def test_boundaries_of_extended_xyz(tmp_path, flag, pbc, lattice):
    (tmp_path / "a.xyz").write_text(
        FRAME.format(f'{lattice}="4 0 0 1 5 0 0 0 6" {flag} Properties=species:S:1:pos:R:3')
    )
    data = AtomsDataset(tmp_path / "a.xyz")[0]
    assert data.pbc[0].tolist() == pbc
    assert data.cell[0].tolist() == [[4, 0, 0], [1, 5, 0], [0, 0, 6]]


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ('Lattice="4 0 0 0 4 0 0 0 4" pbc="T F"', "pbc must be three of T and F"),
        ('Lattice="4 0 0 0 4 0 0 0 4" pbc="xyz"', "pbc must be three of T and F"),
        ('Lattice="4 4 4"', "9-long|nine numbers"),
        ('lattice="4 4 4"', "Lattice must be nine numbers"),
        ('pbc="T T T"', "but a zero cell vector"),
    ],
)
def test_boundaries_that_are_not_clear_are_refused(tmp_path, comment, message):
    (tmp_path / "a.xyz").write_text(FRAME.format(comment))
    with pytest.raises(ValueError, match=message):
        AtomsDataset(tmp_path / "a.xyz")


def test_words_of_a_sentence_are_no_lattice(tmp_path):
    (tmp_path / "a.xyz").write_text(FRAME.format("copper without lattice"))
    assert not AtomsDataset(tmp_path / "a.xyz")[0].pbc.any()


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("POSCAR", "vasp"),
        ("a.gen", "gen"),
        ("coord", "turbomole"),
        ("a.gro", "gromacs"),
        ("a.res", "res"),
        ("a.cfg", "cfg"),
        ("a.lammps-data", "lammps-data"),
        ("a.cell", "castep-cell"),
        ("a.nwi", "nwchem-in"),
        ("f34", "crystal"),
        ("a.struct", "struct"),
        ("a.car", "dmol-car"),
        ("a.g96", "gromos"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_files_of_one_structure_that_hold_two_are_refused(tmp_path, name, format):
    parts = []
    for k, symbols in enumerate(("H2O", "CH4")):
        atoms = molecule(symbols, vacuum=3.0, pbc=format != "turbomole")
        ase.io.write(tmp_path / f"{k}", atoms, format=format)
        written = tmp_path / (f"{k}.struct" if format == "struct" else f"{k}")
        parts.append(written.read_text() if written.exists() else (tmp_path / f"{k}").read_text())
    path = tmp_path / name
    path.write_text(parts[0])
    assert sizes(path, format=format) == [3]
    path.write_text("".join(parts))
    with pytest.raises(ValueError, match=r"holds 2 structures, of which ASE reads one in the format .* \.extxyz"):
        sizes(path, format=format)


def test_velocities_of_vasp_are_no_second_structure(tmp_path):
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    ase.io.write(tmp_path / "POSCAR", atoms, format="vasp", direct=True)
    plain = (tmp_path / "POSCAR").read_text()
    for more in (
        "\nDirect\n 0 0 0\n 0 0 0\n",
        "\n 0 0 0\n 0 0 0\n",
        "Lattice velocities and vectors\n 1\n" + 6 * "0 0 0\n",
    ):
        (tmp_path / "POSCAR").write_text(plain + more)
        assert sizes(tmp_path / "POSCAR") == [2]
    (tmp_path / "POSCAR").write_text("C in whole numbers\n1.0\n5 0 0\n0 5 0\n0 0 5\nC\n1\nDirect\n0 0 0\n")
    assert sizes(tmp_path / "POSCAR") == [1]


def test_models_of_a_pdb_file_share_its_cell(tmp_path):
    atom = "ATOM      1  H   MOL     1    {:8.3f}   0.000   0.000  1.00  0.00           H  \n"
    text = "CRYST1   10.000   10.000   10.000  90.00  90.00  90.00 P 1\n"
    for k in range(3):
        text += f"MODEL     {k + 1}\n" + atom.format(0.0) + atom.format(1.0 + k) + "ENDMDL\n"
    (tmp_path / "a.pdb").write_text(text + "END\n")
    dataset = AtomsDataset(tmp_path / "a.pdb")
    assert dataset.pbc.tolist() == [[True] * 3] * 3
    assert dataset.cell[2].diagonal().tolist() == [10.0] * 3
    assert [float(data.pos[1, 0]) for data in dataset] == [1.0, 2.0, 3.0]
    (tmp_path / "a.pdb").write_text(text.replace("10.000", " 1.000").replace(" 2.000   0.000", " 2.500   0.000"))
    assert not AtomsDataset(tmp_path / "a.pdb").pbc.any()  # a cell of 1 Å stands for none


def test_alternate_locations_of_a_pdb_file_are_refused(tmp_path):
    line = "ATOM      1  C  {}MOL     1    {:8.3f}   0.000   0.000  0.50  0.00           C  \n"
    (tmp_path / "a.pdb").write_text(line.format("A", 0.0) + line.format("B", 0.5) + "END\n")
    with pytest.raises(ValueError, match="partly empty"):
        AtomsDataset(tmp_path / "a.pdb")


CIF = """data_x
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""


@pytest.mark.parametrize(
    ("sites", "ordered"),
    [
        ("Cu1 Cu 0 0 0 1.0\nCl1 Cl 0.5 0.5 0.5 1.0\n", True),
        ("Cu1 Cu 0 0 0 1.0\nD1 D 0.5 0.5 0.5 ?\n", True),
        ("Cu1 Cu 0 0 0 0.6\nAu1 Au 0 0 0 0.4\n", False),
        ("Cu1 Cu 0 0 0 0.5\n", False),
        ("Cu1 Cu 0 0 0 1.0\nCl1 Cl 0.5 0.5 0.5 0.5\n", False),
    ],
)
def test_cif_with_occupancies(tmp_path, sites, ordered):
    (tmp_path / "a.cif").write_text(CIF + sites)
    if ordered:
        assert AtomsDataset(tmp_path / "a.cif")[0].z.tolist() == [29, 1 if "D1" in sites else 17]
        return
    with pytest.raises(ValueError, match=r"a\.cif, structure 0: a site is shared by several elements or partly empty"):
        AtomsDataset(tmp_path / "a.cif")


@pytest.mark.parametrize(
    "name", ["w@300K.xyz", "w@1.xyz", "a[1].xyz", "what?.xyz", "st*r.xyz", "w @0 b.xyz.gz", "w@1.db"]
)
def test_any_name_of_a_file(tmp_path, name):
    path = tmp_path / name
    frames = [molecule("H2O"), molecule("CH4")]
    if name.endswith(".gz"):
        ase.io.write(tmp_path / "a", frames, format="extxyz")
        path.write_bytes(gzip.compress((tmp_path / "a").read_bytes()))
    elif name.endswith(".db"):
        ase.io.write(tmp_path / "a.db", frames)
        os.rename(tmp_path / "a.db", path)
    else:
        ase.io.write(tmp_path / "a", frames, format="extxyz")
        os.rename(tmp_path / "a", path)
    assert sizes(path) == sizes(str(path)) == [3, 5]
    assert sizes(path, index="-1") == sizes(path, index=1) == [5]


def test_an_index_behind_an_at_sign_is_explained(tmp_path):
    ase.io.write(tmp_path / "a.xyz", molecule("H2O"))
    with pytest.raises(FileNotFoundError, match="give what follows the @ as `index`"):
        AtomsDataset(f"{tmp_path / 'a.xyz'}@0:1")


def test_sources_of_all_kinds(tmp_path):
    frames = [molecule("H2O"), molecule("CH4"), molecule("NH3")]
    ase.io.write(tmp_path / "a.traj", frames)
    ase.io.write(tmp_path / "b.xyz", frames[:1])
    sources = {
        "iread": ase.io.iread(tmp_path / "a.traj"),
        "trajectory": (trajectory := ase.io.Trajectory(tmp_path / "a.traj")),
        "filter": filter(lambda atoms: len(atoms) > 0, frames),
        "map": map(Atoms.copy, frames),
        "generator": (atoms for atoms in frames),
        "iterator": iter(frames),
        "tuple": tuple(frames),
        "paths": (path for path in [tmp_path / "a.traj"]),
        "str": str(tmp_path / "a.traj"),
        "mixed": [str(tmp_path / "b.xyz"), *frames[1:]],
    }
    found = {what: [data.num_nodes for data in AtomsDataset(source)] for what, source in sources.items()}
    assert found == {what: [3, 5, 4] for what in sources}
    trajectory.close()
    assert [data.num_nodes for data in AtomsDataset(frames[1])] == [5]


def test_other_sources_are_refused():
    with pytest.raises(TypeError, match=r"item 0 of the source is a int, expected a path or ase\.Atoms"):
        AtomsDataset(b"a.xyz")
    with pytest.raises(TypeError, match="item 1 of the source is a NoneType"):
        AtomsDataset([molecule("H2O"), None])
    with pytest.raises(ValueError, match=r"index='::2' and format=None are of files, but structure 0 is from none"):
        AtomsDataset([molecule("H2O")], index="::2")


def test_a_single_structure_has_one_index(tmp_path):
    ase.io.write(tmp_path / "a.gen", molecule("H2O"))
    for index in (":", "0", "-1", "::10", 0):
        assert sizes(tmp_path / "a.gen", index=index) == [3]
    with pytest.raises(ValueError, match=r"has no structures \(index='1:'\)"):
        sizes(tmp_path / "a.gen", index="1:")


@pytest.mark.parametrize(
    ("frame", "masses"),
    [
        ("3\nheavy water\nO 0 0 0\nD 0 0 0.96\nT 0 0.93 -0.24\n", [15.999, 2.0141, 3.0160]),
        (
            "3\nProperties=id:I:1:species:S:1:pos:R:3 energy=-1\n1 O 0 0 0\n2 d 0 0 0.96\n3 H 0 0.93 -0.24\n",
            [15.999, 2.0141, 1.008],
        ),
        ('3\nProperties="species:S:1:pos:R:3:masses:R:1"\nO 0 0 0 18\nD 0 0 0.96 2\nT 0 0.93 -0.24 3\n', [18, 2, 3]),
    ],
)
def test_isotopes_of_hydrogen_in_xyz(tmp_path, frame, masses):
    (tmp_path / "a.xyz").write_text("1\n\nHe 0 0 0\n" + frame)
    (_, helium), (_, water) = read_all(tmp_path / "a.xyz", ":", None)
    assert helium.numbers.tolist() == [2]
    assert water.numbers.tolist() == [8, 1, 1]
    np.testing.assert_allclose(water.positions[1:], [[0, 0, 0.96], [0, 0.93, -0.24]])
    np.testing.assert_allclose(water.get_masses(), masses, atol=1e-4)
    ((_, last),) = read_all(tmp_path / "a.xyz", "-1", None)
    assert last.numbers.tolist() == [8, 1, 1]


def test_isotopes_that_ase_does_not_read_are_explained(tmp_path):
    (tmp_path / "POSCAR").write_text("heavy\n1.0\n5 0 0\n0 5 0\n0 0 5\nD O\n2 1\nDirect\n0 0 0\n.2 0 0\n.4 0 0\n")
    with pytest.raises(
        ValueError, match="'D' is an isotope of hydrogen, which ASE does not know in this format; write H"
    ):
        AtomsDataset(tmp_path / "POSCAR")
    line = "ATOM      1  D   MOL     1       0.000   0.000   0.000  1.00  0.00           D  \n"
    (tmp_path / "a.pdb").write_text(line + "END\n")
    with pytest.raises(ValueError, match="'D' is an isotope of hydrogen"):
        AtomsDataset(tmp_path / "a.pdb")


def test_damaged_files_are_left_to_ase(tmp_path):
    (tmp_path / "POSCAR").write_text("x\n1\n1 0 0\n0 1 0\n0 0 1\n\n\n\n")
    (tmp_path / "a.gen").write_text("H C\n")
    for name in ("POSCAR", "a.gen"):
        with pytest.raises(ValueError, match="ASE cannot read structure 0"):
            AtomsDataset(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "argument"), [("AtomsDataset", "source"), ("MD17", "path"), ("MaterialsDataset", "path")]
)
def test_several_files_from_a_configuration(name, argument):
    parser = pytest.importorskip("jsonargparse").ArgumentParser()  # takes a list for a text if that type comes first
    parser.add_class_arguments(getattr(pyg_schnet.data, name), "data")
    for given in (["a.xyz", "b.xyz"], "a.xyz"):
        arguments = {argument: given} | ({"properties": {"gap": "eV"}} if name == "MaterialsDataset" else {})
        assert parser.parse_object({"data": arguments}).data[argument] == given


def test_more_sources(tmp_path):
    atoms = molecule("H2O")
    with ase.db.connect(tmp_path / "a.db") as rows:
        for _ in range(3):
            rows.write(atoms)
    assert len(AtomsDataset(ase.db.connect(tmp_path / "a.db"))) == 3
    with pytest.raises(ValueError, match=r"a\.db has no structures \(index='7'\)"):
        AtomsDataset(tmp_path / "a.db", index="7")
    ase.io.write(tmp_path / "a.xyz", [atoms, atoms])
    with gzip.open(tmp_path / "A.XYZ.GZ", "wb") as file:
        file.write((tmp_path / "a.xyz").read_bytes())
    assert len(AtomsDataset(tmp_path / "A.XYZ.GZ")) == 2
    for source in (None, {"a": atoms}, 3):
        with pytest.raises(TypeError, match=rf"the source is a {type(source).__name__}, expected a path, ase\.Atoms"):
            AtomsDataset(source)


CUBIC = "".join(f"_cell_length_{x} 4.0\n" for x in "abc") + "".join(
    f"_cell_angle_{x} 90\n" for x in ("alpha", "beta", "gamma")
)


def cif(path, sites, group="P 1"):
    names = "".join(f"_atom_site_{name}\n" for name in ("label", "type_symbol", "fract_x", "fract_y", "fract_z"))
    path.write_text(f"data_x\n{CUBIC}_symmetry_space_group_name_H-M '{group}'\nloop_\n{names}{sites}")
    return path


def test_shared_sites_without_occupancies(tmp_path):
    for sites, group in (("Cu Cu 0 0 0\nAu Au 0 0 0\n", "P 1"), ("Cu Cu 0 0 0\nAu Au 0.5 0.5 0\n", "F m -3 m")):
        with pytest.raises(ValueError, match="site 1 has Au where Cu is as well; choose one ordered structure"):
            AtomsDataset(cif(tmp_path / "a.cif", sites, group))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named_twice = AtomsDataset(cif(tmp_path / "a.cif", "Cu1 Cu 0 0 0\nCu2 Cu 0.5 0.5 0\n", "F m -3 m"))[0]
    assert named_twice.z.tolist() == [29] * 4


def test_boxes_are_periodic(tmp_path):
    crystal = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    for format in ("eon", "sys"):
        ase.io.write(tmp_path / "a.dat", crystal, format=format)
        assert AtomsDataset(tmp_path / "a.dat", format=format)[0].pbc.tolist() == [[True] * 3]


def test_several_structures_of_xsf(tmp_path):
    (tmp_path / "a.xsf").write_text("ATOMS\n8 0 0 0\n1 0 0 1\nATOMS\n8 0 0 0\n1 0 0 2\n")
    with pytest.raises(ValueError, match="it holds 2 structures, of which ASE reads one in the format 'xsf'"):
        AtomsDataset(tmp_path / "a.xsf")
    crystals = [bulk("NaCl", "rocksalt", a=a) for a in (5.6, 5.8)]
    ase.io.write(tmp_path / "b.xsf", crystals)
    assert [float(data.cell[0, 0, 1]) for data in AtomsDataset(tmp_path / "b.xsf")] == pytest.approx([2.8, 2.9])

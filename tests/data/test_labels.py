"""Labels under any name and in any place, with the right sign and size."""

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from pyg_schnet.data import AtomsDataset, to_data

CUBE = {"cell": np.diag([4.0, 4.0, 4.0]), "pbc": True}  # 64 Å³


def xyz(path, comment, row="Cu 0 0 0"):
    path.write_text(f'1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 {comment}\n{row}\n')
    return path


def test_results_of_a_calculator_are_found_by_name(tmp_path):
    path = xyz(tmp_path / "a.xyz", "free_energy=-14.2 energy=-14.0 magmom=2.5 dipole='1 2 3'")
    data = AtomsDataset(path, {"magmom": "1", "mu": "D"}, {"energy": "free_energy", "mu": "dipole"})
    assert data.energy.tolist() == [-14.2]
    assert data.magmom.tolist() == [2.5]
    assert data.mu.tolist() == pytest.approx(np.array([[1.0, 2.0, 3.0]]) * 0.20819434, rel=1e-7)
    assert AtomsDataset(path).energy.tolist() == [-14.0]
    assert AtomsDataset(path, keys={"energy": "energy"}).energy.tolist() == [-14.0]


def test_results_of_atoms_are_of_atoms():
    atoms = molecule("H2O")
    results = {"charges": [-0.8, 0.4, 0.4], "magmoms": [0.0, 1.0, 2.0], "polarizability": np.eye(3), "own": [1, 2, 3]}
    atoms.calc = SinglePointCalculator(atoms)
    atoms.calc.results.update(results, dielectric_tensor=np.eye(3))
    dataset = AtomsDataset([atoms], {"charges": "1", "magmoms": "1", "own": "1", "dielectric_tensor": "1"})
    levels = {name: target.level for name, target in dataset.properties.items()}
    assert levels == {"charges": "atom", "magmoms": "atom", "own": "atom", "dielectric_tensor": "structure"}
    assert dataset.charges.tolist() == pytest.approx([-0.8, 0.4, 0.4])
    assert dataset.dielectric_tensor.shape == (1, 3, 3)


@pytest.mark.parametrize("name", ["a.db", "a.json"])
def test_labels_of_rows(tmp_path, name):
    atoms = molecule("H2O")
    forces = np.arange(9.0).reshape(3, 3)
    with connect(tmp_path / name) as rows:
        rows.write(atoms, gap=0.5, data={"E": -2.0, "F": forces, "q": np.array([1.0, 2.0, 3.0])})
    data = AtomsDataset(tmp_path / name, {"gap": "eV", "q": "1"}, {"energy": "E", "forces": "F"})[0]
    assert (data.gap.tolist(), data.energy.tolist()) == ([0.5], [-2.0])
    assert data.forces.tolist() == forces.tolist()
    assert data.q.tolist() == [1.0, 2.0, 3.0]


def test_rows_themselves_and_flat_forces(tmp_path):
    with connect(tmp_path / "a.db") as rows:
        rows.write(molecule("H2O"), gap=0.5)
        assert AtomsDataset(rows.select(), {"gap": "eV"}).gap.tolist() == [0.5]
    atoms = molecule("H2O")
    atoms.info["F"] = np.arange(9.0)
    assert to_data(atoms, keys={"forces": "F"}).forces.tolist() == np.arange(9.0).reshape(3, 3).tolist()


def test_one_name_with_two_values_is_refused():
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    atoms.info["energy"] = -1.0
    assert to_data(atoms, keys={"energy": "energy"}).energy.tolist() == [-1.0]
    atoms.info["energy"] = -2.0
    with pytest.raises(ValueError, match=r"'energy' is in the results of the calculator and in atoms\.info, with diff"):
        to_data(atoms, keys={"energy": "energy"})
    assert to_data(atoms).energy.tolist() == [-1.0]  # not named: of the calculator, as documented


def test_what_there_is_is_listed(tmp_path):
    path = xyz(tmp_path / "a.xyz", "free_energy=-14.2 gap=1.0")
    with pytest.raises(ValueError, match=r"no structure has 'E'; .* have gap; the results .* have free_energy"):
        AtomsDataset(path, keys={"energy": "E"})
    moved = molecule("H2O")
    moved.calc = SinglePointCalculator(moved, energy=-1.0)
    moved.positions[0] += 0.1
    with pytest.raises(ValueError, match="results for other positions, which are left out, have energy"):
        AtomsDataset([moved], keys={"energy": "energy"})
    with pytest.raises(ValueError, match=r"unit of 'REF' is not known.*\{'energy': 'REF'\}"):
        AtomsDataset(path, keys={"REF": "energy"})


@pytest.mark.parametrize("key", ["virial", "REF_virials", "vir", "dft-Virial"])
@pytest.mark.parametrize("shape", ["voigt", "matrix", "flat"])
def test_virials_are_divided_by_minus_the_volume(key, shape):
    virial = np.array([[6.4, 0.64, 0.0], [0.64, 12.8, 1.28], [0.0, 1.28, 19.2]])
    values = {
        "matrix": virial,
        "flat": virial.ravel().tolist(),
        "voigt": virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
    }
    atoms = Atoms("Cu", **CUBE, info={key: values[shape]})
    data = to_data(atoms, keys={"stress": key})
    np.testing.assert_allclose(data.stress[0], -virial / 64.0, rtol=1e-14)
    in_kcal = to_data(atoms, {"stress": "kcal/mol"}, {"stress": key})
    np.testing.assert_allclose(in_kcal.stress[0], -virial / 64.0 / 23.060548, rtol=1e-7)


@pytest.mark.parametrize(
    ("key", "factor", "unit"),
    [
        ("stress", 1.0, "eV/Å³"),
        ("REF_stress", 1.0, "eV/Å³"),
        ("dft_stress", 1 / 160.21766208, "GPa"),
        ("pressure_tensor", -1.0, "eV/Å³"),
        ("pressure", -1 / 1602.1766208, "kbar"),
        ("virials", -1 / 64.0, "eV"),
        ("dE_dstrain", 1 / 64.0, "eV"),
        ("dft_dEnergy_deps", 1 / 64.0, "eV"),
        ("strain_gradient", 1 / 64.0 / 23.060548, "kcal/mol"),
    ],
)
@pytest.mark.parametrize("voigt", [False, True])
def test_each_kind_of_stress_has_its_sign_and_size(key, factor, unit, voigt):
    value = np.array([[6.4, 0.64, 0.1], [0.64, 12.8, 1.28], [0.1, 1.28, 19.2]])
    given = value[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] if voigt else value
    found = to_data(Atoms("Cu", **CUBE, info={key: given}), {"stress": unit}, {"stress": key}).stress[0]
    np.testing.assert_allclose(found, factor * value, rtol=1e-7)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("minus_virial", "may be a virial or minus that"),
        ("neg-stress", "may be a stress or minus that"),
        ("pressure_stress", "may be a pressure or a stress"),
        ("virial_pressure", "may be a virial or a pressure"),
        ("virial_per_atom", "per atom by its name"),
        ("stress/atom", "per atom by its name"),
        ("virial_per_volume", "per volume by its name"),
    ],
)
def test_keys_that_may_be_several_are_refused_by_name(key, message):
    with pytest.raises(ValueError, match=f"{key}' .*{message}"):
        to_data(Atoms("Cu", **CUBE, info={key: np.eye(3)}), {}, {"stress": key})


def test_a_slab_has_a_stress_from_its_virial():
    atoms = Atoms("Cu", cell=4 * np.eye(3), pbc=(True, True, False), info={"virial": 64.0 * np.eye(3)})
    np.testing.assert_allclose(to_data(atoms, keys={"stress": "virial"}).stress[0], -np.eye(3))


def test_a_unit_of_energy_says_that_it_is_a_virial():
    atoms = Atoms("Cu", **CUBE, info={"W": np.eye(3)})
    np.testing.assert_allclose(to_data(atoms, {"stress": "eV"}, {"stress": "W"}).stress[0], -np.eye(3) / 64.0)
    np.testing.assert_allclose(to_data(atoms, keys={"stress": "W"}).stress[0], np.eye(3))


@pytest.mark.parametrize(
    ("atoms", "properties", "key", "message"),
    [
        (Atoms("Cu", **CUBE, info={"virial_stress": np.eye(3)}), {}, "virial_stress", "may be a virial or a stress"),
        (Atoms("Cu", **CUBE, info={"virial": np.eye(3)}), {"stress": "kbar"}, "virial", "may be a virial or a stress"),
        (Atoms("Cu", info={"virial": np.eye(3)}), {}, "virial", "a periodic structure in a cell with a volume"),
        (Atoms("Cu", cell=np.eye(3), info={"virial": np.eye(3)}), {}, "virial", "a periodic structure in"),
        (Atoms("Cu", **CUBE, info={"virial": 1.0}), {}, "virial", "6 numbers"),
        (Atoms("Cu", **CUBE, info={"s": np.arange(9.0)}), {}, "s", "'stress' must be symmetric"),
    ],
)
def test_virials_that_are_not_clear_are_refused(atoms, properties, key, message):
    with pytest.raises(ValueError, match=message):
        to_data(atoms, properties, {"stress": key})


def test_virials_of_atoms_are_refused():
    atoms = bulk("Cu")
    atoms.arrays["virials"] = np.ones((1, 9))
    with pytest.raises(ValueError, match="'stress' is a label of each structure, but 'virials' is one of each atom"):
        to_data(atoms, keys={"stress": "virials"})


def test_stress_in_other_units_and_shapes():
    for stress in ([1.0, 2, 3, 4, 5, 6], [[1.0, 6, 5], [6, 2, 4], [5, 4, 3]], [1.0, 6, 5, 6, 2, 4, 5, 4, 3]):
        atoms = Atoms("Cu", **CUBE, info={"s": stress})
        found = to_data(atoms, {"stress": "GPa"}, {"stress": "s"}).stress[0]
        np.testing.assert_allclose(found, np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3]]) / 160.21766208, rtol=1e-6)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"energy": True}, "'energy' must be a number"),  # "energy" without "=" in the comment of an extended xyz
        ({"energy": 1j}, "'energy' must be a number"),
        ({"energy": [1.0, 2.0]}, "'energy' must have 1 number"),
        ({"energy": float("nan")}, "'energy' holds numbers that are not finite; leave it out"),
    ],
)
def test_labels_that_are_no_numbers_are_refused(info, message):
    with pytest.raises(ValueError, match=message):
        to_data(Atoms("H", info=info), keys={"energy": "energy"})


def test_none_is_no_label():
    atoms = Atoms("H", info={"energy": None})
    assert "energy" not in to_data(atoms, keys={"energy": "energy"})


def test_labels_of_wrong_length_are_refused_with_their_place(tmp_path):
    good, bad = molecule("H2O"), molecule("H2O")
    for atoms, n in ((good, 3), (bad, 2)):
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((n, 3)))
    ase.io.write(tmp_path / "a.traj", [good, good])
    with pytest.raises(ValueError, match=r"structure 1: 'forces' must have shape \[3, 3\], got \[2, 3\]"):
        AtomsDataset([good, bad])
    bad.calc.results = {"charges": [0.1, 0.2]}
    with pytest.raises(ValueError, match=r"'charges' must have a row for each of 3 atoms, got shape \[2\]"):
        to_data(bad, {"charges": "1"})
    assert AtomsDataset(tmp_path / "a.traj").energy.dtype == torch.float64


def test_numbers_too_large_for_float32_are_refused():
    atoms = Atoms("H")
    atoms.calc = SinglePointCalculator(atoms, forces=[[1e39, 0.0, 0.0]])
    with pytest.raises(ValueError, match="'forces' holds numbers that are too large for float32"):
        to_data(atoms)
    assert to_data(atoms, dtype=torch.float64).forces[0, 0] == 1e39


@pytest.mark.parametrize("key", ["gradient", "dft_total_gradient", "energy_grad", "dE_dR"])
def test_gradients_are_minus_the_forces(tmp_path, key):
    path = xyz(tmp_path / "a.xyz", "energy=-1.0", "Cu 0 0 0 0.5 -1.5 2.0")
    path.write_text(path.read_text().replace("pos:R:3", f"pos:R:3:{key}:R:3"))
    expected = [[-0.5, 1.5, -2.0]]
    assert AtomsDataset(path, keys={"forces": key})[0].forces.tolist() == expected
    bohr = AtomsDataset(path, {"forces": "Hartree/Bohr"}, {"forces": key})[0].forces
    assert bohr.tolist() == [pytest.approx([51.422067 * value for value in expected[0]], rel=1e-6)]
    assert AtomsDataset(path, {key: "eV/Å"})[0][key].tolist() == [[0.5, -1.5, 2.0]]  # a label of its own


@pytest.mark.parametrize("key", ["neg_gradient", "force_gradient"])
def test_gradients_of_unknown_sign_are_refused(key):
    atoms = Atoms("H")
    atoms.arrays[key] = np.ones((1, 3))
    with pytest.raises(ValueError, match=f"'{key}' may be the gradient of the energy or minus that"):
        to_data(atoms, keys={"forces": key})


@pytest.mark.parametrize("key", ["energy_per_atom", "EnergyPerAtom", "dft energy per atom", "E/atom"])
def test_energies_per_atom_are_no_total_energies(key):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], info={key: -1.5})
    with pytest.raises(ValueError, match=f"'{key}' is an energy per atom by its name"):
        to_data(atoms, keys={"energy": key})
    assert AtomsDataset(atoms, {key: "eV/atom"})[0][key].tolist() == [-1.5]


@pytest.mark.parametrize("numbers", ["1 2 3 4 5 6", "1 6 5 6 2 4 5 4 3"])
@pytest.mark.parametrize("name", ["stress", "virial"])
def test_six_and_nine_numbers_in_a_file(tmp_path, name, numbers):
    path = xyz(tmp_path / "a.xyz", f'energy=-1 {name}="{numbers}" note="a stress=b"')
    matrix = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
    expected = matrix if name == "stress" else -matrix / 64.0
    np.testing.assert_allclose(AtomsDataset(path, keys={"stress": name})[0].stress[0], expected, rtol=1e-12)


def test_other_numbers_of_a_stress_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"stress must be 6 numbers \(xx yy zz yz xz xy\) or 9, got array"):
        AtomsDataset(xyz(tmp_path / "a.xyz", 'stress="1 2 3"'))


def test_energies_in_wave_numbers_are_energies():
    """A label of its own stays a frequency, the energy is in eV: 8065.544 cm⁻¹ are 1 eV."""
    atoms = Atoms("H", info={"E": 8065.543937})
    assert to_data(atoms, {"energy": "cm-1"}, {"energy": "E"}).energy.tolist() == pytest.approx([1.0], rel=1e-9)
    assert to_data(atoms, {"E": "cm-1"}).E.tolist() == [8065.543937]

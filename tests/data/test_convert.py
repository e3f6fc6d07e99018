import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data

from pyg_schnet.data import Property, to_atoms, to_data
from pyg_schnet.data.labels import stored_unit


@st.composite
def structures(draw):
    """Molecules, slabs and crystals with any numbers."""
    n = draw(st.integers(1, 6))
    number = st.floats(-50, 50, allow_nan=False)
    cell = np.eye(3) * 4.0 + np.array(draw(st.lists(st.floats(-1, 1), min_size=9, max_size=9))).reshape(3, 3)
    atoms = Atoms(
        numbers=draw(st.lists(st.integers(1, 118), min_size=n, max_size=n)),
        positions=np.array(draw(st.lists(number, min_size=3 * n, max_size=3 * n))).reshape(n, 3),
        cell=cell if draw(st.booleans()) else None,
    )
    if atoms.cell.any():
        atoms.pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    if draw(st.booleans()):
        values = np.array(draw(st.lists(number, min_size=3 * n + 10, max_size=3 * n + 10)))
        atoms.calc = SinglePointCalculator(
            atoms, energy=values[0], dipole=values[1:4], stress=values[4:10], forces=values[10:].reshape(n, 3)
        )
    return atoms


@settings(max_examples=60)
@given(atoms=structures())
def test_round_trip_is_exact_in_float64(atoms):
    try:
        data = to_data(atoms, dtype=torch.float64)
    except ValueError as error:
        assume("in the same place" not in str(error))
        raise
    back = to_atoms(data)
    assert back == atoms  # numbers, positions, cell, pbc
    if atoms.calc is None:
        assert back.calc is None
        return
    for name, value in atoms.calc.results.items():
        np.testing.assert_array_equal(back.calc.results[name], value)


def test_fields_of_a_molecule():
    data = to_data(molecule("H2O"))
    assert sorted(data.keys()) == ["cell", "origin", "pbc", "pos", "z"]
    assert (data.z.dtype, data.pos.dtype, data.cell.dtype, data.pbc.dtype) == (
        torch.int64,
        torch.float32,
        torch.float32,
        torch.bool,
    )
    assert data.cell.shape == (1, 3, 3)
    assert not data.cell.any()
    assert data.pbc.tolist() == [[False] * 3]


def test_molecules_slabs_and_crystals_share_a_batch():
    slab = fcc111("Cu", (1, 1, 2))  # its third cell vector is zero and not periodic
    batch = Batch.from_data_list([to_data(molecule("H2O")), to_data(slab), to_data(bulk("NaCl", "rocksalt", a=5.6))])
    expected = [np.zeros((3, 3)), slab.cell.array, [[0.0, 2.8, 2.8], [2.8, 0.0, 2.8], [2.8, 2.8, 0.0]]]
    np.testing.assert_allclose(batch.cell, expected, rtol=1e-6)
    assert batch.pbc.tolist() == [[False] * 3, [True, True, False], [True] * 3]


def test_labels_of_a_calculation():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    expected = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
    data = to_data(atoms, dtype=torch.float64)
    assert data.energy.tolist() == [expected[0]]
    assert data.energy.dtype == data.stress.dtype == torch.float64
    np.testing.assert_array_equal(data.forces, expected[1])
    np.testing.assert_array_equal(data.stress, expected[2][None])
    assert to_data(atoms).forces.dtype == torch.float32
    assert to_data(atoms).energy.tolist() == [expected[0]]


def test_results_of_other_positions_are_left_out_and_not_touched():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    atoms.get_potential_energy()
    atoms.positions[0, 0] += 0.1
    results = dict(atoms.calc.results)
    assert "energy" not in to_data(atoms)
    assert list(atoms.calc.results) == list(results)


def test_nothing_is_calculated():
    atoms = bulk("Cu")
    atoms.calc = EMT()
    assert "energy" not in to_data(atoms)
    assert not atoms.calc.results


def test_the_arrays_of_the_caller_are_neither_shared_nor_changed():
    atoms = molecule("H2O")
    data = to_data(atoms, dtype=torch.float64)
    data.pos += 1.0
    data.z[0] = 1
    assert atoms == molecule("H2O")


def test_named_labels_and_units():
    atoms = molecule("H2O")
    atoms.info |= {"gap": 100.0, "REF_energy": -2.0, "polar": [1.0, 2.0], "freq": 1000.0}
    atoms.arrays["charges"] = np.array([-0.6, 0.3, 0.3])
    atoms.arrays["REF_forces"] = np.ones((3, 3))
    data = to_data(
        atoms,
        properties={
            "gap": "meV",
            "charges": "1",
            "polar": "a₀³",
            "freq": "cm-1",
            "energy": "Hartree",
            "forces": "kcal/mol/Å",
        },
        keys={"energy": "REF_energy", "forces": "REF_forces"},
    )
    assert data.gap.tolist() == [0.1]
    assert data.polar.tolist() == [[1.0, 2.0]]
    assert data.freq.tolist() == [1000.0]
    assert data.energy.tolist() == [-2.0 * 27.211386245988]
    assert data.forces[0, 0] == pytest.approx(0.0433641039)
    assert data.charges.dtype == torch.float32
    assert stored_unit("meV") == "eV"


def test_named_labels_come_back():
    atoms = Atoms("H", info={"gap": 1.5, "polar": np.array([1.0, 2.0])})
    atoms.arrays["charges"] = np.array([0.25])
    units = {"gap": "eV", "polar": "a₀³", "charges": "1"}
    properties = {
        name: Property(name, unit, "atom" if name == "charges" else "structure") for name, unit in units.items()
    }
    back = to_atoms(to_data(atoms, units), properties)
    assert back.info["gap"] == 1.5
    assert back.info["polar"].tolist() == [1.0, 2.0]
    assert back.arrays["charges"].tolist() == [0.25]
    with pytest.raises(ValueError, match="attribute 'gap', which this batch does not have"):
        to_atoms(to_data(atoms), properties)


def test_keys_go_before_the_calculator():
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    atoms.info["other"] = -2.0
    assert to_data(atoms, keys={"energy": "other"}).energy.tolist() == [-2.0]
    assert "energy" not in to_data(atoms, keys={"energy": "third"})


def test_labels_marked_as_absent_do_not_come_back():
    data = Data(z=torch.tensor([1]), pos=torch.zeros(1, 3), energy=torch.zeros(1), has_energy=torch.tensor([False]))
    assert to_atoms(data).calc is None


def test_pbc_can_be_replaced():
    atoms = molecule("H2O", vacuum=5.0)
    atoms.pbc = True
    assert to_data(atoms, pbc=False).pbc.tolist() == [[False] * 3]
    assert to_data(atoms, pbc=(True, False, True)).pbc.tolist() == [[True, False, True]]
    assert atoms.pbc.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda atoms: atoms.positions.__setitem__((1, 2), np.nan), r"position of atom 1 is \[.*nan\]"),
        (lambda atoms: atoms.positions.__setitem__((0, 0), np.inf), "position of atom 0"),
        (lambda atoms: atoms.numbers.__setitem__(0, 0), "atomic numbers must be 1 to 118, got 0"),
        (lambda atoms: atoms.numbers.__setitem__(0, 200), "got 200"),
        (lambda atoms: atoms.set_pbc((True, False, False)), r"pbc=\[True, False, False\] but a zero cell vector"),
        (lambda atoms: atoms.cell.array.__setitem__((0, 0), np.nan), "the cell is"),
        (lambda atoms: atoms.__delitem__(slice(None)), "no atoms"),
    ],
)
def test_bad_structures_are_refused(change, message):
    atoms = molecule("H2O")
    change(atoms)
    with pytest.raises(ValueError, match=message):
        to_data(atoms)


@pytest.mark.parametrize(
    ("info", "arrays", "properties", "keys", "message"),
    [
        ({"gap": np.nan}, {}, {"gap": "eV"}, {}, "'gap' holds numbers that are not finite"),
        ({"gap": "wide"}, {}, {"gap": "eV"}, {}, "'gap' must be a number"),
        ({"gap": 1.0}, {}, {"gap": "Ry"}, {}, "unknown unit 'Ry'"),
        ({"gap": 1.0}, {}, {"energy": "Å"}, {}, "'energy' must be given in a unit of energy, got 'Å'"),
        ({"gap": 1.0}, {}, {}, {"band": "gap"}, "unit of 'band' is not known"),
        ({"gap": 1.0}, {}, {"pos": "Å"}, {}, "cannot be called 'pos'"),
        ({"f": 1.0}, {}, {}, {"forces": "f"}, "'forces' is a label of each atom, but 'f' is one of each structure"),
        ({}, {"f": np.ones((3, 2))}, {}, {"forces": "f"}, r"'forces' must have shape \[3, 3\], got \[3, 2\]"),
        ({"d": np.ones(2)}, {}, {}, {"dipole": "d"}, "'dipole' must have 3 numbers"),
        ({"s": np.ones(5)}, {}, {}, {"stress": "s"}, "'stress' must have 6 numbers"),
    ],
)
def test_bad_labels_are_refused(info, arrays, properties, keys, message):
    atoms = molecule("H2O")
    atoms.info |= info
    atoms.arrays |= arrays
    with pytest.raises(ValueError, match=message):
        to_data(atoms, properties, keys)


def test_a_batch_is_refused():
    with pytest.raises(ValueError, match="batch of 2 structures"):
        to_atoms(Batch.from_data_list([to_data(molecule("H2O"))] * 2))


@pytest.mark.parametrize(
    ("positions", "pbc"),
    [
        ([[0, 0, 0], [1, 1, 1], [1, 1, 1]], False),
        ([[0, 0, 0], [1, 1, 1], [5, 1, 1]], True),  # one lattice vector away
        ([[0, 0, 0], [1, 1, 1], [5, 1, 1 - 1e-9]], (True, False, False)),
        ([[0, 0, 0], [4, 4, 3], [-4, 0, -1e-12]], True),
    ],
)
def test_atoms_in_the_same_place_are_refused(positions, pbc):
    atoms = Atoms("HeNeAr", positions=positions, cell=np.diag([4.0, 4.0, 4.0]), pbc=pbc)
    with pytest.raises(ValueError, match=r"atoms (1|0) and 2 are in the same place"):
        to_data(atoms)
    atoms.positions[2] += [0.3, 0.4, 0.5]
    assert to_data(atoms).num_nodes == 3

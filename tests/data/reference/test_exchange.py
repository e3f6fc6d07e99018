"""Elements that take the place of others, beside geometries that ASE has of the same molecules."""

import numpy as np
import pytest
from ase.build import molecule

from pyg_schnet.data.reference import Molecule
from pyg_schnet.data.reference.exchange import exchanged, placed
from pyg_schnet.data.reference.topology import Topology


def of(name, called=None):
    atoms = molecule(name)
    return Molecule(called or name, atoms.numbers, atoms.positions)


def bonds_of(numbers, positions):
    """Elements of each bond, and their lengths, in one order."""
    bonds = Topology(numbers, positions).bonds
    lengths = np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1)
    found = sorted((*sorted(numbers[pair].tolist()), length) for pair, length in zip(bonds, lengths, strict=True))
    return [one[:2] for one in found], [one[2] for one in found]


@pytest.mark.parametrize(
    ("name", "element", "other", "expected"),
    [
        ("CH3OH", 8, 16, "CH3SH"),
        ("CH3CH2OH", 8, 16, "CH3CH2SH"),
        ("C4H4O", 8, 16, "C4H4S"),  # a ring: furan and thiophene
        ("NH3", 7, 15, "PH3"),
        ("CF4", 9, 17, "CCl4"),
        ("CO2", 8, 16, "CS2"),
    ],
)
def test_geometries_are_those_of_ase(name, element, other, expected):
    atoms, wanted = molecule(name), molecule(expected)
    numbers = np.where(atoms.numbers == element, other, atoms.numbers)
    positions = placed(atoms.numbers, numbers, atoms.positions)
    assert Topology(numbers, positions).key() == Topology(wanted.numbers, wanted.positions).key()
    (pairs, lengths), (wanted_pairs, wanted_lengths) = (
        bonds_of(numbers, positions), bonds_of(wanted.numbers, wanted.positions)
    )  # fmt: skip
    assert pairs == wanted_pairs
    assert lengths == pytest.approx(wanted_lengths, abs=0.07)


def test_angles_and_what_is_far_from_an_exchanged_atom_stay():
    atoms = molecule("CH3CH2OH")
    after = atoms.copy()
    after.numbers[atoms.symbols.search("O")] = 16
    after.positions = placed(atoms.numbers, after.numbers, atoms.positions)
    neighbors = Topology(atoms.numbers, atoms.positions).neighbors
    for middle, near in enumerate(neighbors):
        for i in near:
            for j in near:
                if i < j:
                    assert after.get_angle(i, middle, j) == pytest.approx(atoms.get_angle(i, middle, j), abs=2.0)
    for i, j in Topology(atoms.numbers, atoms.positions).bonds:
        if 8 not in atoms.numbers[[i, j]]:
            assert after.get_distance(i, j) == pytest.approx(atoms.get_distance(i, j), abs=0.02)


def test_which_atoms_follows_from_name_and_seed():
    molecules = [of("CF4", str(k)) for k in range(30)]
    found = exchanged(molecules, {"F": "Cl"})
    assert {one.numbers.tolist().count(17) for one in found} == {1, 2, 3}  # three at most
    (last,) = exchanged(molecules[-1:], {"F": "Cl"})
    np.testing.assert_array_equal(last.positions, found[-1].positions)
    assert last.name == found[-1].name
    assert [one.name for one in exchanged(molecules, {"F": "Cl"}, seed=1)] != [one.name for one in found]
    assert molecules[0].numbers.tolist().count(17) == 0  # what is given stays as it is


def test_names_say_which_atoms():
    (found,) = exchanged([of("CH3OH"), of("CH4")], {"O": "S", "N": "P"})  # methane has neither
    (place,) = np.flatnonzero(found.numbers == 16)
    assert found.name == f"CH3OH S{place}"


@pytest.mark.parametrize("elements", [{}, {"O": "Su"}, {"X": "S"}, {"8": "S"}])
def test_wrong_elements(elements):
    with pytest.raises(ValueError, match="expected elements and what takes their place, such as O: S, got"):
        exchanged([of("CH3OH")], elements)

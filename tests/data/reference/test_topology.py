"""Bonds, rings and graphs."""

import numpy as np
import pytest
from ase.build import molecule
from ase.collections import g2
from ase.data import covalent_radii

from pyg_schnet.data.reference.topology import Topology


def topology_of(name):
    atoms = molecule(name)
    return Topology(atoms.numbers, atoms.positions)


@pytest.mark.parametrize(
    ("name", "bonds", "opened", "turning"),
    [
        ("CH3CH2OH", 8, 8, 2),  # C-C, C-O
        ("C2H4", 5, 5, 0),  # a double bond does not turn
        ("C6H6", 12, 6, 0),
        ("CH3CONH2", 8, 8, 2),  # C-C and the amide
        ("bicyclobutane", 11, 6, 0),
        ("HCN", 2, 2, 0),
    ],
)
def test_bonds(name, bonds, opened, turning):
    topology = topology_of(name)
    assert len(topology.bonds) == bonds
    assert len(topology.open_bonds()) == opened
    assert len(topology.rotatable_bonds()) == turning


@pytest.mark.parametrize(("name", "length"), [("H2", 0.776), ("F2", 1.42), ("N2", 1.1), ("O2", 1.21), ("Cl2", 2.0)])
def test_molecules_of_two_like_atoms_have_a_bond(name, length):
    atoms = molecule(name)
    assert Topology(atoms.numbers, atoms.positions).bonds.tolist() == [[0, 1]]
    assert Topology(atoms.numbers, np.array([[0.0, 0.0, 0.0], [0.0, 0.0, length]])).bonds.tolist() == [[0, 1]]
    apart = 1.35 * covalent_radii[atoms.numbers].sum()
    assert not len(Topology(atoms.numbers, np.array([[0.0, 0.0, 0.0], [0.0, 0.0, apart]])).bonds)


RINGS = {
    "bicyclobutane": 2, "C5H8": 2, "C3H4_C2v": 1, "C3H6_D3h": 1, "C4H4NH": 1, "C4H4O": 1, "C5H5N": 1, "C6H6": 1,
    "cyclobutane": 1, "cyclobutene": 1, "CH2OCH2": 1, "CH2NHCH2": 1, "methylenecyclopropane": 1,
}  # fmt: skip


def test_graphs_of_molecules_have_as_many_rings_as_these(parts_of):
    looked_at = [name for name in g2.names if len(g2[name]) > 1 and set(g2[name].numbers) <= {1, 6, 7, 8, 9}]
    assert len(looked_at) > 80
    for name in looked_at:
        topology = topology_of(name)
        n_atoms = len(topology.numbers)
        assert set(parts_of(topology)) == {0}, name
        assert len(topology.bonds) == n_atoms - 1 + RINGS.get(name, 0), name
        ends = [len(near) for near, z in zip(topology.neighbors, topology.numbers, strict=True) if z in (1, 9)]
        assert set(ends) <= {1}, name


@pytest.mark.parametrize("across", [1.874, 1.79])  # bicyclo[1.1.1]pentane, and QM9's with oxygen in a bridge
def test_no_bond_crosses_a_bicycle(across):
    angles = np.radians([0.0, 120.0, 240.0])
    away = np.sqrt(1.5525**2 - (across / 2) ** 2)
    bridges = np.stack([away * np.cos(angles), away * np.sin(angles), np.zeros(3)], axis=1)
    heads = np.array([[0.0, 0.0, across / 2], [0.0, 0.0, -across / 2]])
    topology = Topology(np.full(5, 6), np.concatenate([heads, bridges]))
    assert topology.bonds.tolist() == [[0, 2], [0, 3], [0, 4], [1, 2], [1, 3], [1, 4]]


def test_a_cut_gives_two_parts():
    topology = topology_of("CH3CH2OH")
    for i, j, part in topology.open_bonds():
        assert j in part
        assert i not in part
        assert len(part) <= len(topology.numbers) / 2
        others = set(range(9)) - set(part)
        crossing = [pair for pair in topology.bonds.tolist() if len(set(pair) & others) == 1]
        assert [sorted(pair) for pair in crossing] == [sorted([i, j])]


def test_keys_are_those_of_graphs():
    atoms = molecule("CH3CH2OH")
    key = Topology(atoms.numbers, atoms.positions).key()
    order = np.random.default_rng(0).permutation(len(atoms))
    turned = atoms[order]
    turned.rotate(40.0, (1, 1, 0))
    turned.rattle(0.02, seed=1)
    assert Topology(turned.numbers, turned.positions).key() == key
    assert topology_of("CH3OCH3").key() != key  # an isomer
    names = ["isobutane", "trans-butane", "cyclobutane", "CH3CONH2", "C2H6", "H2O"]
    assert len({topology_of(name).key() for name in names}) == len(names)

"""Bonds, rings and graphs."""

import numpy as np
import pytest
from ase.build import molecule

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

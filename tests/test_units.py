import numpy as np
import pytest
import torch
from ase import units as ase_units

from pyg_schnet.units import convert, dimension, factor

ASE = ase_units.create_units("2018")  # an independent table of the same CODATA values


@pytest.mark.parametrize(
    ("unit", "internal", "expected"),
    [
        ("Hartree", "eV", ASE["Hartree"]),
        ("meV", "eV", 1e-3),
        ("kcal/mol", "eV", ASE["kcal"] / ASE["mol"]),
        ("kJ/mol", "eV", ASE["kJ"] / ASE["mol"]),
        ("cm-1", "eV", ASE["invcm"]),
        ("Bohr", "Å", ASE["Bohr"]),
        ("nm", "Å", ASE["nm"]),
        ("D", "e·Å", ASE["Debye"]),
        ("e·Bohr", "e·Å", ASE["Bohr"]),
        ("Hartree/Bohr", "eV/Å", ASE["Hartree"] / ASE["Bohr"]),
        ("kcal/mol/Å", "eV/Å", ASE["kcal"] / ASE["mol"]),
        ("meV/Å", "eV/Å", 1e-3),
        ("GPa", "eV/Å³", ASE["GPa"]),
        ("kbar", "eV/Å³", 1e8 * ASE["Pascal"]),
        ("a₀²", "Å²", ASE["Bohr"] ** 2),
        ("a₀³", "Å³", ASE["Bohr"] ** 3),
        ("meV/atom", "eV/atom", 1e-3),
        ("cal/(mol K)", "eV/K", 1e-3 * ASE["kcal"] / ASE["mol"]),
    ],
)
def test_factors_are_those_of_ase(unit, internal, expected):
    assert factor(unit, internal) == pytest.approx(expected, rel=1e-9)
    assert factor(internal, unit) == pytest.approx(1 / expected, rel=1e-9)


def test_known_conversions():
    assert convert(1.0, "Hartree", "kcal/mol") == pytest.approx(627.5094740631, rel=1e-10)
    assert convert(1.0, "e·Å", "D") == pytest.approx(4.80320471, rel=1e-8)
    assert convert(1.0, "eV", "cm-1") == pytest.approx(8065.543937, rel=1e-9)
    assert convert(1.0, "kcal/mol", "kJ/mol") == pytest.approx(4.184, rel=1e-15)


@pytest.mark.parametrize("value", [2.5, np.array([1.0, 2.0]), torch.tensor([1.0, 2.0])])
def test_convert_keeps_the_type(value):
    there = convert(value, "eV", "meV")
    assert type(there) is type(value)
    np.testing.assert_allclose(there, 1000 * np.asarray(value), rtol=1e-6)
    if isinstance(value, torch.Tensor):
        assert there.dtype == value.dtype


def test_unknown_unit():
    with pytest.raises(ValueError, match=r"unknown unit 'ev'; known units are .*eV"):
        factor("ev", "eV")
    with pytest.raises(ValueError, match="unknown unit"):
        dimension("furlong")


def test_dimensions_must_agree():
    with pytest.raises(ValueError, match=r"'eV' \(energy\) to 'Å' \(length\): the dimensions differ"):
        factor("eV", "Å")
    with pytest.raises(ValueError, match="dimensions differ"):
        factor("eV", "eV/atom")

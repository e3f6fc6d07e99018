import pytest

from pyg_schnet.train.report import Errors, format_errors, in_report_units, report_units


def test_energies_are_reported_in_both_units():
    errors = in_report_units(0.043364115, "eV")
    assert errors["meV"] == pytest.approx(43.364115)
    assert errors["kcal/mol"] == pytest.approx(1.0, rel=1e-6)


def test_hartree_data_are_reported_in_the_same_units():
    assert in_report_units(1.0, "Hartree")["kcal/mol"] == pytest.approx(627.5095, rel=1e-6)


def test_other_properties_keep_their_unit():
    assert report_units("a₀³") == ("a₀³",)
    assert report_units("kcal/mol/Å") == ("meV/Å", "kcal/mol/Å")


def test_table_names_property_unit_and_size():
    table = format_errors([Errors("U0", "eV", 0.5, 0.7), Errors("forces", "eV/Å", 0.1, 0.2)], 19831)
    assert table.splitlines()[0] == "Errors on 19,831 test structures"
    assert "500.0 meV" in table
    assert "11.5 kcal/mol" in table
    assert "700.0 meV" in table
    assert "100.0 meV/Å" in table


def test_errors_are_stored_in_the_same_units():
    assert Errors("mu", "D", 0.5, 0.7).as_dict() == {"mae": {"D": 0.5}, "rmse": {"D": 0.7}}

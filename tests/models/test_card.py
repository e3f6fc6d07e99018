import pytest

from pyg_schnet.models.card import check_elements, unit_of


def test_known_elements_and_padding_pass():
    check_elements({"elements": ["H", "O"]}, [0, 8, 1, 1])
    check_elements({}, [92])


def test_unknown_elements_are_named():
    with pytest.raises(ValueError, match="not trained on Na, Cl; it knows H, O"):
        check_elements({"elements": ["H", "O"]}, [17, 11, 8])


def test_unit_is_the_models_own_or_stated():
    with pytest.raises(ValueError, match="does not say the unit"):
        unit_of({}, None)
    with pytest.raises(ValueError, match="contradicts the model, which says 'eV'"):
        unit_of({"unit": "eV"}, "kcal/mol")

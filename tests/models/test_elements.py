import pytest

from pyg_schnet.models.elements import check_elements


def test_known_elements_and_padding_pass():
    check_elements({"elements": ["H", "O"]}, [0, 8, 1, 1])
    check_elements({}, [92])


def test_unknown_elements_are_named():
    with pytest.raises(ValueError, match="not trained on Na, Cl; it knows H, O"):
        check_elements({"elements": ["H", "O"]}, [17, 11, 8])

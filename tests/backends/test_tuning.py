"""Thresholds are changed for a while, and only those that there are."""

import pytest

from pyg_schnet.backends import tuning


def test_changed():
    before = tuning.current
    with tuning.changed(serial_work=0) as inside:
        assert inside is tuning.current
        assert (tuning.current.serial_work, tuning.current.most_groups) == (0, before.most_groups)
    assert tuning.current is before


@pytest.mark.parametrize("name", ["tile_rows", "nothing"])
def test_what_is_compiled_cannot_be_changed(name):
    with pytest.raises(TypeError, match=name), tuning.changed(**{name: 1}):
        pass

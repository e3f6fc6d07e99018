from pathlib import Path

import pytest

from pyg_schnet.data import QM9

SAMPLE = Path(__file__).parents[1] / "data" / "samples" / "qm9"


@pytest.fixture(scope="session")
def qm9_sample(tmp_path_factory):
    """A few dozen real QM9 molecules."""
    return QM9(root=tmp_path_factory.mktemp("qm9"), source=SAMPLE, progress=False)

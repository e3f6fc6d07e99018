import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@pytest.fixture
def parts_of():
    """Part of each atom of a topology, those without bonds between them."""

    def parts(topology):
        i, j = topology.bonds.T
        n_atoms = len(topology.numbers)
        return connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(n_atoms, n_atoms)))[1].tolist()

    return parts

"""The same crystal in Niggli's cell: other lattice vectors, other atoms in the cell, the same energy."""

import numpy as np
import pytest
import torch
from ase.build import niggli_reduce

from pyg_schnet import DTNN, SchNet
from pyg_schnet.data import to_data

MODELS = {
    "schnet": lambda: SchNet(16, 16, 2, 12, 5.0),
    "hard and normalised": lambda: SchNet(16, 16, 2, 12, 4.87, window="hard", normalize=True),
    "dtnn": lambda: DTNN(8, 12, 2, 12, 5.0, window="cosine"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("structure", ["triclinic", "small_cell", "nacl"])
def test_energy_does_not_depend_on_the_choice_of_cell(name, structure, request):
    torch.manual_seed(0)
    model, atoms = MODELS[name]().double().eval(), request.getfixturevalue(structure)
    skewed = atoms.copy()
    shear = np.array([[1, 0, 0], [2, 1, 0], [-1, 3, 1]])  # whole numbers and determinant 1: the same lattice
    skewed.set_cell(shear @ atoms.cell.array)
    reduced = skewed.copy()
    niggli_reduce(reduced)
    energies = []
    for description in (atoms, skewed, reduced):
        data = to_data(description, dtype=torch.float64)
        energies.append(model(data.z, data.pos, cell=data.cell, pbc=data.pbc).item())
    assert max(abs(np.diff(energies))) < 1e-10 * max(1.0, abs(energies[0]))
    assert not np.allclose(skewed.cell, reduced.cell)

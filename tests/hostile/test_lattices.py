"""Lattices and structures that cannot be meant: images are counted before memory is taken, all doors say the same."""

import math
import re

import numpy as np
import pytest
import torch
from ase import Atoms

from pyg_schnet import SchNet
from pyg_schnet.data import to_data
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.neighbors import VerletList, radius_graph
from pyg_schnet.neighbors.brute import brute_radius_graph, edge_tuples

NAN, INF = math.nan, math.inf
PBC = torch.tensor([True, True, True])


def cube(length):
    return [[length, 0.0, 0.0], [0.0, length, 0.0], [0.0, 0.0, length]]


def skewed(degrees):
    angle = math.radians(degrees)
    return [[4.0, 0.0, 0.0], [4.0 * math.cos(angle), 4.0 * math.sin(angle), 0.0], [0.0, 0.0, 4.0]]


torch.manual_seed(0)
MODEL = SchNet(16, 16, 2, 20, 4.0).eval()
MODEL.card.update(unit="eV")
POS = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.1]], dtype=torch.float64)

CELLS = {
    "1e-3 Å": (cube(1e-3), r"lattice images of its atoms within the cutoff of .* Å, at most 1e\+07 are possible"),
    "0.02 Å": (cube(0.02), "lattice images of its atoms"),
    "1e-2 degrees": (skewed(1e-2), r"lattice images of its atoms .* lattice planes are 0.000698, 0.000698, 4 Å apart"),
    "1e-8 degrees": (skewed(1e-8), "zero or linearly dependent"),
    "zero": (cube(0.0), "zero or linearly dependent"),
    "singular": ([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 4.0]], "zero or linearly dependent"),
    "1e-120 Å": (cube(1e-120), "linearly dependent|lattice images"),
    "NaN": (cube(NAN), "cell must be finite"),
    "infinite": (cube(INF), "cell must be finite"),
}
SEARCHES = {
    "torch": lambda cell: radius_graph(POS, 5.0, cell=cell, pbc=PBC),
    "vesin": lambda cell: radius_graph(POS, 5.0, cell=cell, pbc=PBC, backend="vesin"),
    "Verlet": lambda cell: VerletList(5.0, 0.3)(POS, cell, PBC),
    "model": lambda cell: MODEL.double()(torch.tensor([6, 8]), POS, cell=cell[None], pbc=PBC[None]),
}


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("cell", CELLS)
def test_cells(cell, search):
    cell, message = CELLS[cell]
    with pytest.raises(ValueError, match=message):
        SEARCHES[search](torch.tensor(cell, dtype=torch.float64))


@pytest.mark.parametrize("cutoff", [1e4, 1e6, 1e9])
@pytest.mark.parametrize("backend", ["torch", "vesin"])
def test_cutoffs(backend, cutoff):
    cell = torch.tensor(cube(4.0), dtype=torch.float64)
    with pytest.raises(ValueError, match="take a smaller cutoff"):
        radius_graph(POS, cutoff, cell=cell, pbc=PBC, backend=backend)


def test_the_structure_of_a_batch_is_named():
    pos, batch = torch.rand(8, 3), torch.arange(2).repeat_interleave(4)
    cell = torch.stack([4.0 * torch.eye(3), 1e-3 * torch.eye(3)])
    with pytest.raises(ValueError, match=re.escape("structure 1 has 4e+12 lattice images of its atoms")):
        radius_graph(pos, 5.0, batch, cell=cell, pbc=PBC.repeat(2, 1))


def test_open_axes_have_no_images():
    cell = torch.diag(torch.tensor([1e-9, 1e-9, 4.0]))
    edge_index, _ = radius_graph(POS.float(), 5.0, cell=cell, pbc=[False, False, True])
    assert edge_index.size(1) == 8


def test_many_ordinary_cells():
    pos, batch = 4.0 * torch.rand(1200, 3), torch.arange(300).repeat_interleave(4)
    edge_index, _ = radius_graph(pos, 5.0, batch, cell=4.0 * torch.eye(3).repeat(300, 1, 1), pbc=PBC.repeat(300, 1))
    assert edge_index.size(1) > 10_000


def test_left_handed_cells_have_the_same_neighbours():
    pos = 4.0 * torch.rand(5, 3, dtype=torch.float64)
    cell = 4.0 * torch.eye(3, dtype=torch.float64) + 0.3 * torch.rand(3, 3, dtype=torch.float64)
    right, shift = radius_graph(pos, 5.0, cell=cell, pbc=PBC)
    left, swapped = radius_graph(pos, 5.0, cell=cell[[1, 0, 2]], pbc=PBC)
    assert edge_tuples(right, shift) == edge_tuples(left, swapped[:, [1, 0, 2]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoff": 1e-7}, "cutoff must be a length of"),
        ({"cell": 1e-4 * torch.eye(3)}, "lattice images within the cutoff"),
        ({"cell": torch.zeros(3, 3)}, "a cell vector of zero"),
        ({"pbc": None}, "cell and pbc belong together"),
        ({"batch": torch.tensor([-1, 0])}, "batch must name the structure of each of the 2 atoms"),
        ({"pos": POS[:, :2]}, r"pos must be a tensor of finite positions in Å, \[N, 3\]"),
    ],
)
def test_brute_force(options, message):
    given = {"pos": POS, "cutoff": 5.0, "batch": None, "cell": 4.0 * torch.eye(3), "pbc": PBC, **options}
    with pytest.raises(ValueError, match=message):
        brute_radius_graph(**given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 2.5}, "batch_size must be the number of structures, got 2.5"),
        ({"batch_size": 10**15}, "batch_size must be the number of structures, at most"),
        ({"batch_size": -1}, "batch_size must be the number of structures, got -1"),
        ({"batch": [0, 0]}, "batch must be a tensor"),
        ({"batch": torch.tensor([0, 2**45])}, "batch_size must be the number of structures, at most"),
        ({"cell": cube(4.0), "pbc": PBC}, "cell must be a tensor"),
        ({"cell": 4.0 * torch.eye(3).double(), "pbc": "TTT"}, "pbc must be boolean"),
        ({"backend": None}, "backend must be one of"),
    ],
)
def test_options_of_searches(options, message):
    with pytest.raises(ValueError, match=message):
        radius_graph(POS, 5.0, **options)


def structure(positions=((0.0, 0.0, 0.0), (0.0, 0.0, 1.1)), cell=None, numbers=(6, 8)):
    atoms = Atoms("CO", positions, cell=cell, pbc=cell is not None)
    atoms.numbers[:] = numbers
    return atoms


STRUCTURES = {
    "Z = 0": (structure(numbers=(0, 8)), "atomic numbers must be 1 to 118, got 0"),
    "Z = -1": (structure(numbers=(-1, 8)), "atomic numbers must be 1 to 118, got -1"),
    "Z = 200": (structure(numbers=(200, 8)), "atomic numbers must be 1 to 118, got 200"),
    "NaN": (structure(((0, 0, NAN), (0, 0, 1))), "the position of atom 0 is .*, expected finite numbers in Å"),
    "infinite": (structure(((0, 0, 0), (0, 0, INF))), "the position of atom 1 is .*, expected finite numbers in Å"),
    "1e30 Å": (structure(((0, 0, 1e30), (0, 0, 0))), "move the structure to the origin"),
    "one place": (structure(((0, 0, 0), (0, 0, 0))), "atoms 0 and 1 are in the same place"),
    "one place of images": (structure(((0, 0, 0), (0, 0, 4)), cube(4.0)), "atoms 0 and 1 are in the same place"),
    "short cell": (structure(cell=cube(1e-3)), "expected at least 0.1 Å in periodic directions"),
    "cell of zero in float32": (structure(cell=cube(1e-50)), "expected at least 0.1 Å in periodic directions"),
    "no cell": (structure(cell=cube(0.0)), "a zero cell vector"),
    "NaN cell": (structure(cell=cube(NAN)), "expected finite numbers in Å"),
    "flat cell": (structure(cell=skewed(1e-2)), "lattice planes only .* Å apart, expected at least 0.1 Å"),
    "flatter cell": (structure(cell=skewed(1e-6)), "linearly dependent"),
    "no atoms": (Atoms(), "the structure has no atoms"),
}


def calculate(atoms, dtype):
    atoms = atoms.copy()
    atoms.calc = SchNetCalculator(MODEL, dtype=dtype)
    return atoms.get_forces()


@pytest.mark.parametrize("door", [to_data, calculate])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("atoms", STRUCTURES)
def test_structures(atoms, dtype, door):
    atoms, message = STRUCTURES[atoms]
    with pytest.raises(ValueError, match=message):
        door(atoms, dtype=dtype)


def test_coordinates_that_single_precision_cannot_hold():
    far = structure(((0, 0, 0), (0, 0, 9e9)))
    with pytest.raises(ValueError, match="would be rounded by"):
        to_data(far, dtype=torch.float32)
    assert np.isfinite(to_data(far, dtype=torch.float64).pos.numpy()).all()

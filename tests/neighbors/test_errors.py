import builtins
import re

import pytest
import torch

from pyg_schnet.neighbors import VerletList, radius, radius_graph

POS, CELL, PBC = torch.rand(4, 3), torch.eye(3), torch.tensor([True, True, True])


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("search", [radius_graph, lambda pos, cutoff: radius(pos, pos, cutoff)])
def test_cutoff(search, cutoff):
    with pytest.raises(ValueError, match=f"cutoff must be a positive length in Å, got {cutoff}"):
        search(POS, cutoff)


@pytest.mark.parametrize(
    ("pos", "message"),
    [
        ([[0.0, 0.0, 0.0]], "pos must be a tensor of shape [N, 3] in Å, got list"),
        (torch.rand(3), "pos must have shape [N, 3] in Å, got [3]"),
        (torch.rand(5, 2), "pos must have shape [N, 3] in Å, got [5, 2]"),
        (torch.zeros(5, 3, dtype=torch.long), "pos must be float32 or float64, got torch.int64"),
        (torch.zeros(5, 3, dtype=torch.float16), "pos must be float32 or float64, got torch.float16"),
        (torch.tensor([[0.0, 0, 0], [0, torch.nan, 0]]), "pos must be finite, got [0.0, nan, 0.0] at index 1"),
        (torch.tensor([[torch.inf, 0, 0]]), "pos must be finite, got [inf, 0.0, 0.0] at index 0"),
    ],
)
def test_positions(pos, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        radius_graph(pos, 1.0)


@pytest.mark.parametrize(
    ("batch", "batch_size", "message"),
    [
        ([0, 1, 0, 1], None, "batch must be sorted in ascending order, got 1 descents; reorder"),
        ([0, 0, 0], None, "batch must hold one structure index for each of 4 atoms, got shape [3]"),
        ([[0, 0, 0, 0]], None, "batch must hold one structure index for each of 4 atoms, got shape [1, 4]"),
        ([-1, 0, 0, 0], None, "batch must not be negative, got -1"),
        ([0.0, 0.0, 0.0, 0.0], None, "batch must be int64, got torch.float32"),
        ([0, 0, 1, 2], 2, "batch_size must be at least 3, the largest index in batch plus one, got 2"),
        (None, 0, "batch_size must be at least 1 for 4 atoms, got 0"),
    ],
)
def test_batch(batch, batch_size, message):
    batch = None if batch is None else torch.tensor(batch)
    with pytest.raises(ValueError, match=re.escape(message)):
        radius_graph(POS, 1.0, batch, batch_size=batch_size)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pbc": None}, "cell was given without pbc; state the periodic axes"),
        ({"cell": None}, "pbc was given without cell; pass the lattice vectors"),
        ({"cell": torch.eye(3).double()}, "cell and pos must have the same dtype, got torch.float64 and torch.float32"),
        ({"cell": torch.rand(3)}, "cell must have shape [B, 3, 3] or [3, 3], rows in Å, got [3]"),
        ({"cell": torch.rand(1, 2, 3)}, "cell must have shape [B, 3, 3] or [3, 3], rows in Å, got [1, 2, 3]"),
        ({"cell": torch.nan * torch.eye(3)}, "cell must be finite, in Å"),
        ({"cell": torch.eye(3, device="meta")}, "cell must be on the device of pos (cpu), got meta"),
        ({"pbc": torch.tensor([1, 1, 1])}, "pbc must be boolean, got torch.int64; use pbc.bool()"),
        ({"pbc": torch.tensor([True])}, "pbc must have one row of 3 booleans for each of 1 cells ([B, 3]), got [1]"),
        ({"pbc": PBC.repeat(2, 1)}, "pbc must have one row of 3 booleans for each of 1 cells ([B, 3]), got [2, 3]"),
        ({"cell": torch.eye(3).repeat(2, 1, 1), "pbc": PBC.repeat(2, 1)}, "2 cells need batch, the structure of each"),
        ({"batch": torch.tensor([0, 0, 1, 1])}, "cell must hold one cell for each of 2 structures, got 1"),
        ({"batch_size": 3}, "batch_size must equal the number of cells, 1, got 3"),
        ({"cell": torch.zeros(3, 3)}, "structure 0 has pbc=[True, True, True] but its cell vectors on these axes are"),
        ({"cell": torch.tensor([[1.0, 2, 3], [0.1, 0.2, 0.3], [0, 0, 1]])}, "zero or linearly dependent"),
        (
            {"cell": torch.tensor([[1.0, 0, 0], [2, 0, 0], [0, 0, 0]]), "pbc": PBC & (CELL[2] == 0)},
            "linearly dependent",
        ),
        ({"backend": "torch_cluster"}, "backend 'torch_cluster' has open boundaries only, got a cell"),
    ],
)
def test_cell(changed, message):
    options = {"cell": CELL, "pbc": PBC} | changed
    with pytest.raises(ValueError, match=re.escape(message)):
        radius_graph(POS, 1.0, **options)
    if not changed.keys() & {"batch_size", "backend"}:
        with pytest.raises(ValueError, match=re.escape(message)):
            VerletList(1.0, 0.1)(POS, **options)


def test_bad_structure_of_a_batch_is_named():
    cell = torch.stack([torch.eye(3), torch.zeros(3, 3)])
    with pytest.raises(ValueError, match=re.escape("structure 1 has pbc=[False, True, False]")):
        radius_graph(
            POS, 1.0, torch.tensor([0, 0, 1, 1]), cell=cell, pbc=torch.tensor([[True] * 3, [False, True, False]])
        )


def test_positions_too_far_for_their_dtype():
    far = POS.clone()
    far[0] = 1e8
    with pytest.raises(
        ValueError, match=r"in torch.float32 lengths may be wrong by .* wrap the atoms .* or use float64"
    ):
        radius_graph(far, 1.0, cell=CELL, pbc=PBC)
    assert radius_graph(far.double(), 1.01, cell=CELL.double(), pbc=PBC)[0].size(1) > 0


def test_more_cells_crossed_than_integers_can_count():
    far = POS.double()
    far[0] = 1e11
    with pytest.raises(ValueError, match=r"1e\+11 cells are crossed \(at most 2\*\*30\); wrap the atoms into the cell"):
        radius_graph(far, 1.0, cell=CELL.double(), pbc=PBC)


def test_bipartite():
    with pytest.raises(ValueError, match="pos_src and pos_dst must have the same dtype"):
        radius(POS, POS.double(), 1.0)
    with pytest.raises(ValueError, match="pos_dst must be finite"):
        radius(POS, POS * torch.nan, 1.0)
    with pytest.raises(ValueError, match="batch_src must be sorted"):
        radius(POS, POS, 1.0, torch.tensor([1, 0, 0, 0]))
    with pytest.raises(ValueError, match="batch_dst must hold one structure index for each of 4 atoms"):
        radius(POS, POS, 1.0, batch_dst=torch.tensor([0]))


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'torch', 'vesin', 'torch_cluster', got 'ase'"):
        radius_graph(POS, 1.0, backend="ase")


@pytest.mark.parametrize(
    ("package", "advice"), [("vesin", "pip install vesin"), ("torch_cluster", r"pyg_schnet\[ext\]")]
)
def test_missing_package(monkeypatch, package, advice):
    original = builtins.__import__

    def without_package(name, *args, **kwargs):
        if name == package:
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_package)
    with pytest.raises(ImportError, match=f"backend='{package}' needs the package .* {advice}"):
        radius_graph(POS, 1.0, backend=package)

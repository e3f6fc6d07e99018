import pytest
import torch
from ase.neighborlist import neighbor_list
from torch import nn
from torch_geometric.index import index2ptr

from pyg_schnet.models import graph as graph_module
from pyg_schnet.models.graph import check_atoms, count_structures, embed, prepare_edges
from pyg_schnet.neighbors import radius_graph

F64 = torch.float64


def test_edges_are_built_sorted(molecules):
    edges = prepare_edges(**molecules, cutoff=2.0, batch_size=3)
    assert (edges.index[1].diff() >= 0).all()
    assert torch.equal(edges.ptr, index2ptr(edges.index[1], len(molecules["z"])))
    expected = (molecules["pos"][edges.index[0]] - molecules["pos"][edges.index[1]]).norm(dim=1)
    torch.testing.assert_close(edges.dist, expected)
    assert (edges.dist < 2.0).all()
    assert (molecules["batch"][edges.index[0]] == molecules["batch"][edges.index[1]]).all()


def test_half_list_and_directed_edges_are_the_same(molecules):
    edges = prepare_edges(**molecules, cutoff=2.0, batch_size=3)
    (source, target), dist, ptr = edges.half_list
    directed = zip(*edges.index.tolist(), edges.dist.tolist(), strict=True)
    expected = sorted((edge for edge in directed if edge[0] > edge[1]), key=lambda edge: (edge[1], edge[0]))
    assert list(zip(source.tolist(), target.tolist(), strict=True)) == [edge[:2] for edge in expected]
    # the search adds squares in a fixed order; the operator leaves the order, and fused products, to its compiler
    torch.testing.assert_close(dist, torch.tensor([edge[2] for edge in expected], dtype=F64), rtol=1e-15, atol=0)
    assert 2 * len(source) == edges.index.size(1)
    assert torch.equal(ptr, index2ptr(target, len(molecules["z"])))


@pytest.mark.parametrize("name", ["triclinic", "small_cell", "slab"])
def test_half_lists_of_periodic_structures_have_every_length_once(name, request, periodic_tensors):
    given = periodic_tensors(request.getfixturevalue(name))
    edges = prepare_edges(**given, cutoff=4.0, batch_size=1)
    assert 2 * len(edges.half_list.dist) == len(edges.dist)
    twice = edges.half_list.dist.repeat_interleave(2).sort().values
    torch.testing.assert_close(twice, edges.dist.sort().values)


def test_the_reference_backend_takes_directed_edges(molecules):
    edges, reference = (
        prepare_edges(**molecules, cutoff=2.0, batch_size=3, backend=backend) for backend in ("auto", "reference")
    )
    assert reference.half_list is None
    assert torch.equal(reference.index, edges.index)
    torch.testing.assert_close(reference.dist, edges.dist)


def test_open_structures_with_a_cell_are_searched_as_molecules(molecules, monkeypatch):
    lattice = {"cell": 9.0 * torch.eye(3, dtype=F64).repeat(3, 1, 1), "pbc": torch.zeros(3, 3, dtype=torch.bool)}
    expected = prepare_edges(**molecules, cutoff=2.0, batch_size=3)
    periodic = prepare_edges(**molecules, **lattice, cutoff=2.0, batch_size=3, backend="reference")
    monkeypatch.setattr(graph_module, "radius_graph", lambda *args, **kwargs: pytest.fail("searched as crystals"))
    edges = prepare_edges(**molecules, **lattice, cutoff=2.0, batch_size=3)
    for one, other in zip(edges.half_list, expected.half_list, strict=True):
        assert torch.equal(one, other)
    assert periodic.index.size(1) == 2 * edges.half_list.index.size(1)


@pytest.mark.parametrize("kept", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_shifts_of_any_integer_type(kept, small_cell, periodic_tensors):
    given = periodic_tensors(small_cell)
    edge_index, edge_shift = radius_graph(given["pos"], 4.0, given["batch"], cell=given["cell"], pbc=given["pbc"])
    edges = prepare_edges(**given, cutoff=4.0, edge_index=edge_index, edge_shift=edge_shift.to(kept), batch_size=1)
    assert edges.half_list is not None
    torch.testing.assert_close(edges.dist, prepare_edges(**given, cutoff=4.0, batch_size=1).dist)


def test_given_edges_are_kept(molecules):
    edge_index = radius_graph(molecules["pos"], 2.0, molecules["batch"])[:, ::2].flip(1)
    edges = prepare_edges(**molecules, cutoff=2.0, edge_index=edge_index, batch_size=3)
    assert torch.equal(edges.index, edge_index)
    assert edges.ptr is None


def test_crystals(triclinic, small_cell, periodic_tensors):
    given = periodic_tensors(triclinic, small_cell)
    built = prepare_edges(**given, cutoff=4.0, batch_size=2)
    edge_index, edge_shift = radius_graph(given["pos"], 4.0, given["batch"], cell=given["cell"], pbc=given["pbc"])
    same = prepare_edges(**given, cutoff=4.0, edge_index=edge_index, edge_shift=edge_shift, batch_size=2)
    assert torch.equal(built.index, same.index)
    torch.testing.assert_close(built.dist, same.dist)
    for structure, atoms in enumerate((triclinic, small_cell)):
        mine = given["batch"][built.index[1]] == structure
        first = structure * len(triclinic)
        found = zip(*(built.index[:, mine] - first).tolist(), built.dist[mine].round(decimals=9).tolist(), strict=True)
        i, j, dist = neighbor_list("ijd", atoms, 4.0)
        assert sorted(found) == sorted(zip(j.tolist(), i.tolist(), dist.round(9).tolist(), strict=True))


def test_distances_are_differentiable_in_positions_and_cell(small_cell, periodic_tensors):
    given = periodic_tensors(small_cell)
    given["pos"].requires_grad_()
    given["cell"].requires_grad_()
    prepare_edges(**given, cutoff=4.0, batch_size=1).dist.square().sum().backward()
    assert given["cell"].grad.abs().max() > 0
    assert torch.isfinite(given["pos"].grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_from_padding_are_moved_to_the_cutoff(dtype):
    z = torch.tensor([6, 0, 8])
    pos = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=dtype)
    edges = prepare_edges(z, pos, torch.zeros(3, dtype=torch.int64), 5.1, batch_size=1)
    from_padding = edges.index[0] == 1
    assert from_padding.sum() == 2
    assert not (edges.dist[from_padding] < 5.1).any()
    assert (edges.dist[~from_padding] < 5.1).all()


def test_shift_without_edges():
    z, pos, batch = torch.tensor([6]), torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="edge_shift belongs to given edges"):
        prepare_edges(z, pos, batch, 5.0, edge_shift=torch.zeros(1, 3), batch_size=1)
    edge_index = torch.zeros(2, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="it needs cell"):
        prepare_edges(z, pos, batch, 5.0, edge_index=edge_index, edge_shift=torch.zeros(1, 3).int(), batch_size=1)


@pytest.mark.parametrize(
    ("z", "pos", "batch", "message"),
    [
        (torch.ones(2, 1, dtype=torch.int64), torch.zeros(2, 3), None, r"z must hold one atomic number.*\[2, 1\]"),
        (torch.ones(2), torch.zeros(2, 3), None, r"z must hold one atomic number.*torch\.float32"),
        (torch.ones(2, dtype=torch.int32), torch.zeros(2, 3), None, r"of int64.*torch\.int32"),
        (torch.ones(2, dtype=torch.bool), torch.zeros(2, 3), None, r"of int64.*torch\.bool"),
        (torch.ones(2, dtype=torch.int64), torch.zeros(3, 3), None, r"each of the 2 atoms, \[N, 3\]; got \[3, 3\]"),
        (torch.ones(2, dtype=torch.int64), torch.zeros(2, 2), None, r"\[N, 3\]; got \[2, 2\]"),
        (torch.ones(2, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64), None, r"in Å.*torch\.int64"),
        (torch.ones(2, dtype=torch.int64), torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), r"batch must.*\[3\]"),
        (torch.ones(2, dtype=torch.int64), torch.zeros(2, 3), torch.zeros(2), r"batch must.*torch\.float32"),
    ],
)
def test_bad_atoms(z, pos, batch, message):
    with pytest.raises(ValueError, match=message):
        check_atoms(z, pos, batch)


@pytest.mark.parametrize("z", [[1, 100], [-1, 6], [1, 1000]])
def test_bad_atomic_numbers(z):
    embedding = nn.Embedding(100, 4, padding_idx=0)
    with pytest.raises(ValueError, match=rf"between 0 \(padding\) and 99; got values from {min(z)} to {max(z)}"):
        embed(embedding, torch.tensor(z))


def test_embed():
    embedding = nn.Embedding(100, 4, padding_idx=0)
    x = embed(embedding, torch.tensor([0, 5, 99]))
    assert not x[0].any()
    assert torch.equal(x[1:], embedding.weight[[5, 99]])


def test_count_structures():
    assert count_structures(torch.tensor([0, 0, 2])) == 3
    assert count_structures(torch.empty(0, dtype=torch.int64)) == 1

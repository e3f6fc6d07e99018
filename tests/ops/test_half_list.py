"""Which graphs have every edge in both directions, and one edge of each pair."""

import ase.build
import pytest
import torch

from pyg_schnet.backends import tuning
from pyg_schnet.data import to_data
from pyg_schnet.neighbors import radius_graph
from pyg_schnet.ops import half_list


def open_graph(n_structures=5, n_atoms=9, seed=0):
    random = torch.Generator().manual_seed(seed)
    pos = 2.5 * torch.randn(n_structures * n_atoms, 3, generator=random)
    batch = torch.arange(n_structures).repeat_interleave(n_atoms)
    return radius_graph(pos, 3.0, batch, batch_size=n_structures), None, len(pos)


def periodic_graph(atoms, cutoff=5.0):
    data = to_data(atoms)
    batch = torch.zeros_like(data.z)
    edge_index, shift = radius_graph(data.pos, cutoff, batch, batch_size=1, cell=data.cell, pbc=data.pbc)
    return edge_index, shift, len(data.z)


def rattled(atoms):
    atoms.rattle(0.1, seed=1)
    return atoms


GRAPHS = {
    "molecules": open_graph,
    "one atom and its images": lambda: periodic_graph(ase.build.bulk("Cu")),
    "small cell": lambda: periodic_graph(rattled(ase.build.bulk("NaCl", "rocksalt", a=5.6))),
    "large cell": lambda: periodic_graph(rattled(ase.build.bulk("Si", cubic=True) * 2)),
    "slab": lambda: periodic_graph(rattled(ase.build.fcc111("Al", (2, 2, 3), vacuum=8.0))),
}


def as_set(edge_index, shift):
    """Edges that can be compared."""
    shift = torch.zeros(edge_index.size(1), 3) if shift is None else shift
    rows = torch.cat([edge_index.t().double(), shift.double()], 1)
    return {tuple(row) for row in (rows + 0.0).tolist()}  # no minus zero


@pytest.mark.parametrize("name", GRAPHS)
def test_a_half_and_its_reversal_are_the_whole(name):
    edge_index, shift, n_atoms = GRAPHS[name]()
    pairs = half_list(edge_index, None, shift, n_atoms)
    half = pairs.edges
    assert half.numel() == edge_index.size(1) // 2 > 0
    assert (half.diff() > 0).all()
    assert torch.equal(pairs.index, edge_index[:, half])
    assert torch.equal(pairs.ptr, torch.searchsorted(pairs.index[1].contiguous(), torch.arange(n_atoms + 1)))
    chosen, crossed = edge_index[:, half], None if shift is None else shift[half]
    reversal = as_set(chosen.flip(0), None if crossed is None else -crossed)
    assert as_set(chosen, crossed).isdisjoint(reversal)
    assert as_set(chosen, crossed) | reversal == as_set(edge_index, shift)


@pytest.mark.parametrize("name", GRAPHS)
def test_without_one_edge_a_graph_is_directed(name):
    edge_index, shift, n_atoms = GRAPHS[name]()
    for missing in (0, edge_index.size(1) // 2, edge_index.size(1) - 1):
        kept = torch.arange(edge_index.size(1)) != missing
        left = None if shift is None else shift[kept]
        assert half_list(edge_index[:, kept], None, left, n_atoms) is None


@pytest.mark.parametrize("name", GRAPHS)
def test_edges_of_many_atoms_are_sorted(name):
    edge_index, shift, n_atoms = GRAPHS[name]()
    order = torch.randperm(edge_index.size(1), generator=torch.Generator().manual_seed(0))
    index, crossed = edge_index[:, order], None if shift is None else shift[order]
    assert half_list(index, None, crossed, n_atoms) is None
    with tuning.changed(recompute_atoms=n_atoms):
        pairs = half_list(index, None, crossed, n_atoms)
        assert half_list(index[:, 1:], None, None if crossed is None else crossed[1:], n_atoms) is None
    assert torch.equal(pairs.index, index[:, pairs.edges])
    assert torch.equal(pairs.ptr, torch.searchsorted(pairs.index[1].contiguous(), torch.arange(n_atoms + 1)))
    chosen, crossed = index[:, pairs.edges], None if shift is None else crossed[pairs.edges]
    reversal = as_set(chosen.flip(0), None if crossed is None else -crossed)
    assert as_set(chosen, crossed).isdisjoint(reversal)
    assert as_set(chosen, crossed) | reversal == as_set(edge_index, shift)


def test_sorted_edges_are_checked():
    with tuning.changed(recompute_atoms=1):
        assert half_list(torch.tensor([[5, 1, 0], [0, 0, 1]]), None, None, 3) is None
        loops = half_list(torch.tensor([[1, 0, 0], [0, 0, 1]]), None, None, 2)
        assert loops.index.tolist() == [[1], [0]]


def test_images_must_be_the_opposite_ones():
    edge_index, shift, n_atoms = GRAPHS["small cell"]()
    moved = shift.clone()
    moved[3] += torch.tensor([1, 0, 0], dtype=shift.dtype)
    assert half_list(edge_index, None, moved, n_atoms) is None


def test_atoms_themselves_belong_to_no_pair():
    edge_index = torch.tensor([[0, 1, 0, 1, 2], [0, 0, 1, 1, 2]])
    assert half_list(edge_index, None, None, 3).edges.tolist() == [1]
    images = torch.tensor([[-1, 0, 0], [0, 0, 0], [1, 0, 0]])
    assert half_list(torch.zeros(2, 3, dtype=torch.int64), None, images, 1).edges.tolist() == [0]


def test_edges_given_twice_stay_two():
    edge_index = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]])
    assert half_list(edge_index, None, None, 2).edges.tolist() == [0, 1]
    assert half_list(edge_index[:, 1:], None, None, 2) is None


@pytest.mark.parametrize(
    "edge_index",
    [[[0, 1], [1, 0]], [[2, 1, 0, 0], [0, 0, 1, 2]], [[1, 0], [0, 5]], [[5, 0], [0, 1]], [[-1, 0], [0, 1]]],
    ids=["targets unsorted", "sources unsorted", "no such target", "no such source", "negative source"],
)
def test_other_edges_are_taken_as_they_are(edge_index):
    assert half_list(torch.tensor(edge_index), None, None, 3) is None


def test_no_edges_are_no_pairs():
    assert half_list(torch.empty(2, 0, dtype=torch.int64), None, None, 3).edges.tolist() == []


def test_half_lists_are_for_the_cpu():
    assert half_list(torch.empty(2, 4, dtype=torch.int64, device="meta"), None, None, 3) is None


def test_crowded_atoms_keep_directed_edges():
    ends = torch.stack([torch.zeros(1100, dtype=torch.int64), torch.arange(1, 1101)])
    index = torch.cat([ends, ends.flip(0)], 1)
    index = index[:, (index[1] * 2000 + index[0]).argsort()]
    assert half_list(index, None, None, 1101) is None
    few = index[:, (index < 1000).all(0)]
    assert half_list(few, None, None, 1101).edges.numel() == 999

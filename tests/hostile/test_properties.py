"""Random graphs and structures, as they are and spoiled: right ones equal brute force, spoiled ones get a sentence."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_schnet import SchNet, radius_graph
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.geometry import edge_distances
from pyg_schnet.neighbors.brute import brute_radius_graph, edge_tuples
from pyg_schnet.nn import CFConv, CosineCutoff, FilterNetwork
from pyg_schnet.nn.aggregation import sum_to_targets

F64 = torch.float64
some = settings(max_examples=40)
torch.manual_seed(0)
MODEL = SchNet(8, 8, 2, 10, 3.0, filters="exact").double().eval()
CONV = CFConv(FilterNetwork(8, window=CosineCutoff(3.0)), filters="spline", num_grid_points=200).double()
SENTENCES = r"edge|must|name atoms|lattice|structure"


@st.composite
def crystals(draw):
    """Positions, cell and boundaries, with cells of 1.5 to 6 Å, any handedness and a little skew."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    n_atoms = draw(st.integers(1, 6))
    lengths = torch.tensor(draw(st.lists(st.floats(1.5, 6.0), min_size=3, max_size=3)), dtype=F64)
    skew = 0.3 * torch.randn(3, 3, generator=random, dtype=F64).tril(-1)
    cell = (torch.diag(lengths) + skew)[draw(st.permutations([0, 1, 2]))]
    pbc = torch.tensor(draw(st.lists(st.booleans(), min_size=3, max_size=3)))
    pos = torch.rand(n_atoms, 3, generator=random, dtype=F64) @ cell
    return pos, cell, pbc


@st.composite
def graphs(draw):
    """Edges in any order between up to 6 atoms, loops and repeats included, with distances."""
    n_atoms = draw(st.integers(1, 6))
    ends = st.integers(0, n_atoms - 1)
    edges = draw(st.lists(st.tuples(ends, ends), max_size=12))
    index = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).t().contiguous()
    dist = torch.tensor(draw(st.lists(st.floats(0.5, 4.0), min_size=len(edges), max_size=len(edges))), dtype=F64)
    return n_atoms, index, dist


@some
@given(crystals(), st.floats(1.0, 4.0))
def test_searches_equal_brute_force(crystal, cutoff):
    pos, cell, pbc = crystal
    expected = edge_tuples(*brute_radius_graph(pos, cutoff, None, cell, pbc))
    for backend in ("torch", "vesin"):
        assert edge_tuples(*radius_graph(pos, cutoff, cell=cell, pbc=pbc, backend=backend)) == expected


@some
@given(crystals())
def test_given_edges_are_those_of_the_search(crystal):
    pos, cell, pbc = crystal
    z, cell, pbc = torch.ones(pos.size(0), dtype=torch.int64), cell[None], pbc[None]
    index, shift = radius_graph(pos, 3.0, cell=cell, pbc=pbc)
    order = torch.randperm(index.size(1))
    given = {"edge_index": index[:, order], "edge_shift": shift[order], "cell": cell, "pbc": pbc}
    searched, found = (
        energy_forces_stress(MODEL, z, pos, cell=cell, pbc=pbc),
        energy_forces_stress(MODEL, z, pos, **given),
    )
    torch.testing.assert_close(found.energy, searched.energy)
    torch.testing.assert_close(found.forces, searched.forces)


SPOILED = st.sampled_from(
    ["below", "beyond", "far", "row", "rows", "transposed", "fraction", "shift", "shifts", "cells", "batch", "list"]
)


def spoil(how, index, shift, cell, n_atoms):
    """One of many things that a graph may have wrong."""
    batch = None
    if how in ("below", "beyond", "far"):
        index = index.clone()
        index.view(-1)[-1] = {"below": -1, "beyond": n_atoms, "far": 2**50}[how]
    elif how == "row":
        index = index[:1]
    elif how == "rows":
        index = torch.cat([index, index])
    elif how == "transposed":
        index = torch.cat([index, index, index], 1).t()
    elif how == "fraction":
        index = index + 0.25
    elif how == "shift":
        shift = shift[:-1]
    elif how == "shifts":
        shift = shift + 0.5
    elif how == "cells":
        cell = cell.repeat(3, 1, 1)
    elif how == "batch":
        batch = torch.full((n_atoms,), -1)
    else:
        index = index.tolist()
    return {"edge_index": index, "edge_shift": shift, "cell": cell, "batch": batch}


@some
@given(crystals(), SPOILED)
def test_spoiled_graphs_get_a_sentence(crystal, how):
    pos, cell, _ = crystal
    pbc, z = torch.ones(1, 3, dtype=torch.bool), torch.ones(pos.size(0), dtype=torch.int64)
    index, shift = radius_graph(pos, 6.5, cell=cell, pbc=pbc[0])
    given = {**spoil(how, index, shift, cell[None], pos.size(0)), "pbc": pbc, "batch_size": 1}
    batch = given.pop("batch")
    for call in (MODEL, lambda *args, **keywords: energy_forces_stress(MODEL, *args, **keywords)):
        with pytest.raises((ValueError, IndexError, TypeError), match=SENTENCES):
            call(z, pos, batch, **given)


def brute_convolution(x, index, dist):
    out, filters = torch.zeros_like(x), CONV.filter_network(dist)
    for e, (j, i) in enumerate(index.t().tolist()):
        out[i] += x[j] * filters[e]
    return out


@some
@given(graphs())
def test_layers_equal_loops(graph):
    n_atoms, index, dist = graph
    x = torch.randn(n_atoms, 8, dtype=F64)
    expected = brute_convolution(x, index, dist)
    order = index[1].argsort(stable=True)
    ptr = torch.cat([torch.tensor([0]), index[1].bincount(minlength=n_atoms).cumsum(0)])
    torch.testing.assert_close(CONV(x, index, dist), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(CONV(x, index[:, order], dist[order], ptr), expected, rtol=1e-3, atol=1e-3)
    sums = torch.zeros(n_atoms, dtype=F64).index_add(0, index[1], dist)
    torch.testing.assert_close(sum_to_targets(dist[order], index[1][order], n_atoms, ptr), sums)


@some
@given(graphs(), st.integers(0, 6), st.integers(-3, 20))
def test_pointers_are_those_of_the_edges_or_refused(graph, place, value):
    n_atoms, index, dist = graph
    order = index[1].argsort(stable=True)
    index, dist = index[:, order], dist[order]
    right = torch.cat([torch.tensor([0]), index[1].bincount(minlength=n_atoms).cumsum(0)])
    ptr = right.clone()
    ptr[place % ptr.numel()] = value
    x = torch.randn(n_atoms, 8, dtype=F64)
    if torch.equal(ptr, right):
        torch.testing.assert_close(CONV(x, index, dist, ptr), CONV(x, index, dist))
        return
    for call in (lambda: CONV(x, index, dist, ptr), lambda: sum_to_targets(dist, index[1], n_atoms, ptr)):
        with pytest.raises(ValueError, match="must say where the edges of each"):
            call()


@some
@given(crystals(), st.floats(1e-9, 1e-3))
def test_tiny_cells_are_refused_before_they_take_memory(crystal, factor):
    pos, cell, _ = crystal
    with pytest.raises(ValueError, match=r"lattice images|linearly dependent|too far away"):
        radius_graph(pos, 5.0, cell=factor * cell, pbc=torch.tensor([True, True, True]))


def test_distances_of_the_graphs_above():
    pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]], dtype=F64)
    assert edge_distances(pos, radius_graph(pos, 2.0)).tolist() == [1.5, 1.5]

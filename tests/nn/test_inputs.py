"""Edges, distances and features of another shape or type than layers and models take."""

import pytest
import torch
from torch_geometric import EdgeIndex
from torch_geometric.typing import SparseTensor
from torch_geometric.utils import to_edge_index

from pyg_schnet import DTNN, SchNet, radius_graph
from pyg_schnet.geometry import edge_distances
from pyg_schnet.nn import CFConv, CosineCutoff, DTNNConv, DTNNInteraction, FilterNetwork, SchNetInteraction

LAYERS = {
    "CFConv": lambda: CFConv(FilterNetwork(8, window=CosineCutoff(5.0))),
    "SchNetInteraction": lambda: SchNetInteraction(8, FilterNetwork(8, window=CosineCutoff(5.0))),
    "DTNNConv": lambda: DTNNConv(8, 6),
    "DTNNInteraction": lambda: DTNNInteraction(DTNNConv(8, 6)),
}
MODELS = {"SchNet": lambda: SchNet(8, 8, 1, 10, 5.0), "DTNN": lambda: DTNN(8, 6, 1, 10, 5.0)}


@pytest.fixture
def edges():
    torch.manual_seed(0)
    pos = 4 * torch.rand(6, 3)
    index = radius_graph(pos, 5.0)
    return {"x": torch.randn(6, 8), "edge_index": index, "edge_dist": edge_distances(pos, index), "pos": pos}


def adjacency(index, layout):
    with torch.sparse.check_sparse_tensor_invariants():
        adjacency = torch.sparse_coo_tensor(index, torch.ones(index.size(1)), (6, 6)).coalesce()
        return adjacency if layout == "coo" else adjacency.to_sparse_csr()


WRONG_EDGES = {
    "transposed": (lambda index: index.t(), r"\[2, E\] of int64.* got \[\d+, 2\] .*; write edge_index\.t\(\)"),
    "float": (lambda index: index.float(), r"\[2, E\] of int64.* of torch\.float32"),
    "one row": (lambda index: index[0], r"\[2, E\] of int64, .* got \[\d+\]"),
    "coo": (lambda index: adjacency(index, "coo"), r"sparse adjacency \[6, 6\]; write .*to_edge_index"),
    "sparse tensor": (lambda index: SparseTensor.__new__(SparseTensor), r"got a SparseTensor; for adj_t write"),
    "list": (lambda index: index.tolist(), r"a tensor \[2, E\] of int64, got a list"),
}


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", LAYERS)
class TestLayers:
    @pytest.mark.parametrize("kind", WRONG_EDGES)
    def test_edges(self, name, mode, kind, edges):
        convert, message = WRONG_EDGES[kind]
        with pytest.raises(ValueError, match=message):
            LAYERS[name]().train(mode)(edges["x"], convert(edges["edge_index"]), edges["edge_dist"])

    @pytest.mark.parametrize(
        ("convert", "message"),
        [
            (lambda dist: dist.unsqueeze(-1), r"one distance in Å .* got \[30, 1\] .*; write edge_dist\.squeeze\(-1\)"),
            (lambda dist: dist[:-1], r"each of the 30 edges, \[E\]; got \[29\]"),
            (lambda dist: dist.long(), r"got \[30\] of torch\.int64"),
            (lambda dist: None, r"a tensor of distances in Å, \[E\], got a NoneType"),
        ],
    )
    def test_distances(self, name, mode, convert, message, edges):
        with pytest.raises(ValueError, match=message):
            LAYERS[name]().train(mode)(edges["x"], edges["edge_index"], convert(edges["edge_dist"]))

    @pytest.mark.parametrize("shape", [(6,), (6, 4), (6, 1), (6, 8, 1)])
    def test_features(self, name, mode, shape, edges):
        with pytest.raises(ValueError, match=r"atom features, \[N, 8\], got "):
            LAYERS[name]().train(mode)(torch.zeros(shape), edges["edge_index"], edges["edge_dist"])

    @pytest.mark.parametrize("convert", [lambda i: EdgeIndex(i, sparse_size=(6, 6)), lambda i: i.int()])
    def test_edge_index_of_pyg_and_int32_serve(self, name, mode, convert, edges):
        layer = LAYERS[name]().train(mode)
        x, index, dist = edges["x"], edges["edge_index"], edges["edge_dist"]
        torch.testing.assert_close(layer(x, convert(index), dist), layer(x, index, dist))


def test_advice_for_sparse_adjacencies_is_right(edges):
    def pairs(index):
        return set(map(tuple, index.t().tolist()))

    index = edges["edge_index"][:, ::2]  # without symmetry
    assert pairs(to_edge_index(adjacency(index, "coo"))[0]) == pairs(index)
    assert pairs(to_edge_index(adjacency(index.flip(0), "coo"))[0].flip(0)) == pairs(index)


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", MODELS)
class TestModels:
    @pytest.mark.parametrize("kind", WRONG_EDGES)
    def test_edges(self, name, mode, kind, edges):
        convert, message = WRONG_EDGES[kind]
        with pytest.raises(ValueError, match=message):
            MODELS[name]().train(mode)(torch.ones(6).long(), edges["pos"], edge_index=convert(edges["edge_index"]))

    @pytest.mark.parametrize("convert", [lambda i: EdgeIndex(i, sparse_size=(6, 6)), lambda i: i.int()])
    def test_edge_index_of_pyg_and_int32_serve(self, name, mode, convert, edges):
        model, z, pos, index = MODELS[name]().train(mode), torch.ones(6).long(), edges["pos"], edges["edge_index"]
        found = model(z, pos, edge_index=convert(index))
        torch.testing.assert_close(found, model(z, pos), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"edge_shift": torch.zeros(29, 3)}, r"each of the 30 edges, \[E, 3\] of int32 or int64; got \[29, 3\]"),
            ({"edge_shift": torch.zeros(3, 30)}, r"each of the 30 edges, \[E, 3\] of int32 or int64; got \[3, 30\]"),
            ({"edge_shift": torch.zeros(30, 3), "cell": torch.eye(3).reshape(1, 9)}, r"\[B, 3, 3\] in Å; got \[1, 9\]"),
            ({"batch_size": 1.0}, r"batch_size must be the number of structures, got 1\.0"),
        ],
    )
    def test_shifts_cells_and_sizes(self, name, mode, given, message, edges):
        given = {"edge_index": edges["edge_index"], "cell": 9 * torch.eye(3).unsqueeze(0), **given}
        with pytest.raises(ValueError, match=message):
            MODELS[name]().train(mode)(torch.ones(6).long(), edges["pos"], **given)

    @pytest.mark.parametrize(
        ("z", "pos", "message"),
        [
            (None, torch.zeros(6, 3), r"z must be a tensor of atomic numbers, \[N\] of int64; got None"),
            (torch.ones(6).long(), None, r"pos must be a tensor of positions in Å, \[N, 3\]; got None"),
            ([1, 1], torch.zeros(2, 3), r"z must be a tensor of atomic numbers.*got a list"),
            (torch.ones(6), torch.zeros(6, 3), r"\[N\] of int64; got \[6\] of torch\.float32"),
            (torch.ones(6, 1).long(), torch.zeros(6, 3), r"\[N\] of int64; got \[6, 1\]"),
            (torch.ones(6).long(), torch.zeros(6, 3).long(), r"one position in Å .* got \[6, 3\] of torch\.int64"),
        ],
    )
    def test_atoms(self, name, mode, z, pos, message):
        with pytest.raises(ValueError, match=message):
            MODELS[name]().train(mode)(z, pos)

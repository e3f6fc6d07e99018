"""Edges that do not fit: refused where they enter a model, a layer or an operator, before memory is read by them."""

import re

import pytest
import torch

from pyg_schnet import DTNN, SchNet, ops, radius_graph
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.engine import freeze
from pyg_schnet.geometry import edge_distances
from pyg_schnet.models.convert import like_pyg
from pyg_schnet.models.graph import prepare_edges
from pyg_schnet.nn import (
    CFConv,
    CosineCutoff,
    DipoleReadout,
    DTNNConv,
    FilterNetwork,
    MaxReadout,
    MeanReadout,
    SchNetInteraction,
    SumReadout,
)
from pyg_schnet.nn.aggregation import sum_to_targets
from pyg_schnet.nn.atomref import element_counts
from pyg_schnet.ops.filter_table import GridSamples
from pyg_schnet.ops.radius import Ranges
from pyg_schnet.potential import Potential

Z = torch.tensor([8, 1, 1, 6])
POS = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0], [1.1, 1.2, 1.3]])
BATCH = torch.zeros(4, dtype=torch.int64)
CELL, PBC = 4.5 * torch.eye(3)[None], torch.ones(1, 3, dtype=torch.bool)
INDEX, SHIFT = radius_graph(POS, 4.0, cell=CELL, pbc=PBC)
OPEN = radius_graph(POS, 4.0)
DIST = edge_distances(POS, OPEN)
PTR = torch.tensor([0, 3, 6, 9, 12])


def changed(tensor, value, place=3):
    tensor = tensor.clone()
    tensor.view(-1)[place] = value
    return tensor


torch.manual_seed(0)
SCHNET = SchNet(16, 16, 2, 20, 4.0).eval()
MODELS = {
    "SchNet": SCHNET,
    "training": SchNet(16, 16, 2, 20, 4.0),
    "reference": SchNet(16, 16, 2, 20, 4.0, backend="reference"),
    "exact": SchNet(16, 16, 2, 20, 4.0, filters="exact"),
    "DTNN": DTNN(16, 16, 2, 20, 4.0),
    "like_pyg": like_pyg.SchNet(16, 16, 2, 20, 4.0),
    "frozen": freeze(SCHNET),
}
POTENTIAL = Potential(SCHNET, "eV", dtype=torch.float32)
DOORS = {
    **MODELS,
    "forces": lambda *args, **given: energy_forces_stress(SCHNET, *args, **given),
    "stress": lambda *args, **given: energy_forces_stress(SCHNET, *args, stress=True, **given),
    "autograd": lambda *args, **given: energy_forces_stress(MODELS["DTNN"], *args, **given),
    "gradients": SCHNET.energy_and_gradients,
    "plan": SCHNET.plan,
    "potential": POTENTIAL,
    "potential.energy": POTENTIAL.energy,
    "atom_energies": POTENTIAL.atom_energies,
}

SHIFTS = r"edge_shift must count the lattice vectors crossed by each of the \d+ edges, \[E, 3\] of int32 or int64; got"
ROWS = r"edge_index must be (\[2, E\]|a tensor)"
GIVEN = {
    "too few shifts": ({"edge_shift": SHIFT[:-5]}, SHIFTS),
    "no shifts": ({"edge_shift": SHIFT[:0]}, SHIFTS),
    "shifts of two axes": ({"edge_shift": SHIFT[:, :2]}, SHIFTS),
    "half a cell": ({"edge_shift": SHIFT + 0.5}, SHIFTS),
    "shifts without sign": ({"edge_shift": SHIFT.to(torch.uint8)}, SHIFTS),
    "no cell": ({"cell": None}, r"so it needs cell|stress is defined for structures in a cell with a volume only"),
    "transposed edges": ({"edge_index": INDEX.t()}, ROWS),
    "three rows": ({"edge_index": torch.cat([INDEX, INDEX[:1]])}, ROWS),
    "fractions of atoms": ({"edge_index": INDEX.float()}, ROWS),
    "source below": ({"edge_index": changed(INDEX, -1)}, r"edges (must )?name atoms"),
    "source beyond": ({"edge_index": changed(INDEX, 4)}, r"edges (must )?name atoms"),
    "target far beyond": ({"edge_index": changed(INDEX, 2**62, INDEX.size(1))}, r"edges (must )?name atoms"),
    "two cells": ({"cell": CELL.repeat(2, 1, 1), "pbc": PBC.repeat(2, 1)}, "cell must have one row for each of 1"),
    "pbc of numbers": ({"pbc": PBC.long()}, "pbc must be"),
    "a list": ({"edge_shift": SHIFT.tolist()}, "tensor|got a list"),
    "batch of numbers": ({"batch": BATCH.float()}, r"batch must name the structure of each of the 4 atoms"),
    "batch far beyond": ({"batch": changed(BATCH, 2**40)}, "batch_size must be the number of structures, at most"),
    "text": ({"batch_size": "1"}, "batch_size must be the number of structures, got '1'"),
    "memory": ({"batch_size": 10**15}, "batch_size must be the number of structures, at most 100000000"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("given", GIVEN)
def test_edges_of_a_model(given, door):
    changes, message = GIVEN[given]
    given = {"edge_index": INDEX, "edge_shift": SHIFT, "cell": CELL, "pbc": PBC, "batch": None, **changes}
    with pytest.raises((ValueError, IndexError), match=message):
        DOORS[door](Z, POS, **given)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("place", [(0, -1), (0, 4), (1, -1), (1, 4), (1, 2**62)])
def test_directed_edges_of_a_model(place, name):
    row, value = place
    bad = OPEN[:, 1:].clone()
    bad[row, 3] = value
    with pytest.raises(IndexError, match=r"edges (must )?name atoms"):
        MODELS[name](Z, POS, edge_index=bad)


@pytest.mark.parametrize("index", [OPEN, OPEN[:, 1:]], ids=["half list", "directed"])
def test_edges_between_structures(index):
    with pytest.raises(ValueError, match=r"edges must connect atoms of the same structure; .* structures 1 and 0"):
        SCHNET(Z, POS, torch.tensor([0, 0, 1, 1]), edge_index=index, batch_size=2)


def test_edges_of_models_of_others():
    def energy(z, pos, batch, **_):
        return pos.sum().view(1)

    with pytest.raises(ValueError, match="must be tensors, got list"):
        energy_forces_stress(energy, Z.tolist(), POS)
    with pytest.raises(ValueError, match="the model must return a tensor of energies"):
        energy_forces_stress(lambda *_: 1.0, Z, POS)


def network():
    return FilterNetwork(16, window=CosineCutoff(4.0))


LAYERS = {
    "splined": CFConv(network()),
    "exact": CFConv(network(), filters="exact"),
    "normalized": CFConv(network(), normalize=True).eval(),
    "tensor": DTNNConv(16, 16),
    "block": SchNetInteraction(16, network()),
}
POINTERS = {
    "short": PTR[:-1],
    "long": torch.cat([PTR, PTR[-1:]]),
    "beyond": torch.tensor([0, 3, 6, 9, 100]),
    "far beyond": torch.tensor([0, 3, 6, 2**60, 12]),
    "falls": torch.tensor([0, 6, 3, 9, 12]),
    "below": torch.tensor([-1, 3, 6, 9, 12]),
    "of others": torch.tensor([0, 1, 2, 3, 12]),
    "numbers": PTR.float(),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("pointer", POINTERS)
def test_pointers_of_layers(pointer, layer):
    x = torch.randn(4, 16, requires_grad=True)
    with pytest.raises(ValueError, match="edge_ptr must say where the edges of each"):
        LAYERS[layer](x, OPEN, DIST, POINTERS[pointer])
    with torch.no_grad(), pytest.raises(ValueError, match="edge_ptr must say where the edges of each"):
        LAYERS[layer](x, OPEN, DIST, POINTERS[pointer])


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("place", [(0, -1), (0, 4), (1, -1), (1, 2**62)])
@pytest.mark.parametrize("pointer", [None, PTR], ids=["unsorted", "sorted"])
def test_ends_of_edges_of_layers(pointer, place, layer):
    row, value = place
    bad = OPEN.clone()
    bad[row, 3] = value
    with pytest.raises((IndexError, ValueError), match=r"edges name atoms|edge_ptr must say"):
        LAYERS[layer](torch.randn(4, 16), bad, DIST, pointer)


def test_a_pointer_of_these_edges_changes_nothing():
    x = torch.randn(4, 16)
    for layer in LAYERS.values():
        torch.testing.assert_close(layer(x, OPEN, DIST, PTR), layer(x, OPEN, DIST))


@pytest.mark.parametrize(
    ("x", "size", "message"),
    [
        (torch.ones(4, 16, dtype=torch.int64), None, r"x must hold atom features, \[N, 16\], got .* of torch.int64"),
        ((torch.randn(4, 16),) * 3, None, "or a pair"),
        ((torch.randn(4, 16), None), None, r"size must be \(N_src, N_dst\)"),
        ((torch.randn(4, 16), None), (4.0, 4.0), r"size must be \(N_src, N_dst\)"),
        ((torch.randn(4, 16), None), (4, -1), "size says that there are -1 targets"),
        ((torch.randn(4, 16), None), (2, 4), "size says that there are 2 sources, but x has 4"),
    ],
)
@pytest.mark.parametrize("layer", ["splined", "exact", "tensor"])
def test_features_of_layers(layer, x, size, message):
    with pytest.raises(ValueError, match=message):
        LAYERS[layer](x, OPEN, DIST, size=size)


READOUTS = {"sum": SumReadout(16), "mean": MeanReadout(16), "max": MaxReadout(16), "dipole": DipoleReadout(16)}
ATOMS = {
    "z below": ({"z": changed(Z, -1)}, "must lie between|atomic numbers"),
    "z beyond": ({"z": changed(Z, 100)}, "must lie between|atomic numbers"),
    "batch below": ({"batch": changed(BATCH, -1)}, "must lie between|atoms name structures"),
    "batch beyond": ({"batch": changed(BATCH, 1)}, "must lie between|atoms name structures"),
    "batch short": ({"batch": BATCH[:3]}, "z and batch must be of the same atoms, .*; got 4 and 3"),
    "no size": ({"batch_size": -1}, "batch_size must be the number of structures, got -1"),
    "memory": ({"batch_size": 10**15}, "batch_size must be the number of structures, at most"),
    "one atom": ({"x": torch.zeros(16)}, r"x must hold features of the 4 atoms, \[N, F\]; got \[16\]"),
}


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("atoms", ATOMS)
def test_atoms_of_readouts(atoms, readout):
    changes, message = ATOMS[atoms]
    given = {"x": torch.randn(4, 16), "z": Z, "pos": POS, "batch": BATCH, "batch_size": 1, **changes}
    with pytest.raises((ValueError, IndexError), match=message):
        READOUTS[readout](*given.values())


TABLE = torch.randn(23, 16)
INTERVAL, BASIS = ops.spline_basis(DIST, 4.0, 20)
GRAPH = ops.spline_graph(INTERVAL, OPEN, 4)
HALF = ops.half_list(OPEN, None, None, 4)
PAIRS = ops.SplineGraph(*ops.spline_basis(DIST[HALF.edges], 4.0, 20)[:1], HALF.index[0], HALF.index[1], HALF.ptr)
WEIGHTS = [torch.randn(16, 16), torch.randn(16, 16), torch.randn(16), torch.randn(16, 16), torch.randn(16)]
EMBEDDING = torch.randn(100, 16)
ONE = torch.ones(4, 1)
RANGES = Ranges(torch.tensor([[0]]), torch.tensor([[4]]), BATCH, None)


def convolve(**orders):
    return ops.spline_conv(EMBEDDING[:4], TABLE, BASIS, GRAPH._replace(**orders))


def pairs(omit=None, **ranges):
    return ops.close_pairs(POS, POS, RANGES._replace(**ranges), 2.0, omit)


def blocks(z=Z, table=TABLE[None], graph=PAIRS, weights=WEIGHTS):
    basis = torch.rand(graph.interval.size(0), 4)
    return ops.interactions(z, EMBEDDING, table, basis, graph, weights)


OPERATORS = {
    "pointer of others": (lambda: convolve(target_ptr=POINTERS["of others"]), "target_ptr must say"),
    "an order with one edge": (lambda: convolve(target_order=0 * INTERVAL), "names an edge twice"),
    "numbers for sources": (lambda: convolve(source=DIST), "must be lists of int64"),
    "half list, pointer": (lambda: ops.half_list(OPEN, POINTERS["beyond"], None, 4), "ptr must say"),
    "half list, atoms": (lambda: ops.half_list(OPEN, None, None, 10**15), "num_atoms must be a whole number"),
    "half list, transposed": (lambda: ops.half_list(OPEN.t(), None, None, 4), "edge_index must hold"),
    "order of fractions": (lambda: ops.sort_edges(DIST, 4), "key must hold a whole number for each edge"),
    "order in memory": (lambda: ops.sort_edges(OPEN[1], 10**15), "size must be a whole number"),
    "sums of others": (lambda: sum_to_targets(EMBEDDING[:12], OPEN[1], 4, POINTERS["far beyond"]), "ptr must say"),
    "sums beyond": (lambda: sum_to_targets(EMBEDDING[:12], OPEN[1], 3), "edges name atoms 0 to 3, but there are 3"),
    "blocks, unknown element": (lambda: blocks(z=changed(Z, 100)), "atoms name rows of the embedding 1 to 100"),
    "blocks, intervals": (lambda: blocks(graph=PAIRS._replace(interval=PAIRS.interval + 20)), "edges name intervals"),
    "blocks, sources": (lambda: blocks(graph=PAIRS._replace(source=PAIRS.source + 9)), "edges name atoms"),
    "blocks, pointer": (lambda: blocks(graph=PAIRS._replace(target_ptr=HALF.ptr * 9)), "target_ptr must say"),
    "blocks, weights": (lambda: blocks(weights=WEIGHTS[:4]), "weights those of T blocks"),
    "blocks, tables": (lambda: blocks(table=torch.stack([TABLE] * 2)), "weights those of T blocks"),
    "pairs before the first": (lambda: pairs(start=torch.tensor([[-5]])), "ranges begin"),
    "pairs beyond the last": (lambda: pairs(count=torch.tensor([[400]])), "ranges begin"),
    "pairs, few to omit": (lambda: pairs(BATCH[:1]), "omit must name a point for each"),
    "elements beyond": (lambda: element_counts(changed(Z, 100), BATCH, 1), "atoms have atomic numbers 1 to 100"),
    "columns": (lambda: ops.pool_atoms(ONE, Z, BATCH, 1, torch.ones(2), ONE[0], ONE), "as many columns"),
    "lengths, one axis": (lambda: ops.edge_lengths(POS, INDEX, SHIFT[:, 0], CELL), SHIFTS),
    "grid": (lambda: ops.spline_basis(DIST, float("inf"), 5), "a grid needs one interval or more"),
    "samples": (lambda: ops.filter_table(GridSamples(TABLE[:4], ONE, True), WEIGHTS[:4]), "samples must hold"),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators(operator):
    call, message = OPERATORS[operator]
    with pytest.raises((ValueError, IndexError), match=message):
        call()


def test_messages_name_what_came():
    with pytest.raises(ValueError, match=re.escape(f"[E, 3] of int32 or int64; got {list(SHIFT[:-1].shape)} of torch")):
        prepare_edges(Z, POS, BATCH, 4.0, edge_index=INDEX, edge_shift=SHIFT[:-1], cell=CELL, batch_size=1)

"""Public operators look at what they are given before kernels read memory by it."""

import pytest
import torch

from pyg_schnet import ops

F64 = torch.float64
each_backend = pytest.mark.parametrize("backend", ["numba", "reference"])
EDGES = torch.tensor([[0, 1, 2], [1, 2, 3]])


@each_backend
@pytest.mark.parametrize("shape", [(6, 2), (6, 4), (18,)])
def test_positions_have_three_components(shape, backend):
    with pytest.raises(ValueError, match=r"pos must hold positions in Å, shape \[N, 3\]"):
        ops.edge_lengths(torch.randn(shape), EDGES, backend=backend)


def test_pairs_are_not_searched_among_points_of_two_components():
    assert ops.close_pairs_once(torch.randn(6, 2), 3.0, torch.zeros(6, dtype=torch.int64), 1) is None


@each_backend
def test_a_spline_basis_is_one_of_a_list_of_distances(backend):
    with pytest.raises(ValueError, match=r"dist must hold a distance for each edge, shape \[E\]; got \[3, 2\]"):
        ops.spline_basis(torch.rand(3, 2), 5.0, 10, backend=backend)
    with pytest.raises(ValueError, match="a grid needs one interval or more"):
        ops.spline_basis(torch.rand(3), 5.0, 0, backend=backend)


@each_backend
def test_rows_of_structures_that_are_not_there(backend):
    for index in (5, -1):
        with pytest.raises(IndexError):
            ops.rows_of(torch.tensor([0, 2, 4]), torch.tensor([index]), backend=backend)


def features(n_atoms=6, rows=13):
    random = torch.Generator().manual_seed(0)
    return [torch.randn(n, 4, generator=random, dtype=F64) for n in (n_atoms, n_atoms, rows, EDGES.size(1))]


def run(name, graph, g, x, table, basis, backend):
    if name == "spline_conv":
        return ops.spline_conv(x, table, basis, graph, backend=backend)
    if name == "spline_conv_grad_table":
        return ops.spline_conv_grad_table(g, x, basis, table.size(0), graph, backend=backend)
    return ops.spline_conv_grad_basis(g, x, table, graph, backend=backend)


CHANGES = {
    "interval beyond": {"interval": torch.tensor([0, 1, 10])},
    "interval below": {"interval": torch.tensor([0, 1, -1])},
    "source beyond": {"source": torch.tensor([0, 1, 6])},
    "source below": {"source": torch.tensor([0, -1, 1])},
    "target beyond": {"target": torch.tensor([1, 2, 6])},
    "ends beyond": {"target_ptr": torch.tensor([0, 0, 1, 2, 3, 3, 100])},
    "ends fall": {"target_ptr": torch.tensor([0, 0, 3, 2, 3, 3, 3])},
    "order beyond": {"target_order": torch.tensor([0, 1, 3])},
}


@each_backend
@pytest.mark.parametrize("name", ["spline_conv", "spline_conv_grad_table", "spline_conv_grad_basis"])
@pytest.mark.parametrize("change", CHANGES)
def test_convolutions_read_no_memory_of_others(change, name, backend):
    graph = ops.spline_graph(torch.tensor([0, 4, 9]), EDGES, 6)
    run(name, graph, *features(), backend)
    with pytest.raises((IndexError, ValueError), match=r"edges name|where the edges of each target|an order names"):
        run(name, graph._replace(**CHANGES[change]), *features(), backend)


@each_backend
@pytest.mark.parametrize("name", ["spline_conv", "spline_conv_grad_table", "spline_conv_grad_basis"])
def test_convolutions_of_too_few_rows(name, backend):
    graph = ops.spline_graph(torch.tensor([0, 4, 9]), EDGES, 6)
    with pytest.raises(IndexError, match="edges name intervals 0 to 9, but there are 9"):
        run(name, graph, *features(rows=12), backend)
    g, _, *rest = features()
    with pytest.raises(IndexError, match="edges name atoms 0 to 2, but there are 1"):
        run(name, graph, g, torch.randn(1, 4, dtype=F64), *rest, backend)


@each_backend
def test_orders_have_the_shape_of_the_edges(backend):
    graph = ops.spline_graph(torch.tensor([0, 4, 9]), EDGES, 6)._replace(target_order=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="orders of 3 edges"):
        run("spline_conv", graph, *features(), backend)

"""What is particular to splined convolutions: orders of edges, gradients that are left out, memory, compilers."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pyg_schnet.backends import numba as kernels
from pyg_schnet.ops import pointer_of_sorted, sort_edges, spline_conv, spline_conv_grad_basis, spline_graph
from pyg_schnet.ops import spline_conv_reference as reference

from .graphs import FEW, LARGE, form, make_case

F64 = torch.float64
each_backend = pytest.mark.parametrize("backend", ["reference", "numba"])


def leaves(case):
    return [value.detach().requires_grad_() for value in case[1:4]]


@each_backend
@pytest.mark.parametrize("orders", [False, True])
def test_gradients_are_the_other_derivatives_of_the_form(orders, backend):
    case = make_case(orders=orders)
    inputs = leaves(case)
    gradients = torch.autograd.grad(spline_conv(*inputs, case.graph, backend=backend), inputs, case.g)
    for name, gradient in zip(("jf", "kf", "em"), gradients, strict=True):
        torch.testing.assert_close(gradient, torch.from_numpy(form(case, name)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{"targets": [200]}, {"n_intervals": 1}, {"n_targets": 1}], ids=str)
def test_threads_share_uneven_work(options):
    """All edges end at one target, or lie in one interval: some threads have nothing to do."""
    case, before, found = make_case(**{**LARGE, **options}), torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        inputs = leaves(case)
        out = spline_conv(*inputs, case.graph)
        found.append([out, *torch.autograd.grad(out, inputs, case.g)])
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


KERNELS = {"x": "spline_conv", "table": "spline_conv_grad_table", "basis": "spline_conv_grad_basis"}


@pytest.mark.parametrize("wanted", KERNELS)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("backend", "module"), [("auto", kernels), ("reference", reference)])
def test_only_the_gradients_asked_for_are_computed(backend, module, frozen, wanted, monkeypatch):
    case = make_case()
    inputs = {"x": case.x, "table": case.table, "basis": case.basis}
    for name, value in inputs.items():
        value.requires_grad_(name == wanted or not frozen)
    out = spline_conv(**inputs, graph=case.graph, backend=backend)
    calls = set()
    for name in KERNELS.values():
        kernel = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, name=name, kernel=kernel: (calls.add(name), kernel(*args))[1])
    torch.autograd.grad(out.sum(), inputs[wanted])
    assert calls == {KERNELS[wanted]}
    calls.clear()  # gradients behind other layers are asked for all the same
    scaled = {name: 2.0 * value for name, value in inputs.items()}
    torch.autograd.grad(spline_conv(**scaled, graph=case.graph, backend=backend).sum(), inputs[wanted])
    assert calls == {KERNELS[wanted], "spline_conv"}


@each_backend
def test_nothing_of_the_size_of_messages_is_kept(backend):
    case, kept = make_case(n_edges=500, features=40), []

    def keep(value):
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        spline_conv(*leaves(case), case.graph, backend=backend)
    assert max(value.numel() for value in kept) <= max(4 * 500, case.table.numel(), case.x.numel()) < 500 * 40


def test_backward_reaches_all_inputs():
    case = make_case()
    inputs = leaves(case)
    expected = torch.autograd.grad(spline_conv(*inputs, case.graph), inputs, case.g)
    spline_conv(*inputs, case.graph).backward(case.g)
    assert all(torch.equal(value.grad, gradient) for value, gradient in zip(inputs, expected, strict=True))


@each_backend
def test_no_gradient_is_needed_without_inputs_that_ask(backend):
    case = make_case()
    assert not spline_conv(*case[1:], backend=backend).requires_grad
    with torch.no_grad():
        assert not spline_conv(*leaves(case), case.graph, backend=backend).requires_grad


@pytest.mark.parametrize("bad", [-1, 3])
def test_edges_out_of_range(bad):
    interval, good = torch.tensor([0, 1]), torch.tensor([[0, 1], [2, 0]])
    spline_graph(interval, good, 3).with_sources(2).with_intervals(2)
    with pytest.raises(IndexError, match=r"but there are 3"):
        spline_graph(interval, torch.tensor([[0, 1], [2, bad]]), 3)
    with pytest.raises(IndexError, match=r"but there are 2"):
        spline_graph(interval, torch.tensor([[0, bad], [2, 0]]), 3).with_sources(2)
    with pytest.raises(IndexError, match=r"but there are 2"):
        spline_graph(torch.tensor([0, bad]), good, 3).with_intervals(2)
    with pytest.raises(IndexError, match=r"but there are 0"):
        spline_graph(interval, good, 0)


@each_backend
def test_edges_are_sorted_stably(backend):
    key = torch.randint(7, (50,), generator=torch.Generator().manual_seed(0))
    ptr, order = sort_edges(key, 9, backend=backend)
    assert torch.equal(order, key.argsort(stable=True))
    assert ptr.tolist() == [int((key < k).sum()) for k in range(10)]
    assert torch.equal(pointer_of_sorted(key[order], 9, backend=backend), ptr)
    for other in (key, key[order] - 1, key[order] + 3):
        assert pointer_of_sorted(other, 9, backend=backend) is None
    with FakeTensorMode():
        ptr, order = sort_edges(torch.empty(50, dtype=torch.int64), 9)
    assert (ptr.shape, order.shape) == ((10,), (50,))


def test_a_graph_turned_twice_is_the_same():
    edges = make_case(orders=True).graph
    again = edges.transposed().transposed()
    assert all(a is b for a, b in zip(edges, again, strict=True))
    assert edges.with_sources(9) is edges
    assert edges.with_intervals(11) is edges


def test_a_half_list_stands_for_both_directions():
    case = make_case(n_sources=7, sort=True)
    both = case.graph.in_both_directions()
    found = spline_conv(case.x, case.table, torch.cat([case.basis] * 2), both)
    forth = torch.from_numpy(form(case, "if"))
    back = torch.from_numpy(form(case._replace(g=case.x), "jf"))
    torch.testing.assert_close(found, forth + back, rtol=0, atol=1e-12)


@each_backend
def test_shapes_that_do_not_fit(backend):
    g, x, table, basis, edges = make_case()
    how = {"backend": backend}
    with pytest.raises(ValueError, match=r"basis must have one row for each of the 37 edges, \[E, 4\]; got \[36, 4\]"):
        spline_conv(x, table, basis[1:], edges, **how)
    with pytest.raises(ValueError, match=r"sources and table must be rows .* got sources \[9, 5\], table \[14, 4\]"):
        spline_conv(x, table[:, 1:], basis, edges, **how)
    with pytest.raises(ValueError, match="interval, source and target of 37 edges must have one shape"):
        spline_conv(x, table, basis, edges._replace(source=edges.source[1:]), **how)
    with pytest.raises(ValueError, match="the graph has 7 targets, got features of 6"):
        spline_conv_grad_basis(g[1:], x, table, edges, **how)


def test_meta_tensors_give_shapes():
    case = make_case(**FEW, orders=True)
    graph = type(case.graph)(*(None if value is None else value.to("meta") for value in case.graph))
    inputs = [value.to("meta").requires_grad_() for value in case[1:4]]
    out = spline_conv(*inputs, graph)
    assert out.shape == case.g.shape
    assert [x.shape for x in torch.autograd.grad(out.sum(), inputs)] == [x.shape for x in inputs]


# torch's compiler itself does what it warns of, for every autograd function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_in_one_graph():
    case = make_case(n_edges=40, sort=True, orders=True)
    inputs = leaves(case)
    compiled = torch.compile(lambda *x: spline_conv(*x, case.graph), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), spline_conv(*inputs, case.graph), rtol=0, atol=1e-12)
    gradients = (
        torch.autograd.grad(f(*inputs).square().sum(), inputs)
        for f in (compiled, lambda *x: spline_conv(*x, case.graph))
    )
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

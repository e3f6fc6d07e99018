"""The fused convolution and its derivatives against the form they come from."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pyg_schnet.backends import numba as cpu
from pyg_schnet.backends import tuning
from pyg_schnet.ops import (
    graph,
    spline_conv,
    spline_conv_coefficients,
    spline_conv_weights,
    spline_graph,
)
from pyg_schnet.ops import spline_conv_reference as reference

from .graphs import CASES, LARGE, Case, form, make_case

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}
BACKENDS = {
    "reference": (reference.spline_conv, reference.spline_conv_grad_table, reference.spline_conv_grad_basis),
    "cpu": (cpu.spline_conv, cpu.spline_conv_grad_table, cpu.spline_conv_grad_basis),
    "operator": (spline_conv, spline_conv_coefficients, spline_conv_weights),
}


def evaluate(backend, case):
    """All that the kernels of a backend give: the derivatives by g, C and h."""
    g, x, c, h, graph = case
    convolve, by_coefficients, grad_weights = BACKENDS[backend]
    return {
        "if": convolve(x, c, h, graph),
        "kf": by_coefficients(g, x, h, c.size(0), graph),
        "em": grad_weights(g, x, c, graph),
    }


def with_orders(case, orders):
    """The case with the optional orders that are named."""
    graph = case.graph
    graph = graph.with_sources(case.x.size(0)) if "source" in orders else graph
    graph = graph.with_bins(case.coefficients.size(0) - 3) if "bin" in orders else graph
    return case._replace(graph=graph)


def functions(case):
    """The three operators as functions of the tensors they are linear in, with these tensors."""
    g, x, c, h, graph = case
    n = c.size(0)
    return {
        "convolution": (lambda x, c, h: spline_conv(x, c, h, graph), (x, c, h)),
        "coefficients": (lambda g, x, h: spline_conv_coefficients(g, x, h, n, graph), (g, x, h)),
        "weights": (lambda g, x, c: spline_conv_weights(g, x, c, graph), (g, x, c)),
    }


@pytest.fixture
def threads():
    """Sets the number of threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("features", [1, 3, 16, 33, 85, 128])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_form(backend, name, features, dtype):
    case = make_case(**CASES[name], features=features, dtype=dtype)
    for output, found in evaluate(backend, case).items():
        expected = form(case, output)
        assert found.dtype == dtype
        assert found.shape == expected.shape
        tol = TOLERANCE[dtype] * np.abs(expected).max(initial=1.0)
        np.testing.assert_allclose(found.double().numpy(), expected, rtol=0, atol=tol)


@pytest.mark.parametrize("undirected", [False, True])
@pytest.mark.parametrize("orders", [(), ("source", "bin")])
def test_gradients_are_the_other_derivatives_of_the_form(orders, undirected):
    case = with_orders(make_case(undirected=undirected), orders)
    names = ["jf", "kf", "em"]
    inputs = [value.requires_grad_() for value in case[1:4]]
    gradients = torch.autograd.grad(spline_conv(*inputs, case.graph), inputs, case.g)
    case = Case(*(value.detach() for value in case[:4]), case.graph)
    for name, gradient in zip(names, gradients, strict=True):
        np.testing.assert_allclose(gradient.numpy(), form(case, name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("orders", [(), ("source",), ("bin",), ("source", "bin")])
@pytest.mark.parametrize("name", ["unsorted", "sorted", "undirected", "no edges"])
@pytest.mark.parametrize("which", ["convolution", "coefficients", "weights"])
def test_derivatives(which, name, orders):
    few = {"n_edges": 6, "n_sources": 3, "n_targets": 4, "n_intervals": 3, "features": 2}
    case = make_case(**{**CASES[name], **few, "n_edges": CASES[name].get("n_edges", 6) and 6})
    function, inputs = functions(with_orders(case, orders))[which]
    inputs = tuple(value.requires_grad_() for value in inputs)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize(("orders", "undirected"), [((), False), (("source", "bin"), False), ((), True)])
@pytest.mark.parametrize("which", ["spline_conv", "spline_conv_coefficients", "spline_conv_weights"])
def test_operators_are_registered_as_torch_wants_them(which, orders, undirected):
    case = make_case(n_edges=6, n_intervals=3, features=2, undirected=undirected)
    g, x, c, h, graph = with_orders(case, orders)
    graph = [value.clone() if torch.is_tensor(value) else value for value in graph]  # members may not share memory
    g, x, c, h = (value.requires_grad_() for value in (g, x, c, h))
    arguments = {
        "spline_conv": (x, c, h),
        "spline_conv_coefficients": (g, x, h, c.size(0)),
        "spline_conv_weights": (g, x, c),
    }
    torch.library.opcheck(getattr(torch.ops.pyg_schnet, which).default, (*arguments[which], *graph))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("options", [{"sort": True}, {"sort": False}, {"undirected": True}], ids=str)
def test_backends_agree_and_threads_change_nothing(dtype, options, threads):
    case = make_case(**LARGE, dtype=dtype, **options)
    assert case.weights.size(0) * case.x.size(1) > tuning.current.serial_work
    expected = evaluate("reference", Case(*(value.double() for value in case[:4]), case.graph))
    found = []
    for number in (1, 2, 2, 3, 1):
        threads(number)
        found.append(evaluate("operator", case))
    for output, value in expected.items():
        tol = TOLERANCE[dtype] * value.abs().max().item()
        torch.testing.assert_close(found[0][output].double(), value, rtol=0, atol=tol)
        assert all(torch.equal(other[output], found[0][output]) for other in found[1:])


@pytest.mark.parametrize(
    "options",
    [{"targets": [200]}, {"n_intervals": 1}, {"n_targets": 1}, {"undirected": True, "targets": [200]}],
    ids=str,
)
def test_threads_share_uneven_work(options, threads):
    # all edges end at one target, or lie in one interval: some threads have nothing to do
    case = make_case(**{**LARGE, **options})
    found = []
    for number in (1, 2):
        threads(number)
        found.append(evaluate("cpu", case))
    expected = evaluate("reference", case)
    for output, value in found[0].items():
        torch.testing.assert_close(value, expected[output], rtol=0, atol=1e-12 * expected[output].abs().max().item())
        assert torch.equal(found[1][output], value)


def test_gradients_do_not_depend_on_threads(threads):
    case = make_case(**LARGE, dtype=torch.float32)
    inputs = [value.requires_grad_() for value in case[1:4]]
    found = []
    for number in (1, 2, 2):
        threads(number)
        out = spline_conv(*inputs, case.graph)
        found.append(torch.autograd.grad(out, inputs, case.g))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


@pytest.mark.parametrize("backend", ["reference", "cpu", "operator"])
def test_memory_layout_does_not_matter(backend):
    case = make_case()
    strided = Case(
        case.g.t().contiguous().t(),
        case.x.repeat(1, 2)[:, ::2].copy_(case.x),
        case.coefficients.flip(0).contiguous().flip(0),
        case.weights.t().contiguous().t(),
        case.graph._replace(bins=case.graph.bins.repeat_interleave(2)[::2]),
    )
    assert not any(value.is_contiguous() for value in (strided.g, strided.x, strided.weights, strided.graph.bins))
    expected = evaluate(backend, case)
    for output, value in evaluate(backend, strided).items():
        assert torch.equal(value, expected[output])


def test_inputs_are_not_changed():
    case = make_case()
    before = [value.clone() for value in (*case[:4], *case.graph[:5])]
    evaluate("cpu", case)
    evaluate("reference", case)
    assert all(torch.equal(a, b) for a, b in zip((*case[:4], *case.graph[:5]), before, strict=True))


@pytest.mark.parametrize(
    ("wanted", "called"),
    [
        ("x", {"spline_conv"}),
        ("coefficients", {"spline_conv_grad_table"}),
        ("weights", {"spline_conv_grad_basis"}),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_only_the_gradients_asked_for_are_computed(wanted, called, frozen, monkeypatch):
    case = make_case()
    inputs = {"x": case.x, "coefficients": case.coefficients, "weights": case.weights}
    for name, value in inputs.items():
        value.requires_grad_(name == wanted or not frozen)
    out = spline_conv(**inputs, graph=case.graph)
    calls = set()
    for name in ("spline_conv", "spline_conv_grad_table", "spline_conv_grad_basis"):
        kernel = getattr(cpu, name)
        monkeypatch.setattr(cpu, name, lambda *args, name=name, kernel=kernel: (calls.add(name), kernel(*args))[1])
    torch.autograd.grad(out.sum(), inputs[wanted])
    assert calls == called
    # gradients behind other layers are asked for all the same
    calls.clear()
    scaled = {name: 2.0 * value for name, value in inputs.items()}
    torch.autograd.grad(spline_conv(**scaled, graph=case.graph).sum(), inputs[wanted])
    assert calls == called | {"spline_conv"}


def test_backward_reaches_all_inputs():
    case = make_case()
    inputs = [value.requires_grad_() for value in case[1:4]]
    expected = torch.autograd.grad(spline_conv(*inputs, case.graph), inputs, case.g)
    spline_conv(*inputs, case.graph).backward(case.g)
    assert all(torch.equal(value.grad, gradient) for value, gradient in zip(inputs, expected, strict=True))


def test_no_gradient_is_needed_without_inputs_that_ask():
    case = make_case()
    out = spline_conv(case.x, case.coefficients, case.weights, case.graph)
    assert not out.requires_grad
    with torch.no_grad():
        out = spline_conv(case.x.requires_grad_(), case.coefficients, case.weights, case.graph)
    assert not out.requires_grad


@pytest.mark.parametrize("bad", [-1, 3])
def test_edges_out_of_range(bad):
    bins, good = torch.tensor([0, 1]), torch.tensor([[0, 1], [2, 0]])
    spline_graph(bins, good, 3).with_sources(2).with_bins(2)
    with pytest.raises(IndexError, match=r"but there are 3"):
        spline_graph(bins, torch.tensor([[0, 1], [2, bad]]), 3)
    with pytest.raises(IndexError, match=r"but there are 2"):
        spline_graph(bins, torch.tensor([[0, bad], [2, 0]]), 3).with_sources(2)
    with pytest.raises(IndexError, match=r"but there are 2"):
        spline_graph(torch.tensor([0, bad]), good, 3).with_bins(2)
    with pytest.raises(IndexError, match=r"but there are 0"):
        spline_graph(bins, good, 0)


def test_edges_are_sorted_stably():
    key = torch.randint(7, (50,), generator=torch.Generator().manual_seed(0))
    ptr, order = graph.sort_edges(key, 9)
    assert torch.equal(order, key.argsort(stable=True))
    assert ptr.tolist() == [int((key < k).sum()) for k in range(10)]
    with FakeTensorMode():
        ptr, order = graph.sort_edges(torch.empty(50, dtype=torch.int64), 9)
    assert (ptr.shape, order.shape) == ((10,), (50,))


def test_a_graph_turned_twice_is_the_same():
    edges = make_case().graph.with_sources(9).with_bins(11)
    again = edges.transposed().transposed()
    assert all(a is b for a, b in zip(edges, again, strict=True))
    assert edges.with_sources(9) is edges
    assert edges.with_bins(11) is edges
    undirected = make_case(undirected=True).graph
    assert undirected.transposed() is undirected.with_sources(9) is undirected.with_bins(11) is undirected


def test_undirected_edges_must_be_sorted():
    with pytest.raises(ValueError, match="must be sorted by target"):
        spline_graph(torch.tensor([0, 1]), torch.tensor([[0, 1], [2, 0]]), 3, undirected=True)


@pytest.mark.parametrize("undirected", [False, True])
@pytest.mark.parametrize("where", ["meta", "fake"])
def test_shapes_without_data(where, undirected):
    case = make_case(sort=True, undirected=undirected)
    tensors = {name: value for name, value in case.graph._asdict().items() if torch.is_tensor(value)}
    expected = evaluate("operator", case)

    def compare(case):
        case = Case(*(value.requires_grad_() for value in case[:4]), case.graph)
        for output, value in evaluate("operator", case).items():
            assert value.shape == expected[output].shape
            assert value.device.type == ("meta" if where == "meta" else "cpu")
        gradients = torch.autograd.grad(spline_conv(*case[1:]).sum(), case[1:4])
        assert [value.shape for value in gradients] == [value.shape for value in case[1:4]]

    if where == "meta":
        graph = case.graph._replace(**{name: value.to("meta") for name, value in tensors.items()})
        compare(Case(*(value.to("meta") for value in case[:4]), graph))
        return
    with FakeTensorMode() as mode:
        fake = {name: mode.from_tensor(value) for name, value in tensors.items()}
        compare(Case(*(mode.from_tensor(value) for value in case[:4]), case.graph._replace(**fake)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_precisions_are_served_by_torch(dtype):
    case = make_case(dtype=dtype)
    for output, value in evaluate("operator", case).items():
        expected = form(case, output)
        assert value.dtype == dtype
        np.testing.assert_allclose(value.double().numpy(), expected, rtol=0, atol=0.05 * np.abs(expected).max())


# torch's compiler itself does what it warns of, for every autograd function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_in_one_graph():
    case = make_case()
    function, inputs = functions(case)["convolution"]
    inputs = [value.requires_grad_() for value in inputs]
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*inputs), function(*inputs))
    gradients = (torch.autograd.grad(f(*inputs).square().sum(), inputs) for f in (compiled, function))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

"""The triton backend on tensors of the CPU, by triton's interpreter; run by test_triton.py in a process of its own."""

import numpy as np
import pytest
import torch

from pyg_schnet import SchNet, radius_graph
from pyg_schnet.backends import triton as backend
from pyg_schnet.backends.triton import launch, orders
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.ops import (
    dispatch,
    edge_lengths,
    spline_basis,
    spline_conv,
    spline_conv_grad_basis,
    spline_conv_grad_table,
)
from tests.interpreter import patch_language_once
from tests.ops import graphs
from tests.ops import test_contract as contract
from tests.ops.table import OPERATORS, spline
from tests.ops.table import lengths as case_of_lengths

backend.take_cpu_tensors()
patch_language_once()

F32, F64 = torch.float32, torch.float64
NAMES = ("edge_lengths", "spline_basis", "spline_conv", "spline_conv_grad_table", "spline_conv_grad_basis")
CASES = [
    (name, case)
    for name in NAMES
    for case in OPERATORS[name].cases
    if case not in ("shifts of other types", "crowded", "whole vectors")
]
WITH_GRADIENTS = {
    *("open with loops", "one cell", "two cells with loops", "no edges in a cell", "inside and outside", "none"),
    *("unsorted", "sorted", "more targets", "one edge", "no edges"),
}
IDS = [": ".join(one) for one in CASES]
each_case = pytest.mark.parametrize(("name", "case"), CASES, ids=IDS)
each_name = pytest.mark.parametrize("name", NAMES)


def names_of(function):
    """What the module of a function of the backend defines; the function has the name of its module."""
    return function.__wrapped__.__globals__


@pytest.fixture
def short_windows(monkeypatch):
    """Rows are summed in two steps from a few edges on."""
    for name, value in (("ROW_WINDOW", 8), ("INTERVAL_WINDOW", 8)):
        monkeypatch.setitem(names_of(backend.spline_conv), name, value)
    for name, value in (("WINDOW", 8), ("EDGES", 16), ("PIECES", 2), ("MOST_PIECES", 3)):
        monkeypatch.setitem(names_of(backend.edge_lengths), name, value)


def test_it_has_the_five_operators():
    assert dispatch.kernels_for("triton", torch.zeros(2)) is backend
    assert all(hasattr(backend, name) for name in NAMES)
    assert dispatch.kernels_for("auto", torch.zeros(2)).__name__.endswith("numba")  # on the CPU


@each_case
def test_values(name, case):
    contract.test_values("triton", name, case, F32 if case in ("sorted", "two cells", "inside and outside") else F64)


@pytest.mark.parametrize(("name", "case"), [one for one in CASES if one[1] in WITH_GRADIENTS])
def test_gradients(name, case):
    contract.test_gradients_with_and_without_a_graph("triton", name, case, F64)


@each_name
def test_gradients_in_single_precision(name):
    contract.test_gradients_with_and_without_a_graph("triton", name, OPERATORS[name].few, F32)


@each_name
def test_first_and_second_derivatives(name):
    """Along random directions: every element is compared with the reference below.

    Gradients that are not defined are left to the tests of other backends: what handles them is the same.
    """
    case = contract.few(name)

    def function(*inputs):
        outputs = contract.outputs(case.call(*inputs, backend="triton"))
        return tuple(out for out in outputs if out.is_floating_point())

    torch.manual_seed(0)
    inputs = contract.leaves(case)
    options = {"fast_mode": True, "check_undefined_grad": False}
    assert torch.autograd.gradcheck(function, inputs, **options)
    assert torch.autograd.gradgradcheck(function, inputs, **options)


@each_name
def test_third_derivatives(name):
    contract.test_third_derivatives_agree("triton", name)


@each_name
def test_each_gradient_alone(name):
    contract.test_each_gradient_alone("triton", name)


@each_name
def test_memory_layout(name):
    contract.test_memory_layout_does_not_matter("triton", name, OPERATORS[name].few)


@each_name
def test_kernels_refuse_transforms(name):
    case = contract.few(name)
    with pytest.raises(ValueError, match=r"backend='triton' cannot be used: torch\.func"):
        torch.func.vmap(lambda *inputs: case.call(*inputs, backend="triton"))(*(x.unsqueeze(0) for x in case.inputs))
    with pytest.raises(ValueError, match=r"backend='triton' cannot be used: .*one floating dtype|takes dense tensors"):
        case.call(*(x.half() for x in case.inputs), backend="triton")


LONG = {
    "few of many": {"n_edges": 70, "targets": [2, 3], "n_intervals": 4, "features": 3},
    "in order": {"n_edges": 61, "targets": [0, 2, 5], "n_intervals": 2, "features": 3, "sort": True, "orders": True},
    "one": {"n_edges": 40, "n_targets": 1, "n_sources": 1, "n_intervals": 1, "features": 2},
}


@pytest.mark.usefixtures("short_windows")
@pytest.mark.parametrize("case", LONG)
@pytest.mark.parametrize("name", NAMES[2:])
def test_rows_in_two_steps(name, case):
    """Atoms with very many edges, and intervals; no matter where windows begin, the sums are those of all edges."""
    made = spline(name, LONG[case])(F64)
    expected = made.expected(*made.inputs)
    contract.close(made.call(*made.inputs, backend="triton"), expected)
    slopes, known = (contract.gradients(made, contract.leaves(made), backend=how) for how in ("triton", "reference"))
    for one, other in zip(slopes, known, strict=True):
        contract.close(one, other.numpy())


@pytest.mark.usefixtures("short_windows")
@pytest.mark.parametrize("n_cells", [0, 1, 3])
def test_lengths_in_two_steps(n_cells):
    made = case_of_lengths(n_atoms=4, n_edges=60, n_cells=n_cells, loops=True)(F64)
    found = []
    for how in ("triton", "reference"):
        inputs = contract.leaves(made)
        first = contract.gradients(made, inputs, True, backend=how)
        second = torch.autograd.grad(sum(one.sin().sum() for one in first), inputs)
        found.append([*first, *second])
    for one, other in zip(*found, strict=True):
        contract.close(one, other.detach().numpy(), factor=10.0)


def test_a_hub():
    """One atom, and intervals, with more edges than a window has, in float32 as precise as in float64."""
    sizes = {"n_edges": 1400, "n_targets": 3, "targets": [1], "n_sources": 40, "n_intervals": 5, "features": 2}
    assert sizes["n_edges"] > names_of(backend.spline_conv)["ROW_WINDOW"]
    assert sizes["n_edges"] > sizes["n_intervals"] * names_of(backend.spline_conv)["INTERVAL_WINDOW"]
    case = graphs.make_case(**sizes, dtype=F32)
    found = backend.spline_conv(case.x, case[2], case[3], case.graph)
    contract.close(found, graphs.form(case, "if"), F32)
    found = backend.spline_conv_grad_table(case.g, case.x, case[3], case[2].size(0), case.graph)
    contract.close(found, graphs.form(case, "kf"), F32)


@each_name
def test_two_runs_are_the_same_in_every_bit(name):
    made = OPERATORS[name].cases[OPERATORS[name].few](F32)
    found = []
    for _ in range(2):
        values = contract.outputs(made.call(*made.inputs, backend="triton"))
        found.append([*values, *contract.gradients(made, contract.leaves(made), backend="triton")])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


# features of 16 bits


def halves(dtype, table_dtype=F32):
    """A case with features of 16 bits, and the same with the same numbers in the precision of the table."""
    case = graphs.make_case(n_edges=40, features=6, dtype=table_dtype)
    narrow = [value.to(dtype) for value in case[:2]]
    return case, narrow, [value.to(table_dtype) for value in narrow]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_of_16_bits_are_read_as_they_are(dtype):
    """Values as with the same numbers in 32 bits, bit by bit: products and sums have the precision of the table."""
    case, (g, x), (wide_g, wide_x) = halves(dtype)
    for one, other in (
        (spline_conv(x, *case[2:4], case.graph, backend="triton"), backend.spline_conv(wide_x, *case[2:])),
        (
            spline_conv_grad_table(g, x, case.basis, case.table.size(0), case.graph, backend="triton"),
            backend.spline_conv_grad_table(wide_g, wide_x, case.basis, case.table.size(0), case.graph),
        ),
        (
            spline_conv_grad_basis(g, x, case.table, case.graph, backend="triton"),
            backend.spline_conv_grad_basis(wide_g, wide_x, case.table, case.graph),
        ),
    ):
        assert one.dtype == F32
        assert torch.equal(one, other)


@pytest.mark.parametrize("table_dtype", [F32, F64])
def test_derivatives_with_features_of_16_bits(table_dtype):
    """First and second derivatives, against the composition with the same numbers; those of features are rounded."""
    case, (_, narrow), (_, wide) = halves(torch.float16, table_dtype)

    def derivatives(x, how):
        inputs = [x.detach().requires_grad_(), *(value.detach().requires_grad_() for value in case[2:4])]
        out = spline_conv(*inputs, case.graph, backend=how)
        first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
        along = sum((value * torch.linspace(-1, 1, value.numel()).view_as(value)).sum() for value in first)
        return [out, *first, *torch.autograd.grad(along, inputs)]

    found, known = derivatives(narrow, "triton"), derivatives(wide, "reference")
    expected = [torch.float16 if k in (1, 4) else table_dtype for k in range(7)]
    assert [value.dtype for value in found] == expected
    for k, (one, other) in enumerate(zip(found, known, strict=True)):
        tolerance = 1e-5 if k in (0, 2, 3) else 2e-3  # what features are given back is rounded to 16 bits
        scale = float(other.detach().abs().max())
        torch.testing.assert_close(one.to(table_dtype), other, rtol=0, atol=tolerance * scale)
    both = zip(found, derivatives(narrow, "reference"), strict=True)  # the composition promotes alike
    assert all(one.dtype == other.dtype for one, other in both)


@pytest.mark.usefixtures("short_windows")
def test_long_rows_with_features_of_16_bits():
    case, (g, x), (wide_g, wide_x) = halves(torch.float16)
    found = backend.spline_conv(x, *case[2:])
    assert torch.equal(found, backend.spline_conv(wide_x, *case[2:]))
    arguments = case.basis, case.table.size(0), case.graph
    assert torch.equal(
        backend.spline_conv_grad_table(g, x, *arguments), backend.spline_conv_grad_table(wide_g, wide_x, *arguments)
    )


def test_no_others_are_mixed():
    case, (_, x), _ = halves(torch.float16)
    table, basis = case.table, case.basis
    why = "backend='triton' cannot be used: its tensors must have one floating dtype"
    for others in ((table.half(), basis), (table, basis.half()), (table.double(), basis)):
        with pytest.raises(ValueError, match=why):
            spline_conv(x, *others, case.graph, backend="triton")
    with pytest.raises(ValueError, match=why):
        spline_conv(case.x.double(), table, basis, case.graph, backend="triton")


def test_layers_under_autocast():
    """The convolution of a block reads what its dense layer gives in 16 bits; models by themselves cast nothing."""
    model = SchNet(8, 6, 2, num_gaussians=10, cutoff=3.0, backend="triton").eval()
    (z, pos, batch), edges = batch_of(False, F32)
    block, dist = model.interactions[0], edge_lengths(pos, edges["edge_index"])
    block.conv.backend, seen = "triton", []
    block.conv.register_message_and_aggregate_forward_pre_hook(lambda _, given: seen.append(given[1]["x_src"].dtype))
    x = model.embedding(z)
    expected = block.conv(block.lin_in(x), edges["edge_index"], dist)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = block.conv(block.lin_in(x), edges["edge_index"], dist)
        assert seen == [F32, torch.bfloat16]
        energy = model(z, pos, batch, **edges)
    assert seen[2:] == [F32]
    assert found.dtype == F32
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2 * float(expected.detach().abs().max()))
    assert torch.equal(energy, model(z, pos, batch, **edges))


def test_coincident_atoms_and_indices_out_of_range():
    pos = torch.zeros(3, 3, dtype=F64)
    pos[2, 0] = 2.0
    pos.requires_grad_()
    index = torch.tensor([[0, 1, 2, 0], [1, 0, 0, 0]])
    dist = edge_lengths(pos, index, loop_length=7.0, backend="triton")
    assert dist.tolist() == [0.0, 0.0, 2.0, 7.0]
    (slope,) = torch.autograd.grad(dist.sum(), pos, create_graph=True)
    assert slope.tolist() == [[-1.0, 0.0, 0.0], [0.0] * 3, [1.0, 0.0, 0.0]]
    (curvature,) = torch.autograd.grad(slope[0, 1], pos)
    assert curvature[:, 1].tolist() == [0.5, 0.0, -0.5]
    found = backend.edge_lengths(pos.detach(), torch.tensor([[0, 3, -1], [2, 0, 0]]), None, None, None, 7.0)
    assert found[0] == 2.0
    assert found[1:].isnan().all()


def test_distances_that_are_no_numbers_stay():
    dist = torch.tensor([float("nan"), float("inf"), 1.0])
    interval, basis = spline_basis(dist, 5.0, 10, backend="triton")
    assert interval.tolist() == [0, 0, 2]
    assert basis[0].isnan().all()
    assert basis[1].tolist() == [0.0] * 4


def test_orders_are_part_of_a_cuda_graph(monkeypatch):
    index = torch.tensor([[0, 1], [1, 0]])
    first = orders.orders_of(index, 2)
    assert not orders.is_capturing()
    monkeypatch.setattr(orders, "is_capturing", lambda: True)
    second = orders.orders_of(index, 2)
    assert second is not first
    assert second is not orders.orders_of(index, 2)
    monkeypatch.undo()
    assert orders.orders_of(index, 2) is first


def test_orders_are_kept_until_edges_change():
    index = torch.randint(5, (2, 30), generator=torch.Generator().manual_seed(0))
    first = orders.orders_of(index, 5)
    assert orders.orders_of(index, 5) is first
    index[0, 0] = (index[0, 0] + 1) % 5
    second = orders.orders_of(index, 5)
    assert second is not first
    for key, ptr, order in ((index[0], *second[:2]), (index[1], *second[2:])):
        assert ptr.tolist() == [int((key < k).sum()) for k in range(6)]
        assert order.tolist() == np.argsort(key.numpy(), kind="stable").tolist()


@pytest.mark.parametrize("counts", [[5, 0, 16, 17], [3], [0, 0], [33]])
def test_pieces(counts):
    structure = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    structure = structure[torch.randperm(sum(counts), generator=torch.Generator().manual_seed(1))]
    order, ptr, owner = orders.pieces_of(structure, len(counts), 16)
    assert ptr[0] == 0
    assert ptr[-1] == sum(counts)
    assert int(ptr.diff().max()) <= 16
    for piece, k in enumerate(owner.tolist()):
        inside = order[ptr[piece] : ptr[piece + 1]]
        assert (structure[inside] == k).all()
    assert (owner.diff() >= 0).all()


# whole models


def batch_of(periodic, dtype):
    random = torch.Generator().manual_seed(3)
    n_atoms, n_structures = 5, 2
    pos = 3.0 * torch.rand(n_structures * n_atoms, 3, generator=random, dtype=F64)
    z = torch.randint(1, 9, (n_structures * n_atoms,), generator=random)
    z[-1] = 0  # padding
    batch = torch.arange(n_structures).repeat_interleave(n_atoms)
    edges = {"batch_size": n_structures}
    if periodic:
        edges["cell"] = (3.4 * torch.eye(3, dtype=F64) + 0.2).repeat(n_structures, 1, 1).to(dtype)
        edges["pbc"] = torch.ones(n_structures, 3, dtype=torch.bool)
    found = radius_graph(pos.to(dtype), 3.0, batch, **edges)
    edges["edge_index"], edges["edge_shift"] = found if periodic else (found, None)
    return (z, pos.to(dtype), batch), edges


def learned(how, periodic, dtype, **options):
    """Energies, forces, stress, and gradients of a loss of all of them with respect to all weights."""
    torch.manual_seed(0)
    model = SchNet(8, 6, 2, num_gaussians=10, cutoff=3.0, num_grid_points=14, backend=how, **options).to(dtype)
    arguments, edges = batch_of(periodic, dtype)
    found = energy_forces_stress(model, *arguments, **edges, stress=periodic, create_graph=True)
    found = [value for value in found if value is not None]
    sum(value.square().sum() for value in found).backward()
    weights = [value.grad for value in model.parameters() if value.grad is not None]
    evaluated = energy_forces_stress(model.eval(), *arguments, **edges, stress=periodic)
    return [*found, *weights, *(value for value in evaluated if value is not None)]


@pytest.mark.parametrize(
    ("periodic", "dtype", "options"),
    [
        (False, F64, {}),
        (True, F64, {"normalize": True}),
        (True, F32, {}),
        (False, F64, {"shared_weights": True, "window": "hard"}),
    ],
    ids=["molecules", "crystals, divided", "crystals in single precision", "shared weights"],
)
def test_models_learn_from_forces_as_with_other_backends(periodic, dtype, options):
    found = learned("triton", periodic, dtype, **options)
    for how in ("numba", "reference"):
        for one, other in zip(found, learned(how, periodic, dtype, **options), strict=True):
            contract.close(one, other.detach().double().numpy(), dtype, factor=100.0 if dtype == F64 else 10.0)


def test_plans():
    model = SchNet(8, 6, 2, num_gaussians=10, cutoff=3.0, backend="triton").eval()
    arguments, edges = batch_of(False, F32)
    plan = model.plan(*arguments, **edges, forces=True)
    assert (plan.program, plan.filters, plan.backend) == ("interactions", "spline", "triton")
    assert "backend is 'triton', which leaves gradients to autograd" in plan.reasons
    exact = SchNet(8, 6, 2, num_gaussians=10, cutoff=3.0, backend="triton", filters="exact").eval()
    plan = exact.plan(*arguments, **edges)
    assert (plan.program, plan.backend) == ("layers", "triton")


def test_layers_by_themselves():
    model = SchNet(8, 6, 2, num_gaussians=10, cutoff=3.0, backend="triton").double().eval()
    arguments, edges = batch_of(False, F64)
    expected = model(*arguments, **edges)
    model.interactions[0].lin1.register_forward_hook(lambda *_: None)
    assert model.plan(*arguments, **edges).program == "layers"
    torch.testing.assert_close(model(*arguments, **edges), expected, rtol=1e-12, atol=1e-12)


def test_no_edges_and_no_atoms():
    model = SchNet(8, 6, 2, num_gaussians=10, cutoff=3.0, backend="triton")
    for n in (0, 1):
        z, pos = torch.ones(n, dtype=torch.int64), torch.zeros(n, 3)
        energy, forces, _ = energy_forces_stress(model, z, pos, batch_size=1, create_graph=True)
        assert energy.shape == (1,)
        assert forces.abs().sum() == 0


# what fails


def test_a_kernel_that_fails_gives_one_warning_and_the_composition(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no compiler")

    def everything(case):
        slopes = [contract.gradients(case, contract.leaves(case), again, backend="triton") for again in (False, True)]
        return [*contract.outputs(case.call(*case.inputs, backend="triton")), *slopes[0], *slopes[1]]

    known = {name: contract.few(name) for name in NAMES}
    expected = {name: everything(case) for name, case in known.items()}
    monkeypatch.setattr(launch, "_failures", {})
    for function in (backend.spline_conv, backend.edge_lengths, backend.spline_basis):
        monkeypatch.setitem(names_of(function), "launch", broken)
    with pytest.warns(
        RuntimeWarning, match=r"left for plain torch operations: .*\(RuntimeError: no compiler\)"
    ) as caught:
        found = {name: everything(case) for name, case in known.items()}
    for name, numbers in found.items():
        for one, other in zip(numbers, expected[name], strict=True):
            contract.close(one, other.detach().numpy(), factor=10.0)
    assert len(caught) == 1
    assert "no compiler" in backend.failure(torch.device("cpu"))


def test_a_model_whose_kernels_fail_learns_on_with_one_warning(monkeypatch):
    expected = learned("reference", False, F64)
    monkeypatch.setattr(launch, "_failures", {})

    def broken(*_, **__):
        raise RuntimeError("no compiler")

    for function in (backend.spline_conv, backend.edge_lengths, backend.spline_basis):
        monkeypatch.setitem(names_of(function), "launch", broken)
    with pytest.warns(
        RuntimeWarning, match="left for plain torch operations: a kernel could not be compiled"
    ) as caught:
        found = learned("triton", False, F64)
    assert len(caught) == 1
    for one, other in zip(found, expected, strict=True):
        contract.close(one, other.detach().numpy(), factor=100.0)


def test_devices_that_are_not_taken(monkeypatch):
    assert backend.refusal(torch.device("cpu")) is None
    assert "on CUDA and ROCm devices, got one on meta" in backend.refusal(torch.device("meta"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    if torch.version.hip is None:
        assert backend.refusal(torch.device("cuda", 7)).endswith("7.0 or higher, cuda:7 has 6.1")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert backend.refusal(torch.device("cuda", 6)) is None

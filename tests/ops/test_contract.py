"""The contract of operators: what every one of them does, with every backend and in both precisions.

:mod:`tests.ops.table` has the operators, their cases, and an independent formula for each.
"""

import contextlib
import inspect

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap

from pyg_schnet import ops

from . import graphs
from .table import HELPERS, OPERATORS

pytestmark = pytest.mark.contract

F32, F64 = torch.float32, torch.float64
BACKENDS = ("reference", "numba")
TOLERANCE = {F32: 2e-5, F64: 1e-12}
CASES = [(name, case) for name, operator in OPERATORS.items() for case in operator.cases]
WITH_BACKENDS = [
    (backend, name, case)
    for backend in BACKENDS
    for name, case in CASES
    if not (backend == "reference" and OPERATORS[name].partial)  # a half list, which is a layout of numba's
    and not (backend == "numba" and case == "shifts of other types")  # which kernels refuse
]
SMOOTH = [name for name, operator in OPERATORS.items() if operator.few is not None]
LARGE = [name for name, operator in OPERATORS.items() if operator.large is not None]
REGISTERED = [name for name, operator in OPERATORS.items() if operator.registered is not None]

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_smooth = pytest.mark.parametrize("name", SMOOTH)
each_dtype = pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
each_case_and_backend = pytest.mark.parametrize(
    ("backend", "name", "case"), WITH_BACKENDS, ids=[": ".join(one) for one in WITH_BACKENDS]
)
each_case = pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{name}: {case}" for name, case in CASES])


def made(name, case, dtype=F64):
    return OPERATORS[name].cases[case](dtype)


def few(name, dtype=F64):
    return made(name, OPERATORS[name].few, dtype)


def outputs(found):
    return found if isinstance(found, tuple) else (found,)


def scalar(call, inputs, **how):
    """A sum over the real outputs, with different factors."""
    real = [out for out in outputs(call(*inputs, **how)) if out.is_floating_point()]
    return sum((out * torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).view_as(out)).sum() for out in real)


def leaves(case):
    return [value.detach().clone().requires_grad_() for value in case.inputs]


def gradients(case, inputs, create_graph=False, **how):
    return torch.autograd.grad(
        scalar(case.call, inputs, **how), inputs, create_graph=create_graph, materialize_grads=True
    )


def close(found, expected, dtype=F64, factor=1.0):
    scale = max(float(np.abs(np.asarray(expected)).max(initial=0.0)), 1.0)
    found = found.detach() if isinstance(found, torch.Tensor) else torch.as_tensor(found)
    np.testing.assert_allclose(
        found.to(F64).numpy(), np.asarray(expected, float), rtol=0, atol=factor * TOLERANCE[dtype] * scale
    )


def test_all_operators_are_in_the_table():
    functions = {name: one for name, one in vars(ops).items() if inspect.isfunction(one)}
    chosen = {name for name, one in functions.items() if "backend" in inspect.signature(one).parameters}
    assert chosen - {"kernels_for"} == OPERATORS.keys()
    assert functions.keys() - chosen == HELPERS


@each_dtype
@each_case_and_backend
def test_values(backend, name, case, dtype):
    case = made(name, case, dtype)
    found = outputs(case.call(*case.inputs, backend=backend))
    expected = outputs(case.expected(*(value.double().numpy() for value in case.inputs)))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert tuple(one.shape) == other.shape
        assert one.dtype in (dtype, torch.int64) or name in ("sum_species", "total_norm")
        close(one, other, dtype)


@each_dtype
@each_case
def test_auto_takes_the_kernels(name, case, dtype):
    case_name, case = case, made(name, case, dtype)
    backend = "reference" if case_name == "shifts of other types" else "numba"
    found, same = (outputs(case.call(*case.inputs, backend=how)) for how in ("auto", backend))
    assert all(torch.equal(a, b) for a, b in zip(found, same, strict=True))


@each_dtype
@pytest.mark.parametrize(
    ("backend", "name", "case"),
    [one for one in WITH_BACKENDS if one[1] in SMOOTH],
    ids=[": ".join(one) for one in WITH_BACKENDS if one[1] in SMOOTH],
)
def test_gradients_with_and_without_a_graph(backend, name, case, dtype):
    case = made(name, case, dtype)
    exact = case._replace(inputs=tuple(x.double() for x in case.inputs))
    without, with_graph = (gradients(case, leaves(case), again, backend=backend) for again in (False, True))
    if name.startswith("spline_conv"):  # the independent formula belongs to the numbers that the case was made with
        expected = gradients(case, leaves(case), backend="reference")
    else:
        expected = gradients(exact, leaves(exact), backend="reference")
    for one, other, known in zip(without, with_graph, expected, strict=True):
        assert one.dtype == other.dtype == dtype
        close(one, known.detach().double().numpy(), dtype, 10.0)
        close(other, known.detach().double().numpy(), dtype, 10.0)


@each_smooth
@each_backend
def test_first_and_second_derivatives(backend, name):
    case = few(name)
    inputs = leaves(case)

    def function(*inputs):
        return tuple(out for out in outputs(case.call(*inputs, backend=backend)) if out.is_floating_point())

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@each_smooth
@each_backend
def test_third_derivatives_agree(backend, name):
    """Both branches of second derivatives, and the third one, along a direction."""
    case = few(name)

    def derivative(order, create_graph, how):
        inputs = leaves(case)
        value = scalar(case.call, inputs, backend=how)
        for k in range(order):
            if not value.requires_grad:
                return torch.zeros((), dtype=F64)
            found = torch.autograd.grad(
                value, inputs, create_graph=create_graph or k + 1 < order, materialize_grads=True, allow_unused=True
            )
            value = sum(
                (one * torch.cos(x.detach() + n)).sum() for n, (one, x) in enumerate(zip(found, inputs, strict=True))
            )
        return value.detach()

    for order in (1, 2, 3):
        expected = derivative(order, True, "reference")
        for create_graph in (False, True):
            close(derivative(order, create_graph, backend), expected.numpy(), factor=100.0)


@each_smooth
@each_backend
def test_each_gradient_alone(backend, name):
    """Gradients that are not asked for are left out, and the others stay the same."""
    case = few(name)
    whole = gradients(case, leaves(case), backend=backend)
    for k, expected in enumerate(whole):
        inputs = leaves(case)
        for create_graph in (False, True):
            value = scalar(case.call, inputs, backend=backend)
            (alone,) = torch.autograd.grad(value, inputs[k], create_graph=create_graph)
            close(alone, expected.numpy())
        inputs = [x.detach().requires_grad_(n == k) for n, x in enumerate(inputs)]
        close(torch.autograd.grad(scalar(case.call, inputs, backend=backend), inputs[k])[0], expected.numpy())


@pytest.mark.parametrize("backend", ["auto", "reference"])
@each_smooth
def test_transforms_of_functions(name, backend):
    case = few(name)
    numbers = tuple(range(len(case.inputs)))

    def function(*inputs):
        return scalar(case.call, inputs, backend=backend)

    expected = gradients(case, leaves(case), backend=backend)
    for one, known in zip(grad(function, numbers)(*case.inputs), expected, strict=True):
        close(one, known.numpy())
    tangents = tuple(torch.cos(x + k) for k, x in enumerate(case.inputs))
    slope = sum((one * tangent).sum() for one, tangent in zip(expected, tangents, strict=True))
    value, found = jvp(function, case.inputs, tangents)
    close(value, function(*case.inputs).numpy())
    close(found, slope.numpy())
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(x, tangent) for x, tangent in zip(case.inputs, tangents, strict=True)]
        close(forward_ad.unpack_dual(function(*duals)).tangent, slope.numpy())
    # reverse over forward, and both orders at once
    along = grad(lambda *inputs: jvp(function, inputs, tangents)[1], numbers)(*case.inputs)
    inputs = leaves(case)
    first = gradients(case, inputs, True, backend=backend)
    total = sum((one * tangent).sum() for one, tangent in zip(first, tangents, strict=True))
    second = (
        torch.autograd.grad(total, inputs, materialize_grads=True, allow_unused=True)
        if total.requires_grad
        else [torch.zeros_like(x) for x in inputs]
    )
    for one, known in zip(along, second, strict=True):
        close(one, known.detach().numpy(), factor=10.0)
    several = [torch.stack([x, x + 1e-3]) for x in case.inputs]
    for one, known in zip(vmap(grad(function, numbers))(*several), expected, strict=True):
        close(one[0], known.numpy())


@each_smooth
def test_several_gradients_at_once(name):
    case, inputs = few(name), leaves(few(name))
    out = next(out for out in outputs(case.call(*inputs)) if out.is_floating_point())
    flat = out.reshape(-1)
    basis = torch.eye(flat.numel(), dtype=F64)
    found = torch.autograd.grad(flat, inputs, basis, is_grads_batched=True, materialize_grads=True, retain_graph=True)
    for k in range(flat.numel()):
        for one, known in zip(found, torch.autograd.grad(flat[k], inputs, retain_graph=True), strict=True):
            close(one[k], known.numpy())


@each_smooth
def test_shapes_without_data(name):
    """Fake tensors stand for those of programs; the tensors that a case holds itself have data."""
    case = few(name)
    expected = [out.shape for out in outputs(case.call(*case.inputs))]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, fake_graphs(name, mode):
        inputs = [mode.from_tensor(value).requires_grad_() for value in case.inputs]
        found = (few(name) if name.startswith("spline_conv") else case).call(*inputs)
        slopes = gradients(case._replace(call=lambda *_: found), inputs)
    assert [slope.shape for slope in slopes] == [value.shape for value in case.inputs]
    assert [out.shape for out in outputs(found)] == expected


@contextlib.contextmanager
def fake_graphs(name, mode):
    """Graphs of splined convolutions have to be fake as well."""
    with pytest.MonkeyPatch.context() as patch:
        if name.startswith("spline_conv"):
            known = graphs.make_case(**graphs.FEW)
            fakes = [None if value is None else mode.from_tensor(value) for value in known.graph]
            known = known._replace(graph=ops.SplineGraph(*fakes))
            patch.setattr(graphs, "make_case", lambda **_: known)
        yield


def strided(value):
    """The same numbers in memory that is not in rows."""
    if value.dim() >= 2:
        return value.mT.contiguous().mT
    return value.repeat_interleave(2)[::2]


@each_case_and_backend
def test_memory_layout_does_not_matter(backend, name, case):
    case = made(name, case)
    inputs = [strided(value) if value.numel() > 1 else value for value in case.inputs]
    expected = outputs(case.call(*case.inputs, backend=backend))
    before = [value.clone() for value in inputs]
    for one, known in zip(outputs(case.call(*inputs, backend=backend)), expected, strict=True):
        close(one, known.numpy())
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))  # and inputs are not changed
    if case.differentiable:
        inputs = [value.detach().requires_grad_() for value in inputs]
        pairs = zip(
            gradients(case, inputs, backend=backend), gradients(case, leaves(case), backend=backend), strict=True
        )
        for one, known in pairs:
            close(one, known.numpy())


@each_dtype
@pytest.mark.parametrize("name", LARGE)
def test_threads_change_no_bit(name, dtype):
    case, before, found = OPERATORS[name].large(dtype), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4, 1):
            torch.set_num_threads(threads)
            values = list(outputs(case.call(*case.inputs, backend="numba")))
            if case.differentiable:
                values += gradients(case, leaves(case), backend="numba")
            found.append(values)
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


@pytest.mark.parametrize("name", REGISTERED)
def test_registered_as_torch_wants_it(name):
    operator, case = getattr(torch.ops.pyg_schnet, name).default, few(name)
    inputs = [value.detach().clone().requires_grad_() for value in case.inputs]
    if name == "edge_lengths":
        inputs = [inputs[0].detach()[:3].clone().requires_grad_(), inputs[1]]
    torch.library.opcheck(operator, (*OPERATORS[name].registered(*inputs), "auto"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each_smooth
def test_half_precision_is_served_by_the_composition(name, dtype):
    case = few(name)
    inputs = [value.to(dtype) for value in case.inputs]
    expected = outputs(case.call(*(value.double() for value in inputs), backend="reference"))
    with pytest.raises(ValueError, match="backend='numba' cannot be used"):
        case.call(*inputs, backend="numba")
    if name.startswith("spline_conv") or name == "pool_atoms":
        expected = outputs(case.call(*case.inputs, backend="reference"))
    for one, known in zip(outputs(case.call(*inputs)), expected, strict=True):
        assert one.dtype in (dtype, torch.int64, F64)
        known = known.double()
        torch.testing.assert_close(one.double(), known, rtol=0.05, atol=0.05 * max(float(known.abs().max()), 1.0))


@pytest.mark.parametrize("name", OPERATORS)
def test_backends_that_are_not_there_are_refused(name):
    case = made(name, next(iter(OPERATORS[name].cases)))
    with pytest.raises(ValueError, match="backend must be one of auto, reference, numba, triton, got 'cuda'"):
        case.call(*case.inputs, backend="cuda")


@each_smooth
def test_kernels_refuse_transforms(name):
    case = few(name)
    with pytest.raises(ValueError, match=r"backend='numba' cannot be used: torch\.func"):
        vmap(lambda *inputs: case.call(*inputs, backend="numba"))(*(x.unsqueeze(0) for x in case.inputs))

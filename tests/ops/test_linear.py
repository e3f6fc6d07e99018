"""The dense layer by oneDNN against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pyg_schnet.ops import linear

F64 = torch.float64
ROWS, COLUMNS, INNER = 700, 24, 40
PRODUCTS = ("addmm", "mm", "linear", "_linear_pointwise", "bmm", "matmul")
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


class Products(TorchDispatchMode):
    """Names of the matrix products that are carried out."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def draw(rows=ROWS, inner=INNER, columns=COLUMNS, bias=True, seed=0):
    """Rows, weights and bias in float32 that require gradients."""
    random = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(*shape, generator=random) for shape in ((rows, inner), (columns, inner), (columns,))]
    tensors[2] = tensors[2] if bias else None
    return [None if value is None else value.requires_grad_() for value in tensors]


def wide(tensors):
    return [None if value is None else value.detach().double().requires_grad_() for value in tensors]


def given(tensors):
    return [value for value in tensors if value is not None]


def close(found, expected, tol=3e-6):
    """Equal to rounding, relative to the largest number."""
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tol * max(1e-3, expected.abs().max().item()))


def products(function):
    with Products() as seen:
        function()
    return seen.names


def is_used(*arguments):
    return "_linear_pointwise" in products(lambda: linear(*arguments))


LAYOUTS = {
    "contiguous": lambda value: value,
    "transposed": lambda value: value.t().contiguous().t(),
    "every second column": lambda value: torch.stack([value, -value], 2).flatten(1)[:, ::2],
    "part of a larger one": lambda value: F.pad(value, (3, 5, 2, 1))[2:-1, 3:-5],
    "expanded": lambda value: value[:1].expand(value.size(0), -1),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [1, 255, 256, ROWS, 5000])
def test_equals_torch(rows, layout, bias):
    x, weight, constant = draw(rows, bias=bias)
    inputs = [LAYOUTS[layout](x), LAYOUTS[layout](weight), constant]
    close(linear(*inputs), F.linear(*wide(inputs)))


def test_no_rows():
    x, weight, bias = draw(0)
    out = linear(x, weight, bias)
    assert out.shape == (0, COLUMNS)
    assert not torch.autograd.grad(out.sum(), weight)[0].any()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [100, ROWS, 5000])
def test_gradients(rows, bias):
    inputs = draw(rows, bias=bias)
    direction = torch.randn(rows, COLUMNS)
    found = torch.autograd.grad(linear(*inputs), given(inputs), direction)
    others = wide(inputs)
    expected = torch.autograd.grad(F.linear(*others), given(others), direction.double())
    for a, b in zip(found, expected, strict=True):
        close(a, b)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [100, ROWS])
def test_gradients_of_gradients(rows, bias):
    def third(function, inputs, direction):
        """Gradients of what a loss on gradients by x gives, as in training on forces."""
        tensors = given(inputs)
        out = function(*inputs)
        first = torch.autograd.grad(out.square().sum() + (out * direction).sum(), tensors, create_graph=True)
        second = torch.autograd.grad(sum(value.square().sum() for value in first), tensors, create_graph=True)
        return *second, *torch.autograd.grad(second[0].square().sum() + second[1].square().sum(), tensors)

    inputs, direction = draw(rows, bias=bias), torch.randn(rows, COLUMNS)
    scaled = [None if value is None else (0.1 * value.detach()).requires_grad_() for value in inputs]
    found = third(linear, scaled, direction)
    expected = third(F.linear, wide(scaled), direction.double())
    for a, b in zip(found, expected, strict=True):
        close(a, b, tol=2e-5)


@needs_onednn
def test_used_for_many_rows_on_cpus_only():
    x, weight, bias = (value.detach() for value in draw())
    assert is_used(x, weight, bias)
    assert is_used(x, weight)
    assert is_used(x.t().contiguous().t(), weight, bias)
    assert not is_used(x[:20], weight, bias)
    assert not is_used(x.double(), weight.double(), bias.double())
    assert not is_used(x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    assert not is_used(x.unsqueeze(0), weight, bias)
    assert not is_used(x, weight[:1], bias[:1])
    assert not is_used(*(value.to("meta") for value in (x, weight, bias)))


@needs_onednn
@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")  # torch's own, from setting the flag
def test_can_be_switched_off():
    x, weight, bias = draw()
    with torch.backends.mkldnn.flags(enabled=False):
        out = linear(x, weight, bias)
        names = products(lambda: torch.autograd.grad(out.sum(), (x, weight)))
    assert "_linear_pointwise" not in names
    out = linear(x, weight, bias)
    with torch.backends.mkldnn.flags(enabled=False):
        assert "_linear_pointwise" not in products(lambda: torch.autograd.grad(out.sum(), (x, weight)))


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_obeyed(dtype):
    x, weight, bias = draw()
    with torch.autocast("cpu", dtype):
        assert linear(x, weight, bias).dtype == dtype
        assert "_linear_pointwise" not in products(lambda: linear(x, weight, bias))
    assert linear(x, weight, bias).dtype == torch.float32


def test_compilers_see_torchs_layer():
    seen = []

    def backend(module, example_inputs):
        seen.extend(str(node.target) for node in module.graph.nodes)
        return module

    tensors = [value.detach() for value in draw()]
    compiled = torch.compile(linear, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), F.linear(*tensors))
    assert any("linear" in name for name in seen)
    assert not any("Linear" in name or "pointwise" in name for name in seen)


@needs_onednn
@pytest.mark.parametrize(("wanted", "number"), [(["x"], 1), (["weight"], 1), (["x", "weight"], 2), (["bias"], 0)])
def test_only_the_gradients_asked_for_are_computed(wanted, number):
    inputs = dict(zip(("x", "weight", "bias"), draw(), strict=True))
    out = linear(*inputs.values())
    chosen = [inputs[name] for name in wanted]
    assert len(products(lambda: torch.autograd.grad(out, chosen, torch.ones_like(out), retain_graph=True))) == number
    hidden = [2.0 * value for value in inputs.values()]  # behind another layer
    out = linear(*hidden)
    assert len(products(lambda: torch.autograd.grad(out, chosen, torch.ones_like(out)))) == number


def test_shapes_that_do_not_fit_raise():
    x, weight, bias = draw()
    with pytest.raises(RuntimeError):
        linear(x, weight[:, :-1], bias)
    with pytest.raises(RuntimeError):
        linear(x, weight, bias[:-1])


def test_function_transforms():
    x, weight, bias = (value.detach() for value in draw())
    stack = torch.stack([weight, -weight])
    found = torch.func.vmap(linear, (None, 0, None))(x, stack, bias)
    for value, w in zip(found, stack, strict=True):
        close(value, F.linear(x.double(), w.double(), bias.double()))
    gradient = torch.func.grad(lambda w: linear(x, w, bias).square().sum())(weight)
    out = F.linear(x.double(), weight.double(), bias.double())
    close(gradient, 2.0 * out.t() @ x.double())
    _, tangent = torch.func.jvp(lambda x: linear(x, weight, bias), (x,), (x,))
    close(tangent, F.linear(x.double(), weight.double()))

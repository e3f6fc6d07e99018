"""GPUs as far as they can be seen without one: fake tensors of a CUDA device, and tensors without values."""

import re
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from pyg_schnet import SchNet, radius_graph
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.ops import dispatch
from tests.reads import Reads, elsewhere

from .models import Z


@pytest.fixture
def cuda(monkeypatch):
    """Fake tensors of a device, which count as dense ones there; what the triton backend says of it can be set."""
    dispatch._warn_once.cache_clear()
    triton = SimpleNamespace(
        __name__="pyg_schnet.backends.triton", refusal=lambda device: triton.why, failure=lambda device: None, why=None
    )
    monkeypatch.setattr(dispatch, "_OWN_TYPES", (*dispatch._OWN_TYPES, FakeTensor))
    monkeypatch.setattr(dispatch, "_triton", lambda: triton)
    with FakeTensorMode():
        yield triton
    dispatch._warn_once.cache_clear()


def inputs(batched=False, device="cuda"):
    """Atoms of one structure, or two, and edges between all of each, as tensors without values."""
    n = 2 * Z.size(0) if batched else Z.size(0)
    made = {"device": device}
    z, pos = torch.zeros(n, dtype=torch.int64, **made), torch.zeros(n, 3, **made)
    index = torch.zeros(2, 7 * n, dtype=torch.int64, **made)
    return (z, pos, torch.zeros(n, dtype=torch.int64, **made)), {"edge_index": index, "batch_size": 1 + batched}


def model(**options):
    """A model with fake weights on the device; builds of torch for CPUs copy nothing there, not even fake tensors."""
    made = SchNet(16, 8, 2, num_gaussians=20, cutoff=4.0, **options).eval()
    for part in made.modules():
        for table in (part._parameters, part._buffers):
            for name, value in table.items():
                if value is not None:
                    other = torch.empty(value.shape, device="cuda")
                    table[name] = torch.nn.Parameter(other) if table is part._parameters else other
    return made


def test_plan_on_a_device(cuda):
    arguments, edges = inputs()
    plan = model().plan(*arguments, **edges)
    assert (plan.program, plan.filters, plan.backend) == ("interactions", "spline", "triton")
    plan = model().plan(*arguments, **edges, forces=True)
    assert (plan.program, plan.backend) == ("interactions", "triton")
    assert any("weights are on cuda:0" in why for why in plan.reasons)
    assert any("leaves gradients to autograd" in why for why in plan.reasons)
    assert model(backend="reference").plan(*arguments, **edges).backend == "reference"


def test_plan_says_why_not(cuda):
    arguments, edges = inputs()
    cuda.why = "it needs compute capability 7.0 or higher, cuda:0 has 6.1"
    with pytest.warns(RuntimeWarning, match="backend 'triton' is left for plain torch operations: it needs compute"):
        plan = model().plan(*arguments, **edges)
    assert (plan.program, plan.backend) == ("layers", "reference")
    assert any("capability 7.0 or higher, cuda:0 has 6.1" in why for why in plan.reasons)
    model().plan(*arguments, **edges)  # and says so once
    with pytest.raises(ValueError, match="backend='triton' cannot be used: it needs compute capability"):
        dispatch.kernels_for("triton", arguments[1])


def test_one_warning_where_triton_is_missing(cuda, monkeypatch):
    monkeypatch.setattr(dispatch, "_triton", lambda: "triton is not installed; pip install 'pyg_schnet[gpu]'")
    pos = inputs()[0][1]
    with pytest.warns(RuntimeWarning, match="triton is not installed") as caught:
        assert dispatch.kernels_for("auto", pos) is dispatch.kernels_for("auto", pos) is None
    assert len(caught) == 1
    assert dispatch.refusal_of(pos.device) == "triton is not installed; pip install 'pyg_schnet[gpu]'"
    with pytest.raises(ValueError, match="backend='triton' cannot be used: triton is not installed"):
        dispatch.kernels_for("triton", pos)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ModuleNotFoundError("No module named 'triton'", name="triton"), "triton is not installed; pip install"),
        (ModuleNotFoundError("no", name="triton.language"), r"cannot be imported \(ModuleNotFoundError: no\)"),
        (RuntimeError("0 active drivers"), r"triton cannot be imported \(RuntimeError: 0 active drivers\)"),
    ],
    ids=["missing", "broken", "without a driver"],
)
def test_whatever_keeps_triton_from_being_imported_is_a_reason(error, why, monkeypatch):
    def fails(name):
        raise error

    monkeypatch.setattr(dispatch.importlib, "import_module", fails)
    assert re.match(f".*{why}", dispatch._triton.__wrapped__())


def test_tensors_of_two_places_are_not_taken(cuda):
    with pytest.raises(ValueError, match="got some on cuda:0 and on cpu"):
        dispatch.kernels_for("triton", inputs()[0][1], torch.zeros(3))
    assert dispatch.kernels_for("auto", inputs()[0][1], torch.zeros(3)) is None
    with pytest.raises(ValueError, match=r"takes dense tensors of float32 or float64 on a CUDA or ROCm device"):
        dispatch.kernels_for("triton", inputs()[0][1].half())


def test_operators_that_it_does_not_have_are_compositions(cuda):
    cuda.mlp = None
    pos = inputs()[0][1]
    assert dispatch.kernels_for("triton", pos, needs="pool") is None
    assert dispatch.kernels_for("triton", pos, needs="mlp") is cuda


@pytest.mark.parametrize("filters", ["spline", "exact"])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_reads_a_value_on_a_device(filters, training):
    """The compositions of plain operations: energies, forces, and training on forces, of tensors without values."""
    arguments, edges = inputs(batched=True, device="meta")
    network = SchNet(16, 8, 2, num_gaussians=20, cutoff=4.0, filters=filters).to("meta").train(training)
    energy, forces, _ = energy_forces_stress(network, *arguments, **edges, create_graph=training)
    assert (energy.device.type, forces.shape) == ("meta", arguments[1].shape)
    if training:
        (energy.sum() + forces.square().sum()).backward()
        assert all(value.grad is not None for value in network.interactions.parameters())


def test_nothing_reads_a_value_of_crystals():
    arguments, edges = inputs(batched=True, device="meta")
    edges |= {
        "edge_shift": torch.zeros(edges["edge_index"].size(1), 3, dtype=torch.int32, device="meta"),
        "cell": torch.eye(3, device="meta").repeat(2, 1, 1),
    }
    network = SchNet(16, 8, 2, num_gaussians=20, cutoff=4.0).to("meta").eval()
    edges["cell"].requires_grad_()
    energy = network(*arguments, **edges)
    (slope,) = torch.autograd.grad(energy.sum(), edges["cell"], create_graph=True)
    slope.square().sum().backward()
    assert slope.shape == (2, 3, 3)


def structures(periodic):
    """Two structures with all of their edges, on the CPU; one atom is padding."""
    generator = torch.Generator().manual_seed(0)
    pos = 3.0 * torch.rand(10, 3, generator=generator, dtype=torch.float64)
    z = torch.randint(1, 9, (10,), generator=generator)
    z[-1] = 0
    batch, given = torch.arange(2).repeat_interleave(5), {"batch_size": 2}
    if not periodic:
        return (z, pos, batch), {**given, "edge_index": radius_graph(pos, 3.0, batch)}
    given |= {"cell": (3.4 * torch.eye(3, dtype=torch.float64) + 0.2).repeat(2, 1, 1)}
    given |= {"pbc": torch.ones(2, 3, dtype=torch.bool)}
    index, shift = radius_graph(pos, 3.0, batch, **given)
    return (z, pos, batch), {**given, "edge_index": index, "edge_shift": shift}


def learned(periodic, options, arguments, edges):
    """Energies, forces, stress, and weights after a step of training on all of them."""
    torch.manual_seed(0)
    network = SchNet(8, 6, 2, num_gaussians=10, cutoff=3.0, **options).double()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, foreach=True)  # the fused one needs a device's kernel
    found = energy_forces_stress(network, *arguments, **edges, stress=periodic, create_graph=True)
    found = [value for value in found if value is not None]
    sum(value.square().mean() for value in found).backward()
    optimizer.step()
    evaluated = energy_forces_stress(network.eval(), *arguments, **edges, stress=periodic)
    values = [*found, *(value for value in evaluated if value is not None), *network.parameters()]
    return [value.detach() for value in values]


@pytest.mark.parametrize("periodic", [False, True], ids=["molecules", "crystals"])
@pytest.mark.parametrize("options", [{"filters": "spline"}, {"filters": "exact", "normalize": True}], ids=str)
def test_nothing_is_read_in_a_step_and_numbers_are_right(periodic, options, monkeypatch):
    """As tensors of any device: plain operations, with numbers in them, give what the kernels of the CPU give."""
    arguments, edges = structures(periodic)
    expected = learned(periodic, options, arguments, edges)
    with pytest.MonkeyPatch.context() as patch:
        elsewhere(patch)
        with Reads() as reads:
            found = learned(periodic, options, arguments, edges)
    assert reads.found == []
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_reads_are_noticed():
    x = torch.arange(3.0)
    for look in (lambda: float(x.sum()), x.nonzero, x.tolist, lambda: x[x > 1.0], lambda: bool((x > 1.0).any()), x.cpu,
                 lambda: torch.repeat_interleave(x.long()), lambda: torch.equal(x, x)):  # fmt: skip
        with Reads() as reads:
            look()
        assert len(reads.found) == 1
    with Reads() as reads:
        torch.where(x > 1.0, x, 0.0)[x.long()].cumsum(0)
    assert reads.found == []


def test_what_cannot_be_checked_without_a_read_is_no_number(monkeypatch):
    """Edges of periodic structures without shifts, and the stress of a slab: an error on CPUs, NaN elsewhere."""
    arguments, edges = structures(True)
    network = SchNet(8, 6, 2, num_gaussians=10, cutoff=3.0).double().eval()
    slab = torch.tensor([[True, True, True], [True, True, False]])
    del edges["edge_shift"]
    with pytest.raises(ValueError, match="edges of periodic structures need edge_shift"):
        network(*arguments, **edges)
    elsewhere(monkeypatch)
    with Reads() as reads:
        assert network(*arguments, **edges).isnan().all()
        opened = network(*arguments, **edges | {"pbc": torch.zeros_like(slab)})
    assert opened.isfinite().all()
    arguments, edges = structures(True)
    with Reads() as more:
        found = energy_forces_stress(network, *arguments, **edges | {"pbc": slab}, stress=True)
    assert found.stress[0].isfinite().all()
    assert found.stress[1].isnan().all()
    assert found.forces.isfinite().all()
    assert reads.found == more.found == []

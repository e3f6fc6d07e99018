"""Models inside of what torch does with functions: transforms, forward mode, tracing, export, autocast, inference."""

import copy
import io

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from ase.build import bulk, molecule
from torch.export import Dim, export
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch_geometric.data import Batch

from pyg_schnet import DTNN, SchNet, radius_graph
from pyg_schnet.analysis import normal_modes
from pyg_schnet.data import to_data
from pyg_schnet.derivatives import energy_forces_stress, hessian
from pyg_schnet.interfaces import SchNetCalculator
from pyg_schnet.nn import FilterNetwork, SchNetInteraction

F64 = torch.float64
OPTIONS = {"num_gaussians": 12, "cutoff": 4.0}
MODELS = {
    "auto": lambda: SchNet(8, 6, 2, **OPTIONS),
    "exact": lambda: SchNet(8, 6, 2, **OPTIONS, filters="exact", normalize=True),
    "spline": lambda: SchNet(8, 6, 2, **OPTIONS, filters="spline", num_grid_points=40, readout="mean"),
    "dipole": lambda: SchNet(8, 6, 1, **OPTIONS, readout="dipole"),
    "DTNN": lambda: DTNN(8, 6, 1, cutoff=4.0),
}
Z = torch.tensor([6, 8, 1, 1, 1, 1])
POS = torch.tensor(to_data(molecule("CH3OH")).pos.tolist(), dtype=F64)
ALONG = torch.linspace(-1.0, 1.0, 18, dtype=F64).view(6, 3)
EDGES = radius_graph(POS, 4.0)


def make(name, training=False):
    torch.manual_seed(0)
    return MODELS[name]().double().train(training)


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=tolerance, atol=tolerance)


@pytest.fixture(params=["edges given", "edges found"])
def given(request):
    return {"edge_index": EDGES} if request.param == "edges given" else {}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", MODELS)
def test_transforms_by_positions(name, training, given):
    model = make(name, training)

    def energy(pos):
        return model(Z, pos, **given).sum()

    slopes, second = -energy_forces_stress(model, Z, POS).forces, hessian(model, Z, POS)
    close(grad(energy)(POS), slopes)
    close(vjp(energy, POS)[1](torch.ones((), dtype=F64))[0], slopes)
    value, slope = jvp(energy, (POS,), (ALONG,))
    close(value, energy(POS))
    close(slope, (slopes * ALONG).sum())
    close(jacrev(energy)(POS), slopes)
    close(torch.func.hessian(energy)(POS), second, 1e-8)
    close(
        jacrev(lambda pos: -energy_forces_stress(model, Z, pos, **given, create_graph=True).forces)(POS), second, 1e-8
    )
    with forward_ad.dual_level():
        dual = model(Z, forward_ad.make_dual(POS, ALONG), **given).sum()
        close(forward_ad.unpack_dual(dual).tangent, (slopes * ALONG).sum())


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", MODELS)
def test_transforms_by_weights(name, training, given):
    model = make(name, training)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    expected = torch.autograd.grad(model(Z, POS).sum(), list(model.parameters()), materialize_grads=True)

    def energy(weights):
        return functional_call(model, weights, (Z, POS), given).sum()

    for found, known in zip(grad(energy)(weights).values(), expected, strict=True):
        close(found, known)
    ones = {name: torch.ones_like(weight) for name, weight in weights.items()}
    total = sum(known.sum() for known in expected)
    close(jvp(energy, (weights,), (ones,))[1], total)
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(weight, ones[name]) for name, weight in weights.items()}
        close(forward_ad.unpack_dual(energy(duals)).tangent, total)


@pytest.mark.parametrize("name", MODELS)
def test_ensembles_by_vmap(name, given):
    models = [make(name) for _ in range(3)]
    for k, model in enumerate(models):
        for weight in model.parameters():
            weight.data.mul_(1.0 + 0.1 * k)
    stacked, base = stack_module_state(models), copy.deepcopy(models[0]).to("meta")
    energies = vmap(lambda *state: functional_call(base, state, (Z, POS), given))(*stacked)
    close(energies, torch.stack([model(Z, POS) for model in models]))

    def slopes(*state):
        return grad(lambda pos: functional_call(base, state, (Z, pos), given).sum())(POS)

    close(vmap(slopes)(*stacked), torch.stack([-energy_forces_stress(model, Z, POS).forces for model in models]))


def test_several_positions_by_vmap():
    model, several = make("auto"), torch.stack([POS, 1.05 * POS])
    energies = vmap(lambda pos: model(Z, pos, edge_index=EDGES))(several)
    close(energies, torch.stack([model(Z, pos, edge_index=EDGES) for pos in several]))
    with pytest.raises(ValueError, match=r"neighbours cannot be searched inside of torch\.vmap over positions"):
        vmap(lambda pos: model(Z, pos))(several)


OF_TRACING = pytest.mark.filterwarnings(  # torch's, about checks of shapes; and that jit grows old
    "ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


class Wrapped(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, z, pos, edge_index):
        return self.model(z, pos, edge_index=edge_index)


def structures_of_sizes():
    """Few atoms and edges, and more than the 256 from which on dense layers are multiplied in another way."""
    for atoms in (molecule("H2O"), molecule("C6H6"), bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (4, 3, 3)):
        data = to_data(atoms)
        pos = data.pos.float()
        yield data.z, pos, radius_graph(pos, 4.0)


@OF_TRACING
@pytest.mark.parametrize("name", ["auto", "exact", "DTNN"])
@pytest.mark.parametrize("way", ["trace", "export"])
def test_programs_serve_all_sizes(name, way):
    torch.manual_seed(0)
    model = SchNet(16, 16, 1, **OPTIONS, filters=name) if name != "DTNN" else DTNN(16, 16, 1, cutoff=4.0)
    model.eval().requires_grad_(False)
    structures = list(structures_of_sizes())
    assert len(structures[-1][0]) > 256
    if way == "trace":
        traced = torch.jit.trace(Wrapped(model), structures[1], check_trace=False)
        file = io.BytesIO()
        torch.jit.save(traced, file)
        program = torch.jit.load(io.BytesIO(file.getvalue()))
    else:
        n, e = Dim("N"), Dim("E")
        program = export(
            Wrapped(model), structures[1], dynamic_shapes={"z": {0: n}, "pos": {0: n}, "edge_index": {1: e}}
        ).module()
    for z, pos, edge_index in structures:
        torch.testing.assert_close(
            program(z, pos, edge_index), model(z, pos, edge_index=edge_index), rtol=1e-5, atol=1e-5
        )


@OF_TRACING
def test_traces_that_would_keep_what_they_see_are_refused():
    model = make("auto").requires_grad_(False)
    with pytest.raises(ValueError, match="the neighbours of these positions for all others; pass edge_index"):
        torch.jit.trace(model, (Z, POS))
    with pytest.raises(ValueError, match="the number of structures of this batch for all others; pass batch_size"):
        torch.jit.trace(model, (Z, POS, torch.zeros_like(Z)))


def batch_of(copies, dtype=torch.float32):
    batch = Batch.from_data_list([to_data(molecule(name), dtype=dtype) for name in ("CH3OH", "H2O")] * copies)
    return batch.z, batch.pos, batch.batch


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", MODELS)
def test_autocast_changes_nothing(name, training, dtype):
    model, inputs = make(name, training).float(), batch_of(40)
    weights = list(model.parameters())
    energies, forces = model(*inputs), energy_forces_stress(model, *inputs).forces
    expected = torch.autograd.grad(energies.sum(), weights, materialize_grads=True)
    with torch.autocast("cpu", dtype):
        found, moved = model(*inputs), energy_forces_stress(model, *inputs).forces
    assert found.dtype == moved.dtype == torch.float32
    torch.testing.assert_close(found, energies, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moved, forces, rtol=1e-5, atol=1e-5)
    for a, b in zip(torch.autograd.grad(found.sum(), weights, materialize_grads=True), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):  # a backward pass inside of it is torch's own, in half precision
        loss = (
            energy_forces_stress(model, *inputs, create_graph=True).forces.square().mean()
            + model(*inputs).square().mean()
        )
        loss.backward()
    assert all(weight.grad is None or bool(weight.grad.isfinite().all()) for weight in weights)


@pytest.mark.parametrize("features", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_layers_under_autocast(training, features):
    torch.manual_seed(0)
    block = SchNetInteraction(16, FilterNetwork(16)).train(training)
    x, dist = torch.randn(6, 16), (POS[EDGES[0]] - POS[EDGES[1]]).norm(dim=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = block(x.to(features), EDGES, dist)
    torch.testing.assert_close(found.float(), block(x, EDGES, dist), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision_are_refused(dtype):
    with pytest.raises(ValueError, match=r"the weights are torch.b?float16, in which positions .* model.float\(\)"):
        make("auto").to(dtype)(Z, POS.to(dtype))


@pytest.mark.parametrize("inside", [False, True], ids=["made outside", "made inside"])
@pytest.mark.parametrize("copies", [1, 60])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", ["auto", "exact", "DTNN"])
def test_inference_mode(name, training, copies, inside):
    model, inputs = make(name, training), batch_of(copies, F64)
    expected = energy_forces_stress(model, *inputs)
    with torch.inference_mode():
        if inside:
            inputs = [x.clone() for x in inputs]
        found, again = energy_forces_stress(model, *inputs), energy_forces_stress(model, *inputs, create_graph=True)
        assert model(*inputs).shape == (2 * copies, 1)
    for answer in (found, again, energy_forces_stress(model, *inputs)):
        close(answer.energy, expected.energy)
        close(answer.forces, expected.forces)


def test_models_made_in_inference_mode():
    expected = make("auto")
    with torch.inference_mode():
        model, copied = make("auto"), copy.deepcopy(expected)
        for one in (model, copied):
            close(energy_forces_stress(one, Z, POS).forces, energy_forces_stress(expected, Z, POS).forces)
            close(hessian(one, Z, POS), hessian(expected, Z, POS))
    large = batch_of(60, F64)
    close(energy_forces_stress(model, *large).forces, energy_forces_stress(expected, *large).forces)


def test_calculators_and_analysis_in_inference_mode():
    atoms, model = bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (3, 3, 3), make("auto")
    atoms.rattle(0.1, seed=0)
    atoms.calc = SchNetCalculator(model, unit="eV")
    forces, modes = atoms.get_forces(), normal_modes(model, molecule("H2O"), unit="eV")
    with torch.inference_mode():
        atoms.calc = SchNetCalculator(model, unit="eV")
        assert atoms.get_forces() == pytest.approx(forces, abs=1e-10)
        again = normal_modes(model, molecule("H2O"), unit="eV")
    assert again.frequencies == pytest.approx(modes.frequencies, abs=1e-6)


def test_default_dtype_of_torch():
    torch.set_default_dtype(F64)
    try:
        torch.manual_seed(0)
        model = MODELS["auto"]().eval()
        assert model(Z, POS).dtype == F64
        assert energy_forces_stress(model, Z, POS).forces.dtype == F64
        single = copy.deepcopy(model).float()
        assert energy_forces_stress(single, Z, POS.float()).forces.dtype == torch.float32
        torch.testing.assert_close(single(Z, POS.float()).double(), model(Z, POS), rtol=1e-5, atol=1e-5)
    finally:
        torch.set_default_dtype(torch.float32)


def test_jacobians_of_second_order():
    model = make("spline")
    energy = jacfwd(jacfwd(lambda pos: model(Z, pos).sum()))
    close(energy(POS), hessian(model, Z, POS), 1e-8)

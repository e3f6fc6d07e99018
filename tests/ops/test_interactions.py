"""Blocks in one step against the blocks themselves, which a hook makes the model call."""

import pytest
import torch

from pyg_schnet import SchNet
from pyg_schnet.backends import tuning
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.neighbors import radius_graph

F64 = torch.float64
OPTIONS = [
    {},
    {"activate_filters": False},
    {"window": "hard", "normalize": True},
    {"shared_weights": True, "num_interactions": 3},
]


def make(**options):
    torch.manual_seed(0)
    options = {"num_interactions": 2, **options}
    model = SchNet(6, 5, num_gaussians=8, cutoff=4.0, filters="spline", num_grid_points=40, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def block_by_block(model):
    for block in model.interactions:
        block.register_forward_hook(lambda *_: None)
    return model


def twice(structures):
    """The same structures once more in one batch."""
    size = int(structures["batch"].max()) + 1
    return {name: torch.cat([value, value + size if name == "batch" else value]) for name, value in structures.items()}


def gradients(model, structures, with_forces):
    response = energy_forces_stress(model, **structures, forces=with_forces, create_graph=True)
    loss = response.energy.square().sum()
    if with_forces:
        loss = loss + response.forces.square().sum()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("in_groups", [False, True])
@pytest.mark.parametrize("with_forces", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_are_those_of_the_blocks(options, with_forces, in_groups, molecules):
    molecules = twice(molecules) if in_groups else molecules
    with tuning.changed(serial_work=0, group_work=0) if in_groups else tuning.changed():
        found = gradients(make(**options), molecules, with_forces)
    expected = gradients(block_by_block(make(**options)), molecules, with_forces)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_that_can_be_differentiated_have_the_same_values(options, training, molecules):
    """The branch that autograd differentiates again is another one than that of the kernels."""
    model = make(**options).train(training)
    model.readout.requires_grad_(False)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    energy = model(**molecules).square().sum()
    plain = torch.autograd.grad(energy, list(weights.values()), retain_graph=True)
    again = torch.autograd.grad(energy, list(weights.values()), create_graph=True)
    for name, one, other in zip(weights, plain, again, strict=True):
        assert one.abs().max() > 1e-6, name
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_that_can_be_differentiated_are_those_of_the_blocks(options, training, molecules):
    """Gradient of a gradient with respect to weights, against blocks called one after the other."""
    found = []
    for model in (make(**options).train(training), block_by_block(make(**options)).train(training)):
        weight = model.interactions[0].lin1.weight
        (slope,) = torch.autograd.grad(model(**molecules).sum(), weight, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), [weight, model.embedding.weight]))
    for one, other in zip(*found, strict=True):
        assert other.abs().max() > 1e-6
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("frozen", [None, "embedding.weight", "interactions.0.lin1.weight", "interactions.1.lin2.bias"])
@pytest.mark.parametrize("training", [False, True])
def test_third_derivatives_are_those_of_the_blocks(training, frozen, molecules):
    """Gradient of a gradient of forces, which themselves depend on positions and weights."""
    found = []
    for model in (make().train(training), block_by_block(make()).train(training)):
        if frozen is not None:
            model.get_parameter(frozen).requires_grad_(False)
        pos = molecules["pos"].clone().requires_grad_()
        forces = energy_forces_stress(model, **{**molecules, "pos": pos}, create_graph=True).forces
        (slope,) = torch.autograd.grad(forces.square().sum(), pos, create_graph=True)
        weights = [model.interactions[1].lin2.weight, model.readout.network.lin1.weight]
        found.append((slope, *torch.autograd.grad(slope.square().sum(), [pos, *weights])))
    for one, other in zip(*found, strict=True):
        assert other.abs().max() > 1e-6
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9 * float(other.detach().abs().max()))


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_forces_are_those_of_the_blocks(training, create_graph, molecules):
    found = energy_forces_stress(make().train(training), **molecules, create_graph=create_graph)
    expected = energy_forces_stress(block_by_block(make()).train(training), **molecules)
    torch.testing.assert_close(found.energy, expected.energy, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.forces, expected.forces, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("frozen", ["interactions.0.lin1.weight", "embedding.weight", "interactions.1.lin2.bias"])
def test_frozen_weights(frozen, molecules):
    model, other = make(), block_by_block(make())
    for network in (model, other):
        network.get_parameter(frozen).requires_grad_(False)
    found, expected = gradients(model, molecules, True), gradients(other, molecules, True)
    assert found[frozen] is None
    for name in expected.keys() - {frozen}:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("training", [False, True])
def test_derivatives_of_forces(training, water, tensors):
    """Forces once and twice differentiable: up to the third derivative of the energy."""
    model, given = make().train(training), tensors(water)
    names = ["interactions.0.lin_in.weight", "interactions.1.conv.filter_network.lin2.bias"]
    weights = {name: model.get_parameter(name).detach() for name in names}
    directions = [torch.randn_like(weight) for weight in weights.values()]

    def forces(pos, steps):
        pairs = zip(weights.items(), directions, strict=True)
        moved = {name: weight + step * way for step, ((name, weight), way) in zip(steps, pairs, strict=True)}

        def energy(z, pos, batch):
            return torch.func.functional_call(model, moved, (z, pos, batch))

        return energy_forces_stress(energy, given["z"], pos, given["batch"], create_graph=True).forces

    inputs = (given["pos"].clone().requires_grad_(), torch.zeros(2, dtype=F64, requires_grad=True))
    assert torch.autograd.gradcheck(forces, inputs)
    assert torch.autograd.gradgradcheck(forces, inputs, atol=1e-4)


@pytest.mark.parametrize("training", [False, True])
def test_forces_ask_for_no_gradient_of_weights(training, molecules, monkeypatch):
    from pyg_schnet.backends import numba as cpu

    model, asked = make().train(training), []
    backward = cpu.interactions_backward

    def spy(*args, **options):
        asked.append(options.get("grad_weights", False) or options.get("grad_embedding", False))
        return backward(*args, **options)

    monkeypatch.setattr(cpu, "interactions_backward", spy)
    for name in ("spline_conv_grad_table", "filter_table_backward"):
        monkeypatch.setattr(cpu, name, lambda *_: pytest.fail("gradient of weights computed"), raising=False)
    energy_forces_stress(model, **molecules, create_graph=True)
    energy_forces_stress(lambda *given, **options: model(*given, **options), **molecules)
    assert asked == [False, False]


@pytest.mark.parametrize("with_forces", [False, True])
@pytest.mark.parametrize("apart", [4.0, 0.1], ids=["structures", "one structure"])
def test_threads_change_nothing(with_forces, apart):
    random = torch.Generator().manual_seed(0)
    structures = {
        "z": torch.randint(1, 10, (200,), generator=random),
        "pos": 3.0 * torch.rand(200, 3, generator=random) + apart * torch.arange(20).repeat_interleave(10)[:, None],
        "batch": (torch.arange(20) * (apart > 1)).repeat_interleave(10),
    }
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        model = SchNet(90, 100, num_interactions=2, filters="spline", cutoff=5.0, num_grid_points=150)
        with tuning.changed(serial_work=0, group_work=0):  # threads for everything
            found.append(gradients(model, structures, with_forces))
    torch.set_num_threads(before)
    for other in found[1:]:
        # what is summed by torch itself may differ: readout and embedding
        names = [name for name in other if name.startswith("interactions")]
        assert [name for name in names if not torch.equal(other[name], found[0][name])] == []


@pytest.mark.parametrize("training", [False, True])
def test_half_lists_are_taken_where_all_edges_have_both_directions(training, molecules, monkeypatch):
    from pyg_schnet.engine import cache

    model, calls = make().train(training), []
    for name in ("interactions", "directed_interactions"):
        run = getattr(cache, name)
        monkeypatch.setattr(cache, name, lambda *a, _run=run, _name=name, **k: calls.append(_name) or _run(*a, **k))
    expected = model(**molecules)
    pos, batch = molecules["pos"], molecules["batch"]
    edge_index = radius_graph(pos, model.cutoff, batch, batch_size=int(batch.max()) + 1).flip(1)
    torch.testing.assert_close(model(**molecules, edge_index=edge_index), expected, rtol=1e-11, atol=1e-11)
    assert calls == ["interactions", "directed_interactions"]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("with_forces", [False, True])
def test_embeddings_that_are_more_than_rows_of_weights_are_called(with_forces, training, molecules):
    found = gradients(make().train(training), molecules, with_forces)
    hooked, seen = make().train(training), []
    hooked.embedding.register_forward_hook(lambda *_: seen.append(True))
    expected = gradients(hooked, molecules, with_forces)
    assert seen
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("number", [-1, 100, 10**6])
def test_atomic_numbers_without_embedding(number, molecules):
    with pytest.raises(ValueError, match="z must lie between 0"):
        make()({**molecules}["z"].clone().fill_(number), molecules["pos"], molecules["batch"])


def test_new_embeddings_act(water, tensors):
    model, given = make().eval(), tensors(water)
    with torch.no_grad():
        before = model(**given)
        model.embedding.weight.mul_(2.0)
        after = model(**given)
    torch.testing.assert_close(block_by_block(model)(**given), after, rtol=1e-11, atol=1e-11)
    assert not torch.equal(before, after)


def test_exchanged_embeddings_are_called(molecules):
    class Doubled(torch.nn.Embedding):
        def forward(self, z):
            return 2.0 * super().forward(z)

    model, doubled = make(), make()
    with torch.no_grad():
        model.embedding.weight.mul_(2.0)
    weights = doubled.embedding.state_dict()
    doubled.embedding = Doubled(*doubled.embedding.weight.shape, padding_idx=0).double()
    doubled.embedding.load_state_dict(weights)
    torch.testing.assert_close(doubled(**molecules), model(**molecules), rtol=1e-11, atol=1e-11)

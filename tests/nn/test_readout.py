import numpy as np
import pytest
import torch
from ase.data import atomic_masses

from pyg_schnet.nn import (
    AtomNetwork,
    DipoleReadout,
    ElectronicSpatialExtentReadout,
    MaxReadout,
    MeanReadout,
    Readout,
    SumReadout,
)
from pyg_schnet.nn.atomref import MAX_Z
from pyg_schnet.testing import random_rotation
from pyg_schnet.units import factor

F64 = torch.float64
F = 6
# three structures of 3, 1 and 2 atoms, the last with padding; then an empty one
Z = torch.tensor([8, 1, 1, 6, 7, 0, 17])
BATCH = torch.tensor([0, 0, 0, 1, 2, 2, 2])
B = 4
ACTIVATIONS = {
    "ssp": lambda x: np.logaddexp(x, 0.0) - np.log(2.0),
    "silu": lambda x: x / (1.0 + np.exp(-x)),
    "tanh": np.tanh,
}
POOLED = (SumReadout, MeanReadout, MaxReadout)
MAKE = {
    "sum": lambda: SumReadout(F, 2, scale=1.5, shift=-0.3),
    "mean": lambda: MeanReadout(F, 2, scale=1.5, shift=-0.3),
    "max": lambda: MaxReadout(F, 2, scale=1.5, shift=-0.3),
    "dipole": lambda: DipoleReadout(F),
    "dipole-vector": lambda: DipoleReadout(F, magnitude=False, scale=2.0),
    "dipole-uncorrected": lambda: DipoleReadout(F, magnitude=False, neutralize=False, origin="zero"),
    "spatial-extent": lambda: ElectronicSpatialExtentReadout(F, scale=3.0),
}


def build(name):
    readout = MAKE[name]().to(F64)
    with torch.no_grad():
        for parameter in readout.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return readout


@pytest.fixture(params=MAKE)
def readout(request):
    return build(request.param)


@pytest.fixture
def atoms():
    return torch.randn(len(Z), F, dtype=F64), torch.randn(len(Z), 3, dtype=F64)


def network_by_hand(readout, x):
    w = {name: value.numpy() for name, value in readout.network.state_dict().items()}
    hidden = ACTIVATIONS[readout.activation](x.numpy() @ w["lin1.weight"].T + w["lin1.bias"])
    return hidden @ w["lin2.weight"].T + w["lin2.bias"]


def mass_center(members, pos):
    masses = [np.float64(np.float32(atomic_masses[Z[i]])) for i in members]  # buffers are made in float32
    return sum(m * pos[i].numpy() for m, i in zip(masses, members, strict=True)) / sum(masses)


def by_loop(readout, x, pos, total_charge=0.0):
    """Eq. (1), (2), (3) and the spatial extent, one atom after the other."""
    values = network_by_hand(readout, x)
    out = np.zeros((B, readout.out_channels))
    for b in range(B):
        members = [i for i in range(len(Z)) if BATCH[i] == b and Z[i] > 0]
        if not members:
            continue
        if isinstance(readout, POOLED):
            scaled = [
                readout.scale.numpy() * values[i] + readout.shift.numpy() + readout.atomref[Z[i]].numpy()
                for i in members
            ]
            pool = {SumReadout: np.sum, MeanReadout: np.mean, MaxReadout: np.max}[type(readout)]
            out[b] = pool(scaled, axis=0)
        elif isinstance(readout, DipoleReadout):
            excess = (sum(values[i, 0] for i in members) - total_charge) / len(members)
            origin = mass_center(members, pos) if readout.origin == "mass" else 0.0
            dipole = np.zeros(3)
            for i in members:
                charge = values[i, 0] - (excess if readout.neutralize else 0.0)
                dipole += readout.scale.item() * charge * (pos[i].numpy() - origin)
            out[b] = np.linalg.norm(dipole) if readout.magnitude else dipole
        else:
            origin = mass_center(members, pos)
            for i in members:
                out[b] += readout.scale.item() * values[i, 0] * np.sum((pos[i].numpy() - origin) ** 2)
    return out


def close(actual, expected, tol=1e-12):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=tol, atol=tol)


def test_equals_the_loop(readout, atoms):
    x, pos = atoms
    if isinstance(readout, POOLED):
        readout.set_references(torch.randn(MAX_Z + 1, 2))
        readout.shift.copy_(torch.tensor([0.7, -20.0]))
        readout.scale.copy_(torch.tensor([2.0, -0.1]))
    out = readout(x, Z, pos, BATCH, B)
    assert out.shape == (B, readout.out_channels)
    assert out.dtype == F64
    close(out, by_loop(readout, x, pos))
    assert not out[3].any()  # the empty structure


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("cls", [*POOLED, DipoleReadout, ElectronicSpatialExtentReadout])
def test_activations(cls, activation, atoms):
    x, pos = atoms
    readout = cls(F, activation=activation).to(F64)
    close(readout(x, Z, pos, BATCH, B), by_loop(readout, x, pos))


def test_padding_has_no_effect(readout, atoms):
    x, pos = atoms
    real = Z > 0
    x = x.requires_grad_()
    pos = pos.requires_grad_()
    out = readout(x, Z, pos, BATCH, B)
    close(out, readout(x[real], Z[real], pos[real], BATCH[real], B).detach().numpy())
    gradients = torch.autograd.grad(out.square().sum(), (x, pos), allow_unused=True)
    for gradient in gradients:
        if gradient is not None:
            assert not gradient[~real].any()
            assert gradient[real].any()
    with torch.no_grad():
        x[~real] += 100.0
        pos[~real] -= 100.0
    close(readout(x, Z, pos, BATCH, B), out.detach().numpy())


def test_padding_alone(readout):
    x = torch.randn(2, F, dtype=F64, requires_grad=True)
    pos = torch.randn(2, 3, dtype=F64, requires_grad=True)
    out = readout(x, torch.tensor([0, 0]), pos, torch.tensor([0, 1]), 2)
    assert not out.any()
    for gradient in torch.autograd.grad(out.sum(), (x, pos), allow_unused=True):
        assert gradient is None or not gradient.any()


def test_no_atoms(readout):
    empty = torch.empty(0, dtype=torch.int64)
    out = readout(torch.empty(0, F, dtype=F64), empty, torch.empty(0, 3, dtype=F64), empty, 2)
    assert out.tolist() == [[0.0] * readout.out_channels] * 2


def test_any_order_of_atoms(readout, atoms):
    x, pos = atoms
    order = torch.randperm(len(Z))  # structures may be interleaved
    close(readout(x[order], Z[order], pos[order], BATCH[order], B), readout(x, Z, pos, BATCH, B).detach().numpy())


def test_derivatives(readout, atoms):
    x, pos = (tensor.requires_grad_() for tensor in atoms)

    def function(x, pos):
        # a neutral single atom has no dipole, and the magnitude no derivative there
        return readout(x, Z, pos, BATCH, B)[[0, 2]]

    assert torch.autograd.gradcheck(function, (x, pos))
    assert torch.autograd.gradgradcheck(function, (x, pos))


def test_statistics_are_in_the_state_dict_and_not_trained():
    readout = SumReadout(F, 2, scale=3.0, shift=-1.0, atomref=torch.arange(20.0).reshape(10, 2))
    state = readout.state_dict()
    assert {"scale", "shift", "atomref"} <= set(state)
    assert state["scale"].tolist() == [3.0, 3.0]
    assert state["shift"].tolist() == [-1.0, -1.0]
    assert state["atomref"].shape == (MAX_Z + 1, 2)
    assert state["atomref"][:10].tolist() == torch.arange(20.0).reshape(10, 2).tolist()
    assert not state["atomref"][10:].any()
    assert not {"scale", "shift", "atomref"} & set(dict(readout.named_parameters()))
    other = SumReadout(F, 2)
    other.load_state_dict(state)
    x, pos = torch.randn(len(Z), F), torch.zeros(len(Z), 3)
    assert torch.equal(other(x, Z, pos, BATCH, B), readout(x, Z, pos, BATCH, B))
    assert "scale" in DipoleReadout(F).state_dict()
    assert "scale" in ElectronicSpatialExtentReadout(F).state_dict()


def test_references():
    readout = SumReadout(F)
    readout.set_references([0.0, 1.0, 2.0])
    assert readout.atomref[:4, 0].tolist() == [0.0, 1.0, 2.0, 0.0]
    readout.set_references(torch.tensor([[5.0]]))  # the former are gone
    assert readout.atomref[:3, 0].tolist() == [5.0, 0.0, 0.0]
    for shape in [(MAX_Z + 2,), (10, 2), (1, 10, 1)]:
        with pytest.raises(ValueError, match=r"atomref must hold one row for each atomic number.*got shape"):
            readout.set_references(torch.zeros(shape))


@pytest.mark.parametrize("name", ["sum", "mean", "dipole", "spatial-extent"])
def test_reset_keeps_statistics(name):
    readout = build(name)
    readout.scale.fill_(7.0)
    before = {key: value.clone() for key, value in readout.state_dict().items()}
    torch.manual_seed(4)
    readout.reset_parameters()
    first = {key: value.clone() for key, value in readout.state_dict().items()}
    torch.manual_seed(4)
    readout.reset_parameters()
    for key, value in readout.state_dict().items():
        assert torch.equal(value, first[key])
        assert torch.equal(value, before[key]) != key.startswith("network")


# dipoles


def neutral_dipole(**kwargs):
    readout = DipoleReadout(F, magnitude=False, **kwargs).to(F64)
    with torch.no_grad():
        readout.network.lin2.weight.normal_()
    return readout


@pytest.mark.parametrize("origin", ["mass", "zero"])
def test_dipole_of_neutral_molecules_has_no_origin(origin, atoms):
    x, pos = atoms
    readout = neutral_dipole(origin=origin)
    moved = readout(x, Z, pos + torch.tensor([3.0, -1.0, 20.0]), BATCH, B)
    close(moved, readout(x, Z, pos, BATCH, B).detach().numpy(), 1e-11)
    other = neutral_dipole(origin="zero" if origin == "mass" else "mass")
    other.load_state_dict(readout.state_dict())
    close(moved, other(x, Z, pos, BATCH, B).detach().numpy(), 1e-11)


def test_dipole_of_ions_is_taken_about_the_centre_of_mass(atoms):
    x, pos = atoms
    shift = torch.tensor([3.0, -1.0, 20.0], dtype=F64)
    readout = neutral_dipole(total_charge=1.0)
    close(readout(x, Z, pos + shift, BATCH, B)[:3], by_loop(readout, x, pos, total_charge=1.0)[:3], 1e-11)
    readout = neutral_dipole(total_charge=2.0, origin="zero")
    difference = readout(x, Z, pos + shift, BATCH, B) - readout(x, Z, pos, BATCH, B)
    close(difference[:3], 2.0 * shift.expand(3, 3).numpy(), 1e-11)


def test_charge_of_each_structure(atoms):
    x, pos = atoms
    charge = torch.tensor([1.0, -2.0, 0.0, 5.0], dtype=F64)
    readout = neutral_dipole()
    out = readout(x, Z, pos, BATCH, B, charge)
    for b in range(3):
        close(out[b], by_loop(readout, x, pos, total_charge=charge[b].item())[b])
    close(out[3], np.zeros(3))
    close(out[2], readout(x, Z, pos, BATCH, B)[2].detach().numpy())


def test_corrected_charges_add_up():
    # probe the charges by moving one atom: the dipole changes by its charge times the way
    x, pos = torch.randn(3, F, dtype=F64), torch.randn(3, 3, dtype=F64)
    z, batch = torch.tensor([8, 1, 1]), torch.zeros(3, dtype=torch.int64)
    for total in (0.0, -1.5):
        readout = neutral_dipole(origin="zero", total_charge=total)
        charges = []
        for i in range(3):
            moved = pos.clone()
            moved[i, 0] += 1.0
            charges.append((readout(x, z, moved, batch, 1) - readout(x, z, pos, batch, 1))[0, 0].item())
        assert sum(charges) == pytest.approx(total, abs=1e-12)
        assert max(map(abs, charges)) > 0.01


def test_dipole_rotates(atoms):
    x, pos = atoms
    rotation = random_rotation(1)
    vector = neutral_dipole()
    close(vector(x, Z, pos @ rotation, BATCH, B), (vector(x, Z, pos, BATCH, B) @ rotation).detach().numpy())
    magnitude = DipoleReadout(F).to(F64)
    magnitude.load_state_dict(vector.state_dict())
    close(magnitude(x, Z, pos, BATCH, B)[:, 0], vector(x, Z, pos, BATCH, B).norm(dim=1).detach().numpy())


def test_dipole_that_vanishes_by_symmetry():
    # CO2: equal charges left and right
    z, batch = torch.tensor([6, 8, 8]), torch.zeros(3, dtype=torch.int64)
    x = torch.randn(3, F, dtype=F64)
    x[2] = x[1]
    x = x.requires_grad_()
    pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.25], [0.0, 0.0, -1.25]], dtype=F64, requires_grad=True)
    out = DipoleReadout(F).to(F64)(x, z, pos, batch, 1)
    assert out.item() < 1e-15
    gradients = torch.autograd.grad(out.sum(), (x, pos), create_graph=True)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    second = torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), (x, pos), allow_unused=True)
    assert all(torch.isfinite(gradient).all() for gradient in second if gradient is not None)


def test_dipole_of_an_atom_is_zero_with_zero_gradient():
    x = torch.randn(1, F, dtype=F64, requires_grad=True)
    pos = torch.tensor([[1.0, 2.0, 3.0]], dtype=F64, requires_grad=True)
    out = DipoleReadout(F).to(F64)(x, torch.tensor([8]), pos, torch.tensor([0]), 1)
    (gradient,) = torch.autograd.grad(out.sum(), pos)
    assert out.item() == 0.0
    assert not gradient.any()


def test_dipole_in_debye(atoms):
    x, pos = atoms
    plain = neutral_dipole()
    debye = neutral_dipole(scale=factor("e·Å", "D"))
    debye.network.load_state_dict(plain.network.state_dict())
    # 1 D = 1e-21 / c C·m
    expected = 1.602176634e-19 * 1e-10 / (1e-21 / 299792458)
    close(debye(x, Z, pos, BATCH, B), expected * plain(x, Z, pos, BATCH, B).detach().numpy(), 1e-7)


def test_masses_are_those_of_ase():
    mass = DipoleReadout(F).atomic_mass
    assert mass[0] == 0
    np.testing.assert_allclose(mass[1:].numpy(), atomic_masses[1 : MAX_Z + 1], rtol=1e-7)


def test_spatial_extent_is_invariant(atoms):
    x, pos = atoms
    readout = build("spatial-extent")
    expected = readout(x, Z, pos, BATCH, B).detach().numpy()
    close(readout(x, Z, pos @ random_rotation(2) + 7.0, BATCH, B), expected, 1e-11)
    assert expected[1] == pytest.approx(0.0, abs=1e-12)  # one atom


def test_bad_options():
    with pytest.raises(ValueError, match=r"origin must be 'mass'.*got 'charge'"):
        DipoleReadout(F, origin="charge")
    with pytest.raises(ValueError, match="activation must be one of ssp, silu, tanh, got 'relu'"):
        SumReadout(F, activation="relu")


def test_atom_network_sizes():
    assert AtomNetwork(8).lin1.out_features == 4
    assert AtomNetwork(1).lin1.out_features == 1
    network, x = AtomNetwork(8, 3), torch.randn(5, 8)
    w = {name: value.detach().numpy() for name, value in network.named_parameters()}
    hidden = np.logaddexp(x.numpy() @ w["lin1.weight"].T + w["lin1.bias"], 0) - np.log(2)
    np.testing.assert_allclose(network(x).detach(), hidden @ w["lin2.weight"].T + w["lin2.bias"], rtol=1e-5, atol=1e-6)


def test_config_builds_the_same_and_repr_shows_it(readout, atoms):
    x, pos = atoms
    again = type(readout)(**readout.config).to(F64)
    again.load_state_dict(readout.state_dict())
    assert torch.equal(again(x, Z, pos, BATCH, B), readout(x, Z, pos, BATCH, B))
    assert repr(readout).startswith(f"{type(readout).__name__}(hidden_channels=6, ")
    for key, value in readout.config.items():
        assert f"{key}={value!r}" in repr(readout)


def test_interface():
    with pytest.raises(NotImplementedError):
        _ = Readout().config


def test_dtype_and_device_follow_the_module():
    for name in MAKE:
        with torch.device("meta"):
            readout = MAKE[name]()
        assert {value.device.type for value in readout.state_dict().values()} == {"meta"}
        x, pos = torch.randn(len(Z), F), torch.randn(len(Z), 3)
        assert MAKE[name]()(x, Z, pos, BATCH, B).dtype == torch.float32


@pytest.mark.parametrize("cls", [SumReadout, MeanReadout, MaxReadout])
@pytest.mark.parametrize("hooked", [False, True])
def test_dropout_acts_in_training_alone(cls, hooked):
    x, z, batch = torch.ones(4000, 8, dtype=F64), torch.ones(4000, dtype=torch.int64), torch.arange(4000)
    readout, dropping = cls(8).double(), cls(8, dropout=0.25).double()
    dropping.load_state_dict(readout.state_dict())
    if hooked:
        dropping.network.act.register_forward_hook(lambda *_: None)
    with torch.no_grad():
        for network in (readout.network, dropping.network):
            network.lin1.weight.fill_(1e-4)  # so small that softplus is linear, and a mean of outputs one of inputs
    expected = readout(x, z, x, batch, 4000)
    torch.testing.assert_close(dropping.eval()(x, z, x, batch, 4000), expected, rtol=1e-12, atol=0.0)
    found = dropping.train()(x, z, x, batch, 4000)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found.mean(), expected.mean(), rtol=0.02, atol=0.0)
    assert cls(**dropping.config).network.dropout == 0.25
    assert "dropout" not in readout.config


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_bad_dropout(dropout):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        MeanReadout(8, dropout=dropout)

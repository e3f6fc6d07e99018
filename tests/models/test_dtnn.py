import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pyg_schnet import DTNN
from pyg_schnet.nn import CosineCutoff, HardCutoff, MeanReadout

F64 = torch.float64


def make(**kwargs):
    model = DTNN(**{"hidden_channels": 8, "num_factors": 6, "num_interactions": 3, "num_gaussians": 10, **kwargs})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    return model.double()


def by_loop(model, z, pos):
    """Energy of one molecule, eq. (3) to (7) of the paper, in numpy with loops over pairs."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    basis = model.interactions[0].conv.basis
    x = w["embedding.weight"][z]
    for t in range(model.num_interactions):
        conv = f"interactions.{t % len(model.interactions)}.conv."
        update = np.zeros_like(x)
        for i in range(len(z)):
            for j in range(len(z)):
                d = np.linalg.norm(pos[i] - pos[j])
                if i == j or d >= model.cutoff:
                    continue
                expansion = np.exp(-basis.gamma * (d - np.linspace(0, model.cutoff, model.num_gaussians)) ** 2)
                factors = w[conv + "lin_features.weight"] @ x[j] + w[conv + "lin_features.bias"]
                factors = factors * (w[conv + "lin_dist.weight"] @ expansion + w[conv + "lin_dist.bias"])
                window = 0.5 * (np.cos(np.pi * d / model.cutoff) + 1) if model.window == "cosine" else 1.0
                update[i] += np.tanh(w[conv + "lin_out.weight"] @ factors) * window
        x = x + update
    out = np.tanh(x @ w["readout.network.lin1.weight"].T + w["readout.network.lin1.bias"])
    return (out @ w["readout.network.lin2.weight"].T + w["readout.network.lin2.bias"]).sum(0)


@pytest.mark.parametrize(
    "options",
    [{}, {"window": "cosine", "cutoff": 3.0}, {"shared_weights": False, "out_channels": 2}, {"cutoff": 2.0}],
    ids=str,
)
def test_equals_the_equations(options, ethanol, tensors):
    model = make(**options)
    expected = by_loop(model, ethanol.numbers, ethanol.positions)
    # the centres of the Gaussians are made in float32
    np.testing.assert_allclose(model(**tensors(ethanol))[0].detach().numpy(), expected, rtol=1e-6, atol=1e-7)


def test_defaults_are_those_of_the_paper():
    model = DTNN()
    assert (model.hidden_channels, model.num_factors, model.num_interactions) == (30, 60, 3)
    conv = model.interactions[0].conv
    assert len(model.interactions) == 1
    assert conv.basis.gamma == pytest.approx(0.5 / 0.2**2)
    np.testing.assert_allclose(conv.basis.centers.diff().numpy(), 0.2, atol=1e-5)
    assert isinstance(conv.window, HardCutoff)
    assert model.readout.activation == "tanh"
    assert model.readout.network.lin1.out_features == 15


def test_options():
    model = make(window="cosine", shared_weights=False, readout="mean", cutoff=4.0)
    assert len(model.interactions) == 3
    assert isinstance(model.interactions[2].conv.window, CosineCutoff)
    assert isinstance(model.readout, MeanReadout)
    assert make(out_channels=4).readout.out_channels == 4
    with pytest.raises(ValueError, match="window must be one of"):
        make(window="soft")
    with pytest.raises(ValueError, match="cutoff must be a positive length"):
        make(cutoff=-1.0)


def test_every_weight_matters(molecules):
    model = make()
    model(**molecules).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_padding_acts_on_nothing(molecules):
    model = make()
    z, pos = torch.cat([molecules["z"], torch.zeros(1, dtype=torch.int64)]), molecules["pos"]
    padded = model(z, torch.cat([pos, pos[-1:] + 0.1]), torch.cat([molecules["batch"], molecules["batch"][-1:]]))
    torch.testing.assert_close(padded, model(**molecules), rtol=1e-12, atol=1e-12)


def test_reset_parameters():
    model = make()
    before = {key: value.clone() for key, value in model.named_parameters()}
    torch.manual_seed(1)
    model.reset_parameters()
    first = {key: value.clone() for key, value in model.named_parameters()}
    torch.manual_seed(1)
    model.reset_parameters()
    for key, value in model.named_parameters():
        assert torch.equal(value, first[key])
        assert not torch.equal(value, before[key])


def test_without_memory():
    with torch.device("meta"):
        model = DTNN()
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}
    with FakeTensorMode():
        z, edge_index = torch.empty(5, dtype=torch.int64), torch.empty(2, 12, dtype=torch.int64)
        assert DTNN()(z, torch.empty(5, 3), z, edge_index=edge_index, batch_size=2).shape == (2, 1)


def test_float32_is_close_to_float64(molecules):
    model = make().float()
    single = model(molecules["z"], molecules["pos"].float(), molecules["batch"])
    torch.testing.assert_close(single.double(), model.double()(**molecules), rtol=1e-5, atol=1e-5)


def test_repr():
    text = repr(DTNN(8, 6, 2, 10, 4.5))
    assert text.startswith("DTNN(hidden_channels=8, num_factors=6, num_interactions=2, num_gaussians=10, cutoff=4.5, ")
    assert text.endswith("readout=SumReadout(hidden_channels=8, out_channels=1, activation='tanh'))")

import pytest
import torch

from pyg_schnet import DTNN, SchNet
from pyg_schnet.models import SchNetCommittee, load
from pyg_schnet.train.transfer import start_from


def test_atoms_get_the_features_of_the_trained_model():
    torch.manual_seed(0)
    trained, network = SchNet(8, 8, 2, cutoff=5.0), SchNet(8, 8, 2, cutoff=5.0, readout="mean", filters="exact")
    readout = {name: value.clone() for name, value in network.readout.state_dict().items()}
    seen = []
    for model in (trained, network):
        model.readout.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    z, pos = torch.tensor([8, 1, 1]), torch.randn(3, 3)
    start_from(network, trained)
    for model in (trained, network):
        model.train()(z, pos)
    torch.testing.assert_close(seen[0], seen[1])
    assert all(torch.equal(network.readout.state_dict()[name], value) for name, value in readout.items())


def test_weights_are_copies():
    trained, network = SchNet(8, 8, 2), SchNet(8, 8, 2)
    start_from(network, trained)
    with torch.no_grad():
        network.embedding.weight.fill_(7.0)
    assert not (trained.embedding.weight == 7.0).any()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (SchNet(8, 8, 3), "num_interactions=3 instead of 2"),
        (SchNet(8, 8, 2, gamma=3.0, cutoff=5.0), "cutoff=5.0 instead of 10.0, gamma=3.0 instead of None"),
        (DTNN(8, 8, 2), "a DTNN cannot start from a SchNet"),
    ],
)
def test_other_networks_are_refused(network, message):
    with pytest.raises(ValueError, match=message):
        start_from(network, SchNet(8, 8, 2))


def test_a_committee_is_no_start_but_its_models_are(tmp_path):
    committee, network = SchNetCommittee([SchNet(8, 8, 2) for _ in range(2)]), SchNet(8, 8, 2)
    with pytest.raises(ValueError, match=r"a SchNet cannot start from a committee.*load\(NAME\)\.models\(\)\[0\]"):
        start_from(network, committee)
    path = committee.models()[0].save(tmp_path / "one.safetensors")
    start_from(network, load(path))
    assert torch.equal(network.embedding.weight, committee.models()[0].embedding.weight)

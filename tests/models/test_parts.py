import json

import pytest
import torch

from pyg_schnet.models.parts import READOUTS, WINDOWS, describe_readout, make_readout, make_window
from pyg_schnet.nn import CosineCutoff, DipoleReadout, HardCutoff, MeanReadout, SumReadout


def test_windows():
    assert isinstance(make_window("cosine", 4.0), CosineCutoff)
    assert isinstance(make_window("hard", 4.0), HardCutoff)
    assert make_window("hard", 4.0).cutoff == 4.0
    assert set(WINDOWS) == {"cosine", "hard"}
    with pytest.raises(ValueError, match="window must be one of cosine, hard, got 'tanh'"):
        make_window("tanh", 4.0)


@pytest.mark.parametrize("name", READOUTS)
def test_readouts_by_name(name):
    readout = make_readout(name, 24, 1)
    assert type(readout) is READOUTS[name]
    assert readout.hidden_channels == 24
    described = json.loads(json.dumps(describe_readout(readout)))
    again = make_readout(described, 24, 1)
    assert type(again) is type(readout)
    assert again.config == readout.config


def test_several_outputs():
    assert make_readout("sum", 8, 3).out_channels == 3
    several, single = make_readout("mean", 8, 3), make_readout("mean", 8, 1)
    single.network.lin1.load_state_dict(several.network.lin1.state_dict())
    given = (torch.randn(3, 8), *inputs()[1:], 2)
    for column in range(3):
        single.network.lin2.weight.data.copy_(several.network.lin2.weight[column : column + 1])
        torch.testing.assert_close(several(*given)[:, column], single(*given)[:, 0])
    for name in ("dipole", "spatial_extent"):
        with pytest.raises(ValueError, match="has one output, got out_channels=3"):
            make_readout(name, 8, 3)


def inputs():
    return torch.zeros(3, 8), torch.tensor([8, 1, 1]), torch.zeros(3, 3), torch.tensor([0, 0, 1])


def test_modules_are_taken_as_they_are():
    readout = DipoleReadout(8)
    assert make_readout(readout, 8, 1) is readout
    with pytest.raises(ValueError, match="takes 8 features but the model has hidden_channels=16"):
        make_readout(readout, 16, 1)


def test_bad_names():
    with pytest.raises(ValueError, match="readout must be a module or one of sum, add, mean"):
        make_readout("median", 8, 1)
    with pytest.raises(ValueError, match=r"readout class must be one of .*SumReadout.*, got 'MinReadout'"):
        make_readout({"class": "MinReadout"}, 8, 1)
    with pytest.raises(ValueError, match="got None"):
        make_readout({"hidden_channels": 8}, 8, 1)


def test_unknown_modules_have_no_description():
    with pytest.raises(ValueError, match="a readout of class Linear cannot be stored"):
        describe_readout(torch.nn.Linear(3, 1))
    assert describe_readout(SumReadout(8))["class"] == "SumReadout"
    assert describe_readout(MeanReadout(8, 2))["out_channels"] == 2

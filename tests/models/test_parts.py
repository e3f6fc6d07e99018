import json

import pytest
import torch
from torch_geometric.nn.aggr import SumAggregation

from pyg_schnet import DTNN, InteractionGraph, SchNet, radius_graph
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
    with pytest.raises(TypeError, match=r"readout must be one of sum, .*, got 8"):  # a head of the name hidden_channels
        make_readout({"hidden_channels": 8}, 8, 1)


def test_unknown_modules_have_no_description():
    with pytest.raises(ValueError, match="a readout of class Linear cannot be stored"):
        describe_readout(torch.nn.Linear(3, 1))
    assert describe_readout(SumReadout(8))["class"] == "SumReadout"
    assert describe_readout(MeanReadout(8, 2))["out_channels"] == 2


@pytest.mark.parametrize("cls", [SchNet, DTNN])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interaction_graph": InteractionGraph(5.0)}, "has no interaction_graph.* give edge_index"),
        ({"max_num_neighbors": 32}, "has no max_num_neighbors.* every neighbour within the cutoff counts"),
        ({"dipole": True}, 'has no dipole.* write readout="dipole"'),
        ({"mean": 1.0, "std": 2.0}, r"has no mean, std.* write readout=SumReadout\(hidden_channels, shift=mean"),
        ({"atomref": torch.zeros(100, 1)}, "has no atomref.* write readout=SumReadout"),
    ],
)
def test_keywords_of_pyg_are_explained(cls, options, message):
    with pytest.raises(TypeError, match=rf"{cls.__name__} {message}.*SchNet\.like_pyg"):
        cls(**options)


@pytest.mark.parametrize("cls", [SchNet, DTNN])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 32), "readout must be one of .* got None"),
        ((InteractionGraph(5.0), 32), "readout must be a module with the call .* got InteractionGraph"),
        ((radius_graph,), "readout must be one of .* got a function"),
        ((None, 32, "add"), "seven arguments by position, .* got 8"),
    ],
)
def test_order_of_pyg_is_explained(cls, arguments, message):
    with pytest.raises(TypeError, match=rf"{message}.*SchNet\.like_pyg\(\.\.\.\) takes PyTorch Geometric's arguments"):
        cls(16, 16, 2, 12, 5.0, *arguments)


@pytest.mark.parametrize("cls", [SchNet, DTNN])
@pytest.mark.parametrize(
    ("readout", "message"),
    [
        (3, "readout must be one of .* got 3"),
        (SumReadout, r"got the class SumReadout; build one: SumReadout\("),
        (SumAggregation(), 'got an aggregation of PyTorch Geometric, .* write "sum"'),
        (torch.nn.Linear(16, 1), "a module with the call"),
    ],
)
def test_what_is_no_readout_is_refused(cls, readout, message):
    with pytest.raises(TypeError, match=message):
        cls(16, readout=readout)


class Own(torch.nn.Module):
    def forward(self, x, z, pos, batch, batch_size):
        return x.new_zeros(batch_size, 1).index_add(0, batch, x[:, :1])


def test_any_module_with_the_call_of_a_readout_serves():
    model = SchNet(8, 8, 1, 10, 5.0, readout=Own())
    assert model(torch.tensor([8, 1]), torch.eye(3)[:2]).shape == (1, 1)


def test_add_is_sum():
    for cls in (SchNet, DTNN):
        assert cls(8, readout="add").config == cls(8, readout="sum").config
        assert cls(8, readout="add").config["readout"]["class"] == "SumReadout"


@pytest.mark.parametrize("out_channels", [0, None, 2.0, True])
def test_out_channels_is_a_number(out_channels):
    with pytest.raises(ValueError, match=r"out_channels must be a whole number.* it is the number of properties"):
        SchNet(8, out_channels=out_channels)


def test_out_channels_of_a_given_readout():
    assert SchNet(8, readout=SumReadout(8, 3), out_channels=3).readout.out_channels == 3
    with pytest.raises(ValueError, match=r"the readout gives 3 value\(s\) but the model has out_channels=2"):
        SchNet(8, readout=SumReadout(8, 3), out_channels=2)
    with pytest.raises(ValueError, match="takes 16 features but the model has hidden_channels=8"):
        SchNet(8, readout={"class": "SumReadout", "hidden_channels": 16})

import json
import pickle
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import pyg_schnet
from pyg_schnet import DTNN, SchNet, load
from pyg_schnet.models import AtomisticModel, CheckpointMixin
from pyg_schnet.models.checkpoint import FORMAT, read_header
from pyg_schnet.nn import (
    DipoleReadout,
    ElectronicSpatialExtentReadout,
    MaxReadout,
    MeanReadout,
    Readout,
    SumReadout,
)

READOUTS = {
    "sum": lambda: SumReadout(8, 2, activation="silu", scale=3.0, shift=-1.5, atomref=torch.arange(20.0).view(10, 2)),
    "mean": lambda: MeanReadout(8, scale=0.1),
    "max": lambda: MaxReadout(8, scale=2.0),
    "dipole": lambda: DipoleReadout(8, scale=4.8),
    "dipole-vector": lambda: DipoleReadout(8, magnitude=False, neutralize=False, origin="zero", total_charge=1.0),
    "extent": lambda: ElectronicSpatialExtentReadout(8, activation="tanh"),
}
OPTIONS = {
    "default": {},
    "other": {
        "gamma": 7.5,
        "trainable_gaussians": True,
        "window": "hard",
        "normalize": True,
        "activate_filters": False,
        "shared_weights": True,
    },
}


def schnet(readout="sum", **kwargs):
    return SchNet(8, 6, 2, 10, 4.5, READOUTS[readout](), **kwargs)


def dtnn(readout="sum", **kwargs):
    return DTNN(8, 6, 2, 10, 4.5, READOUTS[readout](), **kwargs)


def rewrite_header(path, **changes):
    """Change entries of the header of a file."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["pyg_schnet"])
    save_file(load_file(path), path, metadata={"pyg_schnet": json.dumps({**header, **changes})})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize(
    "make",
    [schnet, lambda r: schnet(r, **OPTIONS["other"]), dtnn, lambda r: dtnn(r, window="cosine", shared_weights=False)],
    ids=["schnet", "schnet-other", "dtnn", "dtnn-other"],
)
def test_round_trip(make, readout, dtype, molecules, tmp_path):
    model = make(readout).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = model.save(tmp_path / "model.safetensors")
    again = load(path)
    assert type(again) is type(model)
    assert again.config == model.config
    assert not again.training
    assert repr(again) == repr(model)
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        found = again.state_dict()[key]
        assert found.dtype == value.dtype == dtype
        assert torch.equal(found, value), key
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert {key for key, parameter in again.named_parameters() if parameter.requires_grad} == trained
    arguments = (molecules["z"], molecules["pos"].to(dtype), molecules["batch"])
    assert torch.equal(again(*arguments), model.eval()(*arguments))


def test_loaded_models_can_be_trained_and_saved_again(molecules, tmp_path):
    model = load(schnet().save(tmp_path / "a.safetensors")).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = {key: value.clone() for key, value in model.named_parameters()}
    model(molecules["z"], molecules["pos"].float(), molecules["batch"]).square().sum().backward()
    optimizer.step()
    assert any(not torch.equal(value, before[key]) for key, value in model.named_parameters())
    again = load(model.save(tmp_path / "b.safetensors"))
    assert torch.equal(again.embedding.weight, model.embedding.weight)


def test_header(tmp_path):
    model = schnet("mean")
    path = model.save(tmp_path / "model.safetensors", target="gap", unit="eV", split={"train": 10}, mae=0.05)
    header = read_header(path)
    assert header == {
        "format": FORMAT,
        "version": pyg_schnet.__version__,
        "class": "SchNet",
        "hyper_parameters": model.config,
        "units": {"length": "Å", "output": "eV"},
        "card": {"target": "gap", "unit": "eV", "split": {"train": 10}, "mae": 0.05},
    }
    assert header["hyper_parameters"]["readout"]["class"] == "MeanReadout"


def test_card_stays_with_the_model(tmp_path):
    model = schnet()
    assert model.card == {}
    model.save(tmp_path / "a.safetensors", target="U0", unit="eV")
    assert model.card == {"target": "U0", "unit": "eV"}
    again = load(tmp_path / "a.safetensors")
    assert again.card == {"target": "U0", "unit": "eV"}
    again.save(tmp_path / "b.safetensors", unit="meV")
    assert load(tmp_path / "b.safetensors").card == {"target": "U0", "unit": "meV"}
    assert model.card["unit"] == "eV"


def test_folders_are_made_and_nothing_is_left_behind(tmp_path):
    path = schnet().save(tmp_path / "deep" / "folder" / "model.safetensors")
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_overwriting(tmp_path):
    path = schnet().save(tmp_path / "model.safetensors")
    dtnn().save(path)
    assert isinstance(load(path), DTNN)


def test_failed_save_keeps_the_old_file(tmp_path):
    path = schnet().save(tmp_path / "model.safetensors")
    old = path.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        schnet().save(path, data=object())
    assert path.read_bytes() == old


def test_class_it_is_called_on(tmp_path):
    path = schnet().save(tmp_path / "model.safetensors")
    for cls in (SchNet, AtomisticModel, CheckpointMixin):
        assert isinstance(cls.load(path), SchNet)
    with pytest.raises(ValueError, match="holds a SchNet, expected a DTNN"):
        DTNN.load(path)


def test_unknown_class(tmp_path):
    path = schnet().save(tmp_path / "model.safetensors")
    rewrite_header(path, **{"class": "PaiNN"})
    with pytest.raises(ValueError, match=r"holds a PaiNN, expected a .*SchNet"):
        load(path)


@pytest.mark.parametrize("length", [0, 4, 200, -100])
def test_truncated_file(tmp_path, length):
    path = schnet().save(tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        load(path)


def test_other_files(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="safetensors file of another program"):
        load(path)
    save_file({"weight": torch.zeros(3)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="safetensors file of another program"):
        read_header(path)
    path.write_text("energy = 1.0\n" * 10)
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        load(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model file at .*missing\.safetensors"):
        load(tmp_path / "missing.safetensors")
    with pytest.raises(FileNotFoundError):
        load(tmp_path)


def test_newer_format(tmp_path):
    path = schnet().save(tmp_path / "model.safetensors")
    rewrite_header(path, format=FORMAT + 1, version="9.9")
    with pytest.raises(ValueError, match=rf"written by pyg_schnet 9\.9 in format {FORMAT + 1}.*please update"):
        load(path)


def test_weights_that_do_not_fit(tmp_path):
    path = schnet().save(tmp_path / "model.safetensors")
    rewrite_header(path, hyper_parameters={**schnet().config, "num_filters": 7})
    with pytest.raises(ValueError, match="weights do not fit the configuration"):
        load(path)


class Custom(Readout):
    """A readout of the user's."""

    out_channels = 1

    @property
    def config(self):
        return {}

    def forward(self, x, z, pos, batch, batch_size):
        return x.new_zeros(batch_size, 1)


class Derived(SumReadout):
    """A subclass that a file could not tell from its parent."""


@pytest.mark.parametrize("readout", [Custom(), Derived(8)])
def test_custom_readouts_are_refused(readout, tmp_path):
    model = SchNet(8, 6, 1, 10, 4.5, readout)
    with pytest.raises(ValueError, match=rf"class {type(readout).__name__} cannot be stored in a model file"):
        model.save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_no_pickle(tmp_path):
    path = schnet().save(tmp_path / "model.safetensors")
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert json.loads(content[8 : 8 + length])["__metadata__"].keys() == {"pyg_schnet"}
    evil = tmp_path / "evil.safetensors"
    evil.write_bytes(pickle.dumps({"weights": [1, 2, 3]}, protocol=5) * 10)
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        load(evil)


def test_reading_draws_no_random_numbers_that_matter(tmp_path):
    model = schnet()
    path = model.save(tmp_path / "model.safetensors")
    torch.manual_seed(1)
    first = load(path)
    torch.manual_seed(2)
    assert torch.equal(first.embedding.weight, load(path).embedding.weight)


def test_device(tmp_path):
    path = schnet().save(tmp_path / "model.safetensors")
    assert {value.device.type for value in load(path, device="cpu").state_dict().values()} == {"cpu"}
    assert {value.device.type for value in load(path, torch.device("cpu")).state_dict().values()} == {"cpu"}

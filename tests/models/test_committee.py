"""Several SchNets in one file."""

import pytest
import torch

from pyg_schnet import SchNet, load
from pyg_schnet.interfaces import calibrate
from pyg_schnet.models import SchNetCommittee, read_header, rounded

Z = torch.tensor([8, 1, 1, 6])
POS = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0], [1.0, 1.4, 0.3]])


def schnet(seed, width=16, **options):
    torch.manual_seed(seed)
    model = SchNet(width, width, 2, 12, 4.0, **options).eval()
    model.readout.set_references(torch.linspace(-300.0 - seed, 0.0, 100))
    model.card.update(unit="eV", target="energy", elements=["H", "C", "O"], seed=seed)
    return model


def committee():
    return SchNetCommittee([schnet(seed, width) for seed, width in enumerate((16, 24, 16))])


def test_a_file_gives_the_same_members_and_their_mean(tmp_path):
    made = committee()
    path = made.save(tmp_path / "three.safetensors", data="none")
    found = load(path)
    assert isinstance(found, SchNetCommittee)
    assert not found.training
    assert found.card == made.card == {"unit": "eV", "target": "energy", "elements": ["H", "C", "O"], "data": "none"}
    assert all(model.card == found.card for model in found.models())
    each = torch.stack([member(Z, POS) for member in made])
    assert torch.equal(torch.stack([member(Z, POS) for member in found]), each)
    torch.testing.assert_close(found(Z, POS), each.mean(0))
    one = found.joined()
    assert (type(one), one.hidden_channels, one.card) == (SchNet, 56, found.card)
    torch.testing.assert_close(one.double()(Z, POS.double()), each.mean(0).double(), rtol=1e-6, atol=0)


def test_members_that_are_no_mean_of_a_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least two members, got 1"):
        SchNetCommittee([schnet(0)])
    with pytest.raises(ValueError, match="must have the same normalize"):
        SchNetCommittee([schnet(0), schnet(1, normalize=True)])
    with pytest.raises(ValueError, match="holds a SchNetCommittee, expected a SchNet"):
        SchNet.load(committee().save(tmp_path / "three.safetensors"))


def test_float16_files_are_half_as_large_and_load_as_float32(tmp_path):
    made = committee()
    whole, half = made.save(tmp_path / "a.safetensors"), made.save(tmp_path / "b.safetensors", storage="float16")
    assert half.stat().st_size < 0.65 * whole.stat().st_size
    assert read_header(half)["storage"] == "float16"
    assert "storage" not in read_header(whole)
    found, expected = load(half), rounded(made)
    assert {value.dtype for value in found.state_dict().values()} == {torch.float32}
    for name, value in made.state_dict().items():
        stored = found.state_dict()[name]
        assert torch.equal(stored, expected.state_dict()[name])
        if value.dim() == 2 and not name.endswith("atomref"):
            assert (stored - value).abs().max() <= 2**-11 * value.abs().max()
            assert torch.equal(stored, value.half().float())
        else:  # energies of elements, biases, scales, centres
            assert torch.equal(stored, value)


def test_float64_models_are_stored_as_float16_too(tmp_path):
    model = schnet(0).double()
    found = load(model.save(tmp_path / "a.safetensors", storage="float16"))
    torch.testing.assert_close(found(Z, POS).double(), model(Z, POS.double()), rtol=1e-5, atol=0)


def test_what_float16_cannot_hold_is_refused(tmp_path):
    model = schnet(0)
    with pytest.raises(ValueError, match="storage must be one of float16, or None, got 'int8'"):
        model.save(tmp_path / "a.safetensors", storage="int8")
    with torch.no_grad():
        model.interactions[1].lin1.weight[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"interactions\.1\.lin1\.weight has the weight 1e\+05, too large for float16"):
        model.save(tmp_path / "a.safetensors", storage="float16")
    assert not list(tmp_path.iterdir())


def test_rounding_after_a_calibration_is_refused(tmp_path, water):
    from ase.calculators.singlepoint import SinglePointCalculator

    water.calc = SinglePointCalculator(water, energy=-3.0)
    made = committee()
    calibrate(made, [water])
    with pytest.raises(ValueError, match=r"calibrate pyg_schnet\.models\.rounded\(committee\), then save that"):
        made.save(tmp_path / "a.safetensors", storage="float16")
    small = rounded(made)
    factors = calibrate(small, [water])
    path = small.save(tmp_path / "a.safetensors", storage="float16")
    assert load(path).card["calibration"]["energy"] == factors["energy"]
    assert calibrate(path, [water]) == factors  # of the file, which keeps its storage
    assert read_header(path)["storage"] == "float16"

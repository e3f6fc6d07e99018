import pytest
import torch

from pyg_schnet import SchNet, load
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.models.card import check_card, unit_of
from pyg_schnet.models.parts import make_readout
from pyg_schnet.models.targets import one_target
from pyg_schnet.nn import HeadsReadout, MeanReadout, SumReadout
from pyg_schnet.potential import Potential

Z = torch.tensor([8, 1, 1])
POS = torch.tensor([[0.0, 0.0, 0.1], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
UNITS = {"mu": "D", "U0": "eV", "H": "eV", "spectrum": "eV", "r2": "a₀²"}


def model():
    torch.manual_seed(0)
    found = SchNet(
        16, 16, 2, 10, 5.0,
        readout={
            "mu": "dipole",
            "U0, H": "sum",
            "spectrum": {"class": "MeanReadout", "out_channels": 3},
            "r2": {"class_path": "pyg_schnet.nn.ElectronicSpatialExtentReadout", "init_args": {"own_extent": True}},
        },
    ).eval()  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for head in found.readout.heads:
        for name in ("atomref", "shift", "scale", "references"):
            if hasattr(head, name):
                getattr(head, name).uniform_(0.5, 1.5, generator=generator)
    found.card.update(
        targets={name: {"unit": unit} for name, unit in UNITS.items()},
        test={name: {"mae": {unit: 1.0}} for name, unit in UNITS.items()},
        elements=["H", "O"],
    )
    return found


def test_a_file_keeps_all_heads(tmp_path):
    whole = model()
    again = load(whole.save(tmp_path / "whole.safetensors"))
    assert again.config == whole.config
    torch.testing.assert_close(again(Z, POS), whole(Z, POS), rtol=0, atol=0)
    assert again.card["targets"]["r2"] == {"unit": "a₀²"}


@pytest.mark.parametrize("name", UNITS)
def test_one_target_gives_its_numbers_and_nothing_else(tmp_path, name):
    whole = model()
    path = whole.save(tmp_path / "whole.safetensors")
    one = load(path, target=name)
    torch.testing.assert_close(one(Z, POS), whole(Z, POS)[:, whole.readout.columns[name]], rtol=1e-6, atol=1e-6)
    assert not isinstance(one.readout, HeadsReadout)
    assert one.card == {
        "target": name, "unit": UNITS[name], "test": {name: {"mae": {UNITS[name]: 1.0}}}, "elements": ["H", "O"],
    }  # fmt: skip
    again = load(one.save(tmp_path / "one.safetensors"))
    torch.testing.assert_close(again(Z, POS), one(Z, POS), rtol=0, atol=0)
    assert load(tmp_path / "one.safetensors", target=name).card == one.card


def test_one_target_is_a_model_of_its_own():
    whole = model()
    before = whole(Z, POS)
    one = one_target(whole, "H")
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(whole(Z, POS), before, rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in one.parameters())


def test_one_energy_takes_the_fast_way_and_goes_where_energies_go():
    whole = model()
    one = one_target(whole, "U0")
    assert one.plan(Z, POS, forces=True).program == "potential"
    assert whole.plan(Z, POS, forces=True).program == "interactions"
    energy, forces, _ = Potential(one, untrained_forces=True)(Z, POS)
    found = energy_forces_stress(lambda z, pos, *_, **given: whole(z, pos, **given)[:, 1:2], Z, POS)
    assert float(energy) == pytest.approx(float(found.energy), rel=1e-5)
    torch.testing.assert_close(forces.float(), found.forces, rtol=1e-3, atol=1e-4)


def test_all_targets_where_one_energy_is_needed_are_refused():
    with pytest.raises(ValueError, match=r"predicts mu, U0, H, spectrum, r2 together, .* load\(..., target='mu'\)"):
        Potential(model())
    with pytest.raises(ValueError, match="one of them is needed here"):
        unit_of(model().card, "eV")


def test_a_target_that_is_not_there_is_said(tmp_path):
    path = model().save(tmp_path / "whole.safetensors")
    with pytest.raises(ValueError, match="does not predict 'gap'; it predicts mu, U0, H, spectrum, r2"):
        load(path, target="gap")
    with pytest.raises(ValueError, match="does not predict 'gap', but U0"):
        load("qm9-u0", target="gap")
    assert load("qm9-u0", target="U0").card["target"] == "U0"


@pytest.mark.parametrize("given", [{"mu": "D"}, ["mu"], {"mu": {"unit": 3}}])
def test_cards_with_other_targets_are_refused(given):
    with pytest.raises(ValueError, match="'targets' of the card must be a dictionary of targets, each with its unit"):
        check_card({"targets": given})


def test_heads_by_name_description_and_module():
    readout = make_readout({"a": "mean", "b, c": {"class": "SumReadout"}, "d": SumReadout(8)}, 8, 1)
    assert [type(head) for head in readout.heads] == [MeanReadout, SumReadout, SumReadout]
    assert readout.out_channels == 4
    with pytest.raises(ValueError, match="the head 'a': readout must be a module or one of"):
        make_readout({"a": "median"}, 8, 1)
    with pytest.raises(ValueError, match="takes 16 features but the model has hidden_channels=8"):
        make_readout({"a": SumReadout(16)}, 8, 1)
    with pytest.raises(ValueError, match="a head of a HeadsReadout cannot be a HeadsReadout"):
        make_readout({"class": "HeadsReadout", "heads": {"a": {"class": "HeadsReadout", "heads": {}}}}, 8, 1)
    with pytest.raises(ValueError, match="must be a dictionary with a description for each"):
        make_readout({"class": "HeadsReadout", "heads": {"a": 3}}, 8, 1)

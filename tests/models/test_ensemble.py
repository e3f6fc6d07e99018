import pytest
import torch

from pyg_schnet import DTNN, SchNet
from pyg_schnet.derivatives import energy_forces_stress
from pyg_schnet.models import join_ensemble

F64 = torch.float64


def make(seed, hidden_channels=8, num_filters=6, readout="sum", **options):
    torch.manual_seed(seed)
    model = SchNet(hidden_channels, num_filters, 2, 10, 4.5, readout, **options).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        model.readout.scale.fill_(1.0 + seed)
        model.readout.shift.fill_(0.5 * seed)
        model.readout.atomref.normal_()
        model.embedding.weight[0] = 0.0
    return model.eval()


def batch():
    generator = torch.Generator().manual_seed(0)
    z = torch.tensor([8, 1, 1, 6, 7, 1, 1])
    pos = 3.0 * torch.rand(7, 3, dtype=F64, generator=generator)
    return z, pos, torch.tensor([0, 0, 0, 1, 1, 1, 1])


OPTIONS = {
    "default": {},
    "hard": {"window": "hard", "normalize": True, "shared_weights": True},
    "pyg": {"activate_filters": False, "gamma": 3.0},
}


@pytest.mark.parametrize("filters", ["exact", "auto"])
@pytest.mark.parametrize("readout", ["sum", "mean"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_gives_the_mean_of_values_and_forces(options, readout, filters):
    models = [make(seed, 6 + 2 * seed, 4 + seed, readout, filters=filters, **options) for seed in range(3)]
    merged = join_ensemble(models)
    assert (merged.hidden_channels, merged.num_filters) == (6 + 8 + 10, 4 + 5 + 6)
    found = energy_forces_stress(merged, *batch())
    each = [energy_forces_stress(model, *batch()) for model in models]
    torch.testing.assert_close(found.energy, torch.stack([one.energy for one in each]).mean(0), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.forces, torch.stack([one.forces for one in each]).mean(0), rtol=1e-9, atol=1e-10)


def test_one_model_is_itself_and_files_are_read(tmp_path):
    model = make(0)
    model.card = {"unit": "eV", "elements": ["H", "C", "N", "O"]}
    merged = join_ensemble([model])
    assert merged.config == model.config
    assert merged.card == model.card
    again = SchNet.load(merged.save(tmp_path / "merged.safetensors"))
    torch.testing.assert_close(again(*batch()), model(*batch()), rtol=1e-12, atol=1e-12)


def test_card_has_what_all_have_in_common():
    models = [make(0), make(1)]
    models[0].card = {"unit": "eV", "elements": ["H", "C", "O"], "test": {"E": 1.0}}
    models[1].card = {"unit": "eV", "elements": ["H", "O", "F"], "test": {"E": 2.0}}
    assert join_ensemble(models).card == {"unit": "eV", "elements": ["H", "O"]}


def test_padding_stays_padding():
    merged = join_ensemble([make(0), make(1)])
    z, pos, index = batch()
    z[3] = 0
    kept = torch.tensor([0, 1, 2, 4, 5, 6])
    torch.testing.assert_close(merged(z, pos, index), merged(z[kept], pos[kept], index[kept]))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([], "no models to merge"),
        ([make(0), make(1, gamma=3.0)], "the same gamma"),
        ([make(0), make(1, readout="mean")], "the same readout"),
        ([make(0, trainable_gaussians=True)], "trainable_gaussians"),
        ([make(0), SchNet(8, 6, 2, 10, 4.5, "max")], "a sum or a mean as readout"),
        ([DTNN(8, 6, 2, 10, 4.5)], "got a DTNN"),
        ([make(0, 7), make(1, 7)], "odd number of features cannot be merged, got 7, 7"),
    ],
)
def test_what_does_not_fit_is_refused(others, message):
    with pytest.raises(ValueError, match=message):
        join_ensemble(others)


def test_other_units_are_refused():
    models = [make(0), make(1)]
    models[0].card, models[1].card = {"unit": "eV"}, {"unit": "kcal/mol"}
    with pytest.raises(ValueError, match="the same unit, got eV and kcal/mol"):
        join_ensemble(models)

import pytest
import torch

from pyg_schnet.train import EMA


def test_average_follows_the_formula():
    ema = EMA(decay=0.9)
    average, weight = [torch.tensor([1.0])], [torch.tensor([3.0])]
    ema._latest_update_step = 2
    assert ema.current_decay() == pytest.approx(3 / 12)
    ema._average(average, weight, 0)
    assert average[0].item() == pytest.approx(0.25 * 1.0 + 0.75 * 3.0)
    ema._latest_update_step = 1000
    assert ema.current_decay() == 0.9


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="decay must be at least 0 and below 1"):
        EMA(decay)

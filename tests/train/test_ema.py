import pytest
import torch

from pyg_schnet.train import EMA


def test_average_follows_the_formula():
    ema = EMA(decay=0.9, every=1)
    average, weight = [torch.tensor([1.0])], [torch.tensor([3.0])]
    ema._latest_update_step = 2
    assert ema.current_decay() == pytest.approx(3 / 12)
    ema._average(average, weight, 0)
    assert average[0].item() == pytest.approx(0.25 * 1.0 + 0.75 * 3.0)
    ema._latest_update_step = 1000
    assert ema.current_decay() == 0.9


def test_few_updates_forget_as_much_as_many():
    often, seldom = EMA(decay=0.9, every=1), EMA(decay=0.9, every=3)
    assert [step for step in range(7) if seldom.should_update(step_idx=step)] == [0, 3, 6]
    assert not seldom.should_update(epoch_idx=0)
    often._latest_update_step = seldom._latest_update_step = 1000
    averages = [torch.tensor([1.0])], [torch.tensor([1.0])]
    for _ in range(3):
        often._average(averages[0], [torch.tensor([3.0])], 0)
    seldom._average(averages[1], [torch.tensor([3.0])], 0)
    torch.testing.assert_close(*averages)


def test_updates_that_never_come_are_refused():
    with pytest.raises(ValueError, match="every must be at least 1 step"):
        EMA(every=0)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="decay must be at least 0 and below 1"):
        EMA(decay)

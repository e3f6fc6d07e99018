import itertools
import math

import pytest
import torch

from pyg_schnet.train import cosine_factor, warm_restart_factor


def test_cosine_rises_then_falls_to_zero():
    factors = [cosine_factor(p / 100, warmup=0.1) for p in range(101)]
    assert factors[0] == 0.0
    assert max(factors) == factors[10] == 1.0
    assert factors[100] == pytest.approx(0.0, abs=1e-12)
    assert all(a <= b for a, b in itertools.pairwise(factors[:11]))
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_cosine_outside_training_stays_at_its_ends():
    assert cosine_factor(-1.0) == 1.0
    assert cosine_factor(2.0) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_warm_restarts_equal_torch(multiplier):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=7, T_mult=multiplier)
    for epoch in [0.0, 0.5, 3.0, 6.9, 7.0, 10.25, 20.0, 21.0, 40.0]:
        scheduler.step(epoch)
        assert warm_restart_factor(epoch, 7, multiplier) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)


def test_warm_restarts_decay_at_each_restart():
    assert warm_restart_factor(10.0, period=5, decay=0.5) == pytest.approx(0.25)
    assert warm_restart_factor(12.5, period=5, decay=0.5) == pytest.approx(0.25 * 0.5 * (1 + math.cos(math.pi / 2)))


@pytest.mark.parametrize(("period", "multiplier"), [(0, 1), (5, 0.5)])
def test_warm_restarts_that_never_end_are_refused(period, multiplier):
    with pytest.raises(ValueError, match="period must be positive and multiplier at least 1"):
        warm_restart_factor(1.0, period, multiplier)

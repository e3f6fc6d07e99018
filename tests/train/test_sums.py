import pytest
import torch

from pyg_schnet.train.sums import ErrorSums


def test_means_are_over_values_and_not_over_batches():
    sums = ErrorSums()
    sums.add("energy", torch.tensor([3.0, -4.0]), torch.zeros(2), torch.tensor(12.5))
    sums.add("energy", torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor(0.0))
    sums.add("energy", torch.zeros(0), torch.zeros(0), torch.tensor(float("nan")))  # a batch without labels
    means = sums.means(["energy"])["energy"]
    assert means.mae == pytest.approx(7 / 3)
    assert means.rmse == pytest.approx((25 / 3) ** 0.5)
    assert means.loss == pytest.approx(25 / 3)


def test_quantities_without_labels_are_left_out():
    assert ErrorSums().means(["energy", "forces"]) == {}


def test_processes_are_added():
    sums = ErrorSums()
    sums.add("energy", torch.tensor([2.0]), torch.zeros(1), torch.tensor(4.0))
    other = [3.0, 6.0, 12.0, 12.0, 1.0, 5.0, 25.0, 25.0]
    means = sums.means(["energy", "forces"], lambda table: [a + b for a, b in zip(table, other, strict=True)])
    assert (means["energy"].mae, means["energy"].rmse, means["energy"].loss) == (2.0, 2.0, 4.0)
    assert means["forces"].mae == 5.0

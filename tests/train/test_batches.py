"""Batches of training structures go on where they stopped."""

import pytest
import torch

from pyg_schnet.train import StructureDataModule
from pyg_schnet.train.batches import EpochShuffle, ResumedBatches

from .small_runs import dataset


def loader(num_workers=0, **options):
    data = StructureDataModule(
        dataset(), "energy", num_train=18, num_val=3, batch_size=4, num_workers=num_workers, **options
    )
    return data.train_dataloader()


def epoch_of(batches, number):
    batches.batch_sampler.sampler.set_epoch(number)
    return [batch.energy.tolist() for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_is_left_of_an_epoch_comes_first(num_workers):
    """With workers too, which draw ahead of what has been learned from."""
    whole = loader()
    expected = [epoch_of(whole, number) for number in (3, 4)]
    whole.batch_sampler.sampler.set_epoch(3)
    first = loader(num_workers)
    first.batch_sampler.sampler.set_epoch(3)
    drawn = iter(first)
    taken = [next(drawn).energy.tolist() for _ in range(3)]
    state = first.state_dict()
    assert state == {"epoch": 3, "batches": 3}
    second = loader(num_workers)
    second.load_state_dict(state)
    assert len(second) == len(first) == 4
    assert taken + epoch_of(second, 3) == expected[0]
    assert epoch_of(second, 4) == expected[1]


def test_the_place_counts_in_its_own_epoch_alone():
    batches = ResumedBatches(EpochShuffle(8), 2, drop_last=False)
    whole = list(batches)
    batches.leave_out(1, 3)
    assert list(batches) == whole
    batches.sampler.set_epoch(1)
    assert len(list(batches)) == 1


def test_nothing_is_left_of_an_epoch_that_is_over():
    second = loader()
    second.load_state_dict({"epoch": 0, "batches": 4})
    assert epoch_of(second, 0) == []
    assert len(epoch_of(second, 1)) == 4


def test_loaders_draw_from_no_generator_that_others_use():
    torch.manual_seed(0)
    expected = torch.rand(3)
    data = StructureDataModule(dataset(), "energy", num_train=18, num_val=3, batch_size=4)
    torch.manual_seed(0)
    for one in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        list(one)
    assert torch.equal(torch.rand(3), expected)

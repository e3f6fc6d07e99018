import itertools

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from pyg_schnet.train import EMA


def test_average_follows_the_formula():
    ema = EMA(decay=0.9, every=1)
    average, weight = [torch.tensor([1.0])], [torch.tensor([3.0])]
    ema.load_state_dict({"latest_update_step": 2})
    assert ema.current_decay() == pytest.approx(3 / 12)
    ema._average(average, weight, 0)
    assert average[0].item() == pytest.approx(0.25 * 1.0 + 0.75 * 3.0)
    ema.load_state_dict({"latest_update_step": 1000})
    assert ema.current_decay() == 0.9


def test_few_updates_forget_as_much_as_many():
    often, seldom = EMA(decay=0.9, every=1), EMA(decay=0.9, every=3)
    assert [step for step in range(7) if seldom.should_update(step_idx=step)] == [0, 3, 6]
    assert not seldom.should_update(epoch_idx=0)
    for ema in (often, seldom):
        ema.load_state_dict({"latest_update_step": 1000})
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


class Regression(LightningModule):
    """Linear regression with a buffer that changes in every step."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(2, 1)
        self.register_buffer("count", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.count += 1
        return (self.layer(batch[0]) - 1.0).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Follow(Callback):
    """The formula, applied after every step that is averaged."""

    def __init__(self, decay, every):
        self.decay, self.every, self.average, self.count = decay, every, None, None

    def on_train_batch_end(self, trainer, module, *_):
        step, weights = trainer.global_step - 1, [weight.detach().clone() for weight in module.parameters()]
        if step % self.every:
            return
        self.count = module.count.clone()
        if self.average is None:
            self.average, self.last = weights, step + 1
            return
        kept = min(self.decay, (1 + self.last) / (10 + self.last)) ** self.every
        self.average = [kept * a + (1 - kept) * w for a, w in zip(self.average, weights, strict=True)]
        self.last = step + 1


def fit(module, callbacks, folder, checkpoint=None):
    """Two epochs of ten steps each."""
    data = torch.utils.data.TensorDataset(torch.randn(40, 2, generator=torch.Generator().manual_seed(1)))
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4), ckpt_path=checkpoint, weights_only=False)


class Save(Callback):
    """A checkpoint in the middle of the first epoch."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 5:
            trainer.save_checkpoint(self.path)


class Averages(Callback):
    """The average of the first weights after each step, by the number of the step."""

    def __init__(self, ema):
        self.ema, self.found = ema, {}

    def on_train_batch_end(self, trainer, *_):
        self.found[trainer.global_step] = next(self.ema._average_model.module.parameters()).detach().clone()


def test_average_goes_on_where_a_run_is_resumed_within_an_epoch(tmp_path):
    first, second = EMA(decay=0.8, every=1), EMA(decay=0.8, every=1)
    fit(Regression(), [first, before := Averages(first), Save(tmp_path / "mid.ckpt")], tmp_path)
    fit(Regression(), [second, after := Averages(second)], tmp_path, tmp_path / "mid.ckpt")
    assert set(after.found) == set(range(6, 21))
    values = [before.found[5], *(after.found[step] for step in sorted(after.found))]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("every", [1, 3])
def test_average_of_a_run(every, tmp_path):
    ema, follow, module = EMA(decay=0.8, every=every), Follow(0.8, every), Regression()
    fit(module, [follow, ema], tmp_path)
    for weight, expected in zip(module.parameters(), follow.average, strict=True):
        torch.testing.assert_close(weight.detach(), expected)
    assert ema._average_model.n_averaged == -(-20 // every)
    assert ema._average_model.module.count == follow.count

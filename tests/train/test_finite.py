"""Numbers that are no longer finite end a training with one sentence, and nothing of it is saved."""

import pytest
import torch
from lightning.pytorch import Callback

from pyg_schnet.train.finite import FiniteModule, check_weights, not_finite

from .small_runs import Drops, fit

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance\\(treespec, LeafSpec\\).*", "ignore:.*many workers.*",
    "ignore:Checkpoint directory .* exists and is not empty", "ignore:.*could not find the monitored key")  # fmt: skip


class Spoils(Callback):
    """Spoils something in the sixth step."""

    def __init__(self, what):
        self.what = what

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 5 and self.what == "label":
            batch.energy[0] = float("inf")

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == 5 and self.what == "gradient":
            next(pl_module.parameters()).grad[0] = float("nan")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 8 and self.what == "weight":
            next(pl_module.parameters()).data[0] = float("nan")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("label", r"^training diverged: the loss is inf in step 6 of epoch 1, at a learning rate of 0\.0\d+; choose a "
                  r"lower learning rate than 0\.05 \(--model\.init_args\.lr\)"),
        ("gradient", "^training diverged: the norm of the gradients is nan in step 6 of epoch 1"),
        ("weight", r"^training diverged: network\.lin1\.weight is NaN or infinite in step 9 of epoch 1"),
    ],
)  # fmt: skip
def test_training_stops_before_anything_is_saved(what, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, more=[Spoils(what)], gradient_clip_val=10.0)
    for name in ("last.ckpt", "best.ckpt"):  # those of the first epoch
        checkpoint = torch.load(tmp_path / name, weights_only=True)
        assert checkpoint["global_step"] == 4
        check_weights(checkpoint, name)


class SpoiltInValidation(Drops):
    def forward(self, z, pos, batch, batch_size):
        found = super().forward(z, pos, batch, batch_size)
        return found if self.training else found * float("nan")


def test_errors_of_a_validation_stop_the_training(tmp_path):
    with pytest.raises(ValueError, match="training diverged: val/energy_mae is nan in step 5 of epoch 0"):
        fit(tmp_path, network=SpoiltInValidation)
    assert not any(tmp_path.iterdir())


def test_spoilt_checkpoints_are_refused(tmp_path):
    fit(tmp_path, max_epochs=1)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    checkpoint["current_model_state"]["network.lin1.weight"][0] = float("nan")
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"of a training that diverged: network\.lin1\.weight is NaN"):
        fit(tmp_path, tmp_path / "last.ckpt")


def test_other_devices_are_not_waited_for_in_every_step(monkeypatch):
    """A flag collects what was not finite, and is read where losses are logged and before saves."""
    module, read = FiniteModule(), []
    monkeypatch.setattr(FiniteModule, "trainer", type("T", (), {
        "precision": "32-true", "log_every_n_steps": 2, "global_step": 0, "current_epoch": 0, "optimizers": [],
    })())  # fmt: skip
    monkeypatch.setattr(FiniteModule, "_read_flag", lambda self: read.append(self._flag.tolist()))

    class OnDevice(torch.Tensor):
        device = torch.device("cuda")

        def item(self):
            raise AssertionError("waits for the device")

    for step, loss in enumerate((1.0, float("nan"), 2.0, 3.0)):
        module.trainer.global_step = step + 1
        module.on_before_backward(torch.tensor(loss).as_subclass(OnDevice))
        module.on_train_batch_end(None, None, step)
    assert len(read) == 2
    assert read[0] != read[0]  # NaN, which stays
    assert read[1] != read[1]


def test_steps_that_are_left_out_at_16_bits_do_not_end_a_training(monkeypatch):
    module = FiniteModule()
    monkeypatch.setattr(FiniteModule, "trainer", type("T", (), {"precision": "16-mixed"})())
    module.on_before_backward(torch.tensor(float("inf")))


def test_whole_numbers_are_finite():
    assert not_finite({"a": torch.arange(3), "b": torch.ones(2)}) is None
    assert not_finite({"a": torch.tensor([float("-inf")])}) == "a"

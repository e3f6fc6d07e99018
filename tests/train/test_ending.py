from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import EarlyStopping, Timer

from pyg_schnet.train.ending import ending_of, ending_sentence


def trainer(max_epochs=10, max_steps=-1, epoch=3, step=12, seconds=None, limit=90.0, stopped=0):
    callbacks = []
    if seconds is not None:
        timer = Timer({"seconds": limit})
        timer.time_elapsed = lambda *_: seconds
        timer.time_remaining = lambda *_: limit - seconds
        callbacks.append(timer)
    early = EarlyStopping("val/loss")
    early.stopped_epoch = stopped
    callbacks.append(early)
    return SimpleNamespace(
        max_epochs=max_epochs, max_steps=max_steps, current_epoch=epoch, global_step=step, callbacks=callbacks,
        num_training_batches=7, accumulate_grad_batches=2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "ending"),
    [
        ({}, None),
        ({"epoch": 10, "step": 40}, "max_epochs"),
        ({"max_steps": 12}, "max_steps"),
        ({"seconds": 90.5}, "max_time"),
        ({"seconds": 80.0}, None),
        ({"stopped": 2}, "early_stopping"),
    ],
)
def test_what_ended_a_run(state, ending):
    assert ending_of(trainer(**state)) == ending


def test_a_run_that_stopped_in_its_first_epoch():
    found = trainer(stopped=0)
    found.callbacks[-1].stopping_reason_message = "Stopping threshold reached"
    assert ending_of(found) == "early_stopping"


def test_time_and_steps_are_said():
    found = ending_sentence(trainer(max_epochs=100_000, seconds=93784.0, limit=93784.0))
    assert found.startswith("Stopped by --trainer.max_time=01:02:03:04 after 3 of 100,000 epochs (12 steps); for more")
    assert "after 3 epochs (12 steps)" in ending_sentence(trainer(max_epochs=-1, seconds=90.0))
    # the epoch in which the steps ended is not a whole one
    assert "max_steps=14 after 3 of 10 epochs (14 steps)" in ending_sentence(trainer(max_steps=14, epoch=4, step=14))
    assert ending_sentence(trainer(epoch=10, step=40)) is None
    assert ending_sentence(trainer(stopped=2)) is None

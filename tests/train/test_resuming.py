import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from pyg_schnet.data import Split
from pyg_schnet.train.last_checkpoint import check_checkpoint
from pyg_schnet.train.resuming import check_split, interruption


def test_signals_are_said(tmp_path):
    trainer = SimpleNamespace(interrupted=False)
    assert interruption(trainer, SystemExit(2), tmp_path) is None
    assert interruption(trainer, SIGTERMException(), tmp_path) == "ended by SIGTERM"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    expected = f"; for more, --config={tmp_path}/config.yaml --resume={tmp_path}/checkpoints/last.ckpt"
    assert interruption(trainer, SIGTERMException(), tmp_path) == "ended by SIGTERM" + expected
    assert interruption(SimpleNamespace(interrupted=True), SystemExit(1), tmp_path) == "ended by Ctrl-C" + expected


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Split([0, 1], [2], [3], 4, "f"), None),
        (Split([0, 1], [2], [3], 4), None),
        (Split([0, 3], [2], [1], 4, "f"), "give another split than"),
        (Split([0, 1], [2], [3], 4, "g"), "the structures of the data, or their order, are not those of"),
    ],
)
def test_a_run_goes_on_with_its_own_structures(tmp_path, other, message):
    path = tmp_path / "split.json"
    check_split(path, other)  # nothing is known
    Split([0, 1], [2], [3], 4, "f").save(path)
    if message is None:
        check_split(path, other)
    else:
        with pytest.raises(ValueError, match=message):
            check_split(path, other)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_checkpoints_do_not_execute_anything(tmp_path):
    checkpoint, proof = tmp_path / "last.ckpt", tmp_path / "proof"
    torch.save({"state_dict": {}, "more": Touch(proof)}, checkpoint)
    with pytest.raises(ValueError, match="is no whole checkpoint of a run"):
        check_checkpoint(checkpoint, torch.nn.Identity())
    assert not proof.exists()
    pickle.loads(pickle.dumps(Touch(proof)))
    assert proof.exists()  # the test can fail

import shutil

import torch

from pyg_schnet.train.best_checkpoint import ModelCheckpoint


def checkpoint_of(folder):
    return ModelCheckpoint(dirpath=folder, monitor="val/loss", filename="best")


def saved_state(folder):
    """State of a run in ``folder`` whose best loss was 0.5."""
    folder.mkdir(parents=True)
    best = folder / "best.ckpt"
    best.write_text("weights")
    callback = checkpoint_of(folder)
    callback.best_model_path = callback.kth_best_model_path = str(best)
    callback.best_model_score = callback.kth_value = torch.tensor(0.5)
    callback.best_k_models = {str(best): torch.tensor(0.5)}
    return callback.state_dict()


def resumed(state, folder, source):
    callback = checkpoint_of(folder)
    callback.resumed_from = source
    callback.load_state_dict(state)
    return callback


def test_a_moved_run_keeps_its_best(tmp_path, recwarn):
    state = saved_state(tmp_path / "old")
    shutil.move(tmp_path / "old", tmp_path / "new")
    callback = resumed(state, tmp_path / "new", tmp_path / "new")
    assert callback.best_model_path == callback.kth_best_model_path == str(tmp_path / "new" / "best.ckpt")
    assert callback.best_model_score == 0.5
    assert list(callback.best_k_models) == [str(tmp_path / "new" / "best.ckpt")]
    assert not recwarn.list
    assert not (tmp_path / "old").exists()


def test_a_run_that_goes_on_elsewhere_takes_a_copy(tmp_path):
    state = saved_state(tmp_path / "old")
    callback = resumed(state, tmp_path / "new", tmp_path / "old")
    assert callback.best_model_path == str(tmp_path / "new" / "best.ckpt")
    assert (tmp_path / "new" / "best.ckpt").read_text() == (tmp_path / "old" / "best.ckpt").read_text() == "weights"


def test_names_of_other_systems_are_found(tmp_path):
    state = saved_state(tmp_path / "new")
    state["best_model_path"] = "C:\\runs\\checkpoints\\best.ckpt"
    assert resumed(state, tmp_path / "new", None).best_model_path == str(tmp_path / "new" / "best.ckpt")


def test_a_best_that_is_not_there_is_said(tmp_path, capsys):
    state = saved_state(tmp_path / "old")
    (tmp_path / "old" / "best.ckpt").unlink()
    callback = resumed(state, tmp_path / "old", tmp_path / "old")
    assert "best.ckpt is not beside the checkpoint" in capsys.readouterr().out
    assert callback.best_model_path == ""
    assert callback.best_model_score is None

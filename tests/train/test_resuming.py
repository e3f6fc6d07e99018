"""Runs that ended before their time: how they go on, and what they refuse to go on with."""

import json
import os
import pickle
import shlex
import signal
from pathlib import Path

import ase.io
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from pyg_schnet.cli import main
from pyg_schnet.cli import train as command
from pyg_schnet.models import load
from pyg_schnet.models.checkpoint import read_header
from pyg_schnet.train import LastCheckpoint
from pyg_schnet.train.last_checkpoint import read_checkpoint
from pyg_schnet.train.lock import LOCK_FILE, locked
from pyg_schnet.train.origin import check_origin
from pyg_schnet.train.resuming import interruption, is_taken, may_begin_again
from pyg_schnet.train.signals import NAMES, Ended

from .test_runs import labelled, options

LAST = Path("run/checkpoints/last.ckpt")
RESUME = ["train", "--config=run/config.yaml", f"--resume={LAST}"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a file of 30 molecules."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("a.xyz", [labelled(k, ("H2O", "CH4")[k % 2]) for k in range(30)], format="extxyz")


def state(run="run"):
    """All files of a run and what is in them."""
    return {path: path.read_bytes() for path in sorted(Path(run).rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_a_sentence_says_how_a_run_goes_on(name, tmp_path):
    run, number = tmp_path / "my run", getattr(signal, name)
    assert interruption(Ended(number), run) == (
        128 + number, f"ended by {name} before training began; give the same command again"
    )  # fmt: skip
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    assert f"pyg-schnet train '--config={run}/config.yaml'\n" in interruption(Ended(number), run)[1]
    (run / "checkpoints" / "last.ckpt").touch()
    code, said = interruption(Ended(number), run)
    assert code == 128 + number
    assert f"train '--config={run}/config.yaml' '--resume={run}/checkpoints/last.ckpt'" in said
    assert interruption(SIGTERMException(), run)[0] == 143


def test_options_alone_are_no_run(tmp_path):
    (tmp_path / "config.yaml").touch()
    (tmp_path / "logs").mkdir()
    assert not is_taken(tmp_path)
    assert may_begin_again(tmp_path / "checkpoints" / "last.ckpt")
    assert not may_begin_again(tmp_path / "none" / "last.ckpt")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").touch()
    assert is_taken(tmp_path)
    assert not may_begin_again(tmp_path / "checkpoints" / "last.ckpt")


def test_a_run_without_a_checkpoint_begins_again(capsys):
    """As one that was killed before its first one leaves it; both commands do."""
    main(options("run"))
    expected = load("run/model.safetensors").state_dict()
    for command_line in (options("run"), RESUME):
        for path in [*Path("run/checkpoints").iterdir(), Path("run/model.safetensors"), Path("run/result.json")]:
            path.unlink()
        Path("run/checkpoints/.last.ckpt.123.partial").touch()
        main(command_line)
        found = load("run/model.safetensors").state_dict()
        assert all(torch.equal(value, found[name]) for name, value in expected.items())
        assert not list(Path("run").rglob("*.partial"))
    assert "The run in run has no checkpoint yet, so it begins again" in capsys.readouterr().out


def test_two_runs_do_not_share_a_folder():
    with locked(Path("run")), pytest.raises(SystemExit, match=r"^pyg-schnet train: run is in use: process \d+ on .*"):
        main(options("run"))
    assert not Path("run").exists()
    main(options("run"))
    assert not Path("run", LOCK_FILE).exists()
    before = state()
    with locked(Path("run")), pytest.raises(SystemExit, match="run is in use"):
        main([*RESUME, "--trainer.max_epochs=2"])
    assert state() == before


ORIGIN = {"target": "U0", "unit": "eV", "column": None, "fingerprint": "f", "split": "s", "batch_size": 8, "seed": 0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"target": "gap"},
            "the run of the checkpoint learns 'U0' in eV, the options ask for 'gap' in eV; resume it with",
        ),
        ({"unit": "kcal/mol"}, "learns 'U0' in eV, the options ask for 'U0' in kcal/mol"),
        ({"column": 3}, "learns 'U0' in eV, the options ask for 'U0', column 3, in eV"),
        (
            {"fingerprint": "g"},
            r"or their order, are not those .* \(fingerprint f, these g\), so the run would learn from",
        ),
        ({"split": "t"}, r"another split than .* learn from its test structures; .* --data\.split=RUN_DIR/split\.json"),
        ({"batch_size": 4}, r"within an epoch with --data\.batch_size=8, so that with 4 some structures would be"),
        ({"seed": 1}, r"within an epoch with --data\.seed=0, so that with 1"),
    ],
)
def test_a_run_goes_on_with_what_it_began_with(given, message):
    check_origin(ORIGIN, ORIGIN, within_epoch=True)
    with pytest.raises(ValueError, match=message):
        check_origin(ORIGIN, {**ORIGIN, **given}, within_epoch=True)
    if not {*given} & {"target", "unit", "column", "fingerprint", "split"}:
        check_origin(ORIGIN, {**ORIGIN, **given})


@pytest.mark.parametrize(("before", "now"), [("adam", "muon"), ("muon", "adam")])
def test_a_run_goes_on_with_its_optimiser(before, now):
    main([*options("run"), f"--model.optimizer={before}"])
    with pytest.raises(SystemExit, match=f"was trained by {before}, this run by {now}; .* --model.optimizer {before}"):
        main([*RESUME, "--trainer.max_epochs=2", f"--model.optimizer={now}"])
    main([*RESUME, "--trainer.max_epochs=2"])


def test_a_run_that_cannot_go_on_is_left_as_it_is():
    main(options("run", epochs=2))
    before = state()
    spoilt = torch.load(LAST, weights_only=True)
    next(iter(spoilt["state_dict"].values()))[:] = float("nan")
    torch.save(spoilt, "spoilt.ckpt")
    foreign = torch.load(LAST, weights_only=True)
    foreign["optimizer_states"][0]["param_groups"] = []
    torch.save(foreign, "foreign.ckpt")
    silent = torch.load(LAST, weights_only=True)
    del silent["StructureDataModule"]
    torch.save(silent, "silent.ckpt")
    for more, message in (
        (["--data.seed=1"], "give another split than that of the checkpoint"),
        (["--data.target=dipole"], "dipole"),
        (["--resume=spoilt.ckpt", "--run_dir=run"], "is of a training that diverged"),
        (["--resume=foreign.ckpt", "--run_dir=run", "--trainer.max_epochs=3"], "parameter group"),
        (["--resume=silent.ckpt", "--run_dir=run"], "does not say which structures its run has learned from"),
        (["--model.init_args.network.init_args.hidden_channels=16"], "of another task or network"),
    ):
        with pytest.raises(SystemExit, match=rf"^pyg-schnet train: .*{message}"):
            main([*RESUME, *more])
        assert state() == before, more


def test_the_model_is_saved_before_it_is_tested(monkeypatch):
    def fails(task, data):
        assert read_header("run/model.safetensors")["card"]["test"] == {}
        assert json.loads(Path("run/result.json").read_text())["tested"] is False
        raise ValueError("no memory for the test")

    with monkeypatch.context() as patched:
        patched.setattr(command, "test_errors", fails)
        with pytest.raises(SystemExit, match="no memory for the test"):
            main(options("run"))
    assert load("run/model.safetensors").card["target"] == "energy"
    main(RESUME)  # all is learned, so the test alone is made
    result = json.loads(Path("run/result.json").read_text())
    assert result["tested"] is True
    assert read_header("run/model.safetensors")["card"]["test"] == result["errors"] != {}


def test_a_run_without_a_test_says_so():
    main(options("run", "--data.num_test=0"))
    result = json.loads(Path("run/result.json").read_text())
    assert (result["tested"], result["errors"], result["split"]["num_test"]) == (False, {}, 0)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_the_command_that_is_printed_goes_on(name, monkeypatch, capfd):
    """With the weights of a run that was never told to end, in a folder with a space."""
    main(options("whole", epochs=3))
    saved = LastCheckpoint.on_train_batch_end

    def told(self, trainer, *args):
        if trainer.global_step == 3:
            os.kill(os.getpid(), getattr(signal, name))
        saved(self, trainer, *args)

    with monkeypatch.context() as patched:
        patched.setattr(LastCheckpoint, "on_train_batch_end", told)
        with pytest.raises(SystemExit) as ended:
            main(options("my run", epochs=3))
    assert ended.value.code == 128 + getattr(signal, name)
    said = capfd.readouterr().err
    (line,) = (line for line in said.splitlines() if line.startswith("    pyg-schnet train"))
    assert torch.load("my run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    assert not Path("my run/model.safetensors").exists()
    main(shlex.split(line)[1:])
    one, other = (load(f"{run}/model.safetensors").state_dict() for run in ("whole", "my run"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert json.loads(Path("my run/result.json").read_text())["training"]["steps"] == 6


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
        read_checkpoint(checkpoint, torch.nn.Identity())
    assert not proof.exists()
    pickle.loads(pickle.dumps(Touch(proof)))
    assert proof.exists()  # the test can fail

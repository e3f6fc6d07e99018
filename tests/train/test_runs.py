"""Runs as commands: where they are, why they end, and what their models remember."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from pyg_schnet.cli import main
from pyg_schnet.data import AtomsDataset, Split
from pyg_schnet.models.checkpoint import read_header
from pyg_schnet.train.split_note import split_of

ROOT = Path(__file__).parents[2]


def labelled(seed, name="H2O"):
    atoms = molecule(name)
    atoms.rattle(0.05, seed=seed)
    energy = -10.0 * len(atoms) + float(np.sum(atoms.get_all_distances() ** 2))
    atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a file of 30 molecules, of which the last six have nitrogen, and a split of its own."""
    monkeypatch.chdir(tmp_path)
    names = ["H2O", "CH4"] * 12 + ["NH3"] * 6
    ase.io.write("a.xyz", [labelled(k, name) for k, name in enumerate(names)], format="extxyz")
    parts = {"train": list(range(20)), "val": list(range(20, 24)), "test": list(range(24, 30))}
    Path("s.json").write_text(json.dumps({"n_structures": 30, "fingerprint": None, **parts}))


def options(run, *more, epochs=1):
    return [
        "train", "--data.dataset=pyg_schnet.data.AtomsDataset", "--data.dataset.source=a.xyz", "--data.target=energy",
        "--data.num_train=16", "--data.num_val=4", "--data.batch_size=8", "--model.network.hidden_channels=8",
        "--model.network.num_filters=8", "--model.network.num_interactions=1", f"--trainer.max_epochs={epochs}",
        "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", f"--run_dir={run}", *more,
    ]  # fmt: skip


def test_without_test_structures_the_model_is_saved_without_errors(capsys):
    main(options("run", "--data.num_test=0"))
    assert "saved without test errors" in capsys.readouterr().out
    assert read_header("run/model.safetensors")["card"]["test"] == {}
    with pytest.raises(SystemExit, match="kept no structures for a test"):
        main(["test", "run/model.safetensors"])


def test_model_alone_is_tested_on_the_test_structures_of_its_run(capsys, tmp_path, monkeypatch):
    main(options("run", "--data.split=s.json"))
    said = capsys.readouterr().out
    assert (
        said.count("No training structure has N (in 6 of 6 test structures)") == 2
    )  # before training, and at the test
    card = read_header("run/model.safetensors")["card"]
    split = split_of(card)
    assert (split.train.tolist(), split.test.tolist()) == (list(range(20)), list(range(24, 30)))
    assert card["elements"] == ["H", "C", "O"]
    assert card["run"]["data"]["split"] == "s.json"
    Path("alone").mkdir()
    shutil.copy("run/model.safetensors", "alone/m.safetensors")
    shutil.rmtree("run")
    main(["test", "alone/m.safetensors"])
    again = capsys.readouterr().out
    assert "Errors on 6 test structures" in again
    assert said.split("Errors on")[1].splitlines()[:3] == again.split("Errors on")[1].splitlines()[:3]
    Split(range(4, 30), [], [0, 1, 2, 3], 30).save("learned.json")
    with pytest.raises(SystemExit, match="4 of the 4 test structures were used for training or validation"):
        main(["test", "alone/m.safetensors", "--split=learned.json"])
    monkeypatch.chdir(tmp_path / "alone")
    with pytest.raises(SystemExit, match=r"^pyg-schnet test: there is no file a\.xyz in .*--data_dir$"):
        main(["test", "m.safetensors"])
    main(["test", "m.safetensors", f"--data_dir={tmp_path}"])


@pytest.mark.parametrize("beside", [True, False], ids=["with its configuration", "alone"])
@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_a_potential_is_tested_on_what_it_has_learned(weight, beside, capsys):
    crystals = [bulk("Cu", cubic=True, a=3.5 + 0.01 * k) for k in range(12)]
    for k, atoms in enumerate(crystals):
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        atoms.get_stress()
    ase.io.write("crystals.xyz", crystals, format="extxyz")
    task = ["--model=pyg_schnet.train.PotentialTask", f"--model.init_args.stress_weight={weight}"]
    sizes = ["--data.dataset.source=crystals.xyz", "--data.num_train=8", "--data.num_val=2"]
    main([*options("run", *sizes), *task])
    said = capsys.readouterr().out.split("Errors on")[1]
    if not beside:
        Path("run/config.yaml").unlink()
    main(["test", "run/model.safetensors"])
    again = capsys.readouterr().out.split("Errors on")[1]
    assert ("stress" in again) == (weight > 0)
    assert again.splitlines()[:-1] == said.splitlines()[: len(again.splitlines()) - 1]


def test_model_is_not_tested_where_its_structures_are_in_another_order():
    main(options("run", "--data.split=s.json"))
    ase.io.write("a.xyz", ase.io.read("a.xyz", ":")[::-1], format="extxyz")
    with pytest.raises(SystemExit, match="trained on other structures"):
        main(["test", "run/model.safetensors"])


def losses(run):
    """Validation losses of all starts, by epoch."""
    found = {}
    for table in sorted(Path(run, "logs").glob("*/metrics.csv")):
        rows = csv.DictReader(table.read_text().splitlines())
        found |= {int(row["epoch"]): float(row["val/loss"]) for row in rows if row["val/loss"]}
    return found


def test_a_moved_run_goes_on_where_it_is_with_the_best_of_all_epochs():
    steady = ["--model.init_args.schedule=constant", "--ema.every=1", "--ema.decay=0.0", "--data.split=s.json"]
    main(options("old/run", *steady, epochs=3))
    before = json.loads(Path("old/run/result.json").read_text())["training"]
    assert before["ended_by"] == "max_epochs"
    shutil.move("old", "new")
    resume = ["--config=new/run/config.yaml", "--resume=new/run/checkpoints/last.ckpt"]
    main(["train", *resume, "--trainer.max_epochs=4", "--model.init_args.lr=100.0"])  # ruins what was learned
    assert not Path("old").exists()
    after = json.loads(Path("new/run/result.json").read_text())["training"]
    found = losses("new/run")
    assert found[3] > found[before["best_epoch"]]
    assert after["best_epoch"] == before["best_epoch"] == min(found, key=found.get)
    assert after["epochs"] == 4
    Split(range(16), range(16, 20), range(20, 30), 30).save("other.json")
    with pytest.raises(
        SystemExit, match=r"give another split than that of the checkpoint.*--data\.split=new/run/split\.json"
    ):
        main(["train", *resume, "--data.split=other.json", "--trainer.max_epochs=5"])


def test_a_run_does_not_go_on_with_other_structures():
    main(options("run"))
    resume = ["--config=run/config.yaml", "--resume=run/checkpoints/last.ckpt", "--trainer.max_epochs=2"]
    structures = ase.io.read("a.xyz", ":")
    ase.io.write("a.xyz", structures[::-1], format="extxyz")  # the same numbers of structures, but others
    with pytest.raises(SystemExit, match=r"or their order, are not those that the run of the checkpoint began with"):
        main(["train", *resume])
    ase.io.write("a.xyz", structures, format="extxyz")
    main(["train", *resume])


@pytest.mark.slow
def test_a_run_that_is_refused_leaves_nothing():
    for more, message in (
        (["--data.num_train=29"], "cannot take 29 training"),
        (["--data.num_train=0"], "there are no training structures"),
        (["--trainer.barebones=true"], "barebones"),
        (["--trainer.val_check_interval=100"], "val_check_interval"),
        (["--model.network.readout=mean"], "total energy"),
        (["--nonsense=1"], "unrecognized arguments: --nonsense=1; pyg-schnet train --help explains"),
        (["--trainer.devices=-1"], "the trainer cannot be made with these options"),
        (["--data.split=none.json"], r"there is no split at none\.json"),
        (["--model.lr=0"], r"^pyg-schnet train: lr must be positive, got 0\.0$"),
        (
            ["--model.network.hidden_channels=-3"],
            r"^pyg-schnet train: hidden_channels must be .*, got -3$",
        ),
        (
            ["--early_stopping.monitor=val/x"],
            r"no 'val/x' to stop early by; .* one of val/loss, val/energy_mae, val/en",
        ),
    ):
        with pytest.raises(SystemExit, match=message):
            main(options("run", *more))
        assert not Path("run").exists(), more


def test_networks_that_are_called_in_another_way_are_refused():
    given = [one for one in options("run", "--model.pooling=sum") if "--model.network" not in one]
    arguments = '--model.network.init_args={"in_features": 3, "out_features": 1}'
    with pytest.raises(
        SystemExit, match=r"a Linear cannot be called as network\(z, pos, batch\): .*positional argument"
    ):
        main([*given, "--model.network=torch.nn.Linear", arguments])
    assert not Path("run").exists()


def test_time_that_ended_a_run_is_said(capsys):
    main(options("run", "--trainer.max_time=00:00:00:00", epochs=100_000))
    assert "Stopped by --trainer.max_time=00:00:00:00 after 0 of 100,000 epochs" in capsys.readouterr().out
    assert json.loads(Path("run/result.json").read_text())["training"]["ended_by"] == "max_time"


def test_without_validation_the_last_weights_are_taken(capsys):
    main(options("run", "--data.num_val=0"))
    assert "no validation, so the model is that of the last step" in capsys.readouterr().out
    assert json.loads(Path("run/result.json").read_text())["training"]["best_epoch"] is None


def test_a_run_that_diverges_is_not_saved():
    with pytest.raises(SystemExit, match=r"training diverged: .* lower learning rate than 1e\+30"):
        main(options("run", "--model.init_args.lr=1e30", "--ema.decay=0.0", "--ema.every=1", epochs=3))
    assert not Path("run/model.safetensors").exists()


def test_a_run_whose_energies_overflow_is_not_saved():
    with pytest.raises(SystemExit, match="training diverged: the loss is nan in step 2 of epoch 0"):
        main(options("run", "--model.init_args.lr=1e30"))  # the average of its weights is finite
    assert not Path("run/model.safetensors").exists()


def test_data_in_another_folder_are_found_again_when_a_run_goes_on(monkeypatch):
    for name in ("here", "there"):
        Path(name).mkdir()
    monkeypatch.chdir("here")
    main(options("../run", "--data_dir=.."))
    monkeypatch.chdir("../there")
    resume = ["--config=../run/config.yaml", "--resume=../run/checkpoints/last.ckpt", "--trainer.max_epochs=2"]
    main(["train", *resume])
    assert json.loads(Path("../run/result.json").read_text())["training"]["epochs"] == 2
    shutil.move("../a.xyz", "a.xyz")
    with pytest.raises(SystemExit, match=r"there is no file .* give the folder of the data with --data_dir"):
        main(["test", "../run/model.safetensors"])
    main(["test", "../run/model.safetensors", "--data_dir=."])


def test_a_run_goes_on_with_its_split_where_the_file_of_it_is_gone():
    shutil.copy("s.json", "mine.json")
    main(options("run", "--data.split=mine.json"))
    os.remove("mine.json")
    shutil.move("run", "moved")
    main(["train", "--config=moved/config.yaml", "--resume=moved/checkpoints/last.ckpt", "--trainer.max_epochs=2"])
    assert Split.load("moved/split.json").test.tolist() == list(range(24, 30))


def test_a_run_goes_on_only_from_its_checkpoints():
    main(options("run"))
    Path("random.ckpt").write_bytes(b"abc")
    Path("cut.ckpt").write_bytes(Path("run/checkpoints/last.ckpt").read_bytes()[:5000])
    torch.save({"weights": torch.zeros(3)}, "other.ckpt")
    for name in ("random.ckpt", "cut.ckpt", "other.ckpt", "run/model.safetensors"):
        with pytest.raises(SystemExit, match=rf"{name} is no whole checkpoint of a run .*checkpoints/last\.ckpt"):
            main(["train", "--config=run/config.yaml", f"--resume={name}", "--run_dir=new"])
    wider = ["--model.init_args.network.init_args.hidden_channels=16", "--resume=run/checkpoints/last.ckpt"]
    with pytest.raises(
        SystemExit, match=r"of another task or network: network\.embedding\.weight is \(100, 8\) instead"
    ):
        main(["train", "--config=run/config.yaml", *wider, "--run_dir=new"])
    assert not Path("new").exists()


def test_doubles_are_trained_and_saved():
    main(options("run", "--trainer.precision=64-true"))
    assert read_header("run/model.safetensors")["card"]["test"]["energy"]["mae"]["meV"] > 0
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]["atomref"].dtype == torch.float64


@pytest.mark.slow
def test_two_processes_share_one_run():
    command = [sys.executable, "-W", "ignore", "-m", "pyg_schnet.cli", *options("runs/shared")]
    command = [one for one in command if not one.startswith("--run_dir")]
    done = subprocess.run(
        [*command, "--trainer.devices=2", "--trainer.strategy=ddp"], capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = Path("runs").iterdir()
    assert {path.name for path in run.iterdir()} >= {"config.yaml", "model.safetensors", "result.json", "split.json"}
    result = json.loads((run / "result.json").read_text())
    assert result["split"]["num_test"] == 10
    assert result["training"]["steps"] == 1  # 8 of the 16 structures are those of each process
    assert done.stdout.count("Errors on 10 test structures") == 1
    assert done.stdout.count("Training on 16 structures") == 1
    assert len(AtomsDataset("a.xyz")) == 30


def test_a_run_does_not_start_from_what_has_seen_its_test_structures():
    main(options("run", "--data.split=s.json"))
    start = "--start_from=run/model.safetensors"
    Split([*range(8, 20), *range(26, 30)], range(20, 24), [*range(8), 24, 25], 30).save("other.json")
    with pytest.raises(SystemExit, match="to start from has learned from 8 of the 10 test structures"):
        main(options("more", start, "--data.split=other.json"))
    assert not Path("more").exists()
    main(options("more", start, "--data.split=s.json"))

"""Every recipe runs from its file, on the data it names, for a few steps."""

import gzip
import itertools
import json
import shlex
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
import yaml

from pyg_schnet.cli import main

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
FOLDERS = {  # recipe -> folder of its data; None for those that bring their own
    "qm9_u0": None,
    "qm9_u0_3h": None,
    "qm9_u0_muon": None,
    "qm9_mu": None,
    "qm9_twelve": None,
    "rmd17_aspirin": "rmd17_aspirin",
    "perovskites": "perovskites_castelli",
    "mp_formation_energy": "mp_formation_energy",
    "mp_formation_energy_hard": "mp_formation_energy",
    "mp_formation_energy_muon": "mp_formation_energy",
    "qm9_u0_no_cutoff": None,
    "qm9_mu_no_cutoff": None,
    "rmd17_aspirin_no_cutoff": "rmd17_aspirin",
    "phonons": "phonon_peak",
    "mlearn_mo": "mlearn",
    "mlearn_li": "mlearn",
    "qm9_u0_small": None,
    "ethanol": "ethanol",
}
REFERENCE = ["organic_gfn2"]
"""Those of data that ``pyg-schnet reference-data`` makes."""
GENERATED = ["xtb_aspirin_1k", "xtb_aspirin_1k_no_cutoff", "xtb_aspirin_50k", "xtb_aspirin_50k_no_cutoff"]


PARTS = {"model", "data", "trainer", "card", "start_from", "early_stopping", "checkpoint"}


def test_every_recipe_is_tested_and_explains_itself():
    recipes = sorted((ROOT / "examples" / "recipes").glob("*.yaml"))
    assert {path.stem for path in recipes} == {*FOLDERS, *GENERATED, *REFERENCE}
    for path in recipes:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert f"--config examples/recipes/{path.name}" in text
        assert set(yaml.safe_load(text)) <= PARTS


LONG = {"mp_formation_energy": 2000, "mp_formation_energy_hard": 2000}
"""Recipes of data that take long to read, and with how many of the first lines they run; another one reads all."""


@pytest.mark.skipif(not SHARED.exists(), reason="needs published data files in ../shared/data")
@pytest.mark.parametrize("recipe", FOLDERS)
def test_recipe_runs(recipe, tmp_path, capsys):
    folder = None if FOLDERS[recipe] is None else SHARED / FOLDERS[recipe]
    if recipe in LONG:
        folder = shortened(folder, tmp_path / "data", LONG[recipe])
    check_run(recipe, tmp_path, capsys, *([] if folder is None else [f"--data_dir={folder}"]))


def shortened(folder, into, number):
    """A folder with the first lines of the files of another."""
    into.mkdir()
    for path in folder.glob("*.jsonl.gz"):
        with gzip.open(path, "rt") as file, gzip.open(into / path.name, "wt") as copy:
            copy.writelines(itertools.islice(file, number))
    return into


@pytest.mark.parametrize("recipe", GENERATED)
def test_recipe_of_generated_frames_runs(recipe, tmp_path, capsys):
    ase.io.write(tmp_path / "ethanol.xyz", ase.build.molecule("CH3CH2OH"))
    make_data(tmp_path / "aspirin", "{langevin: 8}", "--repeats=4", f"--files={tmp_path / 'ethanol.xyz'}", "--every=2")
    sizes = ["--data.num_train=16", "--data.num_val=4", "--data.batch_size=4"]
    check_run(recipe, tmp_path, capsys, f"--data_dir={tmp_path}", *sizes)


FEW = "{given: 1, relaxed: 0.5, modes: 3, langevin: 1, bonds: 0.5, torsions: 0.5, fragments: 1, pairs: 1, dimers: 2}"
TINY = [
    "--trainer.max_steps=20", "--trainer.limit_train_batches=10", "--trainer.enable_progress_bar=false",
    "--data.num_val=8", "--data.batch_size=4", "--model.network.num_interactions=1",
]  # fmt: skip


@pytest.mark.parametrize("method", ["ase.calculators.lj.LennardJones", "GFN2-xTB"])
@pytest.mark.parametrize("recipe", REFERENCE)
def test_commands_of_a_recipe_of_reference_data_run(recipe, method, qm9_dir, tmp_path, monkeypatch, capsys):
    """Ten molecules of QM9 are labelled, and a potential learns from them, by the commands in the recipe's file."""
    if method == "GFN2-xTB":
        pytest.importorskip("tblite")
    monkeypatch.chdir(tmp_path)
    commands = commands_of(recipe)
    names = commands[0][commands[0].index("--leave_out") + 1].strip("[]").split(", ")
    for file in [*names, "active.xyz"]:
        ase.io.write(
            file, ase.build.molecule({"3bpa.xyz": "CH3CH2OCH3", "active.xyz": "CH3CONH2"}.get(file, "CH3CH2OH"))
        )
    assert [one[1] for one in commands[:3]] == ["reference-data", "reference-data", "train"]
    first_run = "run2"
    for number, (_, command, *options) in enumerate(commands):
        options = [str(ROOT / one) if one.endswith(".yaml") else one.replace("runs/A", first_run) for one in options]
        options += [f"--run_dir=run{number}", *TINY] if command == "train" else [f"--method={method}"]
        if "--qm9" in options:  # of the thirty molecules, with six for the test
            options[options.index("--qm9") + 1] = "4" if "--part" in options else "10"
            options += [f"--qm9_dir={qm9_dir}", "--held_out=6"]
            if "--part" not in options:
                options[options.index("--kinds") + 1] = FEW
        if "--processes" in options:  # other processes have to import everything again
            options[options.index("--processes") + 1] = "1"
        if method != "GFN2-xTB" and command != "train":
            options += ["--max_energy=1e4", "--max_force=1e4", "--friction=0.5"]
        main([command, *options])
        said = capsys.readouterr().out
        if command == "train":
            result = json.loads(Path(f"run{number}", "result.json").read_text())
            assert result["recipe"] == recipe
            assert set(result["errors"]) == {"energy", "energy_per_atom", "forces"}
            Path(f"run{number}", "config.yaml").unlink()  # the model alone says what it is tested on
            main(["test", f"run{number}/model.safetensors", *options[2:4]])
            assert (
                said.split("Errors on")[1].splitlines()[:7]
                == capsys.readouterr().out.split("Errors on")[1].splitlines()
            )
            assert all(np.isfinite(list(error["mae"].values())).all() for error in result["errors"].values())
        elif "--qm9" in options:
            assert f"labels of {options[options.index('--qm9') + 1]} molecules in {options[0]}" in said
        else:
            assert f"1 labels of 1 molecules in {options[0]}" in said


def commands_of(recipe):
    """Commands in the comment at the head of a recipe, as lists of arguments."""
    text = (ROOT / "examples" / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8").replace("\\\n#", "")
    return [shlex.split(line[1:]) for line in text.splitlines() if line.startswith("#   pyg-schnet ")]


def make_data(folder, kinds, *options):
    """Reference data by a cheap calculator."""
    cheap = ["--method=ase.calculators.emt.EMT", "--max_energy=100", "--max_force=1000"]
    main(["reference-data", str(folder), f"--kinds={kinds}", *cheap, *options])


def check_run(recipe, folder, capsys, *options):
    """Train for a few steps."""
    main(
        [
            "train",
            f"--config={ROOT / 'examples' / 'recipes' / recipe}.yaml",
            *options,
            f"--run_dir={folder / 'run'}",
            "--trainer.max_time=null",
            "--trainer.max_epochs=1",
            "--trainer.limit_train_batches=3",
            "--trainer.limit_val_batches=1",
            "--trainer.enable_progress_bar=false",
        ]
    )
    assert "Errors on" in capsys.readouterr().out
    result = json.loads((folder / "run" / "result.json").read_text())
    assert all(error["mae"] for error in result["errors"].values())
    assert result["recipe"] == recipe
    assert str(SHARED) not in json.dumps(result)
    assert str(folder) not in json.dumps(result)

"""Every recipe runs from its file, on the data it names, for a few steps."""

import json
from pathlib import Path

import ase.build
import ase.io
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
    "qm9_u0_small": None,
    "ethanol": "ethanol",
}
REFERENCE = ["organic_gfn2"]
"""Those of data that ``pyg-schnet reference-data`` makes."""
GENERATED = ["xtb_aspirin_1k", "xtb_aspirin_1k_no_cutoff", "xtb_aspirin_50k", "xtb_aspirin_50k_no_cutoff"]


def test_every_recipe_is_tested_and_explains_itself():
    recipes = sorted((ROOT / "examples" / "recipes").glob("*.yaml"))
    assert {path.stem for path in recipes} == {*FOLDERS, *GENERATED, *REFERENCE}
    for path in recipes:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert f"--config examples/recipes/{path.name}" in text
        assert set(yaml.safe_load(text)) <= {"model", "data", "trainer", "card", "start_from", "early_stopping"}


@pytest.mark.skipif(not SHARED.exists(), reason="needs published data files in ../shared/data")
@pytest.mark.parametrize("recipe", FOLDERS)
def test_recipe_runs(recipe, tmp_path, capsys):
    check_run(recipe, tmp_path, capsys, *([f"--data_dir={SHARED / FOLDERS[recipe]}"] if FOLDERS[recipe] else []))


@pytest.mark.parametrize("recipe", GENERATED)
def test_recipe_of_generated_frames_runs(recipe, tmp_path, capsys):
    ase.io.write(tmp_path / "ethanol.xyz", ase.build.molecule("CH3CH2OH"))
    make_data(tmp_path / "aspirin", "{langevin: 8}", "--repeats=4", f"--files={tmp_path / 'ethanol.xyz'}", "--every=2")
    sizes = ["--data.num_train=16", "--data.num_val=4", "--data.batch_size=4"]
    check_run(recipe, tmp_path, capsys, f"--data_dir={tmp_path}", *sizes)


@pytest.mark.parametrize("recipe", REFERENCE)
def test_recipe_of_reference_data_runs(recipe, tmp_path, capsys):
    names = ["CH3CH2OH", "H2O", "CH4", "CH3CONH2", "NH3", "CH3OCH3", "C2H6", "HCN", "CH3CHO", "C2H4"]
    for folder, chosen in (("train", names[:8]), ("test", names[8:])):
        ase.io.write(tmp_path / f"{folder}.extxyz", [ase.build.molecule(name) for name in chosen])
        make_data(tmp_path / folder, "{langevin: 4}", f"--files={tmp_path / folder}.extxyz")
    sizes = ["--data.num_val=4", "--data.batch_size=4", "--model.network.num_interactions=1"]
    check_run(recipe, tmp_path, capsys, f"--data_dir={tmp_path}", *sizes)


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

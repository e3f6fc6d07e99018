"""Every recipe runs from its file, on the data it names, for a few steps."""

import json
from pathlib import Path

import pytest
import yaml

from pyg_schnet.cli import main

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
FOLDERS = {  # recipe -> folder of its data; None for those that bring their own
    "qm9_u0": None,
    "qm9_mu": None,
    "rmd17_aspirin": "rmd17_aspirin",
    "perovskites": "perovskites_castelli",
    "mp_formation_energy": "mp_formation_energy",
    "mp_formation_energy_hard": "mp_formation_energy",
    "qm9_u0_no_cutoff": None,
    "qm9_mu_no_cutoff": None,
    "rmd17_aspirin_no_cutoff": "rmd17_aspirin",
    "phonons": "phonon_peak",
    "mlearn_mo": "mlearn",
    "qm9_u0_small": None,
    "ethanol": "ethanol",
}


def test_every_recipe_is_tested_and_explains_itself():
    recipes = sorted((ROOT / "examples" / "recipes").glob("*.yaml"))
    assert {path.stem for path in recipes} == set(FOLDERS)
    for path in recipes:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert f"--config examples/recipes/{path.name}" in text
        assert set(yaml.safe_load(text)) <= {"model", "data", "trainer", "card", "start_from", "early_stopping"}


@pytest.mark.skipif(not SHARED.exists(), reason="needs published data files in ../shared/data")
@pytest.mark.parametrize("recipe", FOLDERS)
def test_recipe_runs(recipe, tmp_path, capsys):
    files = [f"--data_dir={SHARED / FOLDERS[recipe]}"] if FOLDERS[recipe] else []
    main(
        [
            "train",
            f"--config={ROOT / 'examples' / 'recipes' / recipe}.yaml",
            *files,
            f"--run_dir={tmp_path / 'run'}",
            "--trainer.max_time=null",
            "--trainer.max_epochs=1",
            "--trainer.limit_train_batches=3",
            "--trainer.limit_val_batches=1",
            "--trainer.enable_progress_bar=false",
        ]
    )
    assert "Errors on" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert all(error["mae"] for error in result["errors"].values())
    assert result["recipe"] == recipe
    assert str(SHARED) not in json.dumps(result)

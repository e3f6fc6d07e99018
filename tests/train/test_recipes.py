"""Every recipe runs from its file, on the data it names, for a few steps."""

import json
from pathlib import Path

import pytest
import yaml

from pyg_schnet.train.cli import main

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
FILES = {  # recipe -> option: file
    "qm9_u0": {},
    "rmd17_aspirin": {
        "data.dataset.source": "rmd17_aspirin/train_1200.xyz.gz",
        "data.test_dataset.source": "rmd17_aspirin/test_800.xyz.gz",
    },
    "perovskites": {
        "data.dataset.path": "perovskites_castelli/folds1-4.jsonl.gz",
        "data.test_dataset.path": "perovskites_castelli/folds1-4.jsonl.gz",
    },
    "mlearn_mo": {
        "data.dataset.path": "mlearn/Mo_training.json.gz",
        "data.test_dataset.path": "mlearn/Mo_test.json.gz",
    },
}


def test_every_recipe_is_tested_and_explains_itself():
    recipes = sorted((ROOT / "examples" / "recipes").glob("*.yaml"))
    assert {path.stem for path in recipes} == set(FILES)
    for path in recipes:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert f"--config examples/recipes/{path.name}" in text
        assert set(yaml.safe_load(text)) <= {"model", "data", "trainer"}


@pytest.mark.skipif(not SHARED.exists(), reason="needs published data files in ../shared/data")
@pytest.mark.parametrize("recipe", FILES)
def test_recipe_runs(recipe, tmp_path, capsys):
    files = [f"--{option}={SHARED / file}" for option, file in FILES[recipe].items()]
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

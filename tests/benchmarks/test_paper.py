"""The table of results beside the paper's is made from files, and says what they say."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "paper"


@pytest.fixture(scope="module")
def paper():
    """The module ``table``, with ``experiments`` in it; neither is known afterwards."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("table")
    finally:
        while str(FOLDER) in sys.path:
            sys.path.remove(str(FOLDER))
        for name in ("table", "experiments"):
            sys.modules.pop(name, None)


def result(recipe="qm9_u0", seed=0, mae=0.4, rmse=0.8, name="U0", unit="kcal/mol"):
    return {
        "recipe": recipe,
        "seed": seed,
        "training": {
            "epochs": 10, "seconds": 600.0, "structures_per_second": 1234.4, "starts": [{"commit": "abc1234"}]
        },
        "errors": {name: {"mae": {unit: mae}, "rmse": {unit: rmse}}},
    }  # fmt: skip


def test_row_has_mean_and_spread_of_the_runs(paper):
    runs = [result(mae=0.4), result(mae=0.5, seed=1), result(mae=0.6, seed=2)]
    cells = paper.row(paper.EXPERIMENTS[0], runs)
    assert cells[:3] == ["QM9 U0, 110k, 5 Å", "kcal/mol", "0.218"]
    assert cells[4:] == ["0.500 ± 0.100", "0.800", "3", "10", "10", "1,234", "abc1234"]


def test_what_was_not_run_is_not_filled_in(paper):
    assert set(paper.row(paper.EXPERIMENTS[0], [])[4:]) == {"–"}


@pytest.mark.parametrize(("cutoff", "none", "words"), [(0.9, 1.3, "confirmed"), (1.3, 0.9, "not confirmed")])
def test_claims_are_decided_by_the_numbers(paper, cutoff, none, words):
    claim = next(claim for claim in paper.CLAIMS if claim.better == "rmd17_aspirin")
    results = {
        recipe: [result(recipe, mae=mae, name="forces", unit="kcal/mol/Å")]
        for recipe, mae in (("rmd17_aspirin", cutoff), ("rmd17_aspirin_no_cutoff", none))
    }
    assert paper.verdict(claim, results).startswith(f"{claim.text}: {words}, MAE {cutoff:.2f}".rstrip("0"))
    assert paper.verdict(claim, {}).endswith("not measured")


def test_runs_are_taken_in_by_recipe_and_seed(paper, tmp_path):
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "result.json"
    file.write_text(json.dumps(result(seed=2)))
    assert paper.add_result(tmp_path / "run", tmp_path / "results").name == "qm9_u0-2.json"
    assert paper.read_results(tmp_path / "results") == {"qm9_u0": [result(seed=2)]}
    merged = {**result(), "merged": [0, 2]}
    file.write_text(json.dumps(merged))
    assert paper.add_result(tmp_path / "run", tmp_path / "results").name == "qm9_u0-merged.json"
    assert paper.read_results(tmp_path / "results") == {"qm9_u0": [result(seed=2)], "qm9_u0 merged": [merged]}
    file.write_text(json.dumps(result(recipe=None)))
    with pytest.raises(ValueError, match="expected one of"):
        paper.add_result(tmp_path / "run", tmp_path / "results")


def test_stored_results_belong_to_the_table(paper):
    """Every row finds its error in every stored result, and every result says with which code it was made."""
    results = paper.read_results(paper.RESULTS)
    assert set(results) <= {experiment.series for experiment in paper.EXPERIMENTS}
    text = paper.table(results)
    for experiment in paper.EXPERIMENTS:
        assert experiment.row in text
        for run in results.get(experiment.series, []):
            assert paper.error(run, experiment.quantity, "mae", experiment.unit) > 0
            assert all(start["commit"] for start in run["training"]["starts"])


def test_guide_has_the_table(paper):
    text = (ROOT / "examples" / "guides" / "models.md").read_text(encoding="utf-8")
    shown = text.split("<!-- results: python benchmarks/paper/table.py -->")[1].split("<!-- end of results -->")[0]
    assert shown.strip() == paper.table(paper.read_results(paper.RESULTS)).strip()


def test_experiments_name_recipes(paper):
    recipes = {path.stem for path in (ROOT / "examples" / "recipes").glob("*.yaml")}
    assert {experiment.recipe for experiment in paper.EXPERIMENTS} <= recipes
    assert {recipe for claim in paper.CLAIMS for recipe in (claim.better, claim.worse)} <= recipes

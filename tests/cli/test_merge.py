"""Which runs may be merged, from their splits alone."""

import json

import pytest

from pyg_schnet.cli.merge import merge_runs
from pyg_schnet.data import Split


def run(folder, train, val, test, *, fingerprint="a" * 16, recipe="qm9", data=None):
    """A folder with what is looked at before the models."""
    folder.mkdir()
    (folder / "model.safetensors").touch()
    result = {"recipe": recipe, "seed": 0, "run": {"data": data or {}}}
    (folder / "result.json").write_text(json.dumps(result))
    Split(train, val, test, 6, fingerprint).save(folder / "split.json")
    return str(folder)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [([0, 1, 2], [4], [3, 5]), ([0, 1, 4], [2], [3, 5]), ([0, 1, 2], [5, 3], []), ([0, 5], [1], [4])],
)
def test_runs_that_learned_from_or_chose_by_test_structures_are_refused(tmp_path, train, val, test):
    first = run(tmp_path / "first", [0, 1, 2], [3], [4, 5])
    other = run(tmp_path / "other", train, val, test)
    with pytest.raises(ValueError, match=r"other has learned from test structures of .*first; merge runs of one split"):
        merge_runs([first, other], run_dir=str(tmp_path / "out"))
    with pytest.raises(ValueError, match="has learned from test structures"):
        merge_runs([first, first, other], run_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fingerprint": "b" * 16}, "other is a run on other data than"),
        ({"data": {"test_dataset": "other"}}, "other is a run on other data than"),
        ({"data": {"target": "mu"}}, "other has learned mu, .*first None"),
    ],
)
def test_runs_of_other_kinds_are_refused(tmp_path, options, message):
    first = run(tmp_path / "first", [0, 1, 2], [3], [4, 5])
    other = run(tmp_path / "other", [0, 1, 2], [3], [4, 5], **options)
    with pytest.raises(ValueError, match=message):
        merge_runs([first, other], run_dir=str(tmp_path / "out"))


@pytest.mark.parametrize("recipe", ["qm9", "qm9_longer"])
def test_runs_of_one_test_set_pass(tmp_path, recipe):
    first = run(tmp_path / "first", [0, 1, 2], [3], [4, 5])
    other = run(tmp_path / "other", [1, 2, 3], [0], [4, 5], recipe=recipe)
    with pytest.raises(ValueError, match=r"model\.safetensors is no whole safetensors file"):  # what is read next
        merge_runs([first, other], run_dir=str(tmp_path / "out"))


def test_no_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="give the folders of the runs to merge"):
        merge_runs([], run_dir=str(tmp_path / "out"))

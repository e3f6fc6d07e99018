import pytest

from pyg_schnet.train.files import anonymous_data, locate_data


def options(**init_args):
    return {"dataset": {"class_path": "X", "init_args": init_args}, "test_dataset": None, "target": "path"}


def test_files_are_looked_for_in_the_folder(tmp_path):
    found = locate_data(options(path=["a.json", "/b.json"], source="c.xyz", fold=1), tmp_path)
    assert found["dataset"]["init_args"] == {
        "path": [str(tmp_path / "a.json"), "/b.json"],
        "source": str(tmp_path / "c.xyz"),
        "fold": 1,
    }
    assert found["target"] == "path"


def test_files_are_found_without_the_folders_of_their_names(tmp_path):
    for name in ("a.json", "b.json", "sub/b.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = locate_data(options(path=["/not/there/a.json", "sub/b.json", "x/a.json", "x/c.json"]), tmp_path)
    names = ["a.json", "sub/b.json", "a.json", "x/c.json"]
    assert found["dataset"]["init_args"]["path"] == [str(tmp_path / name) for name in names]


def test_names_found_in_a_relative_folder_are_absolute(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.json").touch()
    monkeypatch.chdir(tmp_path)
    assert locate_data(options(path="a.json"), "data")["dataset"]["init_args"]["path"] == str(tmp_path / "data/a.json")


def test_options_given_are_not_changed(tmp_path):
    given = options(path="a.json")
    locate_data(given, tmp_path)
    anonymous_data(given)
    assert given == options(path="a.json")


def test_without_a_folder_names_stay():
    given = options(path="a.json", source=None)
    assert locate_data(given, None) == given


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder of data at .*nowhere"):
        locate_data(options(path="a.json"), tmp_path / "nowhere")


def test_anonymous_options_say_nothing_of_places():
    found = anonymous_data(options(path="/home/me/a.json", source=["/x/b.xyz", "c.xyz"], root="/home/me/.cache"))
    assert found["dataset"]["init_args"] == {"path": "a.json", "source": ["b.xyz", "c.xyz"]}


def test_data_sets_without_arguments():
    given = {"dataset": {"class_path": "pyg_schnet.data.QM9"}}
    assert locate_data(given, "/") == anonymous_data(given) == given

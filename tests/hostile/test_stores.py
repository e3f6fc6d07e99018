"""Stores on disk whose files are damaged: which of them, and what in it."""

import json

import pytest

from pyg_schnet.data import AtomsDataset, StructureStore

from .spoiled import raises, structures

STORES = {
    "no attributes": (lambda content: content.pop("attributes"), "it has no dictionary 'attributes'"),
    "no targets": (lambda content: content.pop("properties"), "it has no dictionary 'properties'"),
    "list": (lambda content: content.update(attributes=[]), "it has no dictionary 'attributes'"),
    "dtype": (
        lambda content: content["attributes"].update(z=["fly", [-1]]),
        "attribute 'z' must be 'str', or dtype and size",
    ),
    "shape": (lambda content: content["attributes"].update(z=["int64", "x"]), "attribute 'z' must be 'str', or dtype"),
    "negative": (lambda content: content["attributes"].update(z=["int64", [-2]]), "attribute 'z' must be"),
    "name": (
        lambda content: content["attributes"].update({"z); DROP": "str"}),
        "'z\\); DROP' is not the name of an attr",
    ),
    "field": (
        lambda content: content["properties"]["energy"].update(fly=3),
        r"target 'energy' is not a Property: .*fly",
    ),
    "unit": (lambda content: content["properties"]["energy"].update(unit=[]), "target 'energy' is not a Property"),
    "no unit": (
        lambda content: content["properties"]["energy"].pop("unit"),
        "target 'energy' is not a Property: it has no name",
    ),
    "target": (lambda content: content["properties"].update(energy=3), "target 'energy' is not a Property"),
}


@pytest.fixture
def store(tmp_path):
    """A store of two structures."""
    made = StructureStore.create(tmp_path / "store", AtomsDataset(structures(tmp_path / "data.xyz", 2)))
    made.close()
    return tmp_path / "store"


@pytest.mark.parametrize("name", STORES)
def test_descriptions_of_stores(name, store):
    change, message = STORES[name]
    file = store / "structures.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    raises(lambda path: StructureStore(store), file, rf"is not the description of a store: {message}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "there is no file"),
        (lambda file: file.write_bytes(b""), "its structures cannot be read from .* it is no data base of SQLite"),
        (lambda file: file.write_bytes(b"hello" * 99), "it is no data base of SQLite, or not a whole one"),
        (
            lambda file: file.write_bytes(file.read_bytes()[:4096]),
            "cannot be read from .* it is damaged, or of another st",
        ),
        (lambda file: (file.unlink(), file.mkdir()), "is a folder, expected a file"),
    ],
)
def test_data_bases_of_stores(spoil, message, store):
    file = store / "structures.db"
    spoil(file)
    raises(lambda path: StructureStore(store)[1], file, message, (ValueError, OSError))


def test_a_store_of_other_shapes(store):
    content = json.loads((store / "structures.json").read_text())
    content["attributes"]["pos"] = ["float32", [-1, 7]]
    (store / "structures.json").write_text(json.dumps(content))
    raises(lambda path: StructureStore(store)[0], store / "structures.db", "structure 0 cannot be read from")
    content["attributes"] |= {"pos": ["float32", [-1, 3]], "fly": ["float32", [-1]]}
    (store / "structures.json").write_text(json.dumps(content))
    raises(lambda path: StructureStore(store)[0], store / "structures.db", "structure 0 cannot be read from .*fly")

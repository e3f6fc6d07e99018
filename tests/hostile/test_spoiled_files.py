"""Files with bytes that were cut, flipped, inserted or taken out are read rightly or refused, never anything else."""

import gzip
import json
import shutil
import warnings
from pathlib import Path

import ase.db
import numpy as np
import pytest
import torch
from ase import Atoms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyg_schnet import load
from pyg_schnet.data import MD17, QM9, AtomsDataset, MaterialsDataset, Split, StructureStore
from pyg_schnet.models.checkpoint import read_header
from pyg_schnet.train.configuration import check_run, read_configuration
from pyg_schnet.train.split_note import note_split, split_of

from ..train.conftest import SAMPLE
from .spoiled import CARD, model_file, structures

RECORD = {"id": "a", "sym": ["Na", "Cl"], "frac": [[0, 0, 0], [0.5, 0.5, 0.5]], "cell": [4, 4, 4, 90, 90, 90], "e": 1.0}
SPLIT = Split([0, 1], [2], [3], 4)


def make_archive(path):
    rng = np.random.default_rng(0)
    np.savez(path, z=[8, 1, 1], R=rng.normal(size=(4, 3, 3)) * 3, E=np.zeros((4, 1)), F=np.zeros((4, 3, 3)))


def make_base(path):
    with ase.db.connect(path) as base:
        base.write(Atoms("OH", [[0, 0, 0], [0, 0, 1]]), key=1.0)


def make_sdf(path):
    path.write_text(
        "a\n\n\n  1  0\n    0.0000    0.0000    0.0000 O   0  0\nM  ISO  1   1  18\nM  END\n> <x>\n1\n\n$$$$\n"
    )


def make_qm9(path):
    shutil.copy(SAMPLE / "qm9_part1.csv", path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))


def make_store(path):
    StructureStore.create(path.parent, AtomsDataset(structures(path.parent / "data.xyz", 2)), overwrite=True).close()


def read_store(path):
    store = StructureStore(path.parent)
    try:
        return [store[k] for k in range(len(store))]
    finally:
        store.close()


def read_qm9(path):
    return QM9(path.parent / "cache", source=path.parent, progress=False, force_reload=True)


def make_run(path):
    path.write_text(json.dumps(CARD["run"], indent=1))


def read_run(path):
    return check_run(read_configuration(path), str(path), origin="beside")


KINDS = {
    "model": ("m.safetensors", model_file, load),
    "header": ("m.safetensors", model_file, read_header),
    "split": ("s.json", SPLIT.save, Split.load),
    "archive of a split": ("s.npz", SPLIT.save, Split.load),
    "crystals": ("m.json", lambda path: path.write_text(json.dumps([RECORD] * 3)), lambda path: crystals(path)),
    "lines of crystals": (
        "m.jsonl",
        lambda path: path.write_text((json.dumps(RECORD) + "\n") * 3),
        lambda path: crystals(path),
    ),
    "packed crystals": (
        "m.json.gz",
        lambda path: path.write_bytes(gzip.compress(json.dumps([RECORD] * 30).encode(), mtime=0)),
        lambda path: crystals(path),
    ),
    "MD17": ("d.npz", make_archive, MD17),
    "QM9": ("qm9_part1.csv", make_qm9, read_qm9),
    "structures": ("s.xyz", structures, AtomsDataset),
    "packed structures": (
        "s.xyz.gz",
        lambda path: path.write_bytes(gzip.compress(structures(path.parent / "s.xyz").read_bytes(), mtime=0)),
        AtomsDataset,
    ),
    "data base": ("s.db", make_base, AtomsDataset),
    "SD file": ("s.sdf", make_sdf, AtomsDataset),
    "store": ("structures.json", make_store, read_store),
    "data base of a store": ("structures.db", make_store, read_store),
    "configuration": ("c.yaml", make_run, read_run),
}


def crystals(path):
    return MaterialsDataset(path, {"e": "eV"})


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["cut", "flip", "insert", "remove", "double"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=3,
)


def refusal(read):
    """What is said of a file that is refused; ``None`` for one that is read. Errors of other types are raised."""
    try:
        read()
    except (ValueError, OSError) as error:
        return error
    return None


def spoil(content, changes):
    """Bytes with some changes, each at a part of their length."""
    for change, part, more in changes:
        place = int(part * len(content))
        content = {
            "cut": content[:place],
            "flip": content[:place]
            + bytes(one ^ (more[0] or 1) for one in content[place : place + 1])
            + content[place + 1 :],
            "insert": content[:place] + more + content[place:],
            "remove": content[:place] + content[place + len(more) :],
            "double": content[:place] + content[place : place + 40] + content[place:],
        }[change]
    return content


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(changes=CHANGES)
def test_spoiled_files_are_read_or_refused(kind, changes, tmp_path_factory):
    name, make, read = KINDS[kind]
    folder = tmp_path_factory.getbasetemp() / f"spoiled-{kind.replace(' ', '-')}"
    whole = folder / "whole"
    if not whole.exists():
        whole.mkdir(parents=True)
        make(whole / name)
    place = folder / "place"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    path = place / name
    content = spoil(path.read_bytes(), changes)
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ASE's readers
        said = refusal(lambda: read(path))
    if said is not None:
        assert type(said) in (ValueError, OSError, FileNotFoundError), repr(said)
        assert str(place) in str(said), repr(said)
        assert "\n" not in str(said), repr(said)
        assert len(str(said)) < 1000, repr(said)
    assert path.read_bytes() == content  # reading changes nothing
    assert {one.name for one in place.iterdir()} - {one.name for one in whole.iterdir()} <= {"cache"}


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_whole_are_read(kind, tmp_path):
    name, make, read = KINDS[kind]
    make(tmp_path / name)
    assert read(tmp_path / name) is not None


def test_a_cut_split_is_no_other_split(tmp_path):
    for name in ("s.json", "s.npz"):
        SPLIT.save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        for size in range(0, len(content) - 1, 7):
            (tmp_path / name).write_bytes(content[:size])
            with pytest.raises(ValueError, match=f"{name} is not a saved split"):
                Split.load(tmp_path / name)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**12) | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "class_path", "init_args"]), inner)
    ),
    max_leaves=5,
)


@settings(max_examples=150)
@given(value=JSON_VALUES, entry=st.sampled_from(["train", "val", "test", "n_structures", "fingerprint"]))
def test_splits_of_any_values(value, entry, tmp_path_factory):
    path = Path(tmp_path_factory.getbasetemp()) / "any.json"
    whole = {"train": [0, 1], "val": [2], "test": [3], "n_structures": 4, "fingerprint": None}
    path.write_text(json.dumps({**whole, entry: value}))
    if (said := refusal(lambda: Split.load(path))) is not None:
        assert str(said).startswith(f"{path} is not a saved split: ")
        return
    found = Split.load(path)
    sizes = [len(part) for part in (found.train, found.val, found.test)]
    assert isinstance(value, list) or sizes == [2, 1, 1]
    assert entry != "n_structures" or found.n_structures == value >= 4
    assert entry != "fingerprint" or found.fingerprint in (value, None)


@settings(max_examples=150)
@given(
    value=JSON_VALUES,
    entry=st.sampled_from(["dataset", "target", "test_dataset", "num_train", "seed", "split", "model"]),
)
def test_runs_of_any_values_name_data_sets_of_this_package(value, entry):
    run = json.loads(json.dumps(CARD["run"]))
    run["data"][entry] = value
    if (said := refusal(lambda: check_run(run, "m.safetensors", origin="card"))) is not None:
        assert str(said).startswith("m.safetensors")
        assert "\n" not in str(said)
        return
    found = check_run(run, "m.safetensors", origin="card")
    dataset = found["data"]["dataset"]["class_path"]
    assert dataset.rpartition(".")[0] == "pyg_schnet.data"
    assert entry != "test_dataset" or value is None


@settings(max_examples=100)
@given(value=JSON_VALUES, entry=st.sampled_from(["n_structures", "sizes", "seed", "parts"]))
def test_notes_of_splits_of_any_values(value, entry):
    for seed in (0, 1):  # drawn, and packed
        noted = {**note_split(Split([3, 0], [1], [4], 5) if seed else SPLIT, seed), entry: value}
        said = refusal(lambda noted=noted: split_of({"split": {"structures": noted}}))
        assert said is None or str(said).startswith("the split in the card of the model is damaged: ")


@settings(max_examples=60)
@given(value=JSON_VALUES, entry=st.sampled_from(["target", "unit", "elements", "run", "split", "trained_on", "mine"]))
def test_cards_of_any_values(value, entry, tmp_path_factory):
    path = Path(tmp_path_factory.getbasetemp()) / "any.safetensors"
    model_file(path, lambda header: header["card"].update({entry: value}))
    if (said := refusal(lambda: load(path))) is not None:
        assert str(said).startswith(f"the header of {path} is damaged: the entry '{entry}' of the card must be ")
        assert entry != "mine"
        return
    card = load(path).card
    assert torch.is_tensor(load(path).state_dict()["embedding.weight"])
    assert entry not in ("target", "unit") or card[entry] is None or isinstance(card[entry], str)

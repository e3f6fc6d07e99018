"""No file executes anything, except a configuration that the user names."""

import ast
import copy
import json
import os
import pickle
import re
import shutil
import socket
import sqlite3
import stat
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
import yaml

import pyg_schnet
from pyg_schnet.backends.numba.lib import compiler
from pyg_schnet.cli import main
from pyg_schnet.data import MD17, QM9, AtomsDataset, MaterialsDataset, Split, StructureStore
from pyg_schnet.train import PropertyTask
from pyg_schnet.train.configuration import check_run
from pyg_schnet.train.last_checkpoint import read_checkpoint

from ..train.conftest import SAMPLE
from .spoiled import CARD, DATASET, model_file, refused, save_trap, structures, trap

PACKAGE = Path(pyg_schnet.__file__).parent
MODULE = """
from pathlib import Path
from torch_geometric.data import InMemoryDataset
Path({marker!r}).touch()

class Evil(InMemoryDataset):
    pass

def evil(data):
    return data
"""


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """The file that no trap may make; an evil module that makes it can be imported."""
    found = tmp_path / "executed"
    (tmp_path / "evil_module.py").write_text(MODULE.format(marker=str(found)))
    monkeypatch.syspath_prepend(tmp_path)
    yield found
    import sys

    sys.modules.pop("evil_module", None)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A connection fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_traps_work(tmp_path, marker):
    pickle.loads(trap(marker))
    assert marker.exists()
    marker.unlink()
    torch.load(save_trap(tmp_path / "a.pt", marker), weights_only=False)
    assert marker.exists()


def named(path, **arguments):
    return {"dataset": {"class_path": path, "init_args": arguments}}


def own(**arguments):
    return {"dataset": {**DATASET, "init_args": {**DATASET["init_args"], **arguments}}}


NONE_OF_OURS = "none of this package and could execute anything; give a configuration that you trust"
CARDS = {
    "class of PyG": (named("torch_geometric.datasets.QM9", root="r"), NONE_OF_OURS),
    "class of PyG with an address": (
        named("torch_geometric.datasets.Planetoid", root="http://x", name="Cora"),
        NONE_OF_OURS,
    ),
    "short name of a class of PyG": ({"dataset": {"class_path": "KarateClub"}}, "names the data set 'KarateClub'"),
    "class of a module": ({"dataset": {"class_path": "evil_module.Evil"}}, NONE_OF_OURS),
    "class as a text": ({"dataset": "evil_module.Evil"}, NONE_OF_OURS),
    "file of options": ({"dataset": "options.yaml"}, "names the data set 'options.yaml'"),
    "class by our folder": ({"dataset": {"class_path": "pyg_schnet.data.os.system"}}, NONE_OF_OURS),
    "class that is none": ({"dataset": {"class_path": ["evil_module.Evil"]}}, NONE_OF_OURS),
    "data set for the test": ({"test_dataset": {"class_path": "evil_module.Evil"}}, NONE_OF_OURS),
    "transform": (own(transform={"class_path": "evil_module.Evil"}), "gives its data set a transform"),
    "transform as a text": (own(transform="evil_module.evil"), "gives its data set a transform, which could execute"),
    "own transform": (own(transform={"class_path": "pyg_schnet.data.NeighborList"}), "its data set a transform"),
    "dtype": (own(dtype="evil_module.evil"), r"dtype must be one of torch\.float16, .* got 'evil_module\."),
    "pre_transform": (own(pre_transform="evil_module.evil"), "AtomsDataset has no argument 'pre_transform'"),
    "root": (named("QM9", root="r"), "sets the folder 'root' of its data set"),
    "store": (named("StructureStore", root="r"), "does not say where its store"),
    "absolute file": (own(source="/etc/passwd"), "must be the bare name of a file, looked for in --data_dir"),
    "file above": (own(source="../data.xyz"), "must be the bare name of a file"),
    "file at home": (own(source="~/data.xyz"), "must be the bare name of a file"),
    "file of Windows": (own(source="C:\\data.xyz"), "must be the bare name of a file"),
    "folder": (own(source=".."), "must be the bare name of a file"),
    "address": (own(source="http://127.0.0.1/data.xyz"), "must be a file, got the address 'http"),
    "address in a list": (own(source=["data.xyz", "ftp://x/y"]), "must be a file, got the address 'ftp://x/y'"),
    "source that is none": (own(source=[{"class_path": "evil_module.Evil"}]), "must be the name of a file, got"),
    "target": ({"target": {"class_path": "evil_module.Evil"}}, "names the target 'evil_module.Evil', expected"),
    "target with a class inside": (
        {"target": {"class_path": "Property", "init_args": {"name": {"class_path": "evil_module.Evil"}, "unit": "eV"}}},
        "expected the name of a target or a Property",
    ),
    "split": ({"split": {"class_path": "evil_module.Evil"}}, "data.split must be the name of a file"),
    "counts": ({"num_train": {"class_path": "evil_module.Evil"}}, "data.num_train must be a whole number, got"),
}  # fmt: skip


@pytest.mark.parametrize("name", CARDS)
def test_a_card_names_data_sets_of_this_package_alone(name, tmp_path, marker, monkeypatch):
    changes, message = CARDS[name]
    monkeypatch.chdir(tmp_path)
    structures(tmp_path / "data.xyz")
    (tmp_path / "options.yaml").write_text("class_path: evil_module.Evil")
    for folder in ("r", "r/processed"):
        for file in ("data.pt", "data_v3.pt", "pre_transform.pt", "pre_filter.pt"):
            save_trap(tmp_path / folder / file, marker)
    model = model_file(tmp_path / "m.safetensors", lambda header: header["card"]["run"]["data"].update(changes))
    code, said = refused("test", model, f"--data_dir={tmp_path}")
    assert code == 1
    assert said.startswith(f"pyg-schnet test: the card of {model}")
    assert re.search(message, said), said
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda run: run["model"].update(class_path="evil_module.Evil"),
            "the task of the run must be one of",
        ),
        (lambda run: run.update(model="evil_module.Evil"), "has no section 'model' of a training run"),
        (lambda run: run.update(data=[1]), "has no section 'data' of a training run"),
        (lambda run: run["data"].pop("target"), "does not say what to test on"),
    ],
)
def test_a_card_names_a_task_of_this_package(change, message, tmp_path, marker):
    structures(tmp_path / "data.xyz")
    model = model_file(tmp_path / "m.safetensors", lambda header: change(header["card"]["run"]))
    assert message in refused("test", model, f"--data_dir={tmp_path}")[1]
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore")  # of Lightning, on the number of workers
def test_a_card_finds_its_files_in_the_folder_of_the_data(tmp_path, capsys):
    structures(tmp_path / "elsewhere" / "data.xyz")
    main(["test", str(model_file(tmp_path / "m.safetensors")), f"--data_dir={tmp_path / 'elsewhere'}"])
    assert "Errors on 2 test structures" in capsys.readouterr().out


def run_folder(folder, change):
    """A folder with a model and the configuration of its run."""
    model_file(folder / "model.safetensors")
    given = copy.deepcopy(CARD["run"])
    given["data"]["dataset"]["init_args"]["source"] = str(structures(folder / "data.xyz"))
    change(given)
    (folder / "config.yaml").write_text(yaml.safe_dump(given))
    return folder


BESIDE = {
    "class": (lambda run: run["data"].update(dataset={"class_path": "evil_module.Evil"}), NONE_OF_OURS),
    "transform": (
        lambda run: run["data"]["dataset"]["init_args"].update(transform={"class_path": "evil_module.Evil"}),
        "gives its data set a transform",
    ),
    "transform in ours": (
        lambda run: run["data"]["dataset"]["init_args"].update(
            transform={"class_path": "pyg_schnet.data.NeighborList", "init_args": {"x": {"class_path": "e.E"}}}
        ),
        "gives its data set a transform",
    ),
    "address": (lambda run: run["data"]["dataset"]["init_args"].update(source="http://x/y"), "got the address"),
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_a_configuration_beside_a_model_is_no_more_trusted(name, tmp_path, marker):
    change, message = BESIDE[name]
    folder = run_folder(tmp_path / "run", change)
    said = refused("test", folder / "model.safetensors")[1]
    assert message in said
    assert str(folder / "config.yaml") in said
    assert not marker.exists()


@pytest.mark.parametrize("name", BESIDE)
def test_merging_trusts_no_configuration_either(name, tmp_path, marker):
    change, message = BESIDE[name]
    folder = run_folder(tmp_path / "run", change)
    result = {"recipe": None, "seed": 0, "run": {"data": {}}}
    counts = dict.fromkeys(("seconds", "epochs", "steps", "structures_per_second"), 1)
    (folder / "result.json").write_text(json.dumps({**result, "training": {**counts, "starts": []}}))
    Split([0, 1, 2], [3], [4, 5], 6).save(folder / "split.json")
    assert message in refused("merge", f"[{folder}]", f"--run_dir={tmp_path / 'out'}")[1]
    assert not marker.exists()


def test_tags_of_python_are_no_yaml(tmp_path, marker):
    folder = run_folder(tmp_path / "run", lambda run: None)
    tag = f"x: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{marker}']]"
    (folder / "config.yaml").write_text(tag)
    for more in ([], [f"--config={folder / 'config.yaml'}"]):
        assert (
            "could not determine a constructor for the tag" in refused("test", folder / "model.safetensors", *more)[1]
        )
    said = refused("train", f"--config={folder / 'config.yaml'}", f"--run_dir={tmp_path / 'new'}")[1]
    assert "could not determine a constructor for the tag" in said
    assert not marker.exists()


def test_only_a_configuration_that_the_user_names_may_run_other_code(tmp_path, marker):
    folder = run_folder(tmp_path / "run", BESIDE["class"][0])
    refused(
        "test", folder / "model.safetensors", f"--config={folder / 'config.yaml'}"
    )  # its data set has no structures
    assert marker.exists()
    given = yaml.safe_load((folder / "config.yaml").read_text())
    assert check_run(given, "config.yaml") == given


TRAPPED = (
    "xyz",
    "extxyz",
    "traj",
    "trj",
    "db",
    "json",
    "cif",
    "sdf",
    "pdb",
    "gpw",
    "nc",
    "bundle",
    "py",
    "vasp",
    "xml",
    "pkl",
)


@pytest.mark.parametrize("ending", TRAPPED)
def test_structures_in_a_pickle_are_refused(ending, tmp_path, marker):
    for number, content in enumerate((trap(marker), b"PickleTrajectory" + trap(marker))):
        path = tmp_path / f"{number}.{ending}"
        path.write_bytes(content)
        with pytest.raises((ValueError, OSError), match=re.escape(str(path))):
            AtomsDataset(path)
    save_trap(tmp_path / f"zip.{ending}", marker)
    with pytest.raises((ValueError, OSError), match=rf"zip\.{ending}"):
        AtomsDataset(tmp_path / f"zip.{ending}")
    assert not marker.exists()


def test_scripts_are_no_structures(tmp_path, marker):
    path = tmp_path / "images.py"
    path.write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\nimages = []\n")
    with pytest.raises(ValueError, match=r"ASE cannot read structure 0 of .*images\.py"):
        AtomsDataset(path)
    with pytest.raises(ValueError, match=r"ASE cannot read structure 0 of .*images\.py"):
        AtomsDataset(path, format="py")
    assert not marker.exists()


def test_a_bundle_of_trajectories_is_not_unpickled(tmp_path, marker):
    folder = tmp_path / "a.bundle"
    (folder / "F0").mkdir(parents=True)
    meta = {
        "format": "BundleTrajectory",
        "version": 1,
        "backend": "pickle",
        "ulm.singleprecision": False,
        "datatypes": {},
    }
    (folder / "metadata.json").write_text(json.dumps(meta | {"subtype": "normal", "python_ver": [3, 11]}))
    (folder / "frames").write_text("1\n")
    for name in ("smalldata.pickle", "numbers.pickle", "smalldata.ulm", "numbers.ulm", "state"):
        (folder / "F0" / name).write_bytes(trap(marker))
    with pytest.raises(ValueError, match=r"a\.bundle"):
        AtomsDataset(folder)
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["pickle", "torch.save"])
def test_files_of_data_that_are_pickles_are_refused(kind, tmp_path, marker):
    def plant(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return save_trap(path, marker) if kind == "torch.save" else path.write_bytes(trap(marker)) and path

    readers = {
        "a.npz": lambda path: MD17(path),
        "b.npz": lambda path: Split.load(path),
        "b.json": lambda path: Split.load(path),
        "c.json": lambda path: MaterialsDataset(path, {"e": "eV"}),
        "d.safetensors": lambda path: pyg_schnet.load(path),
        "qm9_part1.csv": lambda path: QM9(tmp_path / "q", source=tmp_path, progress=False),
        "cache/processed/qm9-1.safetensors": lambda path: QM9(tmp_path / "cache", progress=False),
        "store/structures.json": lambda path: StructureStore(tmp_path / "store"),
        "e.ckpt": lambda path: read_checkpoint(path, PropertyTask(pyg_schnet.SchNet(8, 8, 1, 8, 4.0))),
    }
    for name, read in readers.items():
        path = plant(tmp_path / name)
        with pytest.raises((ValueError, OSError), match=re.escape(str(path))):
            read(path)
        assert not marker.exists(), name


def test_arrays_of_objects_are_refused(tmp_path, marker):
    objects = np.array([torch.nn.Identity()], dtype=object)
    for name, read in (("a.npz", MD17), ("b.npz", Split.load)):
        arrays = dict.fromkeys(("z", "R", "E", "F", "train", "val", "test", "n_structures", "fingerprint"), objects)
        np.savez(tmp_path / name, **arrays)
        with pytest.raises(ValueError, match=rf"{name}.*array of Python objects, or is a pickle"):
            read(tmp_path / name)


def test_pickles_beside_a_cache_are_not_looked_at(tmp_path, marker):
    for folder in (tmp_path / "processed", tmp_path / "raw", tmp_path):
        for name in ("pre_transform.pt", "pre_filter.pt", "data.pt", "data_v3.pt"):
            save_trap(folder / name, marker)
    assert len(QM9(tmp_path, source=SAMPLE, progress=False)) > 0
    assert len(QM9(tmp_path, source=SAMPLE, progress=False)) > 0
    assert not marker.exists()


def store(folder):
    """A store of two structures."""
    made = StructureStore.create(folder, AtomsDataset(structures(folder.parent / "data.xyz", 2)))
    made.close()
    return folder


@pytest.mark.parametrize("kind", ["object", "pickle", ["object", [-1]], ["load", [-1]], {"dtype": "object"}, 3, None])
def test_a_store_holds_tensors_and_texts_alone(kind, tmp_path, marker):
    folder = store(tmp_path / "store")
    with sqlite3.connect(folder / "structures.db") as base:  # as PyG's data base would unpickle it
        base.execute("UPDATE StructureStore SET COL_z = ?", (trap(marker),))
    described = json.loads((folder / "structures.json").read_text())
    described["attributes"]["z"] = kind
    (folder / "structures.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"structures\.json is not the description of a store: attribute 'z' must be"):
        StructureStore(folder)
    assert not marker.exists()


@pytest.mark.parametrize("size", [1, 0])  # modulo that of an atomic number: bytes of whole ones can be read as such
def test_pickles_beside_and_inside_a_store_are_not_loaded(tmp_path, marker, size):
    folder = store(tmp_path / "store")
    for name in ("pre_transform.pt", "pre_filter.pt", "processed/pre_transform.pt", "sqlite.db"):
        save_trap(folder / name, marker)
    assert StructureStore(folder)[0].z.tolist() == [8, 1, 1]
    with sqlite3.connect(folder / "structures.db") as base:
        content = trap(marker)
        content += b"." * ((size - len(content)) % 8)
        base.execute("UPDATE StructureStore SET COL_z = ?", (content,))
    with pytest.raises(ValueError, match=r"structure 0 cannot be read from .*structures\.db"):
        StructureStore(folder)[0]
    with pytest.raises(ValueError, match=r"structures cannot be read from .*structures\.db"):
        StructureStore(folder).__getitems__([0, 1])
    with pytest.raises(ValueError, match=r"structures cannot be read from .*structures\.db"):
        StructureStore(folder).joined(["z"])
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("option", ["resume", "start_from"])
def test_checkpoints_are_not_unpickled(option, tmp_path, marker):
    checkpoint = save_trap(tmp_path / "last.ckpt", marker)
    said = refused(
        "train",
        f"--{option}={checkpoint}",
        f"--run_dir={tmp_path / 'run'}",
        "--data.dataset=AtomsDataset",
        f"--data.dataset.source={structures(tmp_path / 'data.xyz')}",
        "--data.target=energy",
        "--data.num_train=3",
        "--data.num_val=1",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    )[1]
    assert str(checkpoint) in said
    assert not marker.exists()
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/m.safetensors", "file:///etc/passwd", "s3://a/b", "memory://x"]
)
def test_addresses_are_no_files(address, tmp_path):
    path = structures(tmp_path / "data.xyz")
    assert "no model file at" in refused("predict", path, f"--model={address}")[1]
    assert "there is no file" in refused("predict", address, "--model=qm9-u0")[1]
    assert "there is no" in refused("train", f"--config={address}")[1]
    for read in (AtomsDataset, MD17, Split.load, StructureStore):
        with pytest.raises((OSError, ValueError)):
            read(address)


def test_names_and_units_do_not_steer_the_terminal(tmp_path, capsys):
    path = structures(tmp_path / "data.xyz")

    def change(header):
        header["card"].update(target="\x1b[31mU\x07\n", unit="\x9b2J eV\u202e")

    model = model_file(tmp_path / "m.safetensors", change)
    main(["predict", str(path), f"--model={model}"])
    out = capsys.readouterr().out
    assert "\\x1b[31mU\\x07\\n [\\x9b2J eV\\u202e]" in out
    assert all(one.isprintable() for one in out.replace("\n", ""))
    for name in ("o.csv", "o.xyz"):
        main(["predict", str(path), f"--model={model}", f"--output={tmp_path / name}"])
        assert all(one.isprintable() or one in "\r\n" for one in (tmp_path / name).read_text())
    assert len(AtomsDataset(tmp_path / "o.xyz")) == 6
    structures(tmp_path / "d" / "data.xyz")
    said = refused("test", model, f"--data_dir={tmp_path / 'd'}")[1]
    assert "the model was trained on \\x1b[31mU\\x07" in said


@pytest.mark.skipif(not hasattr(compiler, "cache_folder") or os.name == "nt", reason="folders are not looked at here")
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o702])
def test_kernels_that_others_can_write_are_not_loaded(mode, tmp_path, marker, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kernels"))

    def kernel():
        return compiler.kernel_of(compiler._add_one, {"cache": True})

    folder = Path(kernel()._cache.cache_path)
    assert tmp_path / "kernels" in folder.parents
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert kernel()(1) == 2
    for path in folder.iterdir():
        path.write_bytes(trap(marker))
    assert kernel()(1) == 2
    assert marker.exists()  # the user's own cache, so the trap works
    marker.unlink()
    for path in folder.iterdir():
        path.write_bytes(trap(marker))
    folder.chmod(mode)
    other = kernel()
    assert other(1) == 2
    assert Path(other._cache.cache_path) != folder
    assert not marker.exists()


LOADERS = {
    "torch.load": lambda call: keyword(call, "weights_only") == "True",
    "np.load": lambda call: keyword(call, "allow_pickle") == "False",
    "yaml.load": lambda call: keyword(call, "Loader") == "_LOADER",
    "yaml.safe_load": lambda call: True,
}
FORBIDDEN = {"pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
KERNEL_CACHE = "backends/numba/lib/compiler.py"  # the user's own


def keyword(call, name):
    return next((ast.unparse(one.value) for one in call.keywords if one.arg == name), None)


def test_no_source_file_loads_what_can_execute():
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom) and place != KERNEL_CACHE:
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not FORBIDDEN & {name.split(".")[0] for name in names}, place
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "os.system", "torch.hub.load"), place
            if called.endswith((".load", ".safe_load", ".unsafe_load", ".full_load")) and "." in called:
                check = LOADERS.get(called)
                known = called.split(".")[0] in ("torch", "np", "numpy", "yaml")
                assert check(node) if check else not known, f"{place}: {ast.unparse(node)}"


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_a_link_to_a_model_is_the_model(tmp_path):
    model = model_file(tmp_path / "m.safetensors")
    (tmp_path / "l.safetensors").symlink_to(model)
    assert pyg_schnet.load(tmp_path / "l.safetensors").card["target"] == "energy"
    shutil.copy(model, tmp_path / "copy.safetensors")
    assert pyg_schnet.load(tmp_path / "copy.safetensors").card == pyg_schnet.load(model).card

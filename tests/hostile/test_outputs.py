"""What commands write is none of what they read, whole, and in a place where it can be."""

import csv
import errno
import os
import shutil

import numpy as np
import pytest

from pyg_schnet.cli import _prediction, main
from pyg_schnet.cli._outputs import check_output
from pyg_schnet.data import AtomsDataset

from .spoiled import model_file, refused, structures


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with structures and a model, which is the current one; both stay as they are."""
    structures(tmp_path / "data.xyz", 3)
    model_file(tmp_path / "m.safetensors")
    before = {name: (tmp_path / name).read_bytes() for name in ("data.xyz", "m.safetensors")}
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".partial")]


def predict(*more):
    return ("predict", "data.xyz", "--model=m.safetensors", *more)


def link(name, target):
    return lambda folder: (folder / name).symlink_to(target)


def hard(name, target):
    return lambda folder: os.link(folder / target, folder / name)


SAME = {
    "the structures": ("data.xyz", None),
    "the structures by another way": ("x/../data.xyz", lambda folder: (folder / "x").mkdir()),
    "a link to them": ("l.xyz", link("l.xyz", "data.xyz")),
    "a link to a link": ("l.xyz", lambda folder: (link("k.xyz", "data.xyz")(folder), link("l.xyz", "k.xyz")(folder))),
    "a hard link to them": ("l.xyz", hard("l.xyz", "data.xyz")),
    "the model": ("m.csv", hard("m.csv", "m.safetensors")),
    "a link to the model": ("m.csv", link("m.csv", "m.safetensors")),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_outputs_that_are_read(name, files):
    output, make = SAME[name]
    if make is not None:
        make(files)
    for path in (output, files / output):
        code, said = refused(*predict(f"--output={path}"))
        assert code == 1
        assert f"{path} is the same file as " in said.replace("x/../", "") or "is the same file as" in said
        assert said.endswith("which is read; choose another output")


def test_an_input_by_a_link_or_pattern_is_read_as_well(files):
    (files / "l.xyz").symlink_to("data.xyz")
    for source in ("l.xyz", "da*.xyz", str(files / "data.xyz")):
        said = refused("predict", source, "--model=m.safetensors", "--output=data.xyz")[1]
        assert "data.xyz is the same file as" in said


PLACES = {
    "no ending": ("o", "output must end in .csv, .xyz, .extxyz, got o; or state --format csv or extxyz"),
    "ending": ("o.pdf", "output must end in .csv, .xyz, .extxyz, got o.pdf"),
    "compressed": ("o.xyz.gz", "output must end in .csv, .xyz, .extxyz, got o.xyz.gz"),
    "name alone": (".csv", "output must end in .csv"),
    "nothing": ("", "output must end in .csv"),
    "root": ("/", "output must end in .csv"),
    "folder": ("folder.csv", "folder.csv is a folder; give the name of a file to write"),
    "folder by its name": ("o.csv/", "output must be the name of a file, got o.csv/"),
    "below a file": ("data.xyz/o.csv", "data.xyz/o.csv cannot be written: a part of its name is a file, not a folder"),
    "deep below a file": ("data.xyz/a/o.csv", "cannot be written"),
    "device": ("/dev/null", "output must end in .csv"),
    "link to a device": ("d.csv", "d.csv is a pipe or a device; give the name of a file to write"),
    "pipe": ("p.csv", "p.csv is a pipe or a device"),
    "loop": ("loop.csv", "loop.csv: too many levels of symbolic links"),
    "long name": ("x" * 300 + ".csv", "file name too long"),
    "zero byte": ("a\0b.csv", r"'a\x00b.csv' is not the name of a file"),
    "system": ("/proc/o.csv", "/proc/o.csv"),
}


@pytest.mark.parametrize("name", PLACES)
def test_places_that_cannot_be_written(name, files):
    output, message = PLACES[name]
    (files / "folder.csv").mkdir()
    (files / "d.csv").symlink_to("/dev/null")
    os.mkfifo(files / "p.csv")
    (files / "loop.csv").symlink_to("loop.csv")
    before = sorted(path.name for path in files.iterdir())
    code, said = refused(*predict(f"--output={output}"))
    assert code == 1
    assert message in said
    assert sorted(path.name for path in files.iterdir()) == before


def test_devices_stay_what_they_are(files):
    for format in ("csv", "extxyz"):
        assert "is a pipe or a device" in refused(*predict("--output=/dev/full", f"--format={format}"))[1]
    assert not os.path.isfile("/dev/full")


def test_a_format_that_is_stated_needs_no_ending(files):
    main(["predict", "data.xyz", "--model=m.safetensors", "--output=new/folder/o", "--format=csv"])
    with open("new/folder/o", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3


@pytest.mark.parametrize("name", ["o.csv", "o.xyz"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("x")]
)
def test_outputs_are_whole_or_as_they_were(name, error, files, monkeypatch):
    main(["predict", "data.xyz", "--model=m.safetensors", f"--output={name}"])
    before = (files / name).read_bytes()

    def half(path, *rest):
        path.write_text("half")
        raise error

    for writer in ("_write_csv", "_write_extxyz"):
        monkeypatch.setattr(_prediction, writer, half)
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            main(["predict", "data.xyz", "--model=m.safetensors", f"--output={name}"])
    else:
        said = refused(*predict(f"--output={name}"))[1]
        assert "no space left on device" in said or said.endswith(" x")
    assert (files / name).read_bytes() == before


def test_a_link_that_is_written_stays_a_link(files):
    (files / "place").mkdir()
    (files / "o.csv").symlink_to("place/real.csv")
    main(["predict", "data.xyz", "--model=m.safetensors", "--output=o.csv"])
    assert (files / "o.csv").is_symlink()
    assert (files / "place" / "real.csv").read_text().startswith("structure,formula")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything can be written as root")
def test_folders_that_are_not_ours(files):
    (files / "closed").mkdir(mode=0o500)
    said = refused(*predict("--output=closed/o.csv"))[1]
    assert said.endswith("closed/o.csv cannot be written: permission denied")


def test_permission_is_asked_for_before_the_work(files, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert refused(*predict("--output=o.csv"))[1].endswith("o.csv cannot be written: permission denied")


ANALYSES = {
    "filters": (["filters", "m.safetensors"], "o.npz", (".npz", ".png")),
    "embedding": (["embedding", "m.safetensors", "--elements=[H,C,N,O,F]"], "o.npz", (".npz", ".png")),
    "dimer": (["dimer", "H", "O", "--model=m.safetensors", "--untrained_forces=true"], "o.csv", (".csv", ".png")),
    "modes": (
        ["modes", "data.xyz", "--model=m.safetensors", "--untrained_forces=true", "--relax=false"],
        "o.csv",
        (".csv", ".png", "-displacements.xyz"),
    ),
}


@pytest.mark.parametrize("name", ANALYSES)
def test_analyses_write_none_of_what_they_read(name, files):
    arguments, output, endings = ANALYSES[name]
    for ending in endings:
        path = files / f"o{ending}"
        os.link(files / "m.safetensors", path)
        said = refused("analyze", *arguments, f"--output={output}")[1]
        assert f"o{ending} is the same file as m.safetensors, which is read" in said
        path.unlink()
    assert "output must end in .npz" in refused("analyze", *arguments, "--output=o.pdf")[1].replace(".csv or ", "")
    assert "cannot be written" in refused("analyze", *arguments, f"--output=data.xyz/{output}")[1]
    assert sorted(path.name for path in files.iterdir()) == ["data.xyz", "m.safetensors"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_analyses_write_whole_files(files, monkeypatch):
    main(["analyze", "filters", "m.safetensors", "--output=o.npz"])
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    assert set(before) == {"data.xyz", "m.safetensors", "o.npz", "o.png"}
    with np.load(files / "o.npz") as content:
        assert "values" in content.files

    def half(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", half)
    assert refused("analyze", "filters", "m.safetensors", "--output=o.npz")[1].endswith(
        "o.npz: no space left on device"
    )
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before


def test_a_merged_run_is_a_new_folder(files):
    for place in ("data.xyz", "."):
        code, said = refused("merge", "[run]", f"--run_dir={place}")
        assert code == 1
        assert "no finished run in run: there is no file model.safetensors" in said
    shutil.copytree(files, files / "run")
    (files / "run" / "m.safetensors").rename(files / "run" / "model.safetensors")
    (files / "run" / "result.json").write_text("{}")
    assert "data.xyz is there already; choose another --run_dir" in refused("merge", "[run]", "--run_dir=data.xyz")[1]


def test_paths_that_are_fine(files):
    (files / "old.csv").write_text("old")
    for name in ("new.csv", "old.csv", "a/b/c/new.csv"):
        assert str(check_output(name, ["data.xyz", "m.safetensors", "nowhere"], (".csv", ".npz"))) == name
    assert not (files / "a").exists()
    assert len(AtomsDataset("data.xyz")) == 3

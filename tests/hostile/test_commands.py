"""Commands end with one sentence and exit code 1 or 2, never with a traceback; --debug shows it."""

import errno
import json
import os
import sys

import pytest
import torch

from pyg_schnet import SchNet
from pyg_schnet.cli import COMMANDS, main
from pyg_schnet.cli._sentences import LONGEST, UsageError, explained
from pyg_schnet.train.configuration import LARGEST, parse_configuration

from .spoiled import model_file, refused, structures


class MisconfigurationException(Exception):
    """As Lightning's."""


class ArgumentError(Exception):
    """As that of another parser, which has no argument_name."""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with structures and a model, which is the current one."""
    structures(tmp_path / "data.xyz")
    model_file(tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a.xyz"), "a.xyz: permission denied"),
        (OSError(errno.ENOSPC, "No space left on device", "o.csv"), "o.csv: no space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device"),
        (OSError("a.xyz is damaged"), "a.xyz is damaged"),
        (FileNotFoundError("there is no file a.xyz"), "there is no file a.xyz"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", b"folder"), "folder: is a directory"),
        (ValueError("a.xyz:\n   line 3\tis bad"), "a.xyz: line 3 is bad"),
        (ValueError("a\x1b[31m\x07\u202e"), r"a\x1b[31m\x07\u202e"),
        (ValueError(), "ValueError"),
        (ImportError("no module x"), "no module x"),
        (MemoryError("Unable to allocate 728 TiB"), "the input is larger than the memory (Unable to allocate 728 TiB)"),
        (torch.OutOfMemoryError("CUDA"), "the input is larger than the memory (CUDA)"),
        (RecursionError("maximum"), "the input is nested too deeply (maximum)"),
        (MisconfigurationException("no\n GPU"), "no GPU"),
        (KeyError("x"), "KeyError: 'x'; this was not expected, --debug shows where it comes from"),
        (ArgumentError("x"), "ArgumentError: x; this was not expected, --debug shows where it comes from"),
        (
            RuntimeError("wrong device"),
            "RuntimeError: wrong device; this was not expected, --debug shows where it comes from",
        ),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
@pytest.mark.parametrize("debug", [False, True])
def test_any_error_is_one_sentence(error, sentence, debug, monkeypatch, capsys):
    def fail(command, rest):
        raise error

    monkeypatch.setattr("pyg_schnet.cli._run", fail)
    code, said = refused("predict", *(["--debug"] if debug else []))
    assert (code, said) == (1, f"pyg-schnet predict: {sentence}")
    err = capsys.readouterr().err
    assert err.endswith(said + "\n")
    assert ("Traceback" in err) is debug


def test_long_sentences_are_cut():
    said = explained(ValueError("x" * 5000))
    assert len(said) <= LONGEST
    assert said.endswith("... (--debug shows the rest)")


@pytest.mark.parametrize("command", ["train", "test", "predict", "merge"])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_debug_stands_anywhere(command, place, files, capsys):
    arguments = [command, "nowhere", "--model=nowhere"]
    arguments.insert(place, "--debug")
    assert refused(*arguments)[0] in (1, 2)
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    refused(*(one for one in arguments if one != "--debug"))
    assert "Traceback" not in capsys.readouterr().err


USAGE = {
    "no such command": (["fly"], "unknown command 'fly'"),
    "no such option of all": (["--fly"], "unknown command '--fly'"),
    "no model": (["predict", "data.xyz"], "model"),
    "no structures": (["predict", "--model=m.safetensors"], "structures"),
    "unknown option": (["predict", "data.xyz", "--model=m.safetensors", "--fly=3"], "fly"),
    "unknown format": (["predict", "data.xyz", "--model=m.safetensors", "--format=pdf"], "Expected one of 'auto'"),
    "size that is none": (["predict", "data.xyz", "--model=m.safetensors", "--batch_size=x"], "Expected a int"),
    "size with a point": (["predict", "data.xyz", "--model=m.safetensors", "--batch_size=2.5"], "Expected a int"),
    "one more": (["predict", "data.xyz", "data.xyz", "--model=m.safetensors"], "data.xyz"),
    "nothing to test": (["test"], "model"),
    "nothing to merge": (["merge"], "runs"),
    "no folder for the merged": (["merge", "[a]"], "run_dir"),
    "option of training": (["train", "--fly=3"], "fly"),
    "class of training": (["train", "--model=fly"], "fly"),
    "number of training": (["train", "--trainer.max_epochs=x"], "max_epochs"),
}  # fmt: skip


@pytest.mark.parametrize("name", USAGE)
def test_options_that_are_not_understood_end_with_code_2(name, files):
    arguments, message = USAGE[name]
    code, said = refused(*arguments)
    assert code == 2
    assert message in said
    assert "Namespace" not in said
    assert "<class" not in said


BAD = {
    "missing": (lambda path: None, "there is no"),
    "empty": (lambda path: path.write_bytes(b""), None),
    "binary": (lambda path: path.write_bytes(bytes(range(256)) * 20), None),
    "zeros": (lambda path: path.write_bytes(b"\0" * 5000), None),
    "text": (lambda path: path.write_text("hello\nworld\n"), None),
    "page": (lambda path: path.write_text("<!DOCTYPE html><html></html>"), None),
    "folder": (lambda path: path.mkdir(), None),
    "loop": (lambda path: path.symlink_to(path.name), None),
    "broken link": (lambda path: path.symlink_to("nowhere"), None),
    "pipe": (os.mkfifo, None),
    "UTF-16": (lambda path: path.write_text("a: 1\n", encoding="utf-16"), None),
    "nested": (lambda path: path.write_text("[" * 100_000), None),
}
READ = {
    "structures": ("s.xyz", lambda path: ("predict", path, "--model=m.safetensors")),
    "compressed structures": ("s.xyz.gz", lambda path: ("predict", path, "--model=m.safetensors")),
    "data base": ("s.db", lambda path: ("predict", path, "--model=m.safetensors")),
    "JSON": ("s.json", lambda path: ("predict", path, "--model=m.safetensors")),
    "SD file": ("s.sdf", lambda path: ("predict", path, "--model=m.safetensors")),
    "crystals": ("s.cif", lambda path: ("predict", path, "--model=m.safetensors")),
    "model": ("x.safetensors", lambda path: ("predict", "data.xyz", f"--model={path}")),
    "tested model": ("x.safetensors", lambda path: ("test", path)),
    "drawn model": ("x.safetensors", lambda path: ("analyze", "filters", path)),
    "configuration": ("c.yaml", lambda path: ("train", f"--config={path}")),
    "configuration of a test": ("c.yaml", lambda path: ("test", "m.safetensors", f"--config={path}")),
    "configuration beside": ("config.yaml", lambda path: ("test", "m.safetensors")),
    "split": ("s.json", lambda path: ("test", "m.safetensors", f"--split={path}")),
    "split in an archive": ("s.npz", lambda path: ("test", "m.safetensors", f"--split={path}")),
}


@pytest.mark.parametrize("what", READ)
@pytest.mark.parametrize("how", BAD)
@pytest.mark.filterwarnings("ignore")
def test_files_that_cannot_be_read_are_named(what, how, files):
    name, command = READ[what]
    make, message = BAD[how]
    if what == "configuration beside" and how == "missing":
        pytest.skip("then the card says it")
    make(files / name)
    code, said = refused(*command(files / name))
    assert code == 1
    assert name in said
    assert message is None or message in said or "no model file at" in said
    assert "not expected" not in said


def nine(last, anchors="abcdefgh"):
    """YAML whose aliases stand for 9^8 values."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, name in zip(anchors, anchors[1:] + last, strict=True):
        lines.append(f"{name}: &{name} [{', '.join(['*' + before] * 9)}]")
    return "\n".join(lines)


YAML = {
    "bomb": (nine("i"), r"with its aliases it has more than 100,000 values, in line \d"),
    "bomb of mappings": (
        "a: &a {k: v}\n"
        + "\n".join(
            f"{name}: &{name} {{{', '.join(f'k{k}: *{before}' for k in range(9))}}}"
            for before, name in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "with its aliases it has more than 100,000 values",
    ),
    "of itself": ("a: &a [*a]", r"\*a in line 1 refers to itself"),
    "merged with itself": ("a: &a\n  <<: *a\n  b: 1", r"\*a in line 2 refers to itself"),
    "nested": ("a: " + "[" * 500 + "]" * 500, "it is nested more than 50 times in line 1"),
    "nested mappings": ("{a: " * 500 + "1" + "}" * 500, "it is nested more than 50 times"),
    "long": ("a: " + "x" * LARGEST, r"has 1,000,003 bytes, expected at most 1,000,000"),
    "list": ("- a\n- b", r"expected sections such as data: and model:, got \['a', 'b'\]"),
    "nothing": ("", "expected sections .* got None"),
    "number": ("3", "expected sections .* got 3"),
    "word": ("hello", "expected sections .* got 'hello'"),
    "number for a key": ("1.5: 2", "expected sections"),
    "list for a key": ("[1, 2]: 3", "is not YAML"),
    "unclosed": ("data: [1, 2", "is not YAML: .* in line"),
    "tabulator": ("data:\n\t- b", "is not YAML: .* in line 2"),
    "two documents": ("a: 1\n---\nb: 2", "is not YAML"),
    "control character": ("a: \x01", "is not YAML"),
    "unknown tag": ("a: !fly 3", "is not YAML: could not determine a constructor for the tag '!fly'"),
    "unknown alias": ("a: *b", "is not YAML: found undefined alias"),
    "twice": ("data:\n  num_train: 3\ndata:\n  num_val: 4", "the key 'data' appears twice, again in line 3"),
    "date": ("a: 2001-99-99", "is not YAML that can be read: month must be in 1..12"),
    "digits": ("a: " + "9" * 5000, "is not YAML that can be read"),
    "JSON that is cut": ('{"data": {"num_train": 3}', "is not YAML"),
}


@pytest.mark.parametrize("name", YAML)
def test_configurations_that_are_none(name, files):
    text, message = YAML[name]
    (files / "c.yaml").write_text(text, encoding="utf-8")
    for command in (["train"], ["test", "m.safetensors"]):
        code, said = refused(*command, "--config=c.yaml")
        assert code == 1
        assert said.startswith(f"pyg-schnet {command[0]}: c.yaml ")
        with pytest.raises(ValueError, match=message):
            raise ValueError(said)


def test_options_in_a_configuration_that_are_not_understood(files):
    (files / "c.yaml").write_text("fly: 3\n")
    code, said = refused("train", "--config=c.yaml")
    assert code == 2
    assert "'fly' is not accepted (in the command or in c.yaml); pyg-schnet train --help" in said
    (files / "c.yaml").write_text("model: [1]\n")
    code, said = refused("train", "--config=c.yaml")
    assert code == 2
    assert "Not a valid subclass of PropertyTask" in said
    assert len(said) < 200


def test_configurations_with_aliases_are_read():
    found = parse_configuration("x: &x {a: 1, b: [2, 3]}\ndata: {<<: *x, c: *x}\nmodel: *x\n", "c.yaml")
    assert found["data"] == {"a": 1, "b": [2, 3], "c": {"a": 1, "b": [2, 3]}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--start=.nan"], "start and stop must be distances in Å, the first one the shorter, got nan and 5.0"),
        (["--start=-1"], "start and stop must be distances in Å"),
        (["--start=3", "--stop=2"], "the first one the shorter, got 3.0 and 2.0"),
        (["--stop=.inf"], "start and stop must be distances in Å"),
    ],
)
def test_distances_of_a_dimer(options, message, files):
    said = refused("analyze", "dimer", "H", "H", "--model=m.safetensors", "--untrained_forces=true", *options)[1]
    assert message in said


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--timestep=0", "timestep must be a positive number, got 0.0"),
        ("--timestep=.nan", "timestep must be a positive number, got nan"),
        ("--picoseconds=-1", "picoseconds must be a positive number, got -1.0"),
        ("--picoseconds=1e15", "expected 1 to 100,000,000"),
        ("--temperature=-5", "temperature must be a positive number, got -5.0"),
        ("--seed=-1", "seed must not be negative, got -1"),
    ],
)
def test_numbers_of_a_spectrum(option, message, files):
    assert message in refused("analyze", "spectrum", "data.xyz", "--model=m.safetensors", option)[1]


def test_interactions_that_are_not_there(files):
    for number in (1, -1):
        said = refused("analyze", "filters", "m.safetensors", f"--interaction={number}")[1]
        assert f"interaction must be from 0 to 0 in this model, got {number}" in said


@pytest.mark.parametrize("number", [0, -3])
def test_batches_of_nothing(number, files):
    said = refused("predict", "data.xyz", "--model=m.safetensors", f"--batch_size={number}")[1]
    assert f"batch_size must be a number of structures, at least 1, got {number}" in said


def test_predictions_that_are_no_numbers(files):
    model = SchNet(8, 8, 1, 8, 4.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(3e38)
    model.save(files / "x.safetensors", target="energy", unit="eV")
    code, said = refused("predict", "data.xyz", "--model=x.safetensors", "--output=o.csv")
    assert code == 1
    assert "data.xyz: energy of structure 0 is " in said
    assert "no finite number" in said
    assert not (files / "o.csv").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_full_disk_behind_the_output_is_said(files, monkeypatch):
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert refused("predict", "data.xyz", "--model=m.safetensors") == (
            1,
            "pyg-schnet predict: no space left on device",
        )
        monkeypatch.undo()
        full.close = lambda: None


def test_a_pipe_that_is_closed_is_nobody_to_tell(files, monkeypatch, capfd):
    def fail(command, rest):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("pyg_schnet.cli._run", fail)
    monkeypatch.setattr(os, "dup2", lambda *handles: None)  # the output of the tests goes on
    with pytest.raises(SystemExit) as found:
        main(["predict"])
    assert found.value.code == 1
    assert capfd.readouterr().err == ""


def test_every_command_has_its_name_in_the_sentence(monkeypatch):
    def fail(command, rest):
        raise UsageError("no")

    monkeypatch.setattr("pyg_schnet.cli._run", fail)
    for command in COMMANDS:
        assert refused(command) == (2, f"pyg-schnet {command}: no")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "result.json").write_text(""), r"result\.json is not JSON"),
        (
            lambda folder: (folder / "result.json").write_text("[]"),
            r"result\.json is no result of a run: it",
        ),
        (lambda folder: (folder / "result.json").write_text('{"recipe": 3}'), "it has no entry 'recipe'"),
        (lambda folder: (folder / "result.json").unlink(), "no finished run in"),
        (lambda folder: (folder / "config.yaml").write_text(""), r"config\.yaml is no configuration"),
        (lambda folder: (folder / "config.yaml").unlink(), r"there is no file .*config\.yaml"),
        (lambda folder: (folder / "split.json").write_text("{}"), r"split\.json is not a saved split: it has no train"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b""),
            r"safetensors is no whole safetensors file",
        ),
    ],
)
def test_runs_that_are_damaged_are_not_merged(change, message, tmp_path):
    folder = tmp_path / "run"
    model_file(folder / "model.safetensors")
    result = {"recipe": None, "seed": 0, "run": {"data": {}}}
    counts = dict.fromkeys(("seconds", "epochs", "steps", "structures_per_second"), 1)
    (folder / "result.json").write_text(json.dumps({**result, "training": {**counts, "starts": []}}))
    split = {"train": [0, 1, 2], "val": [3], "test": [4, 5], "n_structures": 6, "fingerprint": None}
    (folder / "split.json").write_text(json.dumps(split))
    (folder / "config.yaml").write_text("data: {dataset: QM9, target: U0}\nmodel: {class_path: PropertyTask}\n")
    change(folder)
    code, said = refused("merge", f"[{folder}]", f"--run_dir={tmp_path / 'out'}")
    assert code == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(said)
    assert not (tmp_path / "out").exists()

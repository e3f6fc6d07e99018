"""Every ``--help`` is one screen with examples, and what it shows exists."""

import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest

from pyg_schnet.cli import COMMANDS, analyze, main
from pyg_schnet.cli._help import EXAMPLES, TRAIN
from pyg_schnet.cli._options import parser_of

SCREENS = [*COMMANDS, *(f"analyze {name}" for name in analyze.COMMANDS)]


def shown(arguments, capsys):
    """What a command prints before it ends without an error."""
    try:
        main(arguments)
    except SystemExit as stop:
        assert not stop.code  # noqa: PT017 - some parsers exit, others return
    return capsys.readouterr().out


def examples_of(text):
    """Arguments of the commands that a text shows."""
    text = re.split(r"^examples?:\n", text, flags=re.MULTILINE)[1].replace("\\\n", " ")
    lines = re.findall(r"^ +pyg-schnet (.*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("columns", ["80", "100"])
@pytest.mark.parametrize("command", ["", *SCREENS])
def test_help_is_one_screen_with_examples(command, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    text = shown([*command.split(), "--help"], capsys)
    assert text.startswith("usage: pyg-schnet")
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 100
    commands = examples_of(text)
    assert commands
    assert all(" ".join(one).startswith(command) for one in commands)


def test_every_command_is_explained(capsys):
    text = shown([], capsys)
    assert re.findall(r"^  ([\w-]+) {2,}", text, re.MULTILINE) == list(COMMANDS)
    text = shown(["analyze"], capsys)
    assert re.findall(r"^  (\w+) +[A-Z]", text, re.MULTILINE) == list(analyze.COMMANDS)


def test_all_options_of_training_are_listed_on_demand(capsys):
    text = shown(["train", "--help_all"], capsys)
    assert len(text.splitlines()) > 500
    assert "--trainer.accumulate_grad_batches" in text
    for option in set(re.findall(r"--\w[\w.]*\w", TRAIN)) - {"--help_all", "--OPTION"}:
        whole = re.sub(r"^--(model|data\.dataset)\..*", r"--\1", option)  # options of classes are listed with these
        assert whole in text, option


@pytest.mark.parametrize("arguments", examples_of(TRAIN), ids=" ".join)
def test_examples_of_training_can_be_given(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("runs/U0").mkdir(parents=True)
    Path("runs/U0/config.yaml").write_text("trainer:\n  max_epochs: 7\n")
    text = shown([*arguments, "--print_config"], capsys)
    for name, value in itertools.pairwise(arguments):
        if name.startswith("--") and name != "--config":
            assert f"{name.rsplit('.', 1)[-1].removeprefix('--')}:" in text, name
            assert value in text or "class_path" in text


def test_short_options_of_training_exist(capsys):
    short = ["num_val", "num_test", "batch_size", "split"]
    data = [f"--data.{name}=1" for name in short[:3]]
    assert all(f".{name}" in TRAIN for name in short)
    model = ["--model.loss=mae", "--model.schedule=constant", "--model.warmup=0.1", "--model.lr=0.002"]
    network = [
        "--model.network.hidden_channels=8",
        "--model.network.num_interactions=1",
        "--model.network.readout=mean",
    ]
    trainer = ["--trainer.max_epochs=3", "--trainer.max_steps=4", "--trainer.devices=1", "--data.split=s.json"]
    text = shown(["train", *data, *model, *network, *trainer, "--print_config"], capsys)
    for line in ("loss: mae", "schedule: constant", "warmup: 0.1", "readout: mean", "max_steps: 4", "split: s.json"):
        assert line in text
    for option in [*model, *network, *trainer]:
        assert option.split("=")[0].rsplit(".", 1)[-1] in TRAIN


@pytest.mark.parametrize("command", sorted(EXAMPLES))
def test_examples_can_be_given(command, monkeypatch):
    """Their arguments are those of the function that a command is."""
    module = importlib.import_module(f"pyg_schnet.cli.{command.split()[0].replace('-', '_')}")
    given = []
    if hasattr(module, "_parser"):
        parse = module._parser().parse_args
    else:
        monkeypatch.setattr(module, "run_function", lambda *found, **more: given.append(found))
        parse = module.run
    commands = examples_of(EXAMPLES[command])
    assert 1 <= len(commands) <= 3
    for arguments in commands:
        parse(arguments[1:])
    for name, function, arguments in given:
        assert name == command
        parser_of(name, function).parse_args(arguments)

"""Files of models and the splits in their cards: what is damaged, and which entry."""

import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyg_schnet import load
from pyg_schnet.models.checkpoint import read_header

from .spoiled import model_file, raises

HEADERS = {
    **{
        f"no {name}": (lambda header, name=name: header.pop(name), f"it has no '{name}'")
        for name in ("format", "class")
    },
    "no hyper-parameters": (
        lambda header: header.pop("hyper_parameters"),
        "it has no 'hyper_parameters', a dictionary",
    ),
    "no card": (lambda header: header.pop("card"), "it has no 'card', a dictionary"),
    "format": (lambda header: header.update(format="1"), "'format' must be a whole number of at least 1, got '1'"),
    "format that is true": (lambda header: header.update(format=True), "'format' must be a whole number .*, got True"),
    "format below": (lambda header: header.update(format=-1), "'format' must be a whole number of at least 1, got -1"),
    "class": (
        lambda header: header.update({"class": ["SchNet"]}),
        r"'class' must be the name of a class, got \['SchNet'\]",
    ),
    "card": (lambda header: header.update(card=[]), r"'card' must be a dictionary, got \[\]"),
    "target": (
        lambda header: header["card"].update(target=["U0"]),
        r"the entry 'target' of the card must be a text, got",
    ),
    "unit": (lambda header: header["card"].update(unit=3), "the entry 'unit' of the card must be a text, got 3"),
    "elements": (
        lambda header: header["card"].update(elements="H"),
        "'elements' of the card must be a list of chemical",
    ),
    "element": (lambda header: header["card"].update(elements=[1]), r"a list of chemical symbols, got \[1\]"),
    "run": (lambda header: header["card"].update(run="x"), "the entry 'run' of the card must be a dictionary, got 'x'"),
    "split": (lambda header: header["card"].update(split=[1]), "the entry 'split' of the card must be a dictionary"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_models(name, tmp_path):
    change, message = HEADERS[name]
    path = model_file(tmp_path / "m.safetensors", change)
    for read in (read_header, load):
        raises(read, path, rf"the header of .*m\.safetensors is damaged: .*{message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.update({"class": "os.system"}), "holds a os.system, expected a DTNN or SchNet"),
        (lambda header: header["hyper_parameters"].update(fly=1), "make no SchNet: it has no argument 'fly'"),
        (
            lambda header: header["hyper_parameters"].update(cutoff=-1.0),
            "make no SchNet: cutoff must be a positive length",
        ),
        (lambda header: header["hyper_parameters"].update(cutoff=None), "make no SchNet: "),
        (lambda header: header["hyper_parameters"].update(hidden_channels="8"), "make no SchNet: "),
        (lambda header: header["hyper_parameters"].update(readout={"class": "os.system"}), "make no SchNet: "),
        (
            lambda header: header["hyper_parameters"].update(hidden_channels=16),
            "make no SchNet: the readout takes 8 features",
        ),
        (lambda header: header["hyper_parameters"].update(num_interactions=2), r"it lacks interactions\.1\."),
    ],
)
def test_hyper_parameters_of_models(change, message, tmp_path):
    raises(load, model_file(tmp_path / "m.safetensors", change), message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fly", "header of .* is not JSON"),
        ("[]", r"must be a dictionary, got \[\]"),
        ("[" * 90_000, "nested too deeply"),
    ],
)
def test_headers_that_are_none(text, message, tmp_path):
    raises(read_header, model_file(tmp_path / "m.safetensors", text=text), message)


@pytest.mark.parametrize(
    "content",
    [b"", b"x", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 5000) + b"{}", struct.pack("<Q", 8) + b"12345678"],
)
def test_headers_of_any_length(content, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    for read in (read_header, load):
        raises(read, path, r"m\.safetensors is no whole safetensors file")


WEIGHTS = {
    "one less": (lambda state: state.pop("embedding.weight"), r"it lacks embedding\.weight \[100, 8\]"),
    "one more": (lambda state: state.update(fly=torch.ones(1)), "it has fly, which the model has not"),
    "shape": (
        lambda state: state.update({"embedding.weight": torch.ones(3)}),
        r"embedding\.weight is \[3\] instead of",
    ),
    "whole numbers": (
        lambda state: state.update({"embedding.weight": state["embedding.weight"].long()}),
        r"embedding\.weight is of torch\.int64, expected one of float16, bfloat16, float32, float64",
    ),
    "not a number": (lambda state: state["embedding.weight"][3].fill_(float("nan")), "NaN or infinite"),
    "infinite": (
        lambda state: state["embedding.weight"][3].fill_(float("inf")),
        r"of embedding\.weight are NaN or infinite",
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_models(name, tmp_path):
    from safetensors import safe_open

    path = model_file(tmp_path / "m.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    state = load_file(path)
    WEIGHTS[name][0](state)
    save_file(state, path, metadata)
    raises(load, path, WEIGHTS[name][1])


SPLIT_NOTES = {
    "size": (
        {"n_structures": "6", "sizes": [3, 1, 2], "seed": 0},
        "expected a whole number from 0 to 100,000,000, got '6'",
    ),
    "huge": ({"n_structures": 10**12, "sizes": [3, 1, 2], "seed": 0}, "got 1000000000000"),
    "sizes": ({"n_structures": 6, "sizes": [3, 1], "seed": 0}, "it has 2 sizes, expected those of train, val, test"),
    "seed": ({"n_structures": 6, "sizes": [3, 1, 2], "seed": []}, r"expected a whole number from 0 to .* got \[\]"),
    "too many": ({"n_structures": 6, "sizes": [3, 1, 9], "seed": 0}, "cannot take 3 training, 1 validation and 9 test"),
    "nothing": ({"n_structures": 6, "sizes": [3, 1, 2]}, "KeyError: 'parts'"),
    "parts": ({"n_structures": 6, "sizes": [3, 1, 2], "parts": "fly"}, "damaged"),
    "number": (3, "damaged"),
}


@pytest.mark.parametrize("name", SPLIT_NOTES)
def test_splits_in_cards(name):
    from pyg_schnet.train.split_note import split_of

    noted, message = SPLIT_NOTES[name]
    with pytest.raises(ValueError, match=f"the split in the card of the model is damaged: .*{message}|{message}"):
        split_of({"split": {"structures": noted}})

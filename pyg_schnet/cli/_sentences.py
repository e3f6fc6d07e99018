"""What the parser of options says, as one sentence."""

from __future__ import annotations

import re

_NOISE = (
    r"Does not validate against any of the Union subtypes",
    r"Subtypes: \[.*?\](?=\s|$)",
    r"Errors:",
    r"Problem with given class_path '[^']*':",
    r"- Expected a <class 'NoneType'>",
    r"Given value type: .*",
    r"Given value: .*",
)


def is_of_parser(text: str) -> bool:
    """Whether a text is one in which the parser lists what it has tried."""
    return "Does not validate against any of the Union subtypes" in text


def sentence_of(text: str) -> str:
    r"""The reason alone, without the types that were tried and all options that were given.

    Args:
        text: Message of jsonargparse, of any number of lines.

    Example:
        >>> tried = "Does not validate against any of the Union subtypes\nSubtypes: [<class 'T'>, <class 'NoneType'>]\n"
        >>> sentence_of(tried + "Errors:\n  - lr must be positive, got 0.0\n  - Expected a <class 'NoneType'>")
        'lr must be positive, got 0.0'
    """
    for noise in _NOISE:
        text = re.sub(noise, "", text)
    text = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", text)
    text = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", text)
    keys = re.compile(r'Parser key "([\w.]+)":\s*(?:-\s+)?Parser key "([\w.]+)":')
    while (joined := keys.sub(r'Parser key "\1.\2":', text)) != text:
        text = joined
    text = text.replace("Expected a one of", "Expected one of")
    parts = [line.strip().removeprefix("- ") for line in text.splitlines()]
    text = "; ".join(part for part in parts if part.strip(" -"))
    text = re.sub(r'Parser key "([\w.]+)":', r"--\1:", text)
    return re.sub(r"(--[\w.]+:)[ ;-]*", r"\1 ", " ".join(text.split()))

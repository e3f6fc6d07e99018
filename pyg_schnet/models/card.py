"""Elements and unit in the card of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from pyg_schnet.models.reading import described


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_elements(value: Any) -> bool:
    from ase.data import chemical_symbols  # here, since models do without ASE

    return (
        isinstance(value, list) and value != [] and all(_is_text(one) and one in chemical_symbols[1:] for one in value)
    )


def _is_targets(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(entry, dict) and isinstance(entry.get("unit"), str | None) for entry in value.values())
    )


_ENTRIES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "target": ("a text", _is_text),
    "unit": ("a text", _is_text),
    "targets": ("a dictionary of targets, each with its unit", _is_targets),
    "elements": ("a list of chemical symbols", _is_elements),
    "run": ("a dictionary", lambda value: isinstance(value, dict)),
    "split": ("a dictionary", lambda value: isinstance(value, dict)),
    "calibration": ("a dictionary", lambda value: isinstance(value, dict)),
}
"""Entries of cards that the package reads, what they are, and whether a value is so."""


def check_card(card: Any) -> None:
    """Raise for a card whose entries are not what the package reads there; those of others may be anything.

    Args:
        card: Card of a model.

    Raises:
        ValueError: If there is such an entry; the message names it.

    Example:
        >>> check_card({"target": "U0", "unit": None, "source": ["mine"]})
        >>> check_card({"elements": "H"})
        Traceback (most recent call last):
        ValueError: the entry 'elements' of the card must be a list of chemical symbols, got 'H'
    """
    if not isinstance(card, dict):
        raise ValueError(f"the card must be a dictionary, got {described(card)}")
    for name, (expected, fits) in _ENTRIES.items():
        if (value := card.get(name)) is not None and not fits(value):
            raise ValueError(f"the entry {name!r} of the card must be {expected}, got {described(value)}")


def check_elements(card: dict[str, Any], numbers: Iterable[int]) -> None:
    """Raise for elements that a model was not trained on, whose embeddings are random.

    Args:
        card: Card of the model; without the entry ``elements`` nothing is checked.
        numbers: Atomic numbers; 0 is padding.

    Raises:
        ValueError: If there is such an element; the message names it and those that the model knows.

    Example:
        >>> check_elements({"elements": ["H", "O"]}, [8, 1, 1])
    """
    known = card.get("elements")
    if known is None:
        return
    from ase.data import chemical_symbols

    found = [chemical_symbols[number] for number in sorted(set(numbers)) if number > 0]
    if unknown := [symbol for symbol in found if symbol not in known]:
        raise ValueError(f"the model was not trained on {', '.join(unknown)}; it knows {', '.join(known)}")


def unit_of(card: Mapping[str, Any], stated: str | None) -> str:
    """Unit of the output of a model, from its card or the caller.

    Args:
        card: Card of the model.
        stated: Unit given by the caller; ``None`` if it is left out.

    Raises:
        ValueError: If there is neither, they differ, or the model has several targets.

    Example:
        >>> unit_of({"unit": "eV"}, None), unit_of({}, "kcal/mol")
        ('eV', 'kcal/mol')
    """
    known, several = card.get("unit"), card.get("targets")
    if several:
        raise ValueError(
            f"the model predicts {', '.join(several)} together, one of them is needed here; load that one, for example "
            f"load(..., target={next(iter(several))!r})"
        )
    if stated is None and known is None:
        raise ValueError('the model does not say the unit of its output; state it, for example unit="eV"')
    if stated is not None and known is not None and stated != known:
        raise ValueError(
            f"unit={stated!r} contradicts the model, which says {known!r}; leave unit out, then results are converted "
            'to eV and Å, or correct model.card["unit"]'
        )
    return cast(str, known) if stated is None else stated

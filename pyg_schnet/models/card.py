"""Elements and unit in the card of a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from ase.data import chemical_symbols


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
    found = [chemical_symbols[number] for number in sorted(set(numbers)) if number > 0]
    if unknown := [symbol for symbol in found if symbol not in known]:
        raise ValueError(f"the model was not trained on {', '.join(unknown)}; it knows {', '.join(known)}")


def unit_of(card: dict[str, Any], stated: str | None) -> str:
    """Unit of the output of a model, from its card or the caller.

    Args:
        card: Card of the model.
        stated: Unit given by the caller; ``None`` if it is left out.

    Raises:
        ValueError: If there is neither, or they differ.

    Example:
        >>> unit_of({"unit": "eV"}, None), unit_of({}, "kcal/mol")
        ('eV', 'kcal/mol')
    """
    known = card.get("unit")
    if stated is None and known is None:
        raise ValueError('the model does not say the unit of its output; state it, for example unit="eV"')
    if stated is not None and known is not None and stated != known:
        raise ValueError(
            f"unit={stated!r} contradicts the model, which says {known!r}; leave unit out, then results are converted "
            'to eV and Å, or correct model.card["unit"]'
        )
    return cast(str, known) if stated is None else stated

"""What the card of a model says of its use: elements and unit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ase.data import chemical_symbols


def check_elements(card: dict[str, Any], numbers: Iterable[int]) -> None:
    """Raise for elements that a model has not seen in training: their embeddings are random numbers.

    Args:
        card: Card of the model; without the entry ``elements`` nothing is known and nothing is checked.
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
    """Unit of a model's output, from its card or as stated.

    Args:
        card: Card of the model.
        stated: Unit that the caller states; ``None`` where it is left out.

    Raises:
        ValueError: If there is neither, or both and they differ.

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
    return known if stated is None else stated

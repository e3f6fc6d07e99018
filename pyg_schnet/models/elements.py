"""Elements that a model has been trained on."""

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

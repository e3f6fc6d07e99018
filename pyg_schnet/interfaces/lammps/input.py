"""Input files of LAMMPS with the line ``pair_style schnet``."""

from __future__ import annotations

from typing import NamedTuple


class Input(NamedTuple):
    """An input file in two parts.

    Attributes:
        head: Lines before ``pair_style schnet``.
        tail: Lines behind it, without its ``pair_coeff``.
        elements: Symbols of ``pair_coeff * * SYMBOL ...``; empty if there are none.
    """

    head: str
    tail: str
    elements: tuple[str, ...]


def parse_input(text: str, name: str = "the input") -> Input:
    r"""Divide an input file at the line ``pair_style schnet``.

    Args:
        text: The file.
        name: Its name, for messages.

    Returns:
        The parts; numbers of lines are kept by empty ones.

    Raises:
        ValueError: If there is no such line, or several, or another pair style follows.

    Example:
        >>> parse_input("read_data Mo.data\npair_style schnet\npair_coeff * * Mo\nrun 10\n")
        Input(head='read_data Mo.data', tail='\nrun 10', elements=('Mo',))
    """
    lines = text.splitlines()
    words = [line.partition("#")[0].split() for line in lines]
    places = [k for k, one in enumerate(words) if one[:2] == ["pair_style", "schnet"]]
    if len(places) != 1 or words[places[0]] != ["pair_style", "schnet"]:
        raise ValueError(
            f"{name} must have one line 'pair_style schnet' in the place of its pair style, behind the definition of "
            f"the box; got {len(places)} (lines of included files are not seen)"
        )
    place = places[0]
    for k, one in enumerate(words):
        if one[:1] == ["pair_style"] and k > place:
            raise ValueError(f"{name}:{k + 1}: another pair style after pair_style schnet; both would act")
    elements: tuple[str, ...] = ()
    tail = lines[place + 1 :]
    for k, one in enumerate(words[place + 1 :]):
        if one[:1] == ["pair_coeff"]:
            if one[1:3] != ["*", "*"] or elements:
                raise ValueError(
                    f"{name}:{place + k + 2}: pair_style schnet takes one line 'pair_coeff * * SYMBOL ...', with the "
                    f"symbol of each atom type; got {' '.join(one)}"
                )
            elements, tail[k] = tuple(one[3:]), ""
    return Input("\n".join(lines[:place]), "\n".join(tail), elements)

"""Extended xyz a few structures at a time, whatever the length of the file."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator

_STRUCTURES, _LINES = 64, 20_000  # of a block, at most and about


def xyz_blocks(lines: Iterable[str]) -> Iterator[io.StringIO]:
    r"""Cut the lines of a file of extended xyz into files of whole structures.

    ASE's reader notes the places of all structures before it reads the first one; of such a block there are few. A head
    that is no number of atoms is handed on as it is, for that reader to say so.

    Args:
        lines: Lines of the file, with their ends.

    Example:
        >>> [block.read() for block in xyz_blocks(["1\n", "\n", "H 0 0 0\n", "1\n", "\n", "H 0 0 1\n"])]
        ['1\n\nH 0 0 0\n1\n\nH 0 0 1\n']
    """
    lines = iter(lines)
    block: list[str] = []
    structures = 0
    head = next(lines, "")
    while head.strip():
        block.append(head)
        try:
            block.extend(itertools.islice(lines, int(head) + 1))
        except ValueError:  # also of a negative number
            break
        structures += 1
        head = next(lines, "")
        while head.lstrip().startswith("VEC"):  # lattice vectors below the atoms
            block.append(head)
            head = next(lines, "")
        if structures == _STRUCTURES or len(block) >= _LINES:
            yield io.StringIO("".join(block))
            block, structures = [], 0
    if block:
        yield io.StringIO("".join(block))

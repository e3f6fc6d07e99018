r"""Checks of an audit: what must leave energies unchanged, or only add them up.

All are exact properties of any energy, so deviations may come from rounding alone. A sum of n rounded terms is off by
up to n ε times their size; the sums of such models (neighbours, channels, layers, atoms) have some hundreds of terms.
The bound is 1000 ε S with the scale S of :meth:`pyg_schnet.testing.subject.Subject.scale`, 2e-13 S in float64 and
1e-4 S in float32, and what forces make of ten roundings of the coordinates. Mistakes are larger by many orders of
magnitude: a missing neighbour is a term of such a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from pyg_schnet.testing.contract import random_rotation
from pyg_schnet.testing.result import NotApplicable, Result, Worst
from pyg_schnet.testing.structures import Case
from pyg_schnet.testing.subject import Subject

TERMS = 1000.0
"""Rounding errors that may add up in an energy, in units of ε S."""

_FAR = 1000.0  # Å


def rounding(subject: Subject, case: Case, far: float = 0.0) -> float:
    """Bound of what rounding may do to an energy, of a structure up to ``far`` Å further from the origin."""
    coordinates = case.pos.norm(dim=1) + far
    return subject.eps * (TERMS * subject.scale(case) + 10.0 * float(subject.known(case)[1].norm(dim=1) @ coordinates))


def rotation(subject: Subject, structures: Sequence[Case]) -> Result:
    """Rotated structures have the same energy, cells included."""
    matrix = random_rotation(0)
    return _unchanged("rotation", subject, structures, lambda case: _turned(case, matrix))


def reflection(subject: Subject, structures: Sequence[Case]) -> Result:
    """Mirror images have the same energy."""
    matrix = random_rotation(1) * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    return _unchanged("reflection", subject, structures, lambda case: _turned(case, matrix))


def translation(subject: Subject, structures: Sequence[Case]) -> Result:
    """Structures moved by some 100 Å have the same energy."""
    shift = torch.tensor([81.3, -40.7, 52.1], dtype=torch.float64)
    return _unchanged("translation", subject, structures, lambda case: case.moved(case.pos + shift), far=105.0)


def permutation(subject: Subject, structures: Sequence[Case]) -> Result:
    """The order of atoms does not matter."""

    def shuffled(case: Case) -> Case:
        order = torch.randperm(len(case.z), generator=torch.Generator().manual_seed(3))
        return case._replace(z=case.z[order], pos=case.pos[order])

    return _unchanged("permutation", subject, structures, shuffled)


def batching(subject: Subject, structures: Sequence[Case]) -> Result:
    """Energies are the same alone and in a batch with other structures, whatever these are.

    The others are a single atom, two atoms in one place, and a structure in the same place as the examined one.
    Calculators are asked for other structures in between instead.
    """
    worst = Worst("batch", subject.unit)
    for group in _groups(structures):
        z = group[0].z[:1]
        single = Case("an atom", z, torch.zeros(1, 3, dtype=torch.float64))
        double = Case("two atoms in one place", z.repeat(2), torch.zeros(2, 3, dtype=torch.float64))
        mates = [mate for mate in (single, double) if _is_taken(subject, [mate, group[0]])]
        batch = [*mates[:1], *group, *mates[1:], group[0]]
        together = subject.energies(batch)
        alone = [subject.known(case)[0] for case in group]
        for case, one, many in zip(group, alone, together[len(mates[:1]) :], strict=False):
            worst.add(float((one - many).abs()), rounding(subject, case), case.name)
        worst.add(float((together[-1] - alone[0]).abs()), rounding(subject, group[0]), f"{group[0].name}, the last one")
    return worst.result()


def leaks(subject: Subject, structures: Sequence[Case]) -> Result:
    """No energy has a gradient at atoms of another structure; exactly none, so the bound is zero."""
    worst = Worst("gradients across", f"{subject.unit}/Å")
    for group in _groups(structures):
        batch = [*group, group[0]]
        for case, found in zip(batch, subject.gradients_across(batch), strict=True):
            worst.add(found, 0.0, f"energy of {case.name}" if found else "")
    return worst.result()


def extensivity(subject: Subject, structures: Sequence[Case]) -> Result:
    """Two copies, and two different molecules, 1000 Å apart add up; outputs that do not grow stay as they are."""
    if subject.kind == "other":
        raise NotApplicable("its output is no energy")
    worst = Worst("extensivity", subject.unit)
    molecules = [case for case in structures if case.cell is None]
    pairs = [(case, case) for case in molecules]
    if subject.kind != "intensive":
        pairs += list(pairwise(molecules))
    for first, second in pairs:
        away = torch.tensor([_FAR, 0.0, 0.0], dtype=torch.float64)
        both = Case("", torch.cat([first.z, second.z]), torch.cat([first.pos, second.pos + away]))
        expected = subject.known(first)[0] + (0.0 if subject.kind == "intensive" else subject.known(second)[0])
        bound = rounding(subject, first, _FAR) + rounding(subject, second, _FAR)
        deviation = float((subject.energies([both])[0] - expected).abs())
        worst.add(deviation, bound, f"{first.name} and {second.name}")
    return worst.result("none of the structures is a molecule")


def supercell(subject: Subject, structures: Sequence[Case]) -> Result:
    """A crystal in a larger cell has the energy of its cells together."""
    worst = Worst("supercell", subject.unit)
    for case in _periodic(subject, structures):
        for repeats in ((2, 1, 3), (1, 2, 1)):
            large, count = case.repeated(repeats)
            count = 1 if subject.kind == "intensive" else count
            deviation = float((subject.energies([large])[0] - count * subject.known(case)[0]).abs())
            far = float(large.cell.norm(dim=1).max())
            worst.add(deviation, max(count, 1) * rounding(subject, case, far), f"{case.name}, {repeats}")
    return worst.result("none of the structures is periodic")


def rewrapping(subject: Subject, structures: Sequence[Case]) -> Result:
    """Atoms moved by lattice vectors, each by others, are the same crystal."""
    generator = torch.Generator().manual_seed(4)

    def wrapped(case: Case) -> Case:
        images = torch.randint(-2, 3, case.pos.shape, generator=generator) * case.pbc.long()
        return case.moved(case.pos + images.double() @ case.cell)

    cases = _periodic(subject, structures)
    far = max((2.0 * float(case.cell.norm(dim=1).sum()) for case in cases), default=0.0)
    return _unchanged("rewrapping", subject, cases, wrapped, far, "none of the structures is periodic")


def _unchanged(
    check: str,
    subject: Subject,
    structures: Sequence[Case],
    change: Callable[[Case], Case],
    far: float = 0.0,
    why_not: str = "there is no structure",
) -> Result:
    worst = Worst(check, subject.unit)
    for case in structures:
        deviation = float((subject.energies([change(case)])[0] - subject.known(case)[0]).abs())
        worst.add(deviation, rounding(subject, case, far), case.name)
    return worst.result(why_not)


def _turned(case: Case, matrix: Tensor) -> Case:
    return case.moved(case.pos @ matrix, None if case.cell is None else case.cell @ matrix)


def _periodic(subject: Subject, structures: Sequence[Case]) -> list[Case]:
    if not subject.takes_cells:
        raise NotApplicable("it takes no cell and pbc")
    return [case for case in structures if case.cell is not None]


def _groups(structures: Sequence[Case]) -> list[list[Case]]:
    """Molecules and periodic structures, which not every model takes together."""
    groups = [[case for case in structures if (case.cell is None) == is_open] for is_open in (True, False)]
    return [group for group in groups if group]


def _is_taken(subject: Subject, cases: Sequence[Case]) -> bool:
    """Whether a model takes structures; calculators may refuse atoms in one place."""
    try:
        subject.energies(cases)
    except Exception:
        return False
    return True

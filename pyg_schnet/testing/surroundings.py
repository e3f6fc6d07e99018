"""Checks of an audit: all neighbours within the cutoff count, none beyond, and energies change smoothly in between."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch

from pyg_schnet.testing.invariances import rounding
from pyg_schnet.testing.result import NotApplicable, Result, Worst
from pyg_schnet.testing.structures import Case, crowd
from pyg_schnet.testing.subject import REACH, Subject

MOST = 150
"""Neighbours of an atom in the most crowded structure; common quotas are 12 to 100."""

_STEP = 1e-5  # Å, from the cutoff
_POINTS = 40  # on a path
_PATH_STEP = 0.02  # Å


def neighbors(subject: Subject, structures: Sequence[Case]) -> Result:
    """Energies with a model's own graph are those with all pairs within the cutoff, found by trying every pair.

    The structures are those given, and balls in which each atom has 8 to 150 neighbours. The note says from how many on
    neighbours are missing. Sums over the same terms in another order: the bound is rounding, as for invariances.
    """
    cutoff = _cutoff(subject)
    worst = Worst("all neighbours", subject.unit)
    for case in structures:
        try:
            complete = subject.with_edges(case, cutoff)
        except NotApplicable:
            if case.cell is None:
                raise
            continue  # it takes edges, but none that cross cells
        worst.add(float((complete - subject.known(case)[0]).abs()), rounding(subject, case), case.name)
    z = _common(structures)

    def lack(count: int) -> tuple[float, float]:
        case = crowd(z, count + 1, 0.98 * cutoff)
        deviation = (subject.with_edges(case, cutoff) - subject.energies([case])[0]).abs()
        return float(deviation), rounding(subject, case)

    deviation, bound = lack(MOST)
    worst.add(deviation, bound, f"{MOST} neighbours")
    if not deviation <= bound:
        enough, lacking = 1, MOST
        while lacking - enough > 1:
            middle = (enough + lacking) // 2
            error, allowed = lack(middle)
            enough, lacking = (middle, lacking) if error <= allowed else (enough, middle)
        worst.note = f"{worst.note}; neighbours are missing where an atom has more than {enough}"
    return worst.result()


def crowds(subject: Subject, structures: Sequence[Case]) -> Result:
    r"""In dense clusters, energies do not depend on the order of atoms, and change smoothly when an atom moves.

    It needs no access to the graph: quotas that keep the first neighbours depend on their order, those that keep the
    closest ones jump when two atoms change places. On a path of steps h,

    .. math:: J = \max_k \Bigl| E_{k+1} - E_k - \tfrac{h}{2} (E'_k + E'_{k+1}) \Bigr|

    is proportional to h³ where energies are smooth, so it vanishes when the step in which it is largest is halved
    ten times, and stays where the energy jumps. The bound is 10⁻³ of the largest change h |E'| of a step before that,
    beside rounding.
    """
    worst = Worst("many neighbours", subject.unit)
    cutoff = subject.cutoff or REACH
    dense = [case for case in structures if case.cell is None and len(case.z) > 40][:1]
    for case in [*dense, crowd(_common(structures), 80, 0.98 * cutoff)]:
        order = torch.randperm(len(case.z), generator=torch.Generator().manual_seed(5))
        other = case._replace(z=case.z[order], pos=case.pos[order])
        deviation = float((subject.energies([other])[0] - subject.known(case)[0]).abs())
        worst.add(deviation, rounding(subject, case), f"order of atoms in {case.name}")
        jump, bound = _largest_jump(subject, case)
        bound += rounding(subject, case)
        why = "" if jump <= bound else ": a quota of neighbours, or a hard cutoff"
        worst.add(jump, bound, f"an atom that moves through {case.name}{why}")
    return worst.result()


def beyond_cutoff(subject: Subject, structures: Sequence[Case]) -> Result:
    """Nothing beyond the cutoff acts: neither a second atom, nor edges of a longer list where a model takes edges.

    Lists of neighbours with a skin are longer than the cutoff, and a cosine that is not cut off rises again there. All
    that is added is exactly zero, so the bound is rounding.
    """
    cutoff = _cutoff(subject)
    worst = Worst("beyond the cutoff", subject.unit)
    for factor in (1.0 + 1e-9, 1.1, 1.5, 1.9) if subject.kind != "other" else ():  # dipoles grow with distance
        near, far = _dimer(structures, factor * cutoff), _dimer(structures, 100.0 * cutoff)
        deviation = float((subject.energies([near])[0] - subject.energies([far])[0]).abs())
        worst.add(deviation, rounding(subject, near), near.name)
    for case in structures:
        try:
            longer = subject.with_edges(case, 1.8 * cutoff)
        except NotApplicable:
            continue
        deviation = float((longer - subject.with_edges(case, cutoff)).abs())
        worst.add(deviation, rounding(subject, case), f"edges up to {1.8 * cutoff:.3g} Å in {case.name}")
    return worst.result()


def smoothness(order: int, subject: Subject, structures: Sequence[Case]) -> Result:
    r"""Energy (order 0), force (1) or curvature (2) do not jump when an atom passes the cutoff of another one.

    A third atom stays within reach of both, so that means over neighbours show as well. With h = 10⁻⁵ Å, slopes s and
    curvatures c on both sides of the cutoff, and the largest ones between 0.7 cutoffs and the cutoff,

    .. math::
        |E_+ - E_- - h (s_+ + s_-)| \le 2 h\, s_\mathrm{max}, \qquad
        |s_+ - s_-| \le 10 h\, c_\mathrm{max}, \qquad
        |c_+ - c_-| \le 3 c_\mathrm{max}

    beside rounding. The first two are what a function with bounded second derivatives can change by.

    The curvature under SchNet's cosine window, close to :math:`\tfrac14 (\pi/r_\mathrm{cut})^2 (r_\mathrm{cut} - d)^2`,
    does jump by a finite amount, which the table gives: that of the window alone is its largest curvature. Dynamics are
    not harmed by it; harmonic frequencies may jump a little when a distance passes the cutoff.
    """
    cutoff, h = _cutoff(subject), _STEP
    distances = torch.linspace(0.7 * cutoff, 0.98 * cutoff, 15, dtype=torch.float64)
    profile = [_slope(subject, _trimer(structures, cutoff, d)) for d in distances.tolist()]
    slopes = torch.tensor([slope for _, slope in profile], dtype=torch.float64)
    steepest, sharpest = float(slopes.abs().max()), float((slopes.diff() / distances.diff()).abs().max())
    case = _trimer(structures, cutoff, cutoff)
    rounded = rounding(subject, case)
    if steepest * cutoff <= rounded:
        raise NotApplicable("the energy does not depend on the distance of these atoms")
    # two points before the cutoff and two behind it
    (_, s0), (e1, s1), (e2, s2), (_, s3) = (
        _slope(subject, _trimer(structures, cutoff, cutoff + k * h)) for k in (-2.0, -1.0, 1.0, 2.0)
    )
    note = f"at {cutoff:.3g} Å"
    if order == 0:
        worst = Worst("smooth energy", subject.unit)
        jump, bound, kind = (
            abs(e2 - e1 - h * (s1 + s2)),
            2.0 * h * steepest + rounded,
            "a hard cutoff, not for dynamics",
        )
    elif order == 1:
        worst = Worst("smooth force", f"{subject.unit}/Å")
        jump, bound, kind = abs(s2 - s1), 10.0 * h * sharpest + rounded / cutoff, "a kink at the cutoff"
    else:
        worst = Worst("smooth curvature", f"{subject.unit}/Å²")
        jump, bound = abs((s3 - s2) - (s1 - s0)) / h, 3.0 * sharpest + rounded / cutoff / h
        kind = "a corner of the force"
        note += ", a finite jump" if jump > 1e-3 * bound else ""
    worst.add(jump, bound, note if jump <= bound else f"{note}: {kind}")
    return worst.result()


smooth_energy = partial(smoothness, 0)
smooth_force = partial(smoothness, 1)
smooth_curvature = partial(smoothness, 2)


def _cutoff(subject: Subject) -> float:
    if subject.cutoff is None:
        raise NotApplicable("the cutoff is not known; state it")
    return subject.cutoff


def _common(structures: Sequence[Case]) -> list[int]:
    """Up to three elements of the structures, in the order in which they appear."""
    return list(dict.fromkeys(z for case in structures for z in case.z.tolist()))[:3]


def _dimer(structures: Sequence[Case], distance: float) -> Case:
    z = _common(structures)
    pos = torch.tensor([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]], dtype=torch.float64)
    return Case(f"two atoms {distance:.3g} Å apart", torch.tensor([z[0], z[-1]]), pos)


def _trimer(structures: Sequence[Case], cutoff: float, distance: float) -> Case:
    """Two atoms at a distance, a third one in between and off their line."""
    z = _common(structures)
    pos = torch.tensor([[0.0, 0.0, 0.0], [distance, 0.0, 0.0], [0.5 * cutoff, 0.35 * cutoff, 0.0]], dtype=torch.float64)
    return Case("three atoms", torch.tensor([z[0], z[-1], z[len(z) // 2]]), pos)


def _slope(subject: Subject, case: Case) -> tuple[float, float]:
    """Energy, and its derivative when the second atom moves along x."""
    energy, forces = subject.forces(case)
    return float(energy), -float(forces[1, 0])


def _largest_jump(subject: Subject, case: Case) -> tuple[float, float]:
    """The largest change along a path that slopes do not explain, and a bound for it."""
    mover = int(case.pos.sub(case.pos.mean(0)).norm(dim=1).argmin())
    direction = torch.tensor([0.61, -0.53, 0.59], dtype=torch.float64)
    direction = direction / direction.norm()

    def at(way: float) -> tuple[float, float, float]:
        pos = case.pos.clone()
        pos[mover] += way * direction
        energy, forces = subject.forces(case.moved(pos))
        return way, float(energy), -float(forces[mover] @ direction)

    def jump(first: tuple[float, float, float], second: tuple[float, float, float]) -> float:
        return abs(second[1] - first[1] - 0.5 * (second[0] - first[0]) * (first[2] + second[2]))

    points = [at((k - _POINTS / 2) * _PATH_STEP) for k in range(_POINTS)]
    first, second = max(pairwise(points), key=lambda pair: jump(*pair))
    for _ in range(10):
        middle = at(0.5 * (first[0] + second[0]))
        first, second = max(((first, middle), (middle, second)), key=lambda pair: jump(*pair))
    return jump(first, second), 1e-3 * _PATH_STEP * max(abs(slope) for _, _, slope in points)

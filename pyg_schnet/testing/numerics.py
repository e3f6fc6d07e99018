"""Checks of an audit: derivatives, precision and dynamics."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyg_schnet.testing.invariances import TERMS, rounding
from pyg_schnet.testing.result import NotApplicable, Result, Worst
from pyg_schnet.testing.structures import Case, displaced
from pyg_schnet.testing.subject import REACH, Subject

_STEPS = (1e-3, 1e-4, 1e-5)  # Å, or strain
_TO_FS = 10.180505710774743  # Å (u/eV)^1/2


def forces(subject: Subject, structures: Sequence[Case]) -> Result:
    r"""Forces are minus the gradient of the energy, by central differences along random directions.

    .. math:: \mathbf{F} \cdot \mathbf{u} = -\frac{E(\mathbf{r} + h\mathbf{u}) - E(\mathbf{r} - h\mathbf{u})}{2h}

    of several steps h the one that agrees best: large ones are off by h² times the third derivative, small ones by
    rounding over h, and some pass a hard cutoff. The bound is 10⁻⁵ of the forces and that rounding: in float64 the best
    step has 10⁻⁷ and less, while a wrong sign or a missing term is of the size of forces. Atoms are displaced by 0.1 Å
    before, since forces that vanish by symmetry show nothing.
    """
    _only_energies(subject)
    worst = Worst("forces", f"{subject.unit}/Å")
    for structure in structures:
        case = displaced(structure, subject.cutoff or REACH)._replace(name=structure.name)
        found = subject.known(case)[1]
        for u in _directions(case.pos.shape, 2):
            slope = -float((found * u).sum())
            size = max(float(found.norm()), abs(slope))
            deviation, noise = _best_difference(
                subject,
                case,
                slope,
                lambda h, u=u, case=case: case.moved(case.pos + h * u),  # type: ignore[misc]
            )
            worst.add(deviation, _relative(subject) * size + noise, case.name)
    return worst.result()


def stress(subject: Subject, structures: Sequence[Case]) -> Result:
    r"""Stress is the derivative of the energy with respect to strain over the volume, positive under tension.

    .. math:: \sigma : \mathbf{d} = \frac{E(h\mathbf{d}) - E(-h\mathbf{d})}{2 h V}

    for strains d that are random or of volume alone; displacements, steps and bound as for forces.
    """
    _only_energies(subject)
    worst = Worst("stress", f"{subject.unit}/Å³")
    if not subject.takes_cells:
        raise NotApplicable("it takes no cell and pbc")
    for case in structures:
        if case.cell is None or not bool(case.pbc.all()):
            continue
        case = displaced(case, subject.cutoff or REACH) if len(case.z) > 1 else case
        found, volume = subject.stress(case), float(torch.linalg.det(case.cell).abs())
        shear = [0.5 * (d + d.T) for d in _directions((3, 3), 2)]
        for d in (torch.eye(3, dtype=torch.float64), *shear):
            slope = float((found * d).sum()) * volume
            size = max(float(found.norm()) * volume, abs(slope))
            deviation, noise = _best_difference(
                subject,
                case,
                slope,
                lambda h, d=d, case=case: case.strained(h * d),  # type: ignore[misc]
            )
            worst.add(deviation / volume, (_relative(subject) * size + noise) / volume, case.name)
    return worst.result("none of the structures is periodic in three directions")


def zero_distance(subject: Subject, structures: Sequence[Case]) -> Result:
    """Energies, forces and, for models, second derivatives are finite numbers where distances are zero or none exist.

    The structures are an atom alone, two atoms out of reach, and two atoms in one place with and without a third one. A
    refusal with a message is right as well, and so is an energy that diverges when two atoms come close, as 1/r does.
    Other numbers that are not finite are counted, and none are allowed.
    """
    worst = Worst("zero distance", "numbers")
    z = structures[0].z[0].repeat(3)
    far = 3.0 * (subject.cutoff or 50.0)
    for name, pos in {
        "an atom alone": [[0.0, 0.0, 0.0]],
        "two atoms out of reach": [[0.0, 0.0, 0.0], [far, 0.0, 0.0]],
        "two atoms in one place": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        "two of three atoms in one place": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.9, 0.7]],
    }.items():
        case = Case(name, z[: len(pos)], torch.tensor(pos, dtype=torch.float64))
        try:
            energy, found = subject.forces(case)
        except NotApplicable:
            raise
        except Exception as error:
            worst.add(0.0, 0.0, f"{name}: refused, {' '.join(str(error).split())[:80]}")
            continue
        if not torch.isfinite(energy) and "one place" in name and _diverges(subject, case):
            worst.add(0.0, 0.0, f"{name}: the energy diverges")
            continue
        worst.add(*_not_finite(f"energy or forces of {name}", energy, found))
        with contextlib.suppress(NotApplicable):
            worst.add(*_not_finite(f"second derivatives of {name}", subject.curvature(case)))
    return worst.result()


def repeatability(subject: Subject, structures: Sequence[Case]) -> Result:
    """The same call gives the same bits, three times and after other calls; the bound is zero."""
    worst = Worst("run to run", subject.unit)
    for case in structures:
        first = subject.forces(case)
        for other in (structures[0], case):
            subject.energies([other])
            again = subject.forces(case)
            deviation = max(float((a - b).abs().max()) for a, b in zip(first, again, strict=True))
            worst.add(deviation, 0.0, "" if deviation == 0 else case.name)
    return worst.result()


def float32_energies(subject: Subject, structures: Sequence[Case]) -> Result:
    """Energies in float32 are those in float64, within 100 ε S; ε is 1.2e-7 and S the scale of rounding.

    Fewer terms are allowed for than in float64, where bounds are far below anything of interest: here they are 1e-5 S.
    """
    worst = Worst("float32 energies", subject.unit)
    eps = torch.finfo(torch.float32).eps
    for case in structures:
        single = subject.energies([case], torch.float32)[0]
        worst.add(float((single - subject.known(case)[0]).abs()), 100.0 * eps * subject.scale(case), case.name)
    return worst.result()


def float32_forces(subject: Subject, structures: Sequence[Case]) -> Result:
    """Forces in float32 are those in float64, within 10⁻³ of the largest of a structure and the rounding of energies.

    Good models are off from their training data by ten times that and more.
    """
    _only_energies(subject)
    worst = Worst("float32 forces", f"{subject.unit}/Å")
    eps, reach = torch.finfo(torch.float32).eps, subject.cutoff or REACH
    for case in structures:
        double, single = subject.known(case)[1], subject.forces(case, torch.float32)[1]
        bound = 1e-3 * float(double.abs().max()) + 10.0 * eps * subject.scale(case) / reach
        worst.add(float((single - double).abs().max()), bound, case.name)
    return worst.result()


def dynamics(subject: Subject, structures: Sequence[Case]) -> Result:
    r"""The total energy of Verlet dynamics is off by a quarter when the time step is halved.

    Velocity Verlet is of second order: its energy error is proportional to Δt² where forces are the gradient of a
    smooth energy, and to nothing of the kind where they are not (`Hairer et al. (2003)
    <https://doi.org/10.1017/S0962492902000144>`_). Ratios need neither a unit nor a tolerance of energy. The steps are
    0.2 and 0.1 over the highest frequency ω, found by power iteration, for a time of 4/ω; velocities are random. Bound:
    half, between the quarter of a good potential and the whole of one that loses energy. Errors that are mere rounding
    pass.
    """
    _only_energies(subject)
    worst = Worst("dynamics", "ratio")
    small = [case for case in structures if len(case.z) <= 30]
    chosen = [
        *[case for case in small if case.cell is None][:2],
        *[case for case in small if case.cell is not None][:1],
    ]
    for case in chosen or list(structures[:1]):
        mass = _masses(case)
        frequency = _highest_frequency(subject, case, mass)
        generator = torch.Generator().manual_seed(6)
        velocity = 0.02 * frequency * torch.randn(case.pos.shape, dtype=torch.float64, generator=generator)
        runs = ((0.2 / frequency, 20), (0.1 / frequency, 40))
        errors = [_energy_error(subject, case, mass, velocity, step, count) for step, count in runs]
        floor = 10.0 * rounding(subject, case)
        ratio = 0.25 if errors[1] <= floor else errors[1] / errors[0]
        note = f"{case.name}: error {errors[0]:.1e} to {errors[1]:.1e} {subject.unit}"
        if subject.unit == "eV":
            note += f", step {_TO_FS * 0.2 / frequency:.2f} fs halved"
        worst.add(ratio, 0.5, note)
    return worst.result()


def _only_energies(subject: Subject) -> None:
    if subject.kind in ("intensive", "other"):
        raise NotApplicable("its output is no energy of the whole structure")


def _relative(subject: Subject) -> float:
    """Relative bound of derivatives: 1e-5 in float64, 1e-2 in float32."""
    return 1e-5 if subject.dtype == torch.float64 else 1e-2


def _best_difference(subject: Subject, case: Case, slope: float, at: Callable[[float], Case]) -> tuple[float, float]:
    """Deviation of a slope from the central difference that agrees best, and the rounding of that difference."""
    found = []
    for h in _STEPS:
        plus, minus = (subject.energies([at(sign * h)])[0] for sign in (1.0, -1.0))
        found.append(
            (abs(float(plus - minus) / (2.0 * h) - slope), 0.01 * TERMS * subject.eps * subject.scale(case) / h)
        )
    finite = [pair for pair in found if pair[0] == pair[0]]
    return min(finite, default=(float("nan"), 0.0))


def _directions(shape: Sequence[int], count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    drawn = [torch.randn(tuple(shape), dtype=torch.float64, generator=generator) for _ in range(count)]
    return [u / u.norm() for u in drawn]


def _diverges(subject: Subject, case: Case) -> bool:
    """Whether the energy grows as 1/r or faster when the second atom comes close to the first one."""
    step = torch.zeros_like(case.pos)
    step[1, 0] = 1.0
    far, close = (float(subject.energies([case.moved(case.pos + r * step)])[0].abs()) for r in (1e-2, 1e-4))
    return close > 30.0 * far


def _not_finite(what: str, *values: Tensor) -> tuple[float, float, str]:
    """How many values are not finite, how many may be, and what they are."""
    count = sum(int((~torch.isfinite(value)).sum()) for value in values)
    return float(count), 0.0, what if count else ""


def _masses(case: Case) -> Tensor:
    """Masses in u, shape ``[N, 1]``."""
    from ase.data import atomic_masses

    return torch.from_numpy(atomic_masses[case.z.numpy()]).double().unsqueeze(-1).clamp(min=1.0)


def _highest_frequency(subject: Subject, case: Case, mass: Tensor) -> float:
    """Root of the largest magnitude of an eigenvalue of the mass-weighted Hessian, by differences of forces."""
    root, h = mass.sqrt(), 1e-4
    mode = _directions(case.pos.shape, 1)[0]
    largest = 0.0
    for _ in range(8):
        step = h * mode / root
        plus, minus = (subject.forces(case.moved(case.pos + sign * step))[1] for sign in (1.0, -1.0))
        image = (minus - plus) / (2.0 * h) / root
        largest = float(image.norm())
        if not 0.0 < largest < float("inf"):
            break
        mode = image / largest
    if not 0.0 < largest < float("inf"):
        raise NotApplicable(f"no force acts in {case.name}")
    return largest**0.5


def _energy_error(subject: Subject, case: Case, mass: Tensor, velocity: Tensor, step: float, count: int) -> float:
    """Largest deviation of the total energy from its first value along ``count`` steps of velocity Verlet."""
    pos, velocity = case.pos, velocity.clone()
    energy, force = subject.forces(case)
    totals = [float(energy + 0.5 * (mass * velocity.square()).sum())]
    for _ in range(count):
        velocity = velocity + 0.5 * step * force / mass
        pos = pos + step * velocity
        energy, force = subject.forces(case.moved(pos))
        velocity = velocity + 0.5 * step * force / mass
        totals.append(float(energy + 0.5 * (mass * velocity.square()).sum()))
    changes = torch.tensor(totals, dtype=torch.float64) - totals[0]
    return float(changes.abs().max())

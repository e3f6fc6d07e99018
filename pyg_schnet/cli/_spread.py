"""How sure a committee is, and what rounded weights cost, in words."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from pyg_schnet.data import Split
from pyg_schnet.interfaces import BatchCalculator, fractions_within
from pyg_schnet.models import SchNetCommittee, as_one
from pyg_schnet.models.committee import CALIBRATION
from pyg_schnet.train.labelled import kept_aside

_QUANTITIES = {"energy": "meV", "forces": "meV/Å"}


def spread_in_words(noted: Mapping[str, Any], n_models: int) -> list[str]:
    """Factors of a calibration, and which part of errors its deviations cover.

    Args:
        noted: Entry of a card, as :func:`pyg_schnet.interfaces.calibrate` writes it.
        n_models: Number of models.

    Example:
        >>> noted = {"structures": 50, "energy": 1.5, "within": {"structures": 80, "energy": [0.7, 0.94]}}
        >>> spread_in_words(noted, 3)[1]
        '  energy: times 1.50; 70 % of errors within one deviation, 94 % within two'
    """
    within = noted["within"]
    first = f"Spread of {n_models} models, calibrated on {noted['structures']:,} structures, against errors on "
    lines = [f"{first}{within['structures']:,}:"]
    for name in ("energy", "forces", "stress"):
        if name in noted:
            one, two = (f"{100 * part:.0f} %" for part in within[name])
            lines.append(f"  {name}: times {noted[name]:.2f}; {one} of errors within one deviation, {two} within two")
    return lines


def say_spread(committee: SchNetCommittee, given: dict[str, Any], split: Split | None, data_dir: str | None) -> None:
    """Print how much of the errors on test structures of a run the calibrated spread covers.

    Args:
        committee: The committee, with a calibration.
        given: Configuration of the run.
        split: Its split.
        data_dir: Folder of the files that the data sets name.
    """
    noted = dict(committee.card[CALIBRATION])
    if split is not None:
        _, test = kept_aside(as_one(committee), given, split, np.asarray(split.train), data_dir)
        noted["within"] = {"structures": len(test), **fractions_within(committee, test)}
    print("\n".join(spread_in_words(noted, len(committee))))


def rounding_of(exact: Any, rounded: Any, structures: Sequence[Atoms]) -> dict[str, Any]:
    """Mean absolute difference of energies in meV, and of forces in meV/Å, between a model and the rounded one.

    Args:
        exact: The model.
        rounded: The same with rounded weights.
        structures: The structures; none, where the models predict no energies.
    """
    if not structures:
        return {}
    names = ["energy", *(["forces"] if any("forces" in atoms.calc.results for atoms in structures) else [])]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the structure")  # which may be of other compositions, as test structures are
        before, after = (BatchCalculator(one, untrained_forces=True)(structures, names) for one in (exact, rounded))
    found: dict[str, Any] = {"structures": len(structures)}
    for name in names:
        pairs = [np.abs(np.subtract(one[name], other[name])) for one, other in zip(before, after, strict=True)]
        found[name] = {_QUANTITIES[name]: 1e3 * float(np.concatenate([np.ravel(pair) for pair in pairs]).mean())}
    return found


def rounding_in_words(noted: Mapping[str, Any], storage: str) -> str:
    """What the storage of weights changes.

    Args:
        noted: Result of :func:`rounding_of`.
        storage: How weights are stored.

    Example:
        >>> rounding_in_words({"structures": 80, "energy": {"meV": 0.25}}, "float16")
        'Weights stored as float16 change energy by 0.25 meV in the mean of 80 structures'
    """
    parts = [f"{name} by {number:.2g} {unit}" for name in _QUANTITIES for unit, number in noted.get(name, {}).items()]
    where = f" in the mean of {noted['structures']:,} structures" if parts else ", which was not measured"
    return f"Weights stored as {storage} change {', '.join(parts) or 'results'}{where}"

"""What has to fit before anything is learned: labels, elements, units and numbers of outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn

from pyg_schnet.data import Property
from pyg_schnet.nn import DipoleReadout, ElectronicSpatialExtentReadout
from pyg_schnet.train.survey import Survey
from pyg_schnet.units import dimension

_EXTENSIVE = ("energy", "free_energy", *(name + end for name in ("U0", "U", "H", "G") for end in ("", "_atom")))


def channels_of(network: nn.Module) -> int:
    """Numbers that a network gives for each structure: those of its readout; 1 where it does not say.

    Example:
        >>> from pyg_schnet import SchNet
        >>> channels_of(SchNet(16, 16, 1, out_channels=5))
        5
    """
    stated = [getattr(part, "out_channels", None) for part in (getattr(network, "readout", None), network)]
    return next((number for number in stated if isinstance(number, int)), 1)


def check_width(target: Property, width: int, readout: Any, channels: int) -> None:
    """Raise unless a network gives as many numbers as the target has.

    Args:
        target: What is learned.
        width: Numbers that the target has for each structure.
        readout: Readout of the network; ``None`` where it is not known.
        channels: Numbers that it gives for each structure.

    Raises:
        ValueError: If they differ; the message says which option to change.
    """
    if width == channels:
        return
    if isinstance(readout, DipoleReadout):
        options = {1: "magnitude=True", 3: "magnitude=False"}
        advice = f"set {options[width]} of its readout" if width in options else "choose another readout"
    else:
        advice = f"set out_channels={width} of the network"
        if width > 1 and target.column is None:
            advice += f", or learn one of them, Property({target.name!r}, {target.unit!r}, column=0)"
    raise ValueError(
        f"{target.name!r} has {width} number{'s' * (width > 1)} for each structure, but the network gives {channels}; "
        + advice
    )


def check_level(target: Property) -> None:
    """Raise for a property of atoms, which :class:`PropertyTask` does not learn.

    Raises:
        ValueError: If the target is one of each atom.
    """
    if target.level == "atom":
        raise ValueError(
            f"{target.name!r} is a property of each atom, expected one of each structure; forces are learned as "
            "derivatives of an energy: --data.target=energy --model=pyg_schnet.train.PotentialTask"
        )


def check_unit(target: Property, width: int, readout: Any, pooling: str) -> None:
    """Raise where unit or kind of a property contradict how the network pools its atoms.

    Args:
        target: What is learned.
        width: Numbers that it has for each structure.
        readout: Readout of the network; ``None`` where it is not known.
        pooling: How it pools atoms, as read from the network.

    Raises:
        ValueError: If the property is per atom and atoms are summed, a total energy and atoms are averaged, a dipole
            vector and the readout knows no direction, or a readout of dipoles or extents is given another dimension.
    """
    kind = dimension(target.unit)
    says = f"{target.name!r} is in {target.unit}"
    if pooling == "sum" and "per atom" in kind:
        raise ValueError(
            f"{says}, a mean over atoms, but the network sums its atoms; choose the readout 'mean' "
            "(--model.network.readout=mean), or state pooling='sum' if a sum is meant"
        )
    if pooling in ("mean", "max") and kind == "energy" and target.name in _EXTENSIVE:
        raise ValueError(
            f"{says}, a total energy that grows with the number of atoms, but the network takes the {pooling} over its "
            "atoms; choose the readout 'sum' (--model.network.readout=sum), a target in eV/atom, or state "
            f"pooling={pooling!r} if a {pooling} is meant"
        )
    if pooling != "none" and kind == "dipole" and width == 3:
        raise ValueError(
            f"{says} and a vector, but a {pooling} over atoms has no direction; choose the readout DipoleReadout with "
            "magnitude=False"
        )
    for cls, fits in ((DipoleReadout, "dipole"), (ElectronicSpatialExtentReadout, "area")):
        if isinstance(readout, cls) and kind not in (fits, "dimensionless"):
            raise ValueError(f"{says} ({kind}), but a {cls.__name__} has the dimension {fits}; choose 'sum' or 'mean'")


def check_labels(parts: dict[str, Survey], needed: Sequence[Property]) -> list[str]:
    """Raise for parts whose labels are missing or no numbers.

    Args:
        parts: What training, validation and test structures have, by name.
        needed: The targets that have a weight in the loss.

    Returns:
        Sentences about labels that validation or test do without.

    Raises:
        ValueError: If no training structure has one of the targets, or no structure of another part has any of them.
    """
    if not parts["training"].size:
        raise ValueError("there are no training structures; choose a larger --data.num_train")
    said = []
    for name, part in parts.items():
        for target, first in part.not_finite.items():
            raise ValueError(
                f"{target!r} of {name} structure {first} is NaN or infinite; leave the structure out, or mark labels "
                f"that are missing by has_{target} = False"
            )
        missing = [target.name for target in needed if part.size and not part.labelled[target.name]]
        if missing and (name == "training" or len(missing) == len(needed)):
            raise ValueError(
                f"none of the {part.size:,} {name} structures has a label {missing[0]!r}; choose a split "
                "(--data.split, --data.seed) or data with labels"
                + (", or --data.num_test=0 to do without a test" if name == "test" else "")
            )
        without = "it is not tested" if name == "test" else "it does not count in val/loss"
        said += [f"No {name} structure has a label {target!r}; {without}." for target in missing]
        for one in needed:
            lacking = part.size - part.labelled[one.name]
            if 0 < lacking < part.size:
                said.append(
                    f"{lacking:,} of {part.size:,} {name} structures have no label {one.name!r} and are left out."
                )
        if part.without_volume is not None:
            raise ValueError(
                f"{name} structure {part.without_volume} has a stress but no cell with a volume, where a stress is not "
                "defined; leave the label out, or give three independent cell vectors"
            )
    return said


def absent_sentence(part: str, missing: Counter[str], size: int) -> str:
    """Sentence on elements that no labelled training structure has.

    Example:
        >>> absent_sentence("test", Counter({"N": 6}), 10)
        'No training structure has N (in 6 of 10 test structures); errors for this element are those of random numbers.'
    """
    each = ", ".join(f"{symbol} (in {count:,} of {size:,} {part} structures)" for symbol, count in missing.items())
    which = "this element are" if len(missing) == 1 else "these elements are"
    return f"No training structure has {each}; errors for {which} those of random numbers."

"""Several targets that one network learns: which of its outputs they are, how these are pooled, their statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyg_schnet.data import Property
from pyg_schnet.nn import HeadsReadout
from pyg_schnet.train.references import Pooling, fit_statistics, pooling_of_readout


class Part(NamedTuple):
    """One of several targets.

    Attributes:
        target: What is learned.
        columns: Outputs of the network that are this target.
        pooling: How they are pooled.
        readout: Readout of the network that gives them; ``None`` where it is not known.
    """

    target: Property
    columns: slice
    pooling: Pooling
    readout: Any

    @property
    def width(self) -> int:
        """Numbers of the target."""
        return self.columns.stop - self.columns.start


class Joint:
    """Several targets in the order of the outputs of a network.

    Args:
        network: The network; one with a :class:`~pyg_schnet.nn.HeadsReadout` says which output is which, those of
            others are the targets in their order, a number each.
        targets: What is learned.
        pooling: How outputs are pooled, where the network does not say it.
        channels: Numbers that the network gives for each structure.
        weights: Weight of targets in the loss, by name; 1 where it is not given.

    Raises:
        ValueError: If there is another number of outputs, or a weight is negative, or of something that is no target.
    """

    def __init__(
        self,
        network: nn.Module,
        targets: Sequence[Property],
        pooling: Pooling,
        channels: int,
        weights: Mapping[str, float],
    ) -> None:
        _check_weights(weights, [target.name for target in targets])
        readout = getattr(network, "readout", None)
        if isinstance(readout, HeadsReadout):
            columns = [readout.columns[target.name] for target in targets]
            readouts: list[Any] = [readout.head(target.name)[0] for target in targets]
            poolings = [pooling_of_readout(one) for one in readouts]
        else:
            if channels != len(targets):
                raise ValueError(
                    f"the network gives {channels} number{'s' * (channels > 1)} for each structure, but there are "
                    f"{len(targets)} targets; give it a readout for each, "
                    f'readout={{"{targets[0].name}": "sum", ...}}, or out_channels={len(targets)}'
                )
            columns = [slice(k, k + 1) for k in range(channels)]
            readouts, poolings = [readout] * channels, [pooling] * channels
        parts = [Part(*one) for one in zip(targets, columns, poolings, readouts, strict=True)]
        self.parts = sorted(parts, key=lambda part: part.columns.start)
        self.channels = channels

    def part(self, name: str) -> Part:
        """One of the targets by its name."""
        return next(part for part in self.parts if part.target.name == name)

    def averaged(self) -> Tensor:
        """Outputs whose references are means over atoms, or largest values, bool ``[C]``; others are sums."""
        found = torch.zeros(self.channels, dtype=torch.bool)
        for part in self.parts:
            found[part.columns] = part.pooling != "sum"
        return found

    def statistics(self, counts: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """References, scales and spreads of all targets, each from the structures that have it.

        Args:
            counts: Atoms of each element in each structure, shape ``[B, MAX_Z + 1]``.
            target: Targets of each structure in the order of the outputs, shape ``[B, C]``; NaN where one is missing.

        Returns:
            References ``[MAX_Z + 1, C]`` and scales ``[C]`` as of :func:`fit_statistics`; and the standard deviation
            ``[C]`` of what references leave of a structure, in the unit of the target, that of all numbers of a target
            together.
        """
        atomref = torch.zeros(counts.size(1), self.channels, dtype=torch.float64)
        scale, spread = torch.ones(2, self.channels, dtype=torch.float64)
        for part in self.parts:
            values = target[:, part.columns]
            there = ~values.isnan().any(1)
            own, values = counts[there], values[there]
            atomref[:, part.columns], scale[part.columns] = fit_statistics(own, values, part.pooling)
            weights = own if part.pooling == "sum" else own / own.sum(1, keepdim=True).clamp(min=1.0)
            left = values - weights.to(torch.float64) @ atomref[:, part.columns]
            is_vector = part.pooling == "none" and part.width > 1
            squares = left.square().mean() if is_vector else left.var(0, correction=0).mean()
            size = squares.sqrt()
            spread[part.columns] = size if size > 0 else 1.0
        return atomref, scale, spread


def check_heads(network: nn.Module, targets: Sequence[Property]) -> None:
    """Raise unless the heads of a network, where it has any, are those of the targets.

    Raises:
        ValueError: If a head or a target has no counterpart.
    """
    readout, names = getattr(network, "readout", None), [target.name for target in targets]
    if not isinstance(readout, HeadsReadout):
        return
    missing = [name for name in names if name not in readout.columns]
    unused = [name for name in readout.columns if name not in names]
    if missing or unused:
        raise ValueError(
            "heads of the network and targets must be the same: "
            + "; ".join(
                [f"there is no head for {', '.join(missing)}"] * bool(missing)
                + [f"there is no target for the head of {', '.join(unused)}"] * bool(unused)
            )
        )


def _check_weights(weights: Mapping[str, float], names: Sequence[str]) -> None:
    unknown = [name for name in weights if name not in names]
    if unknown:
        raise ValueError(f"weights are given for {', '.join(unknown)}; the targets are {', '.join(names)}")
    if any(not weight >= 0 for weight in weights.values()) or not any(weights.get(name, 1.0) > 0 for name in names):
        raise ValueError(f"weights must not be negative, and one must be positive, got {dict(weights)}")

"""Several properties from the same atom features, each by a readout of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyg_schnet.nn.readout import Readout

_SEPARATOR = ", "


class HeadsReadout(Readout):
    r"""Several properties of a structure from the same atom features, each by a readout of its own.

    .. math:: P = P_1(\mathbf{x}) \oplus P_2(\mathbf{x}) \oplus \dots

    A head is any other readout, so that sums, means, maxima, dipoles and spatial extents can be learned together.
    Properties whose names share a head, separated by commas, share its atom-wise network, too, which is faster: each
    of them is one output.

    Args:
        heads: Readout of each property, by its name, or by several names, separated by commas.

    Raises:
        ValueError: If there are no heads, a name appears twice, several names share a head that has another number of
            outputs, or heads take different numbers of features.
        TypeError: If a head is no readout, or has heads itself.

    Example:
        >>> from pyg_schnet.nn import DipoleReadout, SumReadout
        >>> readout = HeadsReadout({"mu": DipoleReadout(16), "U0, H": SumReadout(16, out_channels=2)})
        >>> x, z, pos = torch.zeros(3, 16), torch.tensor([8, 1, 1]), torch.zeros(3, 3)
        >>> readout(x, z, pos, torch.tensor([0, 0, 0]), batch_size=1).shape, readout.columns["H"]
        (torch.Size([1, 3]), slice(2, 3, None))
    """

    def __init__(self, heads: Mapping[str, Readout]) -> None:
        super().__init__()
        if not isinstance(heads, Mapping) or not heads:
            raise ValueError(f"heads must be a dictionary with a readout for each property, got {heads!r}")
        self.names = tuple(_SEPARATOR.join(names_of(key)) for key in heads)
        self.columns: dict[str, slice] = {}
        self.head_of: dict[str, int] = {}
        start = 0
        for k, head in enumerate(heads.values()):
            names = names_of(self.names[k])
            width = _width(self.names[k], head, len(names))
            for name in names:
                if name in self.columns:
                    raise ValueError(f"each property has one head, but {name!r} has two")
                self.columns[name], self.head_of[name] = slice(start, start + width), k
                start += width
        sizes = sorted({size for head in heads.values() if (size := getattr(head, "hidden_channels", None))})
        if len(sizes) > 1:
            raise ValueError(f"heads must take the same features, got heads for {', '.join(map(str, sizes))} features")
        if sizes:
            self.hidden_channels = sizes[0]
        self.out_channels = start
        self.heads = nn.ModuleList(heads.values())

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build the same readout again; scales, shifts and references are in the state dict."""
        parts = zip(self.names, self.heads, strict=True)
        return {"heads": {name: {"class": type(head).__name__, **head.config} for name, head in parts}}

    def reset_parameters(self) -> None:
        """Draw new weights; statistics of the data (scale, shift, element references) are kept."""
        for head in self.heads:
            head.reset_parameters()

    def head(self, name: str) -> tuple[Readout, slice]:
        """Readout of a property, and the columns of its output that are this property.

        Raises:
            ValueError: If there is no such property; the message names those that there are.
        """
        if name not in self.columns:
            raise ValueError(f"there is no head for {name!r}; there are {_SEPARATOR.join(self.columns)}")
        k, columns = self.head_of[name], self.columns[name]
        first = min(one.start for other, one in self.columns.items() if self.head_of[other] == k)
        return self.heads[k], slice(columns.start - first, columns.stop - first)

    def forward(self, x: Tensor, z: Tensor, pos: Tensor, batch: Tensor, batch_size: int) -> Tensor:
        """All properties of each structure.

        Args:
            x: Atom features, shape ``[N, F]``.
            z: Atomic numbers, shape ``[N]``; 0 is padding.
            pos: Positions in Å, shape ``[N, 3]``.
            batch: Structure of each atom, shape ``[N]``.
            batch_size: Number of structures B.

        Returns:
            Properties in the order of the heads, shape ``[B, out_channels]``; ``columns`` says which is where.
        """
        return torch.cat([head(x, z, pos, batch, batch_size) for head in self.heads], dim=1)


def heads_of(readout: Any) -> list[Any]:
    """The readouts of single properties that a readout consists of, which may be itself alone.

    Example:
        >>> from pyg_schnet.nn import SumReadout
        >>> [type(head).__name__ for head in heads_of(HeadsReadout({"U0": SumReadout(16)}))]
        ['SumReadout']
    """
    return list(readout.heads) if isinstance(readout, HeadsReadout) else [readout]


def names_of(key: str) -> list[str]:
    """Properties that share a head.

    Raises:
        ValueError: If there is none, or one has no name.

    Example:
        >>> names_of("U0, U,H")
        ['U0', 'U', 'H']
    """
    names = [name.strip() for name in key.split(",")] if isinstance(key, str) else []
    if not all(names) or not names:
        raise ValueError(f"a head needs the name of a property, or several separated by commas, got {key!r}")
    return names


def _width(key: str, head: Any, n_names: int) -> int:
    """Numbers of outputs of each property of a head."""
    if isinstance(head, HeadsReadout) or not isinstance(head, Readout):
        raise TypeError(f"the head {key!r} must be a readout such as SumReadout, got a {type(head).__name__}")
    width = getattr(head, "out_channels", 1)
    if n_names > 1 and width != n_names:
        raise ValueError(
            f"the head {key!r} has {n_names} properties but out_channels={width}; each of them is one output, a "
            "property of several numbers has a head of its own"
        )
    return 1 if n_names > 1 else width

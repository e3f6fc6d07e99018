r"""Several SchNets in one file: their mean, and what each of them says.

.. math::
    \bar P = \frac{1}{M} \sum_{k=1}^{M} P_k, \qquad
    \sigma^2 = \frac{1}{M} \sum_{k=1}^{M} (P_k - \bar P)^2
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyg_schnet.models.checkpoint import CheckpointMixin
from pyg_schnet.models.ensemble import check_joinable, common_card, join_ensemble
from pyg_schnet.models.schnet import SchNet
from pyg_schnet.models.storage import Storage, rounded

CALIBRATION = "calibration"
"""Entry of a card with factors from the spread of a committee to its error."""


class SchNetCommittee(CheckpointMixin, nn.Module):
    """SchNets of several trainings as one model, whose spread says how sure their mean is.

    Calculators (:class:`pyg_schnet.interfaces.SchNetCalculator` and the others) evaluate all members on one graph, and
    give the mean and the standard deviations. What can do with one model only (``pyg-schnet test``, LAMMPS, OpenMM,
    analyses) takes the mean as one SchNet, :meth:`joined`. Calling the committee gives the mean.

    Args:
        members: SchNets that differ in their weights and widths only, or their ``config``.

    Attributes:
        members: The SchNets.
        card: Common entries of the cards of the members, and what was found of the committee.

    Raises:
        ValueError: If there are less than two, or they differ in more.

    Example:
        >>> z, pos = torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        >>> committee = SchNetCommittee([SchNet(16, 16, 2, cutoff=5.0).eval() for _ in range(3)])
        >>> mean = torch.stack([member(z, pos) for member in committee.members]).mean(0)
        >>> len(committee), bool(torch.equal(committee(z, pos), mean))
        (3, True)
    """

    def __init__(self, members: Sequence[SchNet | Mapping[str, Any]]) -> None:
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"a committee has at least two members, got {len(members)}")
        models = [one if isinstance(one, SchNet) else SchNet(**one) for one in members]
        check_joinable(models)
        self.members = nn.ModuleList(models)
        self.card: dict[str, Any] = common_card([model.card for model in models])

    @property
    def cutoff(self) -> float:
        """Cutoff in Å."""
        return cast(SchNet, self.members[0]).cutoff

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build a committee of the same shape, as JSON can hold them."""
        return {"members": [member.config for member in self]}

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[SchNet]:
        return cast("Iterator[SchNet]", iter(self.members))

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor | None = None, **graph: Any) -> Tensor:
        """Mean over members, shape ``[B, out_channels]``; arguments of a SchNet."""
        return torch.stack([member(z, pos, batch, **graph) for member in self]).mean(0)

    def models(self) -> list[SchNet]:
        """The members with the card of the committee, as copies that share its weights."""
        found = [copy.copy(member) for member in self]
        for member in found:
            member.card = self.card
        return found

    def save(self, path: str | os.PathLike[str], *, storage: Storage | None = None, **card: Any) -> Path:
        """As :meth:`SchNet.save`, for all members in one file.

        Raises:
            ValueError: As there; or if storing changes the weights that a calibration is of.
        """
        if storage is not None and CALIBRATION in {**self.card, **card}:
            kept, state = rounded(self, storage).state_dict(), self.state_dict()
            if any(not torch.equal(kept[name], value.to(kept[name].dtype)) for name, value in state.items()):
                raise ValueError(
                    f"storage={storage!r} changes the weights, and the spread that the committee was calibrated for; "
                    "calibrate pyg_schnet.models.rounded(committee), then save that"
                )
        return super().save(path, storage=storage, **card)

    def joined(self) -> SchNet:
        """The mean as one SchNet of the sum of the widths, with the card of the committee.

        Raises:
            ValueError: If members have an odd number of features, or learned Gaussians.
        """
        model = join_ensemble(list(self))
        model.card = {name: value for name, value in self.card.items() if name != CALIBRATION}  # it has no spread
        return model


def as_one(model: Any) -> Any:
    """The mean of a committee as one SchNet; other models as they are.

    Args:
        model: Any model.
    """
    return model.joined() if isinstance(model, SchNetCommittee) else model

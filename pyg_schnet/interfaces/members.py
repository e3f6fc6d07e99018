"""The models of a calculator, of which there may be one: what each of them says, their mean and their spread."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pyg_schnet.data.check import StructureCheck
from pyg_schnet.derivatives import EnergyForcesStress
from pyg_schnet.engine.frozen import freeze
from pyg_schnet.models import AtomisticModel, SchNetCommittee, load
from pyg_schnet.models.card import unit_of
from pyg_schnet.models.committee import CALIBRATION
from pyg_schnet.models.convert import like_pyg
from pyg_schnet.models.identity import Identity, hash_of_weights
from pyg_schnet.nn import DipoleReadout
from pyg_schnet.potential import Potential, predicts_energy, source_of
from pyg_schnet.units import dimension, factor

_UNUSUAL = 2.0  # times the largest spread of structures that were kept aside


class Members:
    r"""One model or several, evaluated on one graph.

    .. math:: \bar q = \frac{1}{M} \sum_{k=1}^{M} q_k, \qquad
              \sigma_q = \alpha_q \Bigl( \frac{1}{M} \sum_{k=1}^{M} (q_k - \bar q)^2 \Bigr)^{1/2}

    with the factor α from spread to error where the models were calibrated together
    (:func:`pyg_schnet.interfaces.calibrate`), and 1 otherwise. A file that holds a committee counts as its members.

    Args:
        model: Model, model file, name of a pretrained one, or several of them.
        unit: Unit of the models' output, where they do not know it.
        dtype: Precision of the networks; ``None`` takes float64 where the device has it.
        device: Device of the networks; ``None`` takes that of the models.
        untrained_forces: Whether to give derivatives of models that were trained on energies alone.
        any_model: Whether models of other packages and functions are taken too, and dipoles refused.

    Attributes:
        kind: ``"energy"`` or ``"dipole"``.
        potentials: The potential of each model of energies; what is put in the place of one is called.
        factors: The factor α of each quantity.
        check: Compares structures with those that the models were trained on.

    Raises:
        TypeError: If something given is no model of this package.
        ValueError: If there is no model, one predicts neither energies nor dipoles, or they do not predict the same.
    """

    def __init__(
        self,
        model: Any,
        unit: str | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        untrained_forces: bool = False,
        any_model: bool = False,
    ) -> None:
        sources = sources_of(model)
        parts = [_models_of(source) for source in sources]
        models: list[Any] = [one for part in parts for one in part]
        models = models if any_model else [_own(one) for one in models]
        cards = [card if isinstance(card := getattr(one, "card", None), Mapping) else {} for one in models]
        self.units = [unit_of(card, unit) for card in cards]
        kinds = {"energy" if any_model else _kind_of(*pair) for pair in zip(models, self.units, strict=True)}
        if len(kinds) > 1:
            raise ValueError(f"the models of an ensemble must predict the same, got {', '.join(sorted(kinds))}")
        self.kind = kinds.pop()
        self.identities = [Identity.of(source) for source in sources]
        self._units_of_sources = [self.units[end - 1] for end in accumulate(map(len, parts))]
        self.factors = _factors_of(models, cards)
        self.usual: Mapping[str, Any] = cards[0][CALIBRATION].get("largest", {}) if self.factors else {}
        self.check = StructureCheck([card for card in cards if card], untrained_forces=untrained_forces)
        self.potentials: list[Potential] = []
        self._of_dipoles: list[Any] = []
        if self.kind == "energy":
            options: dict[str, Any] = {"dtype": dtype, "device": device, "untrained_forces": untrained_forces}
            self.potentials = [Potential(one, unit, **options) for one in models]
            names = [name for name, part in zip(self.identities, parts, strict=True) for _ in part]
            for potential, name in zip(self.potentials, names, strict=True):
                potential.identity = name
        else:
            self._of_dipoles = [freeze(one).to(device=device, dtype=dtype) for one in models]

    def __len__(self) -> int:
        return len(self.models)

    @property
    def models(self) -> list[Any]:
        """The frozen models, those that the potentials have now."""
        return [potential.model for potential in self.potentials] if self.kind == "energy" else self._of_dipoles

    @property
    def cutoff(self) -> float:
        """The largest cutoff in Å."""
        return max(model.cutoff for model in self.models)

    def notes(self) -> dict[str, Any]:
        """Names, hashes and units of the sources, and the version of the package, as files are to keep them."""
        found: dict[str, Any] = {}
        of_sources = [one._asdict() for one in self.identities]
        for name, values in (
            ("model", [one["model"] for one in of_sources]),
            ("sha256", [one["sha256"] for one in of_sources]),
            ("unit", self._units_of_sources),
        ):
            found[name] = values if len(values) > 1 else values[0]
        return {**found, "version": of_sources[0]["version"]}

    def __call__(self, z: Tensor, pos: Tensor, batch: Tensor | None = None, **options: Any) -> EnergyForcesStress:
        """Energies in eV ``[M, B]``, forces in eV/Å ``[M, N, 3]`` and stress in eV/Å³ ``[M, B, 3, 3]``.

        Args:
            z: Atomic numbers, shape ``[N]``.
            pos: Positions in Å, shape ``[N, 3]``.
            batch: Structure of each atom, shape ``[N]``; ``None`` for a single one.
            **options: Graph, lattice, and what is asked for; as :class:`~pyg_schnet.potential.Potential` takes them.
        """
        if len(self.potentials) == 1:
            alone = [None if one is None else one.unsqueeze(0) for one in self.potentials[0](z, pos, batch, **options)]
            return EnergyForcesStress(*cast(Any, alone))
        found = [potential(z, pos, batch, **options) for potential in self.potentials]
        columns = [[getattr(one, name) for one in found] for name in EnergyForcesStress._fields]
        stacked = [None if values[0] is None else torch.stack(values) for values in columns]
        return EnergyForcesStress(*cast(Any, stacked))

    def of_structure(
        self, z: Tensor, pos: Tensor, graph: dict[str, Tensor], properties: Collection[str]
    ) -> dict[str, Tensor]:
        """Properties of a single structure by the names of ASE, of each model, in eV, Å and e.

        Args:
            z: Atomic numbers, shape ``[N]``.
            pos: Positions in Å, shape ``[N, 3]``.
            graph: Edges and lattice, as a potential takes them.
            properties: Names of ASE; what comes along is given too.
        """
        if self.kind == "dipole":
            with torch.no_grad():
                found = [model(z, pos, batch_size=1, **graph)[0] for model in self.models]
            scales = [factor(unit, "e·Å") for unit in self.units]
            return {"dipole": torch.stack([scale * one for scale, one in zip(scales, found, strict=True)])}
        stress = "stress" in properties
        forces = stress or "forces" in properties
        energy, forced, stressed = self(z, pos, batch_size=1, forces=forces, stress=stress, **graph)
        results = {"energy": energy[:, 0]}
        if forced is not None:
            results["forces"] = forced
        if stressed is not None:
            results["stress"] = stressed[:, 0]
        if "energies" in properties:
            results["energies"] = torch.stack([p.atom_energies(z, pos, **graph, batch_size=1) for p in self.potentials])
        if "stresses" in properties:
            size = torch.linalg.det(graph["cell"].to(energy.dtype)).abs()
            virials = [potential.atom_virials(z, pos, **graph, batch_size=1) for potential in self.potentials]
            results["stresses"] = -torch.stack(virials) / size
        return results

    def summary(self, name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Mean over models, and standard deviation times the factor; ``None`` of one model.

        Args:
            name: Name of the quantity.
            values: What each model says, shape ``[M, ...]``.
        """
        if len(values) == 1:
            return values[0], None
        return values.mean(0), self.factors.get(name, 1.0) * values.std(0)

    def calibrated(self, found: EnergyForcesStress) -> EnergyForcesStress:
        """The same means, with deviations of the models from them times the factors.

        Args:
            found: What each model says, shapes ``[M, ...]``.
        """
        scaled: dict[str, Any] = {}
        for name, values in zip(found._fields, found, strict=True):
            scale = self.factors.get(name, 1.0)
            if values is not None and scale != 1.0:
                mean = values.mean(0, keepdim=True)
                values = mean + scale * (values - mean)
            scaled[name] = values
        return EnergyForcesStress(**scaled)

    def look_at_spread(self, forces_std: np.ndarray | None, owner: np.ndarray | None = None) -> None:
        """Warn once of forces on which the models disagree more than on any structure that was kept aside.

        Args:
            forces_std: Standard deviations in eV/Å, times the factor, shape ``[N, 3]``.
            owner: Index of the structure of each atom, those of a structure one after the other, shape ``[N]``;
                ``None`` for a single structure.
        """
        known = self.usual.get("forces")
        if known is None or forces_std is None or not len(forces_std) or not self.check.wants_spread():
            return
        spread = np.linalg.norm(forces_std, axis=1)
        worst = int(spread.argmax())
        if not spread[worst] <= _UNUSUAL * known:  # nor for NaN
            first = 0 if owner is None else int((owner == owner[worst]).argmax())
            structure = None if owner is None else int(owner[worst])
            self.check.spread(worst - first, float(spread[worst]), float(known), structure)


def sources_of(model: Any) -> list[Any]:
    """What was given, as a list.

    Raises:
        ValueError: If there is none.
    """
    several = isinstance(model, Sequence) and not isinstance(model, (str, os.PathLike))
    sources = list(model) if several else [model]
    if not sources:
        raise ValueError("model is empty; give a model, a model file, or several of them")
    return sources


def _models_of(source: Any) -> list[Any]:
    """The models of a file, a committee or a model."""
    found = load(source) if isinstance(source, (str, os.PathLike)) else source
    return list(found.models()) if isinstance(found, SchNetCommittee) else [source_of(found)]


def _own(model: Any) -> AtomisticModel:
    """A model of this package.

    Raises:
        TypeError: If it is another one.
    """
    if isinstance(model, AtomisticModel):
        return model
    if isinstance(model, like_pyg.SchNet):
        return model.as_schnet()
    hint = "; SchNet.from_pyg converts one of PyTorch Geometric" if isinstance(model, nn.Module) else ""
    raise TypeError(f"expected a model of this package or the path of a model file, got {type(model).__name__}{hint}")


def _kind_of(model: AtomisticModel, unit: str) -> str:
    """What a model predicts, ``"energy"`` or ``"dipole"``.

    Raises:
        ValueError: If it predicts neither.
    """
    readout: Any = model.readout
    if isinstance(readout, DipoleReadout) and dimension(unit) == "dipole":
        if readout.magnitude:
            raise ValueError("ASE's dipole is a vector, but the model gives its magnitude; use magnitude=False")
        return "dipole"
    if not predicts_energy(model, unit):
        raise ValueError(
            "a calculator needs energies (SumReadout), energies per atom (MeanReadout) or dipole vectors; this model "
            f"has {readout} in {unit}"
        )
    return "energy"


def _factors_of(models: Sequence[Any], cards: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Factors of standard deviations, where all models were calibrated together; none otherwise.

    Warns:
        UserWarning: If they note the same calibration, but are not the models that it is of.
    """
    noted = [card.get(CALIBRATION) for card in cards]
    if len(noted) < 2 or not isinstance(noted[0], dict) or any(one != noted[0] for one in noted):
        return {}
    if noted[0].get("weights") != sorted(map(hash_of_weights, models)):
        warnings.warn(
            "the models note a calibration of other weights than theirs, so their standard deviations are not scaled; "
            "give all models that were calibrated, unfrozen and as they were, or calibrate these",
            stacklevel=2,
        )
        return {}
    return {name: float(noted[0][name]) for name in ("energy", "forces", "stress") if name in noted[0]}

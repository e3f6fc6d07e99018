"""What is learned and how: loss, metrics, optimiser and schedule for properties, as a LightningModule."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from pyg_schnet.data import Property, target_mask, target_values
from pyg_schnet.data.properties import find_properties
from pyg_schnet.models import AtomisticModel
from pyg_schnet.models.atomref import pop_atomref
from pyg_schnet.models.convert import like_pyg
from pyg_schnet.models.domain import Domain, renew
from pyg_schnet.models.targets import card_of_targets, name_outputs
from pyg_schnet.nn import HeadsReadout
from pyg_schnet.nn.atomref import MAX_Z, sum_references
from pyg_schnet.train.checks import channels_of, check_level, check_unit, check_width
from pyg_schnet.train.evaluated import EvaluatedModule
from pyg_schnet.train.inputs import NetworkInputs
from pyg_schnet.train.joint import Joint, Part, check_heads
from pyg_schnet.train.masks import Pair, labelled
from pyg_schnet.train.references import (
    Pooling,
    fit_extents,
    fit_statistics,
    fits_itself,
    fold_statistics,
    only_readout,
    pooling_of,
    scale_repulsion,
)
from pyg_schnet.train.source import StructureDataModule, check_stated, source_of

_LOSSES: dict[str, Any] = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}


class PropertyTask(EvaluatedModule):
    r"""Learn a property of structures, or several together.

    The network learns the difference from references of the elements, in units of its spread:

    .. math:: y_b = \sum_{i \in b} a_{Z_i} + \sigma\, \mathrm{network}(b)

    with a fitted by least squares to the training structures and σ the standard deviation of the residuals, per atom
    for extensive properties. References are added in float64, so a float32 network loses no precision at total
    energies of thousands of eV. Loss and metrics are in the unit of the property.

    A property may have several components (a spectrum, a vector). Each then has its own a and σ, except that σ of a
    vector is the root mean square of all components, which keeps it independent of directions. Loss and errors are
    means over structures and components.

    Several properties are learned by one network, which has a readout for each
    (``SchNet(readout={"mu": "dipole", "U0, H": "sum", "gap": "mean"})``, see :class:`pyg_schnet.nn.HeadsReadout`), or
    an output for each. Each property k has its own unit, references and scale, its labels may be missing where those of
    others are there, and its errors are reported by themselves. The loss, which also says when to stop and which
    weights are the best, is the weighted sum of all, each in units of the spread s of what references leave of it:

    .. math:: \ell = \sum_k w_k\, L(y_k / s_k, \hat y_k / s_k)

    Args:
        network: Any module that is called as ``network(z, pos, batch)`` and returns ``[B]``, ``[B, 1]`` or, for C
            components, ``[B, C]``: models of this package, PyTorch Geometric's SchNet, or others. ``cell``, ``pbc``
            and ``batch_size`` are passed if it has arguments of these names, as are ``edge_index`` and ``edge_shift``
            made by :class:`pyg_schnet.data.NeighborList`; other edges are ignored with a warning.
        loss: ``"mse"`` (squared), ``"mae"`` (absolute) or ``"huber"`` (squared below ``huber_delta``).
        huber_delta: Where the Huber loss turns from squared to absolute, in the unit of the property; for several in
            that of their spread.
        lr: Largest learning rate.
        weight_decay: Decoupled weight decay.
        optimizer: ``"muon"``, see :class:`pyg_schnet.train.Muon`, or ``"adam"`` (AdamW). Good rates of Muon are 0.003
            to 0.01, of Adam 0.001 for large networks.
        schedule: ``"cosine"`` falls to zero at the end of the training budget (epochs, steps or time);
            ``"warm_restarts"`` repeats it in cycles of epochs; ``"constant"``.
        warmup: Fraction of the training budget in which the cosine schedule rises to ``lr``, 0 to 1.
        restart_period: Length of the first cycle of the warm restarts, in epochs.
        restart_multiplier: Length of each cycle divided by that of the one before.
        restart_decay: Largest rate of each cycle divided by that of the one before.
        target: Target, if the data module does not define it (PyG's ``LightningDataset``, plain loaders):
            ``Property("y", "eV", column=7)``, or the name of one that the data set knows; or a list of them, such as
            ``[Property("homo", "eV", column=2, attribute="y"), Property("lumo", "eV", column=3, attribute="y")]``.
        weights: Weight of each of several properties in the loss by its name, 1 where it is not given.
        pooling: How the network pools atoms: ``"sum"``, ``"mean"``, ``"max"`` (one reference, the mean of the training
            structures, instead of one for each element), ``"none"`` (no references), or ``"auto"`` to read it from
            the network.

    Raises:
        ValueError: If an option is out of range.
    """

    atomref: Tensor
    scale: Tensor
    spread: Tensor  # of each output, where there are several properties
    averaged: Tensor  # outputs whose references are means, where there are several properties

    def __init__(
        self,
        network: nn.Module,
        *,
        loss: Literal["mse", "mae", "huber"] = "mse",
        huber_delta: float = 0.01,
        lr: float = 5e-3,
        weight_decay: float = 0.0,
        optimizer: Literal["adam", "muon"] = "muon",
        schedule: Literal["cosine", "warm_restarts", "constant"] = "cosine",
        warmup: float = 0.02,
        restart_period: float = 50.0,
        restart_multiplier: float = 1.5,
        restart_decay: float = 1.0,
        pooling: Literal["auto", "sum", "mean", "max", "none"] = "auto",
        target: Property | str | list[Property | str] | None = None,
        weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        if loss not in _LOSSES:
            raise ValueError(f"loss must be one of {', '.join(_LOSSES)}, got {loss!r}")
        if not huber_delta > 0:
            raise ValueError(f"huber_delta must be positive, in the unit of the property, got {huber_delta!r}")
        self.network = network
        self.loss = loss
        self.huber_delta = huber_delta
        self.set_optimizer(optimizer, lr, weight_decay)
        self.set_schedule(schedule, warmup, (restart_period, restart_multiplier, restart_decay))
        self.pooling: Pooling = pooling_of(network) if pooling == "auto" else pooling
        self.pooling_is_stated = pooling != "auto"
        self.property: Any = None  # of several the first one
        self.joint: Joint | None = None  # where there are several
        self.weights = weights or {}
        self.domain: Domain | None = None  # of the training structures, known once a fit has begun
        self._target = target
        self.channels = channels_of(network)
        has_heads = isinstance(getattr(network, "readout", None), HeadsReadout)
        if has_heads and self.pooling_is_stated:
            raise ValueError(f"pooling is that of each head of the network, leave out pooling={pooling!r}")
        one_scale = self.channels == 1 or (self.pooling == "none" and not has_heads)
        self.register_buffer("atomref", torch.zeros(MAX_Z + 1, self.channels))
        self.register_buffer("scale", torch.ones(() if one_scale else (self.channels,)))
        self.register_buffer("spread", torch.ones(self.channels) if self.channels > 1 else None)
        self.register_buffer("averaged", torch.zeros(self.channels, dtype=torch.bool), persistent=False)
        self._inputs = NetworkInputs(network)
        given = target if isinstance(target, list) else [target]
        if given and all(isinstance(one, Property) for one in given):
            self.learn(find_properties(None, cast(Any, target)))

    @classmethod
    def from_model(cls, model: AtomisticModel, target: Property | Sequence[Property]) -> PropertyTask:
        """Task that evaluates a trained model; its references are taken out, to be added in float64.

        Args:
            model: Model, as loaded from a file; changed in place.
            target: The property, or properties, that it was trained on.
        """
        atomref = pop_atomref(model)
        task = cls(model)
        task.learn([target] if isinstance(target, Property) else target)
        if atomref is not None:
            task.atomref = atomref
        return task

    def setup(self, stage: str) -> None:
        """Learn the property and, before the first fit, its statistics from the data module."""
        if isinstance(cast(Any, self.trainer).datamodule, StructureDataModule):
            self.learn_from(cast(Any, self.trainer).datamodule, stage)
        elif stage in ("validate", "test"):
            check_stated(self.property)

    def on_fit_start(self) -> None:
        """Learn the property and its statistics from what other data modules and plain data loaders load."""
        if not isinstance(cast(Any, self.trainer).datamodule, StructureDataModule):
            known = self._target if self.property is None else self.properties
            self.learn_from(source_of(self.trainer, known), "fit")
        self.keep_buffers()

    def learn_from(self, data: StructureDataModule, stage: str) -> None:
        """Learn the property and, before the first fit, its statistics.

        Args:
            data: Training structures.
            stage: Lightning's name of what is going to be done.
        """
        self.find_targets(data)
        if stage == "fit":
            self.domain, data.loads = self.learned_once(lambda: self._look_at(data))

    def _look_at(self, data: StructureDataModule) -> tuple[Domain, Any]:
        """Check the data, and learn statistics from all training structures."""
        self.check(data)
        domain = data.training_domain(**self.gradient_labels())
        if self.trainer.ckpt_path is None:
            self._look_at_statistics(data)
        return domain, data.surveyed_loads()

    def find_targets(self, data: StructureDataModule) -> None:
        """Learn from the data module what is learned."""
        if self.property is None:
            self.learn(data.properties if self._target is None else find_properties(data.dataset, self._target))

    def learn(self, targets: Sequence[Property]) -> None:
        """Say which properties are learned.

        Args:
            targets: One or several.

        Raises:
            ValueError: If the network has no outputs for several.
        """
        self.property = targets[0]
        check_heads(self.network, targets)
        if len(targets) == 1 and self.weights:
            raise ValueError(f"weights are those of several properties, but {targets[0].name!r} is learned alone")
        if len(targets) > 1:
            self.joint = Joint(self.network, targets, self.pooling, self.channels, self.weights)
            self.scale = self.scale.expand(self.channels).clone()
            self.averaged.copy_(self.joint.averaged())

    @property
    def properties(self) -> list[Property]:
        """What is learned, in the order of the outputs."""
        return [part.target for part in self.parts]

    @property
    def parts(self) -> list[Part]:
        """What is learned, each with its outputs, their pooling and their readout."""
        if self.joint is not None:
            return self.joint.parts
        return [Part(self.property, slice(0, self.channels), self.pooling, only_readout(self.network))]

    def needed(self) -> list[Property]:
        """Targets without which nothing can be learned."""
        return self.properties

    def check(self, data: StructureDataModule) -> list[str]:
        """Raise for what cannot be learned, before training.

        Returns:
            Sentences on what is left out, and on elements that no training structure has.

        Raises:
            ValueError: If labels are missing, the property is one of atoms, or its unit or number of values does not
                fit the network.
        """
        for part, width in zip(self.parts, data.target_widths(self.properties), strict=True):
            check_level(part.target)
            if not self.pooling_is_stated:
                check_unit(part.target, width, part.readout, part.pooling)
            check_width(part.target, width, part.readout, part.width)
        data.check_places(self.network)
        return data.check(self.needed())

    def gradient_labels(self) -> dict[str, Any]:
        """What is learned of gradients, as arguments of ``domain_of``: here nothing."""
        return {}

    def fit_statistics(self, counts: Tensor, target: Tensor) -> None:
        """Fit references and scale to the training structures.

        Args:
            counts: Atoms of each element in each structure, shape ``[B, MAX_Z + 1]``.
            target: Property of each structure, shape ``[B]`` or ``[B, C]``, in its unit; of several properties in the
                order of the outputs, NaN where one is missing.
        """
        if self.joint is None:
            atomref, scale = fit_statistics(counts, target, self.pooling)
        else:
            atomref, scale, spread = self.joint.statistics(counts, target)
            self.spread.copy_(spread)
        self.atomref.copy_(atomref)
        self.scale.copy_(scale.reshape(()) if scale.numel() == 1 else scale)
        scale_repulsion(self.network, self.property, self.scale)

    def _look_at_statistics(self, data: StructureDataModule) -> None:
        """Fit statistics to data, also those that readouts of spatial extents keep, which depend on positions."""
        self.fit_statistics(*data.training_targets(self.properties))
        for part in self.parts:
            if fits_itself(part.readout):
                spread = fit_extents(part.readout, data.training_pieces(), part.target)
                self.scale.reshape(-1)[part.columns] = 1.0
                if self.joint is not None:
                    self.spread[part.columns] = spread

    def forward(self, batch: Batch) -> Tensor:
        """Difference of the property from the references, shape ``[B]`` or ``[B, C]``, in the unit of the property."""
        pos, index, extra = self.inputs(batch)
        return self.difference(batch.z, pos, index, extra)

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Positions in the precision of the network, structure of each atom, and what else the network takes."""
        return self._inputs(self.network, batch)

    def difference(self, z: Tensor, pos: Tensor, batch: Tensor, extra: dict[str, Any]) -> Tensor:
        """Scaled output of the network, shape ``[B]`` or ``[B, C]``, in the unit of the property."""
        output = self.network(z, pos, batch, **extra)
        if output.dtype in (torch.bfloat16, torch.float16):  # of autocast; energies need more digits
            output = output.float()
        return self.scale * (output.reshape(-1) if self.channels == 1 else output.reshape(-1, self.channels))

    def references(self, batch: Batch) -> Tensor:
        """References of the structures in float64, shape ``[B]`` or ``[B, C]``, in the unit of the property."""
        if self.joint is not None:
            return sum_references(self.atomref, batch.z, batch.batch, batch.num_graphs, mean=self.averaged)
        if self.pooling == "none":
            found = torch.zeros(batch.num_graphs, self.channels, dtype=torch.float64, device=batch.z.device)
        else:
            mean = self.pooling != "sum"
            found = sum_references(self.atomref, batch.z, batch.batch, batch.num_graphs, mean=mean)
        return found.squeeze(-1) if self.channels == 1 else found

    def quantities(self) -> dict[str, str]:
        """What is compared with the data, and its unit; the first one names the run's result."""
        return {target.name: target.unit for target in self.properties}

    def compare(self, batch: Batch) -> dict[str, Pair]:
        """Predicted and true values of each quantity, for what has a label; references are left out of both."""
        predicted = self(batch)
        if self.joint is None:
            return {self.property.name: self.pair(predicted, batch)}
        return {part.target.name: self.pair(predicted[:, part.columns], batch, part) for part in self.parts}

    def pair(self, predicted: Tensor, batch: Batch, part: Part | None = None) -> Pair:
        """Predicted and true difference from the references where there is a label, see ``labelled``.

        Args:
            predicted: Differences, shape ``[B]`` or ``[B, C]``.
            batch: Structures.
            part: Which of several targets.
        """
        target, references = self.property, self.references(batch)
        if part is not None:
            target, references = part.target, references[:, part.columns]
        true = target_values(batch, target)
        if predicted.numel() != true.numel():
            raise ValueError(
                f"the network gives {predicted.numel()} numbers for {batch.num_graphs} structures, but "
                f"{target.name!r} has {true.numel()}"
            )
        true = (true.reshape(predicted.shape).to(torch.float64) - references).to(predicted.dtype)
        return labelled(predicted, true, target_mask(batch, target), training=self.training)

    def terms(self) -> dict[str, float]:
        """Weight of each quantity in the loss."""
        return {target.name: self.weights.get(target.name, 1.0) for target in self.properties}

    def size_of(self, name: str) -> Tensor | None:
        """Spread in whose unit the loss of a quantity is; ``None`` for its own unit."""
        return None if self.joint is None else self.spread[self.joint.part(name).columns.start]

    def loss_of(self, pair: Pair) -> Tensor:
        """Loss of one quantity, weighted where there are weights; zero where a batch has no labels of it.

        Args:
            pair: Predicted and true values, of several targets in units of their spread, and weights of rows where
                there are any.
        """
        options = {"delta": self.huber_delta} if self.loss == "huber" else {}
        if pair[0].numel() == 0:
            return pair[0].sum()
        if len(pair) == 2:
            return _LOSSES[self.loss](*pair, **options)
        weights = pair[2].expand_as(pair[0])
        losses = _LOSSES[self.loss](*pair[:2], reduction="none", **options)
        return (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)

    def shows_loss(self) -> bool:
        """Of several targets the loss is shown, of one its error."""
        return self.joint is not None

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Property of each structure, references included, in float64, shape ``[B]`` or ``[B, C]``."""
        return self.references(batch) + self(batch).to(torch.float64)

    def export(self) -> AtomisticModel:
        """The trained network as a model of its own, references and scale folded in.

        Raises:
            TypeError: If the network is not a model of this package; use the Lightning checkpoint then.
        """
        network = self.network.as_schnet() if isinstance(self.network, like_pyg.SchNet) else self.network
        if not isinstance(network, AtomisticModel):
            raise TypeError(
                f"only models of pyg_schnet can be exported, got {type(self.network).__name__}; "
                "its weights are in the checkpoint"
            )
        model = copy.deepcopy(network).eval()
        if self.joint is not None:
            name_outputs(model, self.properties)
        elif isinstance(model.readout, HeadsReadout):  # of one property: it is a model like any other
            model.readout = only_readout(model)
        fold_statistics(model, self.scale, self.atomref)
        model.card.update(card_of_targets(self.properties))
        if self.domain is not None:
            renew(model.card, self.domain)
        return model

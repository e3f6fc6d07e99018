"""Our SchNet on the weights of PyTorch Geometric's: shared, not copied, for as long as that one is as it was built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch_geometric.nn.aggr import SumAggregation
from torch_geometric.nn.models import SchNet as PyGSchNet
from torch_geometric.nn.models.schnet import CFConv, GaussianSmearing, InteractionBlock, ShiftedSoftplus

from pyg_schnet.models.convert.pyg import pair_layers
from pyg_schnet.models.schnet import SchNet
from pyg_schnet.ops.modules import is_any_hooked, is_patched, registered

_TABLES = ("_modules", "_parameters", "_buffers")
_SHIFT = ShiftedSoftplus().shift

for _cls in (CFConv, GaussianSmearing, InteractionBlock, ShiftedSoftplus, nn.Sequential):
    registered()(_cls)


class Twin:
    """Embedding and interactions of a PyG SchNet as our model, which owns no weight.

    Args:
        theirs: PyTorch Geometric's model.
    """

    def __init__(self, theirs: PyGSchNet) -> None:
        self.theirs = theirs
        self._snapshot: _Snapshot | None = None
        self._ours: SchNet | None = None

    def model(self) -> SchNet | None:
        """Our model in the mode of theirs; ``None`` where a part is another one than PyG's, or hooked."""
        if is_any_hooked() or is_patched():
            return None
        if self._snapshot is None or not self._snapshot.is_unchanged():
            parts = self.theirs.embedding, self.theirs.distance_expansion, self.theirs.interactions
            self._snapshot = _Snapshot(parts)
            self._ours = _share(self.theirs) if _is_as_built(self.theirs) else None
        ours = self._ours
        if ours is not None and ours.training != self.theirs.training:
            ours.train(self.theirs.training)
        return ours


class _Snapshot:
    """Parts, weights and options of modules, as they were; values of weights are not looked at."""

    def __init__(self, roots: tuple[nn.Module, ...]) -> None:
        self._entries: list[tuple[dict[str, Any], str, Any]] = []
        self._sizes: list[tuple[dict[str, Any], int]] = []
        self._hooks: list[dict[Any, Any]] = []
        for module in [part for root in roots for part in root.modules()]:
            own = module.__dict__
            self._sizes.append((own, len(own)))  # a method that is set on the object is one more
            for name, value in own.items():
                if name in _TABLES:
                    self._entries += [(value, key, entry) for key, entry in value.items()]
                    self._sizes.append((value, len(value)))
                elif name.endswith("_hooks") and "state_dict" not in name:
                    self._hooks.append(value)
                elif name != "training":
                    self._entries.append((own, name, value))
        self.is_hooked = any(self._hooks)

    def is_unchanged(self) -> bool:
        return (
            any(self._hooks) == self.is_hooked
            and all([len(table) == size for table, size in self._sizes])  # noqa: C419 - a list is faster
            and all([table.get(name) is value for table, name, value in self._entries])  # noqa: C419
        )


def _parts(model: PyGSchNet) -> Iterator[tuple[Any, type]]:
    """Parts of the interactions with the class that PyG builds each of."""
    yield model.embedding, nn.Embedding
    yield model.distance_expansion, GaussianSmearing
    yield model.interactions, nn.ModuleList
    for block in model.interactions:
        yield block, InteractionBlock
        for name, kind in _BLOCK.items():
            yield getattr(block, name, None), kind


_BLOCK = {"mlp": nn.Sequential, "conv": CFConv, "act": ShiftedSoftplus, "lin": nn.Linear}
_CONV = {"lin1": nn.Linear, "lin2": nn.Linear, "aggr_module": SumAggregation}


def _is_as_built(model: PyGSchNet) -> bool:
    """Whether embedding and interactions are what the constructor of PyG's SchNet makes, in float32, without hooks."""
    if not all(type(part) is kind for part, kind in _parts(model)):
        return False
    modules = [
        part for root in (model.embedding, model.distance_expansion, model.interactions) for part in root.modules()
    ]
    if any(_is_altered(module) for module in modules):
        return False
    if not all(_is_block(block, model) for block in model.interactions):
        return False
    embedding, expansion = model.embedding, model.distance_expansion
    weights = [*embedding.parameters(), *model.interactions.parameters(), expansion.offset]
    return (
        all(type(weight) in (torch.Tensor, nn.Parameter) and weight.dtype == torch.float32 for weight in weights)
        and all(weight.device.type == "cpu" and weight.is_contiguous() for weight in weights)
        and len(model.interactions) == model.num_interactions > 0
        and tuple(embedding.weight.shape) == (100, model.hidden_channels)
        and (embedding.max_norm, embedding.scale_grad_by_freq, embedding.sparse) == (None, False, False)
        and tuple(expansion.offset.shape) == (model.num_gaussians,)
        and expansion.coeff < 0
        and _is_grid(expansion.offset, model.cutoff)
    )


def _is_grid(centers: torch.Tensor, cutoff: float) -> bool:
    return torch.allclose(centers, torch.linspace(0.0, cutoff, centers.numel()), rtol=0, atol=1e-6 * cutoff)


def _is_block(block: InteractionBlock, model: PyGSchNet) -> bool:
    """Whether the layers of a block are those of PyG, and fit together."""
    conv, mlp, hidden, filters = block.conv, block.mlp, model.hidden_channels, model.num_filters
    shapes = {
        (filters, model.num_gaussians): mlp[0] if len(mlp) == 3 else None,
        (filters, filters): mlp[2] if len(mlp) == 3 else None,
    }
    return (
        len(mlp) == 3
        and conv.nn is mlp
        and all(type(getattr(conv, name, None)) is kind for name, kind in _CONV.items())
        and (type(mlp[0]), type(mlp[1]), type(mlp[2])) == (nn.Linear, ShiftedSoftplus, nn.Linear)
        and mlp[1].shift == block.act.shift == _SHIFT
        and (conv.flow, conv.aggr, conv.node_dim) == ("source_to_target", "add", -2)
        and not conv.explain
        and conv.cutoff == model.cutoff
        and all(layer is not None and tuple(layer.weight.shape) == shape for shape, layer in shapes.items())
        and tuple(conv.lin1.weight.shape) == (filters, hidden)
        and tuple(conv.lin2.weight.shape) == (hidden, filters)
        and tuple(block.lin.weight.shape) == (hidden, hidden)
        and conv.lin1.bias is None
        and all(layer.bias is not None for layer in (conv.lin2, block.lin, mlp[0], mlp[2]))
    )


_METHODS = ("forward", "message", "aggregate", "update", "propagate", "message_and_aggregate", "__call__")


def _is_altered(module: nn.Module) -> bool:
    """Whether a method was set on the object, or something is called when it is."""
    own = module.__dict__
    if any(name in own for name in _METHODS):
        return True
    return any(value for name, value in own.items() if name.endswith("_hooks") and "state_dict" not in name)


def _share(theirs: PyGSchNet) -> SchNet:
    """Our SchNet whose embedding and interactions are the weights of theirs."""
    ours = SchNet(
        theirs.hidden_channels,
        theirs.num_filters,
        theirs.num_interactions,
        theirs.num_gaussians,
        theirs.cutoff,
        gamma=-theirs.distance_expansion.coeff,
        activate_filters=False,
    )
    layers = [(ours.embedding, theirs.embedding), *((mine, yours) for mine, yours, _ in pair_layers(ours, theirs))]
    for mine, yours in layers:  # functional_call replaces parameters by tensors, which attributes refuse
        mine._parameters.update(yours._parameters)
    block: Any
    for block in ours.interactions:
        block.conv.filter_network.basis.centers = theirs.distance_expansion.offset
    return ours.train(theirs.training)

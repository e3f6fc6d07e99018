"""Conditions under which a model, or a call of it, can be computed by a program that does not call its parts.

There are two tables of rows: :data:`MODEL_ROWS` examines the parts of a model, and again only after one of them has
changed; :data:`CALL_ROWS` examines each call. A row that finds a reason bars programs, and parts are called instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor, nn

from pyg_schnet.nn.interaction import SchNetInteraction
from pyg_schnet.nn.readout import MeanReadout, SumReadout
from pyg_schnet.ops.dispatch import Backend, is_dense_cpu, is_dense_gpu, refusal_of
from pyg_schnet.ops.interactions import BlockWeights
from pyg_schnet.ops.modules import is_unmodified, modifications

if TYPE_CHECKING:
    from pyg_schnet.engine.cache import Facts

Program = Literal["potential", "large", "interactions", "layers"]

PROGRAMS: tuple[Program, ...] = ("potential", "large", "interactions", "layers")
"""Programs, the first of which that nothing bars is taken: energy and gradients of a small structure in one call; those
of many atoms in little memory; all interaction blocks in one call; each layer called separately, which nothing bars."""

_ALL, _IN_ONE_CALL = frozenset(PROGRAMS[:3]), frozenset(PROGRAMS[:2])
_POTENTIAL, _LARGE, _INTERACTIONS = (frozenset((program,)) for program in PROGRAMS[:3])


class Parts(NamedTuple):
    """Parts of a model that the engine examines, in the order they act.

    Attributes:
        model: The model.
        embedding: Maps atomic numbers to features.
        blocks: Interaction blocks, each as often as it acts.
        readout: Maps features to the property.
    """

    model: Any
    embedding: Any
    blocks: list[Any]
    readout: Any

    @classmethod
    def of(cls, model: Any) -> Parts:
        """Parts of a model that has ``embedding``, ``blocks()`` and ``readout``."""
        return cls(model, model.embedding, model.blocks(), model.readout)

    def different_blocks(self) -> dict[Any, str]:
        """Each block once, with its name."""
        names: dict[Any, str] = {}
        for k, block in enumerate(self.blocks):
            names.setdefault(block, f"interactions.{k}")
        return names


class Request(NamedTuple):
    """Properties of a call that programs depend on, without tensors, so that plans can be cached by them.

    Attributes:
        backend: How operators are computed.
        followed: Whether anything but autograd records the computation.
        autocast: Whether autocast is enabled.
        in_memory: Whether atomic numbers and positions are in the memory of the CPU.
        on_device: Whether they are computed with by the triton backend.
        refusal: Why the triton backend does not take them from the device where they are; empty if it does.
        empty: Whether there are no atoms.
        same_precision: Whether positions, or distances, have the precision of the weights.
        known_elements: Whether every atomic number has an embedding, if that was checked.
        gradients: Whether forces or stress are requested together with the energy.
        differentiable: Whether these are to be differentiated again.
        half_list: Whether all edges are known to have both directions; ``None`` if not known yet.
        periodic_search: Whether the edges of periodic structures are to be searched.
        large: Whether several threads are faster than one.
        many_atoms: Whether, besides, there are so many atoms that activations are recomputed rather than kept.
    """

    backend: Backend = "auto"
    followed: bool = False
    autocast: bool = False
    in_memory: bool = True
    on_device: bool = False
    refusal: str = ""
    empty: bool = False
    same_precision: bool = True
    known_elements: bool = True
    gradients: bool = False
    differentiable: bool = False
    half_list: bool | None = None
    periodic_search: bool = False
    large: bool = False
    many_atoms: bool = False


class Row(NamedTuple):
    """One condition of the table.

    Attributes:
        condition: The condition in words.
        bars: Programs that cannot be used where the condition does not hold.
        find: Yields the reasons why it does not hold, empty where it bars programs that are no faster.
    """

    condition: str
    bars: frozenset[str]
    find: Callable[..., Iterator[str]]


def weights_of(block: SchNetInteraction) -> BlockWeights:
    """The dense layers of a block."""
    return BlockWeights(block.lin_in.weight, block.lin1.weight, block.lin1.bias, block.lin2.weight, block.lin2.bias)


def tensors_of(block: SchNetInteraction) -> dict[str, Tensor | None]:
    """Parameters and buffers of a block by name; ``named_parameters()`` is much slower."""
    network, names = block.conv.filter_network, BlockWeights._fields
    found = dict(zip(names, weights_of(block), strict=True))
    for name in ("lin1", "lin2"):
        layer = getattr(network, name)
        found |= {f"conv.filter_network.{name}.{key}": getattr(layer, key) for key in ("weight", "bias")}
    basis = {**network.basis._parameters, **network.basis._buffers}
    return found | {f"conv.filter_network.basis.{key}": value for key, value in basis.items()}


def readout_tensors(readout: SumReadout | MeanReadout) -> list[Tensor]:
    """Parameters and buffers of a readout in the order of :class:`~pyg_schnet.ops.potential.PotentialWeights`."""
    lin1, lin2 = readout.network.lin1, readout.network.lin2
    return [lin1.weight, lin1.bias, lin2.weight, lin2.bias, readout.scale, readout.shift, readout.atomref]


def _of_embedding(parts: Parts) -> Iterator[str]:
    embedding = parts.embedding
    if type(embedding) is not nn.Embedding:
        yield f"embedding is a {type(embedding).__name__}"
        return
    yield from modifications(embedding, name="embedding")
    options = ("max_norm", "scale_grad_by_freq", "sparse", "padding_idx")
    yield from (f"embedding has {name}={getattr(embedding, name)!r}" for name in options if getattr(embedding, name))


def _of_blocks(parts: Parts) -> Iterator[str]:
    if not parts.blocks:
        yield "there are no interactions"
    for block, name in parts.different_blocks().items():
        if type(block) is not SchNetInteraction:
            yield f"{name} is a {type(block).__name__}"
        else:
            yield from modifications(block, name=name)


def _of_filters(parts: Parts) -> Iterator[str]:
    for block, name in parts.different_blocks().items():
        if block.conv.spline is None:
            yield f"{name}.conv has exact filters"


def _of_weights(parts: Parts) -> Iterator[str]:
    yield from _not_at_hand({"weight": parts.embedding.weight}, "embedding")
    for block, name in parts.different_blocks().items():
        if block.lin_in.bias is not None:
            yield f"{name}.lin_in has a bias"
        yield from _not_at_hand(tensors_of(block), name)


def _not_at_hand(tensors: Mapping[str, Tensor | None], name: str) -> Iterator[str]:
    for key, value in tensors.items():
        if value is None:
            yield f"{name}.{key} is missing"
        elif not (is_dense_cpu(value) or is_dense_gpu(value)):
            why = refusal_of(value.device)
            why = "" if why is None else f"; {why}"
            yield f"{name}.{key} is {value.dtype} on {value.device}, of type {type(value).__name__}{why}"


def _of_sizes(parts: Parts) -> Iterator[str]:
    blocks = parts.different_blocks()
    shapes = {tuple(value.shape for value in weights_of(block)) for block in blocks}
    dtypes = {value.dtype for block in blocks for value in tensors_of(block).values() if value is not None}
    if len(shapes) > 1:
        yield "interactions differ in size"
    if len(dtypes | {parts.embedding.weight.dtype}) > 1:
        yield "weights differ in precision"


def _of_options(parts: Parts) -> Iterator[str]:
    convs = [block.conv for block in parts.different_blocks()]
    if len({conv.normalize for conv in convs}) > 1:
        yield "interactions differ in normalize"
    grids = ((conv.spline.num_grid_points, conv.spline.refined, float(conv.cutoff)) for conv in convs)
    if len({(conv.filter_network.training, *grid) for conv, grid in zip(convs, grids, strict=True)}) > 1:
        yield "interactions differ in the grid of their filters, or in mode"


def _of_model(parts: Parts) -> Iterator[str]:
    if not is_unmodified(parts.model):
        yield f"{type(parts.model).__name__} is subclassed, hooked or has a method of its own"


def _of_place(parts: Parts) -> Iterator[str]:
    device = parts.embedding.weight.device
    if device.type != "cpu":
        yield f"weights are on {device}, where energy and gradients are not computed in one call"


def _of_mode(parts: Parts) -> Iterator[str]:
    wholes = parts.embedding, *parts.different_blocks(), parts.readout
    if parts.model.training or any(module.training for whole in wholes for module in whole.modules()):
        yield "the model, or a part of it, is in training mode"


def _of_readout(parts: Parts) -> Iterator[str]:
    readout = parts.readout
    if type(readout) not in (SumReadout, MeanReadout):
        yield f"readout is a {type(readout).__name__}"
        return
    found = list(modifications(readout, name="readout"))
    yield from found
    if not found:
        names = ("lin1.weight", "lin1.bias", "lin2.weight", "lin2.bias", "scale", "shift", "atomref")
        numbers = dict(zip(names, readout_tensors(readout), strict=True))
        yield from _not_at_hand(numbers, "readout")
        if readout.out_channels != 1:
            yield f"readout has {readout.out_channels} properties"
        if len({value.dtype for value in [*numbers.values()][:-1] if value is not None}) > 1:
            yield "readout has weights that differ in precision"


MODEL_ROWS = (  # later rows rely on the earlier ones
    Row("the embedding gives rows of its weights", _ALL, _of_embedding),
    Row("blocks and all of their parts are of this package and unmodified", _ALL, _of_blocks),
    Row("filters of all blocks are splined", _ALL, _of_filters),
    Row("weights are float32 or float64 where a backend has kernels", _ALL, _of_weights),
    Row("blocks have the same sizes and precision", _ALL, _of_sizes),
    Row("blocks have the same options and grid", _ALL, _of_options),
    Row("the model itself is unmodified", _IN_ONE_CALL, _of_model),
    Row("the model is in the memory of the CPU", _IN_ONE_CALL, _of_place),
    Row("everything is in evaluation mode", _IN_ONE_CALL, _of_mode),
    Row("the readout is a sum or mean of one property, unmodified", _IN_ONE_CALL, _of_readout),
)


def _backend(_: Facts, request: Request) -> Iterator[str]:
    if request.backend == "reference":
        yield "backend is 'reference'"


def _followed(_: Facts, request: Request) -> Iterator[str]:
    if request.followed:
        yield "torch.func, forward-mode differentiation, torch.jit.trace or torch.compile follows what is computed"


def _autocast(_: Facts, request: Request) -> Iterator[str]:
    if request.autocast:
        yield "autocast is enabled"


def _atoms(facts: Facts, request: Request) -> Iterator[str]:
    if request.refusal:
        yield f"backend 'triton' cannot be used: {request.refusal}"
    elif request.empty or not (request.in_memory or request.on_device):
        yield "there are no atoms in the memory of the CPU"
    if facts.blocks is not None and not request.same_precision:
        yield f"positions are not {facts.blocks.embedding.dtype}, as the weights are"


def _place(_: Facts, request: Request) -> Iterator[str]:
    if request.on_device:
        yield "backend is 'triton', which leaves gradients to autograd"


def _edges(_: Facts, request: Request) -> Iterator[str]:
    if request.half_list is False:
        yield "edges are not a sorted list with both directions of each, or an atom is padding or has very many"


def _elements(_: Facts, request: Request) -> Iterator[str]:
    if not request.known_elements:
        yield "an atomic number has no embedding"


def _gradients(_: Facts, request: Request) -> Iterator[str]:
    if not request.gradients:
        yield "neither forces nor stress are asked for with the energy"
    elif request.differentiable:
        yield "forces or stress are to be differentiated again"


def _size(_: Facts, request: Request) -> Iterator[str]:
    if request.large:
        yield "the structure is large, so that several threads are faster"


def _number(_: Facts, request: Request) -> Iterator[str]:
    if not request.many_atoms:
        yield ""  # it is no faster there


def _search(_: Facts, request: Request) -> Iterator[str]:
    if request.periodic_search:
        yield "edges of periodic structures are not given"


CALL_ROWS = (
    Row("backend allows kernels", _ALL, _backend),
    Row("only autograd follows what is computed", _ALL, _followed),
    Row("autocast is off", _ALL, _autocast),
    Row("atoms are where a backend has kernels, in the precision of the weights", _ALL, _atoms),
    Row("the backend has the whole potential", _IN_ONE_CALL, _place),
    Row("every edge is there in both directions", _IN_ONE_CALL, _edges),
    Row("every element has an embedding", _INTERACTIONS, _elements),
    Row("forces or stress are asked for, and not to be differentiated", _IN_ONE_CALL, _gradients),
    Row("the structure is small", _POTENTIAL, _size),
    Row("edges of periodic structures are given", _POTENTIAL, _search),
    Row("there are many atoms", _LARGE, _number),
)

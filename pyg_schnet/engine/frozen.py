"""A copy of a model for evaluating it many times."""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pyg_schnet.engine.cache import ModelCache
from pyg_schnet.nn.conv import CFConv
from pyg_schnet.ops.potential import EnergyGradients

Model = TypeVar("Model", bound=nn.Module)


def freeze(model: Callable[..., Tensor]) -> FrozenModel:
    """Copy a model for evaluation, with everything that depends only on weights computed once.

    A live model checks its weights and parts for changes in every evaluation, which takes about 100 µs. The copy does
    not: tables of splined filters are buffers, weights require no gradient, and later changes of the given model have
    no effect until :meth:`FrozenModel.refresh`.

    Args:
        model: Any module, or a function; modules of other packages are copied, functions are not.

    Returns:
        The copy, called like the model.

    Example:
        >>> import torch
        >>> from pyg_schnet import SchNet
        >>> model = SchNet(16, 16, 2, cutoff=5.0)
        >>> frozen = freeze(model)
        >>> z, pos = torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        >>> frozen.training, frozen(z, pos).requires_grad, frozen.cutoff
        (False, False, 5.0)
    """
    return FrozenModel(model)


class FrozenModel(nn.Module):
    """Frozen copy of a model, with tables and element energies as buffers; see :func:`freeze`.

    ``.to``, ``.double`` and ``.float`` compute tables again in the new precision from its own weights; element energies
    (``readout.atomref``) stay in float64. It can be pickled, copied, compiled by ``torch.compile`` and exported by
    ``torch.export``, with the same splined filters. Attributes that it does not have itself are those of the copy. It
    stays in evaluation mode; ``train()``, ``eval()`` and ``load_state_dict()`` make it look at its own weights once.
    With other weights in the place of its own, as by ``torch.func.functional_call``, tables are computed from these.

    Args:
        model: The model.

    Attributes:
        model: The copy.
    """

    model: Any  # a module or a function

    def __init__(self, model: Callable[..., Tensor]) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_fix_again)
        self._take(model)
        super().train(False)

    def _take(self, model: Any) -> None:
        """Copy a model, and compute the tables."""
        vars(self)["_source"] = weakref.ref(model) if isinstance(model, nn.Module) else None
        if not isinstance(model, nn.Module):
            self.model = model
            self._note_weights()
            return
        model = model.model if isinstance(model, FrozenModel) else model
        self.model = copy_of(model).eval().requires_grad_(False)
        if isinstance(getattr(self.model, "_engine", None), ModelCache):
            self.model._engine = ModelCache(detect_changes=False)
        self._keep_references()
        self._fix()

    def refresh(self) -> FrozenModel:
        """Copy the source model again, in the precision and on the device of this copy.

        Raises:
            ValueError: If the source is gone, as for pickled or copied instances.
        """
        source = self._source and self._source()
        if source is None:
            raise ValueError(
                "the model that this one was frozen from is gone, or was no module; freeze the model again to take "
                "over its changes"
            )
        place = next(self.model.parameters(), None)
        self._take(source)
        return self if place is None else self.to(place.device, place.dtype)

    @property
    def backend(self) -> str:
        """How operators are computed; see :attr:`pyg_schnet.models.AtomisticModel.backend`."""
        return self.model.backend

    @backend.setter
    def backend(self, value: str) -> None:
        self.model.backend = value

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Output of the model; arguments as for the model."""
        if not torch.compiler.is_compiling() and self._is_replaced():
            with self._alive():
                return self.model(*args, **kwargs)
        return self.model(*args, **kwargs)

    def energy_and_gradients(self, *args: Any, **kwargs: Any) -> EnergyGradients | None:
        """As :meth:`~pyg_schnet.models.SchNet.energy_and_gradients`; ``None`` for models without such a method."""
        if not hasattr(type(self.model), "energy_and_gradients") or self._is_changed():
            return None  # asked of the class: wrappers pass on attributes
        return self.model.energy_and_gradients(*args, **kwargs)

    def _is_replaced(self) -> bool:
        """Whether weights are other tensors than those that tables were computed from."""
        return [*map(id, chain.from_iterable(self._values))] != self._places

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """Compute tables from the present weights."""
        convs = [part for part in self.model.modules() if isinstance(part, CFConv)]
        tables, engine = [conv.table for conv in convs], getattr(self.model, "_engine", None)
        try:
            for conv in convs:
                conv.table = None
            if isinstance(engine, ModelCache):
                self.model._engine = ModelCache()
            yield
        finally:
            for conv, table in zip(convs, tables, strict=True):
                conv.table = table
            if isinstance(engine, ModelCache):
                self.model._engine = engine

    def _note_weights(self) -> None:
        """Remember which tensors the weights are."""
        parts = self.model.modules() if isinstance(self.model, nn.Module) else ()
        held: list[dict[str, Any]] = [table for part in parts for table in (part._parameters, part._buffers) if table]
        own = vars(self)
        own["_values"] = [*map(dict.values, held)]
        own["_held"] = [*chain.from_iterable(own["_values"])]  # so that no other tensor gets one of their places
        own["_places"] = [*map(id, own["_held"])]

    def _is_changed(self) -> bool:
        """Whether the call of this module itself does more than to call the model."""
        own = vars(self)
        hooks = (
            own["_forward_pre_hooks"] or own["_forward_hooks"] or own["_backward_pre_hooks"] or own["_backward_hooks"]
        )
        return bool(hooks) or "forward" in own or type(self).forward is not FrozenModel.forward

    def train(self, mode: bool = True) -> FrozenModel:
        """Stay in evaluation mode, and recompute the tables."""
        if isinstance(self.model, nn.Module):
            self.model.train(False)
            self._fix()
        return self

    @torch.no_grad()
    def _fix(self) -> None:
        """Compute the tables of splined filters from the weights."""
        if isinstance(getattr(self.model, "_engine", None), ModelCache):
            self.model._engine.forget()
        for conv in self.model.modules():
            if isinstance(conv, CFConv):
                conv.table = None
                spline = conv.spline if conv.is_splined() else None
                conv.table = None if spline is None else spline.compute_precisely()
        self._note_weights()

    def _keep_references(self) -> None:
        """Convert element energies to float64."""
        readout: Any = getattr(self.model, "readout", None)
        references = getattr(readout, "atomref", None)
        if isinstance(references, Tensor) and references.device.type != "mps":
            readout.atomref = references.to(torch.float64)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenModel:
        model = self.model
        if not isinstance(model, nn.Module):
            return self
        references = getattr(getattr(self.model, "readout", None), "atomref", None)
        dtypes = {value.dtype for value in self.model.parameters()}
        super()._apply(function, recurse)
        if isinstance(references, Tensor) and references.device.type not in ("mps", "meta"):
            kept = self.model.readout.atomref
            self.model.readout.atomref = references.to(kept.device)
            self._keep_references()
        if isinstance(getattr(self.model, "_engine", None), ModelCache):
            self.model._engine.forget()
        if {value.dtype for value in self.model.parameters()} != dtypes:
            self._fix()
        self._note_weights()
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)

    def __getstate__(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if name not in ("_values", "_held", "_places")}
        return {**own, "_source": None}  # a copy has no part in later changes

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._note_weights()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model})"


def _fix_again(frozen: FrozenModel, _: Any) -> None:
    """What is to be done after ``load_state_dict``, also by a module that the frozen one is a part of."""
    if isinstance(frozen.model, nn.Module):
        frozen._fix()


def copy_of(model: Model) -> Model:
    """A deep copy in which methods that were set on an object refer to the copy.

    ``copy.deepcopy`` does not copy functions: after ``part.forward = lambda x: 2 * before(x)``, where ``before`` is the
    original ``part.forward``, the copy would call the original part, with its weights and mode.

    Args:
        model: Any module.
    """
    memo: dict[int, Any] = {}
    copied = copy.deepcopy(model, memo)
    for part in copied.modules():
        for name, value in vars(part).items():
            if isinstance(value, FunctionType) and callable(getattr(type(part), name, None)):
                vars(part)[name] = _rebound(value, memo)
    return copied


def _rebound(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """The function with copies of the modules, and methods of modules, that it refers to."""

    def copied(value: Any) -> Any:
        owner = value.__self__ if isinstance(value, MethodType) else value
        if isinstance(value, partial):
            return partial(copied(value.func), *map(copied, value.args), **value.keywords)
        return copy.deepcopy(value, memo) if isinstance(owner, nn.Module) and id(owner) in memo else value

    cells = [cell for cell in function.__closure__ or () if cell != CellType()]  # names that have a value by now
    kept = {id(cell): CellType(copied(cell.cell_contents)) for cell in cells}
    closure = tuple(kept.get(id(cell), cell) for cell in function.__closure__ or ())
    defaults = tuple(map(copied, function.__defaults__ or ())) or None
    known = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    others = {name: copied(value) for name, value in known.items() if copied(value) is not value}
    names = {**function.__globals__, **others} if others else function.__globals__
    found = FunctionType(function.__code__, names, function.__name__, defaults, closure)
    found.__kwdefaults__ = function.__kwdefaults__
    found.__dict__.update(vars(function))
    return found

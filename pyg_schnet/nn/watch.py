"""Noticing that modules have changed in what they are made of, in less time than a matrix product takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

_ATTRIBUTES = (
    "training",
    "filters",
    "_filters",
    "spline",
    "normalize",
    "_explain",
    "activate_filters",
    "gamma",
    "cutoff",
    "dropout",
    "max_norm",
)


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_hooked(*modules: nn.Module) -> bool:
    """Whether somebody has to be called when one of the modules is, or its gradient."""
    return any(getattr(module, name) for module in modules for name in _HOOKS)


def is_any_hooked() -> bool:
    """Whether somebody has to be called when any module is."""
    return nn.modules.module._has_any_global_hook()


def _is_of_calls(name: str) -> bool:
    """Whether an attribute holds hooks that calls or gradients run; hooks of saving and loading change neither."""
    return name.endswith("_hooks") and "state_dict" not in name


class Watch:
    """Parts, weights, options and hooks of modules, as they were.

    Values of weights are not looked at; see :class:`pyg_schnet.nn.kept.Kept` for these.

    Args:
        modules: Modules, watched with all their parts.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._entries: list[tuple[dict[str, Any], str, Any]] = []
        self._hooks: list[dict[Any, Any]] = []
        for module in dict.fromkeys(part for whole in modules for part in whole.modules()):
            for table in (module._modules, module._parameters, module._buffers):
                self._entries += [(table, name, value) for name, value in table.items()]
            own = module.__dict__
            self._entries += [(own, name, own[name]) for name in _ATTRIBUTES if name in own]
            self._hooks += [own[name] for name in own if _is_of_calls(name) and isinstance(own[name], dict)]

    def unchanged(self) -> bool:
        """Whether everything is still in its place, and nobody has hooked anything to it."""
        return not any(self._hooks) and all([table.get(name) is value for table, name, value in self._entries])  # noqa: C419 - a list is faster

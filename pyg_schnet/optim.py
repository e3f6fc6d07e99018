"""Adam without overhead, for models of many small weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

_STATE = ("exp_avg", "exp_avg_sq", "step")


class _Ready(NamedTuple):
    """Weights of one group, their moments, and the number of steps that each of them has made."""

    weights: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]


class FusedAdamW(torch.optim.AdamW):
    """Torch's fused AdamW, which collects weights and moments once instead of in every step.

    Numbers, options and ``state_dict`` are those of :class:`torch.optim.AdamW` with ``fused=True``. Where some weights
    have no gradient, or gradients are scaled, torch's own step is taken.

    Args:
        params: Weights, or groups of them, on one device and of one type each.
        **options: As of :class:`torch.optim.AdamW`, without ``fused``; ``weight_decay=0.0`` is Adam.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
        >>> optimizer = FusedAdamW([weight], lr=0.1, weight_decay=0.0)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.9000, -0.9000])
    """

    def __init__(self, params: Any, **options: Any) -> None:
        self._ready: list[_Ready] | None = None
        super().__init__(params, **options, fused=True)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Change the weights by their gradients.

        Args:
            closure: Computes the gradients and returns the loss, if they are not there yet.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._ready is None:
            self._ready = self._prepare()
        gradients = None if self._ready is None else self._gradients()
        if gradients is None:
            self._ready = None
            super().step()
            return loss
        with torch.no_grad():
            for group, ready, grads in zip(self.param_groups, self._ready, gradients, strict=True):
                adamw(
                    ready.weights,
                    grads,
                    ready.means,
                    ready.squares,
                    [],
                    ready.steps,
                    fused=True,
                    amsgrad=False,
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    maximize=group["maximize"],
                )
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all weights."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for group in self.param_groups:
            for weight in group["params"]:
                weight.grad = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state of this or of torch's own."""
        self._ready = None
        super().load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add weights with options of their own."""
        self._ready = None
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._ready = None
        super().__setstate__(state)

    def _gradients(self) -> list[list[Tensor]] | None:
        """Gradients of each group; ``None`` unless all are there and as they come."""
        if getattr(self, "grad_scale", None) is not None or getattr(self, "found_inf", None) is not None:
            return None
        gradients = [[weight.grad for weight in ready.weights] for ready in self._ready]
        given = [grad is not None and not grad.is_sparse for grads in gradients for grad in grads]
        return gradients if all(given) else None

    def _prepare(self) -> list[_Ready] | None:
        """What all steps need; ``None`` before the first one, and for options and weights that it is not made for."""
        if not all(map(self._is_simple, self.param_groups)):
            return None
        ready = []
        for group in self.param_groups:
            states = [self.state[weight] for weight in group["params"]]
            ready.append(_Ready(group["params"], *([state[key] for state in states] for key in _STATE)))
        return ready

    def _is_simple(self, group: dict[str, Any]) -> bool:
        """Whether the weights of a group have a state and differ in shape only."""
        states = [self.state.get(weight) for weight in group["params"]]
        if not all(states) or any(group[name] for name in ("amsgrad", "capturable", "differentiable")):
            return False
        alike = len({(weight.device, weight.dtype) for weight in group["params"]}) == 1
        return alike and not isinstance(group["lr"], Tensor)

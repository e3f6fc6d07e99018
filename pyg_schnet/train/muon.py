"""Muon: steps whose matrices are orthogonal, for the weights between layers; Adam for all others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

_SMALLEST = 8  # rows and columns of a matrix below which orthogonality says little
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_RMS = 0.2  # of a step over the rate, which is Adam's, so that both take rates of one size


def orthogonal(matrices: Tensor) -> Tensor:
    r"""Matrices with the singular vectors of the given ones, and singular values near one.

    Five Newton-Schulz iterations of a polynomial of fifth degree, which bring every singular value above a
    thousandth of the Frobenius norm to between 0.7 and 1.2:

    .. math:: X \leftarrow a X + (b\, XX^T + c\, (XX^T)^2) X

    Source: K. Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024,
    https://kellerjordan.github.io/posts/muon.

    Args:
        matrices: Shape ``[K, rows, columns]``.

    Returns:
        Shape ``[K, rows, columns]``; zero where a matrix is zero.

    Example:
        >>> found = orthogonal(torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(0)))
        >>> values = torch.linalg.svdvals(found)
        >>> bool((values > 0.6).all() and (values < 1.3).all())
        True
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT.contiguous() if is_tall else matrices
    x = x / x.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny)[:, None, None]
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def matrices_of(module: nn.Module) -> list[nn.Parameter]:
    """Weights between layers: those of linear layers with at least eight inputs and eight outputs.

    Embeddings, biases, outputs of few channels and whatever is no linear layer are left out: what comes out of or goes
    into them is no direction among many. So are layers whose weight is computed from others (parametrizations).

    Example:
        >>> [tuple(weight.shape) for weight in matrices_of(nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 1)))]
        [(32, 16)]
    """
    found = [
        layer.weight
        for layer in module.modules()
        if isinstance(layer, nn.Linear) and isinstance(layer.weight, nn.Parameter)
    ]
    large = [weight for weight in found if weight.requires_grad and min(weight.shape) >= _SMALLEST]
    return list({id(weight): weight for weight in large}.values())  # which layers may share


class Muon(torch.optim.Optimizer):
    r"""Momentum whose matrices are made orthogonal for the weights between layers, AdamW for all other weights.

    All directions of such a matrix get steps of the same size, those of small gradients too, which Adam leaves
    behind. With gradients :math:`G_t` of a weight of m rows and n columns:

    .. math::
        M_t = \mu M_{t-1} + (1 - \mu) G_t, \qquad
        W \leftarrow (1 - \eta\lambda) W - 0.2\, \eta \sqrt{\max(m, n)}\;
        \mathrm{orthogonal}\bigl((1 - \mu)\, G_t + \mu M_t\bigr)

    Weights of one shape are made orthogonal in one batched product. The factor gives a step the size of Adam's, so that
    both share one rate.

    Sources: K. Jordan et al. 2024 (``orthogonal``); J. Liu et al., *Muon is scalable for LLM training*,
    arXiv:2502.16982, for the factor and the weight decay.

    Args:
        module: What is trained.
        lr: Rate η.
        weight_decay: Decoupled weight decay λ, of all weights.
        momentum: μ.
        betas: Adam's.
        eps: Adam's.

    Raises:
        ValueError: If ``lr`` is not positive, or ``momentum`` not at least 0 and below 1.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float = 3e-3,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if not lr > 0:
            raise ValueError(f"lr must be positive, got {lr!r}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must be at least 0 and below 1, got {momentum!r}")
        matrices = matrices_of(module)
        known = {id(weight) for weight in matrices}
        others = [weight for weight in module.parameters() if id(weight) not in known]
        groups: list[dict[str, Any]] = [
            {"params": weights, "orthogonal": is_orthogonal}
            for weights, is_orthogonal in ((matrices, True), (others, False))
            if weights
        ]
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(groups, {**defaults, "fused": _has_fused_adam(others)})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state, also one that was saved on another device, where Adam's kernel was another."""
        super().__setstate__(state)
        for group in self.param_groups:
            group["fused"] = _has_fused_adam(group["params"])
            for weight in group["params"]:
                if "step" in self.state[weight]:
                    self.state[weight]["step"] = self.state[weight]["step"].to(_device_of_steps(weight, group))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step.

        Args:
            closure: Computes the loss and its gradients.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if group["orthogonal"]:
                for alike in _by_shape(weights):
                    self._step_orthogonal(alike, group)
            else:
                self._step_adam(weights, group)
        return loss

    def _step_orthogonal(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        gradients = torch.stack([cast(Tensor, weight.grad) for weight in weights])
        momenta = torch.stack([self.state[weight]["momentum"] for weight in weights])
        momenta.lerp_(gradients, 1.0 - group["momentum"])
        steps = orthogonal(gradients.lerp(momenta, group["momentum"]))
        size = _RMS * max(weights[0].shape) ** 0.5
        for weight, momentum, step in zip(weights, momenta, steps, strict=True):
            self.state[weight]["momentum"].copy_(momentum)
            if group["weight_decay"]:
                weight.mul_(1.0 - group["lr"] * group["weight_decay"])
            weight.add_(step, alpha=-group["lr"] * size)

    def _step_adam(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight].update(
                    step=torch.zeros((), dtype=torch.float32, device=_device_of_steps(weight, group)),
                    exp_avg=torch.zeros_like(weight),
                    exp_avg_sq=torch.zeros_like(weight),
                )
        states = [self.state[weight] for weight in weights]
        adamw(
            weights,
            [cast(Tensor, weight.grad) for weight in weights],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _has_fused_adam(weights: Iterable[Tensor]) -> bool:
    """Whether one kernel makes the step of all weights."""
    return all(weight.device.type in ("cpu", "cuda") for weight in weights)


def _device_of_steps(weight: Tensor, group: dict[str, Any]) -> torch.device:
    """Where Adam counts its steps."""
    return weight.device if group["fused"] else torch.device("cpu")


def _by_shape(weights: Iterable[Tensor]) -> list[list[Tensor]]:
    """Weights of the same shape, type and device together."""
    found: dict[tuple[Any, ...], list[Tensor]] = {}
    for weight in weights:
        found.setdefault((weight.shape, weight.dtype, weight.device), []).append(weight)
    return list(found.values())

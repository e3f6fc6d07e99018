"""Two atom-wise layers, and the sum or mean over structures that follows, in one step with gradients by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.utils import scatter

from pyg_schnet.ops import cpu_kernels, linear
from pyg_schnet.ops._autograd import gradients_of, needs_any_grad, needs_grad
from pyg_schnet.ops.dispatch import wide_dtype


def atom_values(values: Tensor, z: Tensor, scale: Tensor, shift: Tensor, atomref: Tensor) -> Tensor:
    """Values of atoms ``[N, C]``, scaled, shifted and referred to the elements; zero for padding.

    In float64 where the device has it: references may be thousands of eV, where float32 has lost the meV.
    """
    wide = wide_dtype(values)
    values, scale, shift, atomref = (x.to(wide) for x in (values, scale, shift, atomref))
    return torch.where((z > 0).unsqueeze(-1), scale * values + shift + atomref.index_select(0, z), 0.0)


class Pool(NamedTuple):
    """Sum or mean over the atoms of each structure of values that are scaled, shifted and referred to the elements.

    Made in float64 where the device has it, and rounded once to the type of the values.

    Attributes:
        scale: Factor s of each value, shape ``[C]``.
        shift: Shift t, shape ``[C]``.
        atomref: References a of the elements, shape ``[MAX_Z + 1, C]``.
        z: Atomic numbers, shape ``[N]``; 0 is padding, which adds nothing.
        batch: Structure of each atom, shape ``[N]``.
        batch_size: Number of structures B.
        mean: Whether sums are divided by the number of atoms; by 1 where there is none.
    """

    scale: Tensor
    shift: Tensor
    atomref: Tensor
    z: Tensor
    batch: Tensor
    batch_size: int
    mean: bool = False

    def __call__(self, values: Tensor) -> Tensor:
        """Sums or means, shape ``[B, C]``, of values of shape ``[N, C]``."""
        each = atom_values(values, self.z, self.scale, self.shift, self.atomref)
        total = scatter(each, self.batch, 0, self.batch_size, reduce="sum")
        if self.mean:
            real = (self.z > 0).to(each.dtype)
            total = total / _at_least_one(scatter(real, self.batch, 0, self.batch_size, reduce="sum"))
        return total.to(values.dtype)

    def in_one_pass(self, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """The same on CPUs, not differentiable, and what it was divided by, shape ``[B, 1]``."""
        statistics = self.scale, self.shift, self.atomref
        total, counts = cpu_kernels().pool(values, *statistics, self.z, self.batch, self.batch_size)
        if not self.mean:
            return total.to(values.dtype), None
        counts = _at_least_one(counts)
        return (total / counts).to(values.dtype), counts.to(values.dtype)

    def gradient(self, grad: Tensor, counts: Tensor | None) -> Tensor:
        """Gradient by the values, shape ``[N, C]``, from that by the sums or means."""
        grad = grad if counts is None else grad / counts
        if not torch.is_grad_enabled():
            return cpu_kernels().unpool(grad, self.scale, self.z, self.batch)
        return torch.where((self.z > 0).unsqueeze(-1), (self.scale * grad).index_select(0, self.batch), 0.0)


def _at_least_one(counts: Tensor) -> Tensor:
    return counts.clamp(min=1.0).unsqueeze(-1)


def mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, pool: Pool | None = None) -> Tensor:
    r"""Two dense layers with a shifted softplus between them, on CPUs; differentiable any number of times.

    .. math:: \mathbf{y} = \mathrm{W}_2\, \mathrm{ssp}(\mathrm{W}_1 \mathbf{x} + \mathbf{b}_1) + \mathbf{b}_2

    Args:
        x: Inputs, shape ``[N, F]``, such as :func:`pyg_schnet.ops.is_dense_cpu`; as are all weights.
        weight1: Shape ``[H, F]``.
        bias1: Shape ``[H]``.
        weight2: Shape ``[C, H]``.
        bias2: Shape ``[C]``.
        pool: What follows; nothing if ``None``.

    Returns:
        Shape ``[N, C]``; ``[B, C]`` with ``pool``.
    """
    return _TwoLayers.apply(pool, x, weight1, bias1, weight2, bias2)


class _TwoLayers(torch.autograd.Function):
    """Small structures spend their time in calls, and these would be ten more, forward and backward."""

    @staticmethod
    def forward(ctx: Any, pool: Pool | None, x: Tensor, *weights: Tensor) -> Tensor:
        out, hidden, slope = cpu_kernels().mlp(x, *weights)
        ctx.save_for_backward(x, *weights)
        out, counts = (out, None) if pool is None else pool.in_one_pass(out)
        ctx.pool, ctx.counts, ctx.kept = pool, counts, (hidden, slope)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight1, bias1, weight2, bias2 = ctx.saved_tensors
        grad_x, grad_weights = needs_grad(ctx, 1, 0), needs_any_grad(ctx, 1)
        grad = grad if ctx.pool is None else ctx.pool.gradient(grad, ctx.counts)
        if not torch.is_grad_enabled():
            chosen = {"grad_x": grad_x, "grad_weights": grad_weights}
            return None, *cpu_kernels().mlp_backward(grad, x, weight1, weight2, *ctx.kept, **chosen)
        if grad_x and not grad_weights:  # for forces
            slope = torch.sigmoid(linear(x, weight1, bias1))
            return None, linear(linear(grad, weight2.t()) * slope, weight1.t()), None, None, None, None
        return None, *gradients_of(_composed, (x, weight1, bias1, weight2, bias2), grad)


def _composed(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """The two layers by functions that autograd knows."""
    from pyg_schnet.nn.activation import shifted_softplus

    return linear(shifted_softplus(linear(x, weight1, bias1)), weight2, bias2)

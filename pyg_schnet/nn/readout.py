"""Readouts: from atom features to a property of each structure."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.utils import scatter

from pyg_schnet.nn._inputs import check_readout
from pyg_schnet.nn.activation import ShiftedSoftplus
from pyg_schnet.nn.atomref import MAX_Z
from pyg_schnet.nn.dense import dense, reset_parameters
from pyg_schnet.ops import atom_values, mlp, pool_atoms
from pyg_schnet.ops.checks import as_real, real_number, shown, whole_numbers
from pyg_schnet.ops.dispatch import Backend, is_followed
from pyg_schnet.ops.modules import may_fuse, registered
from pyg_schnet.ops.sort_edges import check_keys

_IN_UNIT = "a finite number in the unit of the property"

Activation = Literal["ssp", "silu", "tanh"]
_ACTIVATIONS = {"ssp": ShiftedSoftplus, "silu": nn.SiLU, "tanh": nn.Tanh}


@registered(lin1=nn.Linear, act=ShiftedSoftplus, lin2=nn.Linear)
class AtomNetwork(nn.Module):
    r"""Two atom-wise layers, :math:`\mathrm{dense} \circ \sigma \circ \mathrm{dense}`, the network of every readout.

    Args:
        hidden_channels: Size F of the atom features; the layer between has half of it.
        out_channels: Values for each atom.
        activation: Nonlinearity: ``"ssp"`` (shifted softplus, as in Schütt et al. (2020) and in PyTorch Geometric),
            ``"silu"`` (SchNetPack's default) or ``"tanh"`` (deep tensor neural network).
        dropout: Probability with which a feature is set to zero in training.

    Raises:
        ValueError: If the activation is none of these, or the dropout is not at least 0 and below 1.

    Example:
        >>> AtomNetwork(16)(torch.zeros(3, 16)).shape
        torch.Size([3, 1])
    """

    backend: Backend = "auto"

    def __init__(
        self, hidden_channels: int, out_channels: int = 1, activation: Activation = "ssp", dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not isinstance(activation, str) or activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {activation!r}")
        part = as_real(dropout)
        if part is None or not 0.0 <= part < 1.0:
            raise ValueError(f"dropout must be a part of the features, at least 0 and below 1, got {shown(dropout)}")
        hidden_channels, out_channels = whole_numbers(hidden_channels=hidden_channels, out_channels=out_channels)
        self.dropout = dropout
        self.lin1 = dense(hidden_channels, max(hidden_channels // 2, 1))
        self.act = _ACTIVATIONS[activation]()
        self.lin2 = dense(max(hidden_channels // 2, 1), out_channels)

    def reset_parameters(self) -> None:
        """Draw new weights (Glorot uniform) and set biases to zero."""
        reset_parameters(self.lin1, self.lin2)

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``[N, F]`` to ``[N, out_channels]``."""
        if self.training and self.dropout > 0:
            x = F.dropout(x, self.dropout)
        if is_followed() or not may_fuse(self) or self.lin1.bias is None or self.lin2.bias is None:
            return self.lin2(self.act(self.lin1(x)))
        weights = self.lin1.weight, self.lin1.bias, self.lin2.weight, self.lin2.bias
        return mlp(x, *weights, backend=self.backend)


class Readout(nn.Module):
    """Interface of all readouts: ``forward(x, z, pos, batch, batch_size)`` gives ``[batch_size, out_channels]``.

    ``batch_size`` is not computed from ``batch``, so that nothing waits for the device and empty structures at the end
    of a batch are counted.
    """

    out_channels: int

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build the same readout again, as JSON can hold them.

        Raises:
            NotImplementedError: If a subclass does not define it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no config, the dict of the arguments that build it; write one as a property"
        )

    def reset_parameters(self) -> None:
        """Draw new weights; statistics of the data (scale, shift, element references) are kept."""
        reset_parameters(*self.children())

    def __repr__(self) -> str:
        if type(self).config is Readout.config:
            return super().__repr__()
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.config.items())})"


class _PooledReadout(Readout):
    """Atom-wise values with scale, shift and element references, pooled; see the subclasses."""

    reduce: Literal["sum", "mean", "max"]  # how they are pooled
    scale: Tensor
    shift: Tensor
    atomref: Tensor
    backend: Backend = "auto"

    def __init__(
        self,
        hidden_channels: int = 128,
        out_channels: int = 1,
        *,
        activation: Activation = "ssp",
        dropout: float = 0.0,
        scale: float = 1.0,
        shift: float = 0.0,
        atomref: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.hidden_channels, self.out_channels = hidden_channels, out_channels = whole_numbers(
            hidden_channels=hidden_channels, out_channels=out_channels
        )
        self.activation = activation
        self.network = AtomNetwork(hidden_channels, out_channels, activation, dropout)
        self.register_buffer("scale", torch.full((out_channels,), real_number(scale, "scale", _IN_UNIT)))
        self.register_buffer("shift", torch.full((out_channels,), real_number(shift, "shift", _IN_UNIT)))
        self.register_buffer("atomref", torch.zeros(MAX_Z + 1, out_channels))
        if atomref is not None:
            self.set_references(atomref)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build the same readout again; scale, shift and element references are in the state dict."""
        return {
            "hidden_channels": self.hidden_channels,
            "out_channels": self.out_channels,
            "activation": self.activation,
            **({"dropout": self.network.dropout} if self.network.dropout > 0 else {}),
        }

    def set_references(self, atomref: Tensor) -> None:
        """Store reference values of the elements.

        Args:
            atomref: One value for each atomic number from 0 on, shape ``[n]`` or ``[n, out_channels]``, n ≤ 100; in
                the unit of the property.

        Raises:
            ValueError: If the shape does not fit, or a value is not finite.
        """
        values = as_references(atomref, self.atomref.dtype)
        values = values.reshape(-1, 1) if values.dim() == 1 else values
        if values.dim() != 2 or values.size(0) > MAX_Z + 1 or values.size(1) != self.out_channels:
            raise ValueError(
                f"atomref must hold one row for each atomic number 0 to at most {MAX_Z} and {self.out_channels} "
                f"column(s), got shape {tuple(values.shape)}"
            )
        self.atomref.zero_()
        self.atomref[: values.size(0)] = values

    def atom_values(self, x: Tensor, z: Tensor) -> Tensor:
        """Contribution of each atom, shape ``[N, out_channels]``, in the unit of the property; zero for padding.

        Args:
            x: Atom features, shape ``[N, F]``.
            z: Atomic numbers, shape ``[N]``.
        """
        check_readout(x, z, z, 1)
        values = self.network(x)
        return atom_values(values, z, self.scale, self.shift, self.atomref).to(values.dtype)

    def forward(self, x: Tensor, z: Tensor, pos: Tensor, batch: Tensor, batch_size: int) -> Tensor:
        """Property of each structure.

        Args:
            x: Atom features, shape ``[N, F]``.
            z: Atomic numbers, shape ``[N]``; 0 is padding.
            pos: Positions in Å, shape ``[N, 3]``; not used here.
            batch: Structure of each atom, shape ``[N]``.
            batch_size: Number of structures B.

        Returns:
            Property in the unit of scale, shift and references, shape ``[B, out_channels]``; zero where a structure
            has no atoms.
        """
        check_readout(x, z, batch, batch_size)
        if self.reduce == "max":
            check_keys(batch, batch_size, "atoms name structures")
            return _largest(self.atom_values(x, z), z > 0, batch, batch_size)
        if type(self).atom_values is not _ATOM_VALUES or "atom_values" in self.__dict__:
            return _pooled(self.atom_values(x, z), z > 0, batch, batch_size, self.reduce)
        statistics = self.scale, self.shift, self.atomref
        how: dict[str, Any] = {"mean": self.reduce == "mean", "backend": self.backend}
        return pool_atoms(self.network(x), z, batch, batch_size, *statistics, **how)


def as_references(atomref: Any, dtype: torch.dtype) -> Tensor:
    """Reference values of the elements as a tensor.

    Args:
        atomref: Numbers, one for each atomic number from 0 on.
        dtype: Precision in which they will be kept.

    Raises:
        ValueError: If they are no finite numbers in that precision.
    """
    try:
        values = torch.as_tensor(atomref)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"atomref must hold one number for each atomic number from 0 on, got {shown(atomref)}"
        ) from error
    real = values.dtype != torch.bool and not values.is_complex()
    if not real or not bool(torch.isfinite(values.to(dtype)).all()):
        what = f"{int((~torch.isfinite(values.to(dtype))).sum())} that are not" if real else f"{values.dtype}"
        raise ValueError(f"atomref must hold finite numbers, one for each atomic number from 0 on, got {what}")
    return values


_ATOM_VALUES = _PooledReadout.atom_values  # as defined above, even if it is patched later


def _pooled(values: Tensor, real: Tensor, batch: Tensor, batch_size: int, reduce: str) -> Tensor:
    """Sums or means of the values of the real atoms of each structure, ``[B, C]``; zero where there is none."""
    total = scatter(torch.where(real.unsqueeze(-1), values, 0.0), batch, 0, batch_size, reduce="sum")
    if reduce == "sum":
        return total
    n_atoms = scatter(real.to(values.dtype), batch, 0, batch_size, reduce="sum").clamp(min=1.0)
    return total / n_atoms.unsqueeze(-1)


def _largest(values: Tensor, real: Tensor, batch: Tensor, batch_size: int) -> Tensor:
    """Largest value of the real atoms of each structure, ``[B, C]``; zero where there is none."""
    lowest = torch.finfo(values.dtype).min
    values = torch.where(real.unsqueeze(-1), values, lowest)
    index = batch.unsqueeze(-1).expand_as(values)
    out = values.new_full((batch_size, values.size(1)), lowest).scatter_reduce(0, index, values, reduce="amax")
    return torch.where(out > lowest, out, 0.0)


@registered(network=AtomNetwork)
class SumReadout(_PooledReadout):
    r"""Extensive property such as the energy, eq. (1) of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_.

    .. math:: P = \sum_i \bigl( s\, p(\mathbf{x}_i) + t + a_{Z_i} \bigr)

    Scale s, shift t and element references a are kept in the state dict; they are statistics of the data and are not
    trained.

    Args:
        hidden_channels: Size F of the atom features.
        out_channels: Number of properties.
        activation: Nonlinearity of the atom-wise network, ``"ssp"`` (eq. 11), ``"silu"`` or ``"tanh"``.
        dropout: Probability with which a feature is set to zero in training.
        scale: Scale s, unit of the property.
        shift: Shift t for each atom, unit of the property.
        atomref: References a, one row for each atomic number from 0 on; see ``set_references``.

    Example:
        >>> readout = SumReadout(16)
        >>> x, z, pos = torch.zeros(3, 16), torch.tensor([8, 1, 1]), torch.zeros(3, 3)
        >>> readout(x, z, pos, torch.tensor([0, 0, 0]), batch_size=1).shape
        torch.Size([1, 1])
    """

    reduce = "sum"


@registered(network=AtomNetwork)
class MeanReadout(_PooledReadout):
    r"""Intensive property, eq. (2) of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_.

    .. math:: P = \frac{1}{n} \sum_i \bigl( s\, p(\mathbf{x}_i) + t + a_{Z_i} \bigr)

    Arguments as in :class:`SumReadout`.

    Example:
        >>> readout = MeanReadout(16)
        >>> x, z, pos = torch.zeros(3, 16), torch.tensor([8, 1, 1]), torch.zeros(3, 3)
        >>> readout(x, z, pos, torch.tensor([0, 0, 0]), batch_size=1).shape
        torch.Size([1, 1])
    """

    reduce = "mean"


@registered(network=AtomNetwork)
class MaxReadout(_PooledReadout):
    r"""Largest of the atom-wise values, for properties such as the highest frequency of a crystal.

    .. math:: P = \max_i \bigl( s\, p(\mathbf{x}_i) + t + a_{Z_i} \bigr)

    Schütt et al. (2020) use means for all intensive properties. A high frequency belongs to a few light or tightly
    bound atoms and would be averaged out. The derivative is that of the largest atom and jumps where another one
    becomes the largest, so do not use this readout for forces.

    Arguments as in :class:`SumReadout`.

    Example:
        >>> readout = MaxReadout(16)
        >>> x, z, pos = torch.zeros(3, 16), torch.tensor([8, 1, 1]), torch.zeros(3, 3)
        >>> readout(x, z, pos, torch.tensor([0, 0, 0]), batch_size=1).shape
        torch.Size([1, 1])
    """

    reduce = "max"

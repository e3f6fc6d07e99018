"""Readouts of latent atomic charges: dipole moments and spatial extents."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch_geometric.utils import scatter

from pyg_schnet.geometry import safe_norm
from pyg_schnet.nn._inputs import check_readout
from pyg_schnet.nn.atomref import MAX_Z, fit_atom_references
from pyg_schnet.nn.readout import Activation, AtomNetwork, Readout
from pyg_schnet.ops.checks import real_number, whole_number
from pyg_schnet.ops.dispatch import wide_dtype
from pyg_schnet.ops.sort_edges import check_keys

_ROUNDING = 8.0  # error of a dipole, in units of the rounding of its sum


class _ChargeReadout(Readout):
    """Readouts of latent atomic charges placed at the positions."""

    scale: Tensor
    atomic_mass: Tensor

    def __init__(self, hidden_channels: int = 128, *, activation: Activation = "ssp", scale: float = 1.0) -> None:
        super().__init__()
        self.hidden_channels = whole_number(hidden_channels, "hidden_channels")
        self.activation = activation
        self.network = AtomNetwork(self.hidden_channels, activation=activation)
        self.register_buffer("scale", torch.tensor(real_number(scale, "scale", "a finite factor to the unit")))
        from ase.data import atomic_masses  # here, so that importing the layers needs no ase

        masses = torch.as_tensor(atomic_masses[: MAX_Z + 1], dtype=self.scale.dtype)
        masses[0] = 0.0  # padding has no mass
        self.register_buffer("atomic_mass", masses)

    def charges(self, x: Tensor, z: Tensor) -> Tensor:
        """Latent charge of each atom in e before any correction, shape ``[N]``; zero for padding.

        Args:
            x: Atom features, shape ``[N, F]``.
            z: Atomic numbers, shape ``[N]``.
        """
        return torch.where(z > 0, self.network(x).squeeze(-1), 0.0)

    def centered(self, z: Tensor, pos: Tensor, batch: Tensor, batch_size: int) -> Tensor:
        """Positions relative to the centre of mass of their structure in Å, in float64, shape ``[N, 3]``."""
        wide = wide_dtype(pos)
        pos, mass = pos.to(wide), self.atomic_mass.to(wide).index_select(0, z).unsqueeze(-1)
        total = scatter(mass, batch, 0, batch_size, reduce="sum")
        center = scatter(mass * pos, batch, 0, batch_size, reduce="sum") / torch.where(total > 0, total, 1.0)
        return pos - center.index_select(0, batch)


def check_charge(charge: Any, batch_size: int) -> None:
    """Raise a ValueError unless total charges are one number for each structure, ``[B]``, or ``None``."""
    if charge is not None and (not isinstance(charge, Tensor) or charge.shape != (batch_size,)):
        raise ValueError(f"charge must hold the total charge of each of {batch_size} structures in e, [B]")


class DipoleReadout(_ChargeReadout):
    r"""Dipole moment from latent charges, eq. (3) of `Schütt et al. (2020) <https://arxiv.org/abs/1812.04690>`_.

    .. math::
        \boldsymbol{\mu} = s \sum_i \tilde q_i\, (\mathbf{r}_i - \mathbf{r}_0), \qquad
        \tilde q_i = q(\mathbf{x}_i) - \frac{1}{n} \Bigl( \sum_k q(\mathbf{x}_k) - Q \Bigr)

    The charges add up to the total charge Q, so the dipole of a neutral molecule does not depend on the origin; that
    of an ion is relative to the centre of mass. Where a dipole vanishes by symmetry, within rounding of the charges,
    its magnitude and all derivatives of it are zero, since its direction would be noise. The dipole of a periodic
    structure is not defined.

    Args:
        hidden_channels: Size F of the atom features.
        magnitude: Whether to return the magnitude, ``[B, 1]``, instead of the vector, ``[B, 3]``.
        neutralize: Whether charges are corrected to the total charge. PyTorch Geometric's SchNet does not correct them.
        origin: Origin :math:`\mathbf{r}_0`: ``"mass"`` (centre of mass) or ``"zero"`` (that of the positions).
        total_charge: Total charge Q of every structure in e.
        activation: Nonlinearity of the atom-wise network, ``"ssp"`` (eq. 11), ``"silu"`` or ``"tanh"``.
        scale: Factor s from e·Å to the unit of the property, for example ``units.factor("e·Å", "D")`` = 4.8032.

    Raises:
        ValueError: If ``origin`` is neither of the two.

    Example:
        >>> readout = DipoleReadout(16)
        >>> x, z, pos = torch.zeros(3, 16), torch.tensor([8, 1, 1]), torch.randn(3, 3)
        >>> readout(x, z, pos, torch.tensor([0, 0, 0]), batch_size=1).tolist()
        [[0.0]]
    """

    def __init__(
        self,
        hidden_channels: int = 128,
        *,
        magnitude: bool = True,
        neutralize: bool = True,
        origin: Literal["mass", "zero"] = "mass",
        total_charge: float = 0.0,
        activation: Activation = "ssp",
        scale: float = 1.0,
    ) -> None:
        super().__init__(hidden_channels, activation=activation, scale=scale)
        if origin not in ("mass", "zero"):
            raise ValueError(
                f"origin must be 'mass' (centre of mass) or 'zero' (as positions are given), got {origin!r}"
            )
        self.magnitude = magnitude
        self.neutralize = neutralize
        self.origin = origin
        self.total_charge = real_number(total_charge, "total_charge", "a finite charge in e")
        self.out_channels = 1 if magnitude else 3

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build the same readout again; the scale is in the state dict."""
        return {
            "hidden_channels": self.hidden_channels,
            "magnitude": self.magnitude,
            "neutralize": self.neutralize,
            "origin": self.origin,
            "total_charge": self.total_charge,
            "activation": self.activation,
        }

    def forward(
        self, x: Tensor, z: Tensor, pos: Tensor, batch: Tensor, batch_size: int, charge: Tensor | None = None
    ) -> Tensor:
        """Dipole moment of each structure.

        Args:
            x: Atom features, shape ``[N, F]``.
            z: Atomic numbers, shape ``[N]``; 0 is padding.
            pos: Positions in Å, shape ``[N, 3]``.
            batch: Structure of each atom, shape ``[N]``.
            batch_size: Number of structures B.
            charge: Total charge of each structure in e, shape ``[B]``; ``None`` takes ``total_charge`` for all.

        Returns:
            Magnitudes ``[B, 1]`` or vectors ``[B, 3]`` in e·Å times ``scale``.
        """
        check_readout(x, z, batch, batch_size, pos)
        check_keys(z, self.atomic_mass.size(0), "atoms have atomic numbers")
        check_keys(batch, batch_size, "atoms name structures")
        check_charge(charge, batch_size)
        latent = self.charges(x, z)
        charges = latent.to(wide_dtype(latent))
        if self.neutralize:
            real = (z > 0).to(charges.dtype)
            n_atoms = scatter(real, batch, 0, batch_size, reduce="sum").clamp(min=1.0)
            excess = scatter(charges, batch, 0, batch_size, reduce="sum") - (
                self.total_charge if charge is None else charge
            )
            charges = charges - real * (excess / n_atoms).index_select(0, batch)
        arm = self.centered(z, pos, batch, batch_size) if self.origin == "mass" else pos.to(charges.dtype)
        dipole = scatter(charges.unsqueeze(-1) * arm, batch, 0, batch_size, reduce="sum")  # [B, 3]
        if self.magnitude:
            sizes = (latent.abs() + charges.abs()).unsqueeze(-1) * arm.abs()
            largest = scatter(sizes.detach(), batch, 0, batch_size, reduce="sum").amax(1, keepdim=True)
            vanishes = dipole.detach().abs() <= _ROUNDING * torch.finfo(latent.dtype).eps * largest
            dipole = safe_norm(torch.where(vanishes.all(1, keepdim=True), 0.0, dipole), keepdim=True)
        return (self.scale * dipole).to(latent.dtype)


class ElectronicSpatialExtentReadout(_ChargeReadout):
    r"""Electronic spatial extent :math:`\langle R^2 \rangle` from latent charges.

    .. math:: \langle R^2 \rangle = s \sum_i q(\mathbf{x}_i)\, \lVert \mathbf{r}_i - \mathbf{r}_0 \rVert^2

    with the centre of mass :math:`\mathbf{r}_0`, as in SchNetPack
    (`Schütt et al., J. Chem. Theory Comput. 15, 448 (2019) <https://doi.org/10.1021/acs.jctc.8b00908>`_).

    Electrons are not at the nuclei, so the extent of an atom about its own nucleus adds to that of its charge. With
    ``own_extent`` it is a second number e of each atom, and both numbers have references of the elements,

    .. math:: \langle R^2 \rangle = \sum_i \bigl( s_q\, q(\mathbf{x}_i) + Q_{Z_i} \bigr)\,
              \lVert \mathbf{r}_i - \mathbf{r}_0 \rVert^2 + s_e\, e(\mathbf{x}_i) + E_{Z_i}

    which are fitted to the training structures and leave a small part of the extent to be learned.

    Args:
        hidden_channels: Size F of the atom features.
        own_extent: Whether atoms have an extent of their own.
        activation: Nonlinearity of the atom-wise network, ``"ssp"`` (eq. 11), ``"silu"`` or ``"tanh"``.
        scale: Factor s from Å² to the unit of the property, for example ``units.factor("Å²", "a₀²")`` = 3.5711.

    Example:
        >>> readout = ElectronicSpatialExtentReadout(16)
        >>> x, z, pos = torch.zeros(3, 16), torch.tensor([8, 1, 1]), torch.zeros(3, 3)
        >>> readout(x, z, pos, torch.tensor([0, 0, 0]), batch_size=1).shape
        torch.Size([1, 1])
    """

    out_channels = 1
    references: Tensor  # Q and E, [MAX_Z + 1, 2], where atoms have an extent of their own

    def __init__(
        self,
        hidden_channels: int = 128,
        *,
        own_extent: bool = False,
        activation: Activation = "ssp",
        scale: float = 1.0,
    ) -> None:
        super().__init__(hidden_channels, activation=activation, scale=scale)
        self.own_extent = own_extent
        if own_extent:
            self.network = AtomNetwork(self.hidden_channels, 2, activation)
            self.register_buffer("scale", self.scale.repeat(2))
            self.register_buffer("references", torch.zeros(MAX_Z + 1, 2))

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build the same readout again; scale and references are in the state dict."""
        own = {"own_extent": True} if self.own_extent else {}
        return {"hidden_channels": self.hidden_channels, **own, "activation": self.activation}

    def forward(self, x: Tensor, z: Tensor, pos: Tensor, batch: Tensor, batch_size: int) -> Tensor:
        """Spatial extent of each structure in Å² times ``scale``, shape ``[B, 1]``; arguments as in other readouts."""
        check_readout(x, z, batch, batch_size, pos)
        check_keys(z, self.atomic_mass.size(0), "atoms have atomic numbers")
        check_keys(batch, batch_size, "atoms name structures")
        square = self.centered(z, pos, batch, batch_size).square().sum(-1)
        if self.own_extent:
            values = self.network(x)
            both = self.scale.to(square) * values.to(square) + self.references.to(square).index_select(0, z)
            each = torch.where(z > 0, both[:, 0] * square + both[:, 1], 0.0)
            return scatter(each, batch, 0, batch_size, reduce="sum").unsqueeze(-1).to(values.dtype)
        charges = self.charges(x, z)
        total = scatter(charges * square, batch, 0, batch_size, reduce="sum").unsqueeze(-1)
        return (self.scale * total).to(charges.dtype)

    @torch.no_grad()
    def fit(self, terms: Tensor, target: Tensor) -> Tensor:
        """Fit references and scales to training structures, where atoms have an extent of their own.

        Args:
            terms: What references are multiplied by in each structure, see :meth:`reference_terms`, shape
                ``[B, 2 (MAX_Z + 1)]``.
            target: Extent of each structure in the unit of the property, shape ``[B]``.

        Returns:
            Standard deviation of what references leave of the extents.
        """
        target = target.to(torch.float64).reshape(-1)
        references = fit_atom_references(terms, target)
        left = target - (terms.to(torch.float64) @ references).squeeze(1)
        self.references.copy_(references.reshape(2, -1).mT)
        sizes = terms.to(torch.float64).reshape(len(terms), 2, -1).sum(2)  # [B, 2]: Σ r², n
        scale = (left.unsqueeze(1) / sizes.clamp(min=1.0)).square().mean(0).sqrt()
        self.scale.copy_(torch.where(scale > 0, scale, 1.0))
        return left.std(correction=0)

    def reference_terms(self, z: Tensor, pos: Tensor, batch: Tensor, batch_size: int) -> Tensor:
        """Squared distances from the centre, summed by element, and atoms of each element.

        Args:
            z: Atomic numbers, shape ``[N]``.
            pos: Positions in Å, shape ``[N, 3]``.
            batch: Structure of each atom, shape ``[N]``.
            batch_size: Number of structures B.

        Returns:
            Shape ``[B, 2 (MAX_Z + 1)]``, in float64.
        """
        square = self.centered(z, pos, batch, batch_size).square().sum(-1)
        key = batch * (MAX_Z + 1) + z
        size = batch_size * (MAX_Z + 1)
        real = (z > 0).to(square.dtype)
        terms = [scatter(one * real, key, 0, size, reduce="sum") for one in (square, torch.ones_like(square))]
        return torch.cat([one.view(batch_size, -1) for one in terms], 1)

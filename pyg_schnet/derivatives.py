"""Derivatives of an energy: forces, stress and Hessian of any energy model, by automatic differentiation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyg_schnet.geometry import apply_strain, has_volume, volume
from pyg_schnet.ops.dispatch import is_at_hand, is_cast
from pyg_schnet.ops.potential import EnergyGradients

EnergyModel = Callable[..., Tensor]
"""Called as ``model(z, pos, batch, cell=..., pbc=..., edge_index=..., edge_shift=..., batch_size=...)``.

Returns energies ``[B]`` or ``[B, 1]``. Keywords that are ``None`` are left out of the call, so a model needs to accept
only what it is used with.
"""


class EnergyForcesStress(NamedTuple):
    """An energy and its derivatives, in the energy unit U of the model (eV inside the package).

    Attributes:
        energy: Energies in U, shape ``[B]``.
        forces: Negative gradient with respect to positions in U/Å, shape ``[N, 3]``; ``None`` where not asked for.
        stress: Gradient with respect to strain over the volume in U/Å³, shape ``[B, 3, 3]``, symmetric, in ASE's
            sign: positive where the cell wants to shrink; ``None`` where not asked for.
    """

    energy: Tensor
    forces: Tensor | None
    stress: Tensor | None

    def virial(self, cell: Tensor) -> Tensor:
        """Virial, minus stress times volume, in U, shape ``[B, 3, 3]``; ``cell`` in Å, shape ``[B, 3, 3]``.

        Raises:
            ValueError: If no stress was computed.
        """
        if self.stress is None:
            raise ValueError("the virial is minus stress times volume, but no stress was computed; pass stress=True")
        return -self.stress * volume(cell)[:, None, None]


def energy_forces_stress(
    model: EnergyModel,
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None = None,
    *,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
    edge_index: Tensor | None = None,
    edge_shift: Tensor | None = None,
    batch_size: int | None = None,
    forces: bool = True,
    stress: bool = False,
    create_graph: bool = False,
) -> EnergyForcesStress:
    r"""Energy, forces and stress, as exact derivatives of what ``model`` returns.

    .. math::
        \mathbf{F}_i = -\frac{\partial E}{\partial \mathbf{r}_i}, \qquad
        \boldsymbol\sigma = \frac{1}{V} \frac{\partial E}{\partial \boldsymbol\varepsilon}
        \Big|_{\boldsymbol\varepsilon = 0}

    for a symmetric strain ε on positions and cell together (`Knuth et al. (2015)
    <https://doi.org/10.1016/j.cpc.2015.01.003>`_, eq. 9). A strain does not change which lattice images are
    neighbours, so ``edge_index`` and ``edge_shift`` do not change.

    The volume is :math:`V = |\det \mathbf{H}|` of the three cell vectors, whichever directions are periodic, as in ASE.
    For a slab or a wire it includes the vacuum: in-plane components times the height of the cell are forces per length,
    which do not depend on the vacuum.

    Results are the same under ``torch.inference_mode``, with tensors made there, and under ``torch.autocast``:
    derivatives are computed outside of both, in the precision of the model.

    Without ``create_graph``, the method ``energy_and_gradients`` is called where the model's class has one
    (:meth:`~pyg_schnet.models.SchNet.energy_and_gradients`); where it returns ``None``, autograd is used.

    Args:
        model: Energy model, see :data:`EnergyModel`; it has to be differentiable in ``pos`` (and ``cell`` for stress).
        z: Atomic numbers, shape ``[N]``.
        pos: Positions in Å, shape ``[N, 3]``.
        batch: Structure of each atom, shape ``[N]``; ``None`` for a single structure.
        cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``.
        pbc: Periodic directions, shape ``[B, 3]``.
        edge_index: Edges ``(j, i)``, shape ``[2, E]``, where they are given.
        edge_shift: Lattice images crossed by them, shape ``[E, 3]``.
        batch_size: Number of structures B.
        forces: Whether to compute forces.
        stress: Whether to compute the stress.
        create_graph: Whether the results can be differentiated again, with respect to weights (for training) or
            positions.

    Returns:
        Energy and what was asked for. Without ``create_graph`` they are detached.

    Raises:
        ValueError: If the stress of a structure is requested whose cell has no volume to divide by.

    Example:
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
        >>> spring = lambda z, pos, batch: ((pos[1] - pos[0]).norm() - 1.0).square().view(1)
        >>> energy_forces_stress(spring, torch.tensor([1, 1]), pos).forces[:, 2]
        tensor([ 2., -2.])
    """
    given: dict[str, Any] = {"cell": cell, "pbc": pbc, "edge_index": edge_index, "edge_shift": edge_shift}
    if _is_limited(z, pos, batch, *given.values()):
        with _no_limits(pos.device.type):
            (z, pos, batch), given = _ordinary(z, pos, batch), dict(zip(given, _ordinary(*given.values()), strict=True))
            options: dict[str, Any] = {
                "batch_size": batch_size,
                "forces": forces,
                "stress": stress,
                "create_graph": create_graph,
            }
            return energy_forces_stress(_with_ordinary_weights(model), z, pos, batch, **given, **options)
    if stress:
        check_volume(cell, pbc)
    given["batch_size"] = batch_size
    found: Any = None
    if not create_graph and (forces or stress):
        found = _gradients_of_model(model, z, pos, batch, given, stress)
    if found is None and stress and cell is not None and batch is not None and batch_size is not None:
        _check_number(cell, batch_size)
    if found is None:
        found = _gradients_by_autograd(model, z, pos, batch, given, forces, stress, create_graph)
    of_strain = None
    if stress:
        of_strain = found.grad_strain / volume(given["cell"])[:, None, None]
        if pbc is not None and not is_at_hand(pbc):  # nothing was read: no number instead of an error
            of_strain = torch.where(pbc.all(1)[:, None, None], of_strain, torch.nan)
    return EnergyForcesStress(found.energy, -found.grad_pos if forces else None, of_strain)


def hessian(
    model: EnergyModel,
    z: Tensor,
    pos: Tensor,
    *,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
    edge_index: Tensor | None = None,
    edge_shift: Tensor | None = None,
) -> Tensor:
    r"""Second derivatives of the energy of one structure with respect to its positions.

    .. math:: H_{ia,jb} = \frac{\partial^2 E}{\partial r_{ia} \partial r_{jb}}

    Args:
        model: Energy model, see :data:`EnergyModel`.
        z: Atomic numbers, shape ``[N]``.
        pos: Positions in Å, shape ``[N, 3]``.
        cell: Lattice vectors in rows in Å, shape ``[1, 3, 3]``.
        pbc: Periodic directions, shape ``[1, 3]``.
        edge_index: Edges ``(j, i)``, shape ``[2, E]``, where they are given.
        edge_shift: Lattice images crossed by them, shape ``[E, 3]``.

    Returns:
        Second derivatives in U/Å², shape ``[N, 3, N, 3]``.

    Example:
        >>> spring = lambda z, pos, batch: (pos[1] - pos[0]).square().sum().view(1)
        >>> hessian(spring, torch.tensor([1, 1]), torch.zeros(2, 3))[0, 0, :, 0]
        tensor([ 2., -2.])
    """
    given: dict[str, Any] = {"cell": cell, "pbc": pbc, "edge_index": edge_index, "edge_shift": edge_shift}
    if _is_limited(z, pos, *given.values()):
        with _no_limits(pos.device.type):
            (z, pos), given = _ordinary(z, pos), dict(zip(given, _ordinary(*given.values()), strict=True))
            return hessian(_with_ordinary_weights(model), z, pos, **given)
    pos = pos.detach().requires_grad_(True)
    found: Any = energy_forces_stress(model, z, pos, **given, create_graph=True)
    forces = found.forces.reshape(-1)
    rows = [torch.autograd.grad(-component, pos, retain_graph=True, materialize_grads=True)[0] for component in forces]
    return torch.stack(rows).view(*pos.shape, *pos.shape)


def _gradients_of_model(
    model: EnergyModel,
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None,
    given: dict[str, Any],
    strain: bool,
) -> EnergyGradients | None:
    """Energies and gradients from the model itself, where it computes them without autograd."""
    if getattr(type(model), "energy_and_gradients", None) is None:  # of the class: wrappers pass on attributes
        return None
    own: Any = model
    with torch.no_grad():
        return own.energy_and_gradients(z, pos, batch, strain=strain, **given)


def _gradients_by_autograd(
    model: EnergyModel,
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None,
    given: dict[str, Any],
    forces: bool,
    stress: bool,
    create_graph: bool,
) -> EnergyGradients:
    """Energies and gradients of what ``model`` returns, with respect to positions and strain."""
    if isinstance(model, nn.Module) and any(weight.is_inference() for weight in islice(model.parameters(), 1)):
        model = _with_ordinary_weights(model)
    with torch.set_grad_enabled(forces or stress or create_graph):
        pos = pos if create_graph and pos.requires_grad else pos.detach().requires_grad_(True)
        strain, strained = None, pos
        if stress:
            strain = pos.new_zeros(given["cell"].size(0), 3, 3).requires_grad_(True)
            owner = torch.zeros_like(z) if batch is None else batch
            symmetric = 0.5 * (strain + strain.mT)
            strained, cell = apply_strain(pos, given["cell"], symmetric, owner)
            given = {**given, "cell": cell}
        energy = _energy_of(model, z, strained, batch, given)
        inputs = [x for x in (pos if forces or stress else None, strain) if x is not None]
        gradients = _gradients(energy, inputs, create_graph)
    grad_pos, grad_strain = (*gradients, None, None)[:2]
    return EnergyGradients(energy if create_graph else energy.detach(), grad_pos, grad_strain)


def _energy_of(model: EnergyModel, z: Tensor, pos: Tensor, batch: Tensor | None, given: dict[str, Any]) -> Tensor:
    """Energies ``[B]``; keywords that are ``None`` are left out of the call."""
    energy = model(z, pos, batch, **{name: value for name, value in given.items() if value is not None})
    if not isinstance(energy, Tensor):
        raise ValueError(f"the model must return a tensor of energies, [B] or [B, 1]; got a {type(energy).__name__}")
    if energy.dim() == 2 and energy.size(1) == 1:
        energy = energy.squeeze(1)
    if energy.dim() != 1:
        raise ValueError(
            f"the model must return one energy for each structure, [B] or [B, 1]; got {list(energy.shape)}"
        )
    return energy


def _gradients(energy: Tensor, inputs: list[Tensor], create_graph: bool) -> list[Tensor]:
    """Gradients of the sum of energies; zeros where it does not depend on an input, as for atoms without neighbours."""
    if not inputs:
        return []
    if not energy.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    return list(torch.autograd.grad(energy.sum(), inputs, create_graph=create_graph, materialize_grads=True))


def _is_limited(*given: Tensor | None) -> bool:
    """Whether results could not be differentiated (inference mode), or not in their own precision (autocast)."""
    tensors = [x for x in given if x is not None]
    if not all([isinstance(x, Tensor) for x in (*given[:2], *tensors)]):  # noqa: C419 - a list is faster
        kinds = {type(x).__name__ for x in (*given[:2], *tensors) if not isinstance(x, Tensor)}
        raise ValueError(
            "atomic numbers, positions and everything that belongs to them must be tensors, got "
            f"{', '.join(sorted(kinds))}"
        )
    pos = given[1]
    if pos is not None and not pos.is_floating_point():
        raise ValueError(f"positions must be floating point numbers in Å, [N, 3]; got {pos.dtype}")
    if torch.is_inference_mode_enabled() or is_cast(tensors[1]):
        return True
    return any([x.is_inference() for x in tensors])  # noqa: C419 - a list is faster


@contextlib.contextmanager
def _no_limits(device_type: str) -> Iterator[None]:
    """Switch inference mode and autocast off."""
    kind = "cpu" if device_type == "meta" else device_type
    with torch.inference_mode(False), torch.autocast(kind, enabled=False):
        yield


def _ordinary(*given: Tensor | None) -> list[Any]:
    """The same tensors, with copies of those made in inference mode, which autograd refuses."""
    return [x.clone() if x is not None and x.is_inference() else x for x in given]


def _with_ordinary_weights(model: EnergyModel) -> EnergyModel:
    """The model, called with copies of its weights where these were made in inference mode."""
    if not isinstance(model, nn.Module):
        return model
    state = dict(chain(model.named_parameters(), model.named_buffers()))
    if not any(value.is_inference() for value in state.values()):
        return model
    return partial(_call_with, model, dict(zip(state, _ordinary(*state.values()), strict=True)))


def _call_with(model: nn.Module, state: dict[str, Tensor], *inputs: Any, **keywords: Any) -> Tensor:
    return torch.func.functional_call(model, state, inputs, keywords)


def _check_number(cell: Tensor, batch_size: int) -> None:
    if cell.size(0) != batch_size:
        raise ValueError(f"cell must hold one cell for each of {batch_size} structures, got {cell.size(0)}")


def check_volume(cell: Tensor | None, pbc: Tensor | None) -> None:
    """Raise unless every structure has a cell with a volume, so that its stress is defined.

    Args:
        cell: Lattice vectors in rows in Å, shape ``[B, 3, 3]``.
        pbc: Periodic directions, shape ``[B, 3]``.

    Raises:
        ValueError: If there is no cell, or its three vectors are linearly dependent or zero.

    Example:
        >>> check_volume(torch.diag(torch.tensor([3.0, 3.0, 20.0]))[None], torch.tensor([[True, True, False]]))
    """
    if cell is None or pbc is None:
        raise ValueError(
            "stress is defined for structures in a cell with a volume only; pass cell ([B, 3, 3], Å) and pbc ([B, 3])"
        )
    if cell.dim() != 3 or cell.shape[1:] != (3, 3):
        raise ValueError(f"cell must hold lattice vectors in rows, [B, 3, 3] in Å; got {list(cell.shape)}")
    if pbc.dtype != torch.bool or pbc.shape != cell.shape[:2]:
        raise ValueError(
            f"pbc must be booleans, one row for each of {cell.size(0)} cells, [B, 3]; got {list(pbc.shape)} of "
            f"{pbc.dtype}"
        )
    vectors = cell.detach()
    if not is_at_hand(vectors):  # reading would wait for the device; the stress is not finite there without a volume
        return
    flat = ~has_volume(vectors)
    if bool(flat.any()):
        first = int(flat.nonzero()[0])
        raise ValueError(
            f"stress is defined for structures in a cell with a volume; structure {first} has the cell vectors "
            f"{vectors[first].tolist()} Å and pbc={pbc[first].tolist()}; give three independent vectors, for a slab or "
            "a wire with the vacuum that its stress refers to"
        )

"""Element energies and other reference values of the elements, fitted before training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.utils import scatter

from pyg_schnet.ops import sum_species
from pyg_schnet.ops.checks import check_atoms_of_structures
from pyg_schnet.ops.sort_edges import check_keys

MAX_Z = 99
"""Largest atomic number with an embedding, as in the SchNet of PyTorch Geometric; 0 is padding."""


def element_counts(z: Tensor, batch: Tensor, batch_size: int, *, mean: bool = False) -> Tensor:
    """Number, or fraction, of the atoms of each element in each structure.

    Args:
        z: Atomic numbers, shape ``[N]``; 0 is padding, which is not counted.
        batch: Structure of each atom, shape ``[N]``.
        batch_size: Number of structures B.
        mean: Whether to divide by the number of atoms.

    Returns:
        Counts or fractions in float64 (float32 on devices without it), shape ``[B, MAX_Z + 1]``.

    Example:
        >>> element_counts(torch.tensor([8, 1, 1]), torch.tensor([0, 0, 0]), 1)[0, [1, 8]]
        tensor([2., 1.], dtype=torch.float64)
    """
    check_atoms_of_structures(z, batch, batch_size)
    check_keys(z, MAX_Z + 1, "atoms have atomic numbers")
    check_keys(batch, batch_size, "atoms name structures")
    ones = (z > 0).to(torch.float32 if z.device.type == "mps" else torch.float64)
    counts = scatter(ones, batch * (MAX_Z + 1) + z, 0, batch_size * (MAX_Z + 1), reduce="sum")
    counts = counts.view(batch_size, MAX_Z + 1)
    return counts / counts.sum(1, keepdim=True).clamp(min=1.0) if mean else counts


def sum_references(
    atomref: Tensor, z: Tensor, batch: Tensor, batch_size: int, *, mean: bool | Tensor = False
) -> Tensor:
    """Reference value of each structure, summed in float64.

    Total energies reach -17,600 eV, where float32 numbers are 2 meV apart. Models are therefore trained on the
    difference from this sum, and the sum is added back in float64.

    Args:
        atomref: Value of each element, shape ``[MAX_Z + 1, out_channels]``.
        z: Atomic numbers, shape ``[N]``.
        batch: Structure of each atom, shape ``[N]``.
        batch_size: Number of structures B.
        mean: Whether the property is a mean over atoms (eq. 2) instead of a sum (eq. 1); or which of several
            properties are, bool ``[out_channels]``.

    Returns:
        References in float64, shape ``[B, out_channels]``.

    Raises:
        IndexError: On CPUs, if an atomic number or structure is out of range.

    Example:
        >>> atomref = torch.zeros(MAX_Z + 1, 1)
        >>> atomref[1], atomref[8] = -13.5, -2041.25
        >>> sum_references(atomref, torch.tensor([8, 1, 1]), torch.tensor([0, 0, 0]), 1)
        tensor([[-2068.2500]], dtype=torch.float64)
    """
    total, counts = sum_species(atomref, z, batch, batch_size)
    if mean is False:
        return total
    means = total / counts.clamp(min=1.0).unsqueeze(-1)
    return torch.where(mean, means, total) if isinstance(mean, Tensor) else means


def fit_atom_references(counts: Tensor, target: Tensor) -> Tensor:
    r"""Values of the elements that fit a property best, by least squares.

    .. math:: \min_{\mathbf{a}} \sum_b \Bigl( y_b - \sum_Z n_{bZ}\, a_Z \Bigr)^2

    The result is rounded to float32, so that it is the same in models of either precision. Where compositions do not
    determine the values (such as structures of one composition only), the smallest ones are taken.

    Args:
        counts: ``element_counts`` of the training structures, shape ``[B, MAX_Z + 1]``.
        target: Property, shape ``[B]`` or ``[B, out_channels]``, any unit.

    Returns:
        References in float64, shape ``[MAX_Z + 1, out_channels]``; zero for elements that do not occur.

    Raises:
        ValueError: If shapes do not fit or the target is not finite.

    Example:
        >>> z, batch = torch.tensor([1, 1, 8, 1, 1]), torch.tensor([0, 0, 1, 1, 1])
        >>> references = fit_atom_references(element_counts(z, batch, 2), torch.tensor([-2.0, -5.0]))
        >>> references[[1, 8], 0]
        tensor([-1., -3.], dtype=torch.float64)
    """
    target = target.to(torch.float64).reshape(target.size(0), -1)
    if counts.size(0) != target.size(0):
        raise ValueError(f"counts and target must have one row a structure, got {counts.size(0)} and {target.size(0)}")
    if not torch.isfinite(counts).all():
        raise ValueError("counts hold NaN or infinite values; take those of element_counts")
    if not torch.isfinite(target).all():
        raise ValueError("target holds NaN or infinite values; remove or mask those structures first")
    references = torch.zeros(counts.size(1), target.size(1), dtype=torch.float64, device=counts.device)
    present = counts.any(0)
    # The normal equations have one row for each element; the pseudo-inverse also solves dependent ones.
    matrix = counts[:, present].to(torch.float64)
    solution = torch.linalg.pinv(matrix.mT @ matrix, rtol=1e-12, hermitian=True) @ (matrix.mT @ target)
    # One step of refinement recovers the digits that squaring the condition number cost.
    residual = target - matrix @ solution
    solution = solution + torch.linalg.pinv(matrix.mT @ matrix, rtol=1e-12, hermitian=True) @ (matrix.mT @ residual)
    references[present] = solution
    return references.to(torch.float32).to(torch.float64)

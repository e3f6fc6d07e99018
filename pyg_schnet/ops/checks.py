"""Checks of sizes, numbers, edges and weights where they are given: one sentence for each kind, written once.

Shapes and types cost nothing. Values are read on CPUs only, so that nothing waits for another device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.ops.dispatch import is_at_hand

MOST_CHANNELS = 10**6
"""Largest size of a layer."""

MOST_PARAMETERS = 10**9
"""Largest number of parameters of a model, 4 GB in float32."""

SHORTEST, LONGEST = 1e-6, 1e9
"""Lengths in Å between which squares and their inverses are numbers in float32."""

MOST_ROWS = 10**8
"""Largest number of atoms or structures, for each of which sums take memory."""

_LARGEST = 1e30  # of other numbers, so that sums of them are numbers in float32
_SIGNED = (torch.int64, torch.int32, torch.int16, torch.int8)


def whole_number(value: Any, name: str, least: int = 1, most: int = MOST_CHANNELS) -> int:
    """A size or count as ``int``.

    Args:
        value: What was given, an ``int`` or a whole number of NumPy.
        name: What it is, for the message.
        least: Smallest value.
        most: Largest value.

    Raises:
        ValueError: If it is anything else or out of range.

    Example:
        >>> whole_number(64, "hidden_channels")
        64
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
        raise ValueError(f"{name} must be a whole number, at least {least} and at most {most}, got {shown(value)}")
    return int(value)


def whole_numbers(**sizes: Any) -> Iterable[int]:
    """:func:`whole_number` for several sizes by name."""
    return [whole_number(value, name) for name, value in sizes.items()]


def real_number(value: Any, name: str, what: str = "a finite number") -> float:
    """A finite number as ``float``, at most 1e30 in magnitude.

    Args:
        value: A number of Python or NumPy, or a tensor with one element.
        name: What it is, for the message.
        what: What is expected.

    Raises:
        ValueError: If it is anything else.

    Example:
        >>> real_number(2, "scale")
        2.0
    """
    number = as_real(value)
    if number is None or not abs(number) <= _LARGEST:
        raise ValueError(f"{name} must be {what}, got {shown(value)}")
    return number


def positive_length(value: Any, name: str = "cutoff") -> float:
    """A length in Å as ``float``.

    Args:
        value: A number of Python or NumPy, or a tensor with one element.
        name: What it is, for the message.

    Raises:
        ValueError: If it is no positive length, or too short or long for single precision.

    Example:
        >>> positive_length(5)
        5.0
    """
    number = as_real(value)
    if number is None or not math.isfinite(number) or not number > 0:
        raise ValueError(f"{name} must be a positive length in Å, got {shown(value)}")
    if not SHORTEST <= number <= LONGEST:
        raise ValueError(f"{name} must be a length of {SHORTEST:g} to {LONGEST:g} Å, got {shown(value)}")
    return number


def as_real(value: Any) -> float | None:
    """A number as ``float``; ``None`` for truth values, text, complex numbers and everything else that is none."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 and not value.is_meta else None
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__} ({text[:40].strip()!r}...)"


def check_parameters(count: int, name: str) -> None:
    """Raise a ValueError for more parameters than :data:`MOST_PARAMETERS`, before memory is taken for them."""
    if count > MOST_PARAMETERS:
        raise ValueError(
            f"{name} of these sizes would have {count:.2g} parameters, at most {MOST_PARAMETERS:.0e} are possible; "
            "take smaller sizes"
        )


def check_finite(tensors: Iterable[tuple[str, Tensor]], owner: str = "the model") -> None:
    """Raise unless all floating point numbers of a state dict are finite.

    Args:
        tensors: Names and tensors, such as ``state_dict.items()``.
        owner: What they belong to, for the message.

    Raises:
        ValueError: If there is NaN or infinity; the message names the first such tensor.

    Example:
        >>> check_finite([("weight", torch.ones(2))])
    """
    for name, value in tensors:
        if not value.is_floating_point() or value.is_meta or math.isfinite(float(value.detach().double().sum())):
            continue
        n_bad = int((~torch.isfinite(value)).sum())
        if n_bad:
            raise ValueError(
                f"{owner} has a weight that is not finite: {n_bad} of {value.numel()} numbers of {name} are NaN or "
                "infinite, as after a training that diverged; take an earlier state of it"
            )


def check_prediction(value: Tensor, what: str) -> None:
    """Raise unless a prediction is finite; checked on CPUs only, and not inside of transforms.

    Args:
        value: Prediction, any shape.
        what: What it is, for the message.

    Raises:
        ValueError: If there is NaN or infinity.
    """
    if is_at_hand(value) and not math.isfinite(float(value.detach().sum())):
        refuse_prediction(value, what)


def refuse_prediction(value: Tensor, what: str) -> None:
    """Raise a ValueError that says how much of a prediction is not finite, if anything is."""
    n_bad = int((~torch.isfinite(value)).sum())
    if n_bad:
        raise ValueError(
            f"the {what} predicted by the model is not finite ({n_bad} of {value.numel()} numbers); check positions "
            "and cell, and whether the weights are finite"
        )


def check_edge_index(edge_index: Any) -> None:
    """Raise a ValueError unless edges are ``(j, i)``, ``[2, E]``, of int64 or int32."""
    good = isinstance(edge_index, Tensor) and edge_index.dim() == 2 and edge_index.size(0) == 2
    if not good or edge_index.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"edge_index must hold (j, i) of each edge, shape [2, E] of int64; got {described(edge_index)}"
        )


def check_edge_shift(edge_shift: Any, n_edges: int) -> None:
    """Raise a ValueError unless lattice images are signed integers ``[E, 3]``, one row for each edge."""
    good = isinstance(edge_shift, Tensor) and edge_shift.shape == (n_edges, 3) and edge_shift.dtype in _SIGNED
    if not good:
        raise ValueError(
            f"edge_shift must count the lattice vectors crossed by each of the {n_edges} edges, [E, 3] of int32 or "
            f"int64; got {described(edge_shift)}"
        )


def check_index(index: Tensor, *sizes: int) -> None:
    """Raise an IndexError unless edges name atoms that there are; checked on CPUs only.

    Args:
        index: Ends of edges, such as ``(j, i)``, one row for each size, shape ``[2, E]``.
        *sizes: Number of atoms for each row.
    """
    if index.size(1) == 0 or not is_at_hand(index):
        return
    for row, size in zip(index, sizes, strict=True):
        low, high = torch.aminmax(row)
        if is_at_hand(low) and (low < 0 or high >= size):  # not where shapes alone are found
            raise IndexError(f"edges name atoms {int(low)} to {int(high)}, but there are {size}")


def check_pointer(ptr: Any, index: Tensor, size: int, name: str = "edge_ptr") -> None:
    """Raise unless a pointer says where the edges of each target begin and end; values are read on CPUs only.

    Args:
        ptr: Shape ``[size + 1]``, int64.
        index: Target of each edge, shape ``[E]``.
        size: Number of targets.
        name: Name of the pointer, for the message.

    Raises:
        ValueError: If it is none, or edges are not sorted by target.
    """
    if not isinstance(ptr, Tensor) or ptr.shape != (size + 1,) or ptr.dtype != torch.int64:
        raise ValueError(
            f"{name} must say where the edges of each of the {size} targets begin and end, [{size + 1}] of int64; got "
            f"{described(ptr)}"
        )
    if not is_at_hand(ptr) or not is_at_hand(index):
        return
    if not is_at_hand(ptr.diff()):  # where shapes alone are found
        return
    # NumPy's, as torch's own threads hang in processes that were forked off
    counts, targets = np.diff(ptr.numpy()), index.detach().numpy()
    rises = int(ptr[0]) == 0 and int(ptr[-1]) == targets.size and bool((counts >= 0).all())
    if not rises or not np.array_equal(np.repeat(np.arange(size), counts), targets):
        raise ValueError(
            f"{name} must say where the edges of each target begin and end, in edges that are sorted by target; these "
            "are not; leave it out, or take torch_geometric.index.index2ptr(edge_index[1], num_targets)"
        )


def check_atoms_of_structures(z: Any, batch: Any, batch_size: Any) -> None:
    """Raise a ValueError unless ``z`` and ``batch`` are ``[N]`` of int64 and there is a number of structures."""
    for name, value in (("z", z), ("batch", batch)):
        if not isinstance(value, Tensor) or value.dim() != 1 or value.dtype != torch.int64:
            raise ValueError(f"{name} must hold one number for each atom, [N] of int64; got {described(value)}")
    if z.size(0) != batch.size(0):
        raise ValueError(f"z and batch must be of the same atoms, [N]; got {z.size(0)} and {batch.size(0)}")
    check_batch_size(batch_size)


def check_batch_size(batch_size: Any) -> None:
    """Raise a ValueError unless a number of structures is a whole number of at most 10**8."""
    if type(batch_size) is int and 0 <= batch_size <= MOST_ROWS:
        return
    is_whole = isinstance(batch_size, (Integral, torch.SymInt)) and not isinstance(batch_size, bool)
    if not is_whole or not batch_size >= 0:
        raise ValueError(f"batch_size must be the number of structures, got {shown(batch_size)}")
    if batch_size > MOST_ROWS:
        raise ValueError(f"batch_size must be the number of structures, at most {MOST_ROWS}, got {batch_size}")


def described(value: Any) -> str:
    """Shape and type of a tensor, or the class of something else, for messages."""
    if isinstance(value, Tensor):
        return f"{list(value.shape)} of {value.dtype}" + ("" if value.device.type == "cpu" else f" on {value.device}")
    return "None" if value is None else f"a {type(value).__name__}"


def check_rows(columns: Sequence[tuple[str, Tensor]], n_rows: int, of_what: str) -> None:
    """Raise a ValueError unless tensors have one row for each of ``n_rows`` things."""
    for name, value in columns:
        if not isinstance(value, Tensor) or value.dim() < 1 or value.size(0) != n_rows:
            raise ValueError(f"{name} must have one row for each of the {n_rows} {of_what}; got {described(value)}")

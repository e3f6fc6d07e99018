"""Splits into training, validation and test structures, as lists of indices that can be saved with a run."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.data.atoms import atoms_of
from pyg_schnet.data.loader import collate_indices
from pyg_schnet.data.structure import batch_near_origin
from pyg_schnet.models.reading import described, read_arrays, read_json
from pyg_schnet.models.writing import write_whole, written

_CHUNK = 10_000  # structures hashed at a time


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of the training, validation and test structures of one data set.

    Args:
        train: Indices of the training structures, int64.
        val: Indices of the validation structures.
        test: Indices of the test structures.
        n_structures: Size of the data set.
        fingerprint: Fingerprint of the data set, if known.

    Raises:
        ValueError: If an index is negative, too large, or appears twice in the three together.

    Example:
        >>> Split([0, 2], [1], [3], n_structures=4)
        Split(train=2, val=1, test=1, n_structures=4)
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    n_structures: int
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        size = self.n_structures
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 0:
            raise ValueError(f"n_structures must be the size of a data set, a whole number, got {described(size)}")
        if not isinstance(self.fingerprint, (str, type(None))):
            raise ValueError(f"fingerprint must be a text or None, got {described(self.fingerprint)}")
        for name in ("train", "val", "test"):
            try:
                given = np.asarray(getattr(self, name))
            except ValueError:  # lists of different lengths
                given = np.empty((0, 0))
            if given.ndim != 1:
                raise ValueError(f"{name} must be a list of indices, got {described(getattr(self, name))}")
            if given.size and not np.issubdtype(given.dtype, np.integer):
                raise ValueError(f"{name} must hold whole numbers, got {given.dtype}")
            object.__setattr__(self, name, given.astype(np.int64).reshape(-1))  # a copy of its own
        together = np.concatenate([self.train, self.val, self.test])
        if together.size and not 0 <= together.min() <= together.max() < self.n_structures:
            bounds = f"indices run from {together.min()} to {together.max()}"
            raise ValueError(f"{bounds}; the data set has {self.n_structures} structures")
        unique, times = np.unique(together, return_counts=True)
        if (times > 1).any():
            raise ValueError(f"structure {unique[times > 1][0]} appears more than once in train, val and test")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}={len(getattr(self, name))}" for name in ("train", "val", "test"))
        return f"Split({sizes}, n_structures={self.n_structures})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Split):
            return NotImplemented
        same = all(np.array_equal(getattr(self, name), getattr(other, name)) for name in ("train", "val", "test"))
        return same and (self.n_structures, self.fingerprint) == (other.n_structures, other.fingerprint)

    __hash__ = None  # type: ignore[assignment]

    def apply(self, dataset: Any) -> tuple[Any, Any, Any]:
        """The training, validation and test parts of ``dataset``.

        Raises:
            ValueError: If it is not the data set that the split was made for.
        """
        if len(dataset) != self.n_structures:
            grown = "; give split_by for one that has grown" if len(dataset) > self.n_structures else ""
            raise ValueError(f"the split is of {self.n_structures} structures; this data set has {len(dataset)}{grown}")
        if self.fingerprint is not None and self.fingerprint != (found := fingerprint(dataset)):
            raise ValueError(
                f"the split is of another data set: its structures have fingerprint {self.fingerprint}, these {found}"
            )
        return tuple(_select(dataset, index) for index in (self.train, self.val, self.test))

    def save(self, path: str | os.PathLike) -> None:
        """Write the split to ``path``: as JSON if it ends in ``.json``, as a NumPy archive if in ``.npz``."""
        path = Path(path)
        arrays: dict[str, Any] = {"train": self.train, "val": self.val, "test": self.test}
        if _format(path) == ".json":
            content = {"n_structures": self.n_structures, "fingerprint": self.fingerprint}
            write_whole(path, json.dumps(content | {name: index.tolist() for name, index in arrays.items()}) + "\n")
        else:
            with written(path) as partial, open(partial, "wb") as file:
                np.savez_compressed(file, n_structures=self.n_structures, fingerprint=self.fingerprint or "", **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Split:
        """Read what :meth:`save` wrote.

        Raises:
            OSError: If it is no file that can be read.
            ValueError: If the file is not a split; the message says what is wrong.
        """
        path = Path(path)
        names = ("train", "val", "test", "n_structures", "fingerprint")
        try:
            content: Any = read_json(path) if _format(path) == ".json" else read_arrays(path, names)
            if not isinstance(content, dict):
                raise ValueError(f"it must be a dictionary, got {described(content)}")
            if missing := [name for name in names if name not in content]:
                raise ValueError(f"it has no {', '.join(missing)}")
            train, val, test, size, print_ = (content[name] for name in names)
            size, print_ = (_of_array(one) for one in (size, print_))
            return cls(train, val, test, size, None if print_ == "" else print_)
        except ValueError as error:
            reason = re.sub(f"^{re.escape(str(path))}", "it", str(error))
            raise ValueError(f"{path} is not a saved split: {reason}") from error


def _of_array(value: Any) -> Any:
    """The number or text that NumPy keeps as an array."""
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _format(path: Path) -> str:
    if path.suffix not in (".json", ".npz"):
        raise ValueError(f"a split is kept in a file that ends in .json or .npz, got {path}")
    return path.suffix


def _select(dataset: Any, index: np.ndarray) -> Any:
    if hasattr(dataset, "index_select"):
        return dataset.index_select(index.tolist())
    return torch.utils.data.Subset(dataset, index.tolist())


def random_split_indices(
    n_structures: int, num_train: int, num_val: int, num_test: int | None = None, seed: int = 0
) -> Split:
    """Random split of ``n_structures`` structures, the same on every machine and with every version of NumPy.

    The structures are ordered by one 64-bit random number each, drawn from PCG64. NumPy promises never to change the
    raw numbers of that generator; it makes no such promise for its ``permutation``.

    Args:
        n_structures: Size of the data set.
        num_train: Training structures, the first of the random order.
        num_val: Validation structures, those that follow.
        num_test: Test structures, those that follow; ``None`` for all that are left.
        seed: Of the random order. The order does not depend on the other numbers, so a larger training set contains
            the smaller one.

    Returns:
        The split, without a fingerprint.

    Raises:
        ValueError: If a number is negative or there are not enough structures.

    Example:
        >>> random_split_indices(10, 5, 2).train.tolist()
        [3, 2, 1, 8, 6]
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    test_is_rest = num_test is None
    num_test = n_structures - num_train - num_val if num_test is None else num_test
    if min(num_train, num_val, num_test) < 0 or num_train + num_val + num_test > n_structures:
        rest = "" if test_is_rest else f" and {num_test:,} test"
        raise ValueError(
            f"cannot take {num_train:,} training, {num_val:,} validation{rest} structures from {n_structures:,}; "
            "choose num_train, num_val and num_test of at least 0 whose sum is not larger"
        )
    order = np.argsort(np.random.PCG64(seed).random_raw(n_structures), kind="stable")
    train, val, test = np.split(order[: num_train + num_val + num_test], [num_train, num_train + num_val])
    return Split(train, val, test, n_structures)


def random_split(dataset: Any, num_train: int, num_val: int, num_test: int | None = None, seed: int = 0) -> Split:
    """``random_split_indices`` for a data set, with its fingerprint."""
    split = random_split_indices(len(dataset), num_train, num_val, num_test, seed)
    return Split(split.train, split.val, split.test, split.n_structures, fingerprint(dataset))


def group_split_indices(
    groups: Any, num_train: int | None, num_val: int, num_test: int | None, seed: int = 0, partners: Any = None
) -> Split:
    """Random split in which no group of structures is in two parts, such as the geometries of one molecule.

    Whole groups, in a random order, fill the test part, then the validation part; what is left is for training. Of a
    part's last group only as many structures are taken as are wanted, the others are in no part.

    A structure of two groups, such as a pair of molecules, belongs to the first one. It is in no part if it would bring
    a group of the test into validation or training, or one of validation into training; the other way is no harm.
    Where the test has what is left, structures of training and validation have both groups there.

    Args:
        groups: Group of each structure, whole numbers, shape ``[n]``.
        num_train: Training structures; ``None`` for all that are left.
        num_val: Validation structures.
        num_test: Test structures; ``None`` for all that the other two leave.
        seed: Of the random order.
        partners: Second group of each structure, the first one again where there is none, shape ``[n]``.

    Returns:
        The split, without a fingerprint.

    Raises:
        ValueError: If a number is negative or there are not enough groups.

    Example:
        >>> split = group_split_indices([7, 7, 7, 3, 3, 3], None, 2, 0)
        >>> split.val.tolist(), split.train.tolist()
        ([0, 1], [3, 4, 5])
        >>> group_split_indices([7, 7, 7, 3, 3, 3], None, 2, 0, partners=[7, 7, 3, 3, 3, 7]).train.tolist()
        [3, 4]
    """
    groups = np.asarray(groups).reshape(-1)
    numbers, group = np.unique(groups, return_inverse=True)
    if seed < 0 or min(number or 0 for number in (num_train, num_val, num_test)) < 0:
        raise ValueError(f"numbers and seed must be at least 0, got {num_train}, {num_val}, {num_test} and {seed}")
    order = np.empty(len(numbers), dtype=np.int64)  # place of each group
    order[np.argsort(np.random.PCG64(seed).random_raw(len(numbers)), kind="stable")] = np.arange(len(numbers))
    first = order[group]
    second = first if partners is None else _places(np.asarray(partners).reshape(-1), numbers, order)
    last = np.maximum(first, second)
    wanted = {"test": (num_test, first), "val": (num_val, first), "train": (num_train, first)}
    if num_test is None:  # before the others are taken, it is not known which groups are left for the test
        wanted = {"val": (num_val, last), "train": (num_train, last), "test": (None, first)}
    left, parts, end = np.arange(len(groups)), {}, -1
    for name, (number, place) in wanted.items():
        left = left[np.argsort(place[left], kind="stable")]
        part = parts[name] = left[:number]
        if number is not None and len(part) < number:
            raise ValueError(
                f"cannot take {num_train or 'other'} training, {num_val} validation and {num_test or 'other'} test "
                f"structures from {len(groups):,} of {len(numbers):,} groups, each in one part; choose smaller numbers"
            )
        end = place[part].max(initial=end)  # the place of its last group
        is_free = (second > end) | (second < 0) | (name == "train")
        left = left[((first > end) & is_free)[left]]
    return Split(parts["train"], parts["val"], parts["test"], len(groups))


def _places(of: np.ndarray, numbers: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Places of groups in the random order, -1 for those that are none."""
    place = np.searchsorted(numbers, of).clip(max=max(len(numbers) - 1, 0))
    return np.where(numbers[place] == of, order[place], -1)


def group_split(
    dataset: Any, by: str, num_train: int | None, num_val: int, num_test: int | None, seed: int = 0
) -> Split:
    """``group_split_indices`` for a data set, by an attribute with one whole number for each structure.

    Args:
        dataset: The data set.
        by: Name of the attribute, such as ``"molecule"``. Structures may have a second group, as
            ``"molecule_partner"``.
        num_train: Training structures; ``None`` for all that are left.
        num_val: Validation structures.
        num_test: Test structures; ``None`` for all that are left.
        seed: Of the random order.

    Raises:
        ValueError: If structures have no such attribute, or there are not enough groups.
    """
    of_first, of_second = _groups_of(dataset, by)
    return group_split_indices(of_first, num_train, num_val, num_test, seed, of_second)


def grown_split(split: Split, dataset: Any, by: str) -> Split:
    """A split of a data set that has grown: what was held back still is, and what is new is trained on.

    Structures that were added to the end go into training, but those whose group, or second group, has structures in
    validation or test; these are in no part. So errors of runs before and after can be compared, and a run that starts
    from the model of another one does not validate on what that has learned from.

    Args:
        split: Split of the first structures; one of all structures is given back.
        dataset: The data set, larger by structures at its end.
        by: Name of an attribute with one whole number for each structure, as in :func:`group_split`.

    Returns:
        The split of all structures, without a fingerprint.

    Raises:
        ValueError: If the first structures are not those that the split was made for, or have no such attribute.

    Example:
        >>> from torch_geometric.data import Data
        >>> place = torch.zeros(1, 3)
        >>> data = [Data(z=torch.tensor([1]), pos=place, molecule=torch.tensor([k])) for k in (1, 1, 2, 2, 3)]
        >>> grown_split(Split([0, 1], [2], [], n_structures=3), data, "molecule").train.tolist()
        [0, 1, 4]
    """
    before = split.n_structures
    if len(dataset) <= before:  # one of fewer structures is refused when it is applied
        return split
    if split.fingerprint is not None and split.fingerprint != (found := fingerprint(dataset, before)):
        raise ValueError(
            f"the split is of other structures: they have fingerprint {split.fingerprint}, the first {before:,} of "
            f"this data set {found}; add new structures at the end"
        )
    first, second = _groups_of(dataset, by)
    held = first[np.concatenate([split.val, split.test])]
    is_free = ~np.isin(first, held) & ~np.isin(second, held)
    new = np.arange(before, len(first))
    return Split(np.concatenate([split.train, new[is_free[before:]]]), split.val, split.test, len(first))


def _groups_of(dataset: Any, by: str) -> tuple[np.ndarray, np.ndarray]:
    """First and second group of each structure, shape ``[n]``."""
    groups, partners = [], []
    for start in range(0, len(dataset), _CHUNK):
        batch = collate_indices(dataset, range(start, min(start + _CHUNK, len(dataset))))
        value, partner = batch.get(by), batch.get(f"{by}_partner")
        if not isinstance(value, Tensor) or value.is_floating_point() or value.numel() != batch.num_graphs:
            raise ValueError(
                f"structures can be split by an attribute with one whole number for each, as 'molecule' of "
                f"ReferenceData; {by!r} is none, they have {', '.join(sorted(batch.keys()))}"
            )
        groups.append(value.reshape(-1))
        partners.append(value.reshape(-1) if partner is None else partner.reshape(-1))
    return torch.cat(groups).numpy(), torch.cat(partners).numpy()


def fingerprint(dataset: Any, count: int | None = None) -> str:
    """Short hash of the structures of a data set: atomic numbers, positions rounded to float32, and their order.

    Positions of structures far from zero count from near it, as :func:`~pyg_schnet.data.to_data` has them in float32.
    Labels and the ``transform`` of the data set do not count, and neither does the precision in which the positions
    are kept, if it is at least float32.

    Args:
        dataset: Any data set of ``Data`` with ``z`` and ``pos``.
        count: Number of structures from the beginning; all by default.

    Returns:
        Sixteen hexadecimal digits.
    """
    if getattr(dataset, "transform", None) is not None:  # making graphs only to hash atoms would take minutes
        dataset = copy.copy(dataset)
        dataset.transform = None
    hashes = [hashlib.sha256() for _ in range(3)]
    end = len(dataset) if count is None else count
    for start in range(0, end, _CHUNK):
        batch = collate_indices(dataset, range(start, min(start + _CHUNK, end)))
        z, pos = atoms_of(batch)
        columns: Sequence[Tensor] = (batch.ptr.diff(), z.long(), batch_near_origin(pos, batch.ptr).float())
        for digest, column in zip(hashes, columns, strict=True):
            digest.update(column.contiguous().numpy().tobytes())
    return hashlib.sha256(b"".join(digest.digest() for digest in hashes)).hexdigest()[:16]

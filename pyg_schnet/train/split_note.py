"""What a model file says of the split it was trained with: enough to find its test structures again."""

from __future__ import annotations

import base64
import zlib
from dataclasses import replace
from typing import Any

import numpy as np

from pyg_schnet.data import Split
from pyg_schnet.data.split import random_split_indices
from pyg_schnet.train.files import RUN

_PARTS = ("train", "val", "test")
_LARGEST = 100_000_000  # structures of a data set, so that a damaged card does not take all memory


def note_split(split: Split, seed: int) -> dict[str, Any]:
    """A split as a card holds it: the seed that draws it, or two bits a structure where no seed does.

    Args:
        split: Split of the run.
        seed: Seed of the run, which most splits are drawn with.

    Example:
        >>> from pyg_schnet.data.split import random_split_indices
        >>> note_split(random_split_indices(10, 5, 2, 3, seed=4), seed=4)
        {'n_structures': 10, 'sizes': [5, 2, 3], 'seed': 4}
    """
    sizes = [len(getattr(split, name)) for name in _PARTS]
    note = {"n_structures": split.n_structures, "sizes": sizes}
    drawn = random_split_indices(split.n_structures, sizes[0], sizes[1], sizes[2], seed)
    if all(np.array_equal(getattr(split, name), getattr(drawn, name)) for name in _PARTS):
        return {**note, "seed": seed}
    return {**note, "parts": _pack(split)}


def split_of(card: dict[str, Any]) -> Split | None:
    """The split that a card notes, the structures of each part perhaps in another order; ``None`` without a note.

    Of older files, which note sizes alone, it is drawn as their options say.

    Args:
        card: Card of a model.

    Raises:
        ValueError: If the note is damaged.

    Example:
        >>> split = Split([3, 0], [1], [4], n_structures=5)
        >>> again = split_of({"split": {"structures": note_split(split, seed=0)}})
        >>> again.train.tolist(), again.test.tolist()
        ([0, 3], [4])
    """
    noted = card.get("split") or {}
    try:
        return _noted(noted, card)
    except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as error:
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"the split in the card of the model is damaged: {reason}") from error


def _noted(noted: dict[str, Any], card: dict[str, Any]) -> Split | None:
    structures, fingerprint = noted.get("structures"), noted.get("fingerprint")
    if structures is None:
        return _drawn(noted, (card.get(RUN) or {}).get("data") or {})
    number, sizes = structures["n_structures"], structures["sizes"]
    _check_counts([number, *sizes])
    if len(sizes) != len(_PARTS):
        raise ValueError(f"it has {len(sizes)} sizes, expected those of {', '.join(_PARTS)}")
    if "seed" in structures:
        _check_counts([structures["seed"]], 2**128)
        drawn = random_split_indices(number, sizes[0], sizes[1], sizes[2], structures["seed"])
        return Split(drawn.train, drawn.val, drawn.test, number, fingerprint)
    parts = _unpack(structures["parts"], number)
    train, val, test = (np.flatnonzero(parts == code) for code in (1, 2, 3))
    found = Split(train, val, test, number, fingerprint)
    if [len(getattr(found, name)) for name in _PARTS] != sizes:
        raise ValueError(f"its parts do not have {sizes} structures")
    return found


def _check_counts(numbers: list[Any], limit: int = _LARGEST) -> None:
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= limit:
            raise ValueError(f"expected a whole number from 0 to {limit:,}, got {number!r:.60}")


def _drawn(noted: dict[str, Any], data: dict[str, Any]) -> Split | None:
    """Split of a run by its options, where these take all structures of a data set and no file."""
    elsewhere = data.get("test_dataset") is not None
    takes_all = data.get("num_train") is None or (data.get("num_test") is None and not elsewhere)
    if not data or data.get("split") is not None or not takes_all or "num_train" not in noted:
        return None
    sizes = [noted["num_train"], noted["num_val"], 0 if elsewhere else noted["num_test"]]
    _check_counts(sizes)
    drawn = random_split_indices(sum(sizes), sizes[0], sizes[1], sizes[2], data.get("seed", 0))
    return replace(drawn, fingerprint=noted.get("fingerprint"))


def together(splits: list[Split]) -> Split:
    """The split of several runs on one data set: what one of them has learned from is learned from.

    Args:
        splits: Splits; the test structures are those of the first that no run has used otherwise.

    Example:
        >>> one, other = Split([0, 1], [2], [3, 4], 5), Split([0, 2], [1], [3], 5)
        >>> both = together([one, other])
        >>> both.train.tolist(), both.val.tolist(), both.test.tolist()
        ([0, 1, 2], [], [3, 4])
    """
    first = splits[0]
    if all(split == first for split in splits):
        return first
    train = np.unique(np.concatenate([split.train for split in splits]))
    val = np.setdiff1d(np.concatenate([split.val for split in splits]), train)
    test = np.setdiff1d(first.test, np.concatenate([train, val]))
    return Split(train, val, test, first.n_structures, first.fingerprint)


def check_untrained(card: dict[str, Any], split: Split) -> None:
    """Raise unless the test structures of a split are ones that a model has not learned from, as far as it says.

    Args:
        card: Card of the model.
        split: Split to test on.

    Raises:
        ValueError: If the split is of other structures, or a test structure was used in training or validation.
    """
    noted = (card.get("split") or {}).get("fingerprint")
    if noted is not None and split.fingerprint is not None and noted != split.fingerprint:
        raise ValueError(
            f"the model was trained on other structures: they have fingerprint {noted}, these {split.fingerprint}"
        )
    if seen := num_seen(card, split):
        raise ValueError(
            f"{seen:,} of the {len(split.test):,} test structures were used for training or validation of the "
            "model; test it on those of its own split (leave --split out)"
        )


def num_seen(card: dict[str, Any], split: Split) -> int:
    """Number of test structures of a split that a model has learned from; 0 where its file does not say.

    Args:
        card: Card of the model.
        split: Split of the same structures.
    """
    known = split_of(card)
    if known is None:
        return 0
    return int(np.isin(split.test, np.concatenate([known.train, known.val])).sum())


def _pack(split: Split) -> str:
    codes = np.zeros(-(-split.n_structures // 4) * 4, np.uint8)
    for code, name in enumerate(_PARTS, start=1):
        codes[getattr(split, name)] = code
    quads = codes.reshape(-1, 4)
    packed = quads[:, 0] | quads[:, 1] << 2 | quads[:, 2] << 4 | quads[:, 3] << 6
    return base64.b64encode(zlib.compress(packed.astype(np.uint8).tobytes(), 9)).decode("ascii")


def _unpack(text: str, number: int) -> np.ndarray:
    size = -(-number // 4)
    packed = np.frombuffer(zlib.decompressobj().decompress(base64.b64decode(text), size + 1), np.uint8)
    if len(packed) != size:
        raise ValueError(f"its parts are not those of {number:,} structures")
    return np.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], axis=1).reshape(-1)[:number]

"""States of the generators of random numbers, as checkpoints hold them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """States of the generators of Python, NumPy, torch and its devices, as tensors and plain numbers.

    Example:
        >>> state = random_state()
        >>> drawn = torch.rand(3)
        >>> set_random_state(state)
        >>> torch.equal(drawn, torch.rand(3))
        True
    """
    version, words, gauss = random.getstate()
    state: Any = np.random.get_state()  # noqa: NPY002 - the generator that others draw from
    name, keys, place, has_gauss, cached = state
    return {
        "python": [version, torch.tensor(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(place), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Go on from :func:`random_state`; generators of devices only where there are as many.

    Args:
        state: What it returned.
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, place, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), place, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])


def draw_otherwise(number: int) -> None:
    """Have all generators draw other numbers than they would, the same each time.

    Args:
        number: Which of many other ways.

    Example:
        >>> state = random_state()
        >>> drawn = torch.rand(3)
        >>> set_random_state(state)
        >>> draw_otherwise(1)
        >>> torch.equal(drawn, torch.rand(3))
        False
    """
    drawn = int(torch.randint(2**31, ()))
    own = np.random.SeedSequence([drawn, number])
    seeds = [int(word) for word in own.generate_state(3)]
    random.seed(seeds[0])
    np.random.seed(seeds[1])  # noqa: NPY002 - the generator that others draw from
    torch.manual_seed(seeds[2])

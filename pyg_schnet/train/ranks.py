"""What the processes of a run tell each other: there is one for each device, and all take the same steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

_LEAVES_LOOKING: ContextVar[bool] = ContextVar("leaves_looking", default=False)


class Followed(SystemExit):
    """Ends a process without a word, because the first one of the run says why."""

    def __init__(self) -> None:
        super().__init__(1)


@contextlib.contextmanager
def looking_left_to_first() -> Iterator[None]:
    """For the time of a ``with`` block, data modules do not read all structures only to check or describe them.

    The first process of a run does that for all.
    """
    token = _LEAVES_LOOKING.set(True)
    try:
        yield
    finally:
        _LEAVES_LOOKING.reset(token)


def leaves_looking() -> bool:
    """Whether another process of the run looks at all structures."""
    return _LEAVES_LOOKING.get()


def are_several(trainer: Any) -> bool:
    """Whether a trainer shares its run with other processes that have begun as well.

    Args:
        trainer: Trainer, or ``None``.
    """
    several = trainer is not None and getattr(trainer, "world_size", 1) > 1
    return several and dist.is_available() and dist.is_initialized()


def rank_of(trainer: Any) -> int:
    """Number of this process in the run of a trainer, 0 for the first and where there is one."""
    return trainer.global_rank if are_several(trainer) else 0


def once(trainer: Any, function: Callable[[], T]) -> T:
    """What a function returns, computed in the first process and told to the others; all have to ask.

    Args:
        trainer: Trainer of the run.
        function: What to compute; its result has to be one that can be pickled.

    Raises:
        Exception: In the first process, what the function raises.
        Followed: In the others, where it has raised something.

    Example:
        >>> once(None, lambda: 2)
        2
    """
    if not are_several(trainer):
        return function()
    told: list[Any] = [None, False]
    if trainer.global_rank == 0:
        try:
            told = [function(), True]
        except Exception:
            dist.broadcast_object_list(told, src=0, group=_talk())
            raise
    dist.broadcast_object_list(told, src=0, group=_talk())
    if not told[1]:
        raise Followed
    return told[0]


def gathered(trainer: Any, value: T) -> list[T]:
    """The values of all processes in their order; all have to ask.

    Example:
        >>> gathered(None, 2)
        [2]
    """
    if not are_several(trainer):
        return [value]
    found: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(found, value, group=_talk())
    return found


def added(trainer: Any, values: Sequence[float]) -> list[float]:
    """Sums of numbers over all processes, in float64; all have to ask, for as many.

    Example:
        >>> added(None, [1, 2.5])
        [1.0, 2.5]
    """
    return _reduced(trainer, values, dist.ReduceOp.SUM) if are_several(trainer) else [float(value) for value in values]


def largest(trainer: Any, values: Sequence[float]) -> list[float]:
    """The largest of each number over all processes, in float64; all have to ask, for as many."""
    return _reduced(trainer, values, dist.ReduceOp.MAX) if are_several(trainer) else [float(value) for value in values]


def of_first(trainer: Any, value: float) -> float:
    """A number of the first process; all have to ask."""
    if not are_several(trainer):
        return value
    told = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(told, src=0, group=_talk())
    return float(told)


def _reduced(trainer: Any, values: Sequence[float], how: Any) -> list[float]:
    told = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(told, op=how, group=_talk())
    return told.tolist()


def _talk() -> Any:
    """Group of all processes whose messages are of the CPU, so that none waits for a device."""
    return _group_of(dist.group.WORLD)


@lru_cache(maxsize=1)
def _group_of(world: Any) -> Any:
    return world if dist.get_backend(world) == "gloo" else dist.new_group(backend="gloo")

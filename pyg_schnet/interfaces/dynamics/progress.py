"""How far something long is, and how fast: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

_REDRAW = 0.5  # s, in a terminal
_SELDOM = 60.0  # s, elsewhere


def speed_of(steps: int, seconds: float, timestep: float) -> str:
    """Speed in words.

    Args:
        steps: Steps done.
        seconds: That they took.
        timestep: In fs.

    Example:
        >>> speed_of(2000, 4.0, 0.5)
        '500 steps/s, 21.6 ns/day'
    """
    rate = steps / max(seconds, 1e-9)
    return f"{rate:,.3g} steps/s, {rate * timestep * 86400e-6:.3g} ns/day"


class Progress:
    """Progress on ``stderr``.

    Args:
        unit: What is counted, such as ``"step"``.
        last: Number to end at.
        first: Number to begin at.
        shown: Whether to show anything.
    """

    def __init__(self, unit: str, last: int, first: int = 0, shown: bool = True) -> None:
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=last, initial=first, unit=unit, unit_scale=True, dynamic_ncols=True, leave=False)
        self._wait = _REDRAW if self._bar is not None else _SELDOM
        self._next = time.monotonic() + self._wait if shown else float("inf")

    def __call__(self, done: int, words: Callable[[], tuple[str, str]]) -> None:
        """So much is done.

        Args:
            done: Number of what is counted.
            words: Gives what is said beside the bar, and the line in place of one; called if it is time to show it.
        """
        if (now := time.monotonic()) < self._next:
            return
        self._next = now + self._wait
        beside, line = words()
        if self._bar is not None:
            self._bar.set_postfix_str(beside, refresh=False)
            self._bar.update(done - self._bar.n)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


class StepProgress:
    """Progress of a simulation.

    Args:
        first: Step to begin at.
        last: Step to end at.
        timestep: In fs.
        shown: Whether to show anything.
    """

    def __init__(self, first: int, last: int, timestep: float, shown: bool = True) -> None:
        self.first, self.last, self.timestep = first, last, timestep
        self.begun = time.monotonic()
        self._progress = Progress("step", last, first, shown)

    def __call__(self, step: int) -> None:
        """A step is done."""
        self._progress(step, lambda: self._words(step))

    def _words(self, step: int) -> tuple[str, str]:
        speed = speed_of(step - self.first, time.monotonic() - self.begun, self.timestep)
        line = f"step {step:,} of {self.last:,}, {step * self.timestep / 1000:.4g} ps, {speed}"
        return speed.split(", ")[1], line

    def close(self) -> None:
        """Remove the bar."""
        self._progress.close()

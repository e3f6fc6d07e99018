"""How far a simulation is, and how fast: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
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
    """Progress of a simulation on ``stderr``.

    Args:
        first: Step to begin at.
        last: Step to end at.
        timestep: In fs.
        shown: Whether to show anything.
    """

    def __init__(self, first: int, last: int, timestep: float, shown: bool = True) -> None:
        self.first, self.last, self.timestep, self.shown = first, last, timestep, shown
        self.begun = time.monotonic()
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=last, initial=first, unit="step", unit_scale=True, dynamic_ncols=True, leave=False)
        self._wait = _REDRAW if self._bar is not None else _SELDOM
        self._next = self.begun + self._wait

    def __call__(self, step: int) -> None:
        """A step is done."""
        if not self.shown or (now := time.monotonic()) < self._next:
            return
        self._next = now + self._wait
        speed = speed_of(step - self.first, now - self.begun, self.timestep)
        if self._bar is not None:
            self._bar.set_postfix_str(speed.split(", ")[1], refresh=False)
            self._bar.update(step - self._bar.n)
        else:
            done = f"step {step:,} of {self.last:,}, {step * self.timestep / 1000:.4g} ps, {speed}"
            print(done, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

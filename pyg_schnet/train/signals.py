"""Signals that end a run, after the step that it is in."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""From the keyboard, from the system or a scheduler, from a terminal that closes, and before a job is pre-empted."""


class Ended(SystemExit):
    """A signal has ended the run; the exit code is 128 and its number, as shells have it.

    Args:
        number: Of the signal.
        silent: Whether another process of the run says so and has the exit code; that of this one is 0 then.
    """

    def __init__(self, number: int, *, silent: bool = False) -> None:
        super().__init__(0 if silent else 128 + number)
        self.silent = silent
        self.name = signal.Signals(number).name


class Signals:
    """Handlers of the signals that end a run, for the time of a ``with`` block.

    Outside of training a signal ends the command at once. In training the first one is noted, for
    :class:`pyg_schnet.train.LastCheckpoint` to save after the step; a second Ctrl-C ends it at once. Signals that are
    ignored, as SIGHUP is under ``nohup``, stay so. Lightning answers SIGTERM by ending without a checkpoint, and
    SIGUSR1 under SLURM by one of its own, so its handlers are replaced when training begins. Of several processes, it
    does not matter which of them gets the signal: they tell each other after every step.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.is_silent = False  # whether another process says that it has got the signal
        self._waits = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self._install()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def wait_for_step(self) -> None:
        """From here on, let a step be finished."""
        self._waits = True
        self._install()

    def end_at_once(self) -> None:
        """From here on, there is no step to finish; a signal that was noted ends the command."""
        self._waits = False
        if self.received is not None:
            self.end()

    def end(self, number: int | None = None, *, silent: bool = False) -> None:
        """End the command, because of the signal that was noted.

        Args:
            number: Of the signal, where another process has noted it.
            silent: Whether another process says so.
        """
        raise Ended(number or self.received or signal.SIGTERM, silent=silent)

    def _install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread of Python can
        for name in NAMES:
            number = getattr(signal, name, None)  # Windows has two of them
            handler = None if number is None else signal.getsignal(number)
            if number is not None and handler is not signal.SIG_IGN:
                if not _is_of(handler):
                    self._before.setdefault(number, handler)
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.received == number == signal.SIGINT
        if not self._waits or again:
            self.received = number
            raise Ended(number)
        if self.received is None:
            self.received = number
            more = "; Ctrl-C again ends at once" if number == signal.SIGINT else ""
            said = f"\n{signal.Signals(number).name}: finishing the step{more}\n"
            if not self.is_silent:
                os.write(2, said.encode())  # print could be in the middle of a line, and is not made to be interrupted


def _is_of(handler: Callable | int | None) -> bool:
    """Whether a handler is one of ours."""
    return isinstance(getattr(handler, "__self__", None), Signals)

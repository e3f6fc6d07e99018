"""The processes of a run on one computer: started together, and ended together however one of them ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch.distributed as dist

from pyg_schnet.train.processes import SHARED_FOLDER, OwnProcesses
from pyg_schnet.train.ranks import Followed

GRACE = 10.0
"""Seconds in which a process has to find out by itself that another one is gone."""

PATIENCE = 5.0
"""Seconds that other processes have to end by themselves, where the first one has failed."""

_FIRST = "PYG_SCHNET_FIRST_PROCESS"  # environment variable with the number of the first process
_BROKEN = re.compile(r"gloo|nccl|connection|broken pipe|\bpeer\b|socket|store|process group", re.IGNORECASE)


class Lost(SystemExit):
    """Another process of the run has ended before its time, so this one ends as well.

    Args:
        reason: Sentence on what is known of it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(1)
        self.reason = reason


@contextlib.contextmanager
def team(trainer: Any, args: Sequence[str], run_dir: str, say: Callable[[str], None]) -> Iterator[None]:
    """For the time of a ``with`` block, the other processes of a run, if this is the one that starts them.

    The first process starts the others by its own command and watches them, and they watch it; torchrun and other
    launchers do the same for those that they start. A process that has lost another one ends with a sentence.

    Args:
        trainer: Trainer of the run.
        args: Arguments of the command ``pyg-schnet``.
        run_dir: Folder of the run.
        say: Prints the reason of an end that cannot be raised.

    Raises:
        Lost: If another process has ended before its time.
        Followed: The same, where the first process says so.
    """
    if trainer.world_size == 1:
        yield
        return
    environment, watch = trainer.strategy.cluster_environment, _Watch(say)
    if isinstance(environment, OwnProcesses):
        is_first = environment.local_rank() == 0
        watch = _OfOthers(say, _start(trainer, environment, args, run_dir)) if is_first else _OfFirst(say)
    try:
        with watch:
            yield
            _disconnect(environment)
    except RuntimeError as error:
        if not _BROKEN.search(str(error)):
            raise
        raise watch.end() from error


def _start(trainer: Any, environment: Any, args: Sequence[str], run_dir: str) -> list[subprocess.Popen]:
    shared = {
        **os.environ,
        SHARED_FOLDER: os.path.abspath(run_dir),
        _FIRST: str(os.getpid()),
        "MASTER_ADDR": environment.main_address,
        "MASTER_PORT": str(environment.main_port),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(trainer.world_size),
    }
    command = [sys.executable, "-m", "pyg_schnet.cli", *args]
    return [
        subprocess.Popen(command, env={**shared, "LOCAL_RANK": str(rank)}, stdin=subprocess.DEVNULL)
        for rank in range(1, trainer.world_size)
    ]


def _disconnect(environment: Any) -> None:
    """Leave nothing that a later run of the same process would take for its own."""
    if isinstance(environment, OwnProcesses) and dist.is_initialized():
        dist.destroy_process_group()
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)


class _Watch:
    """Looks twice a second whether other processes are there; what it cannot see, broken connections tell.

    A process that waits for a message of one that is gone may wait for ever, and no exception reaches it then; it is
    ended from here.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._is_over = threading.Event()

    def __enter__(self) -> _Watch:
        threading.Thread(target=self._look, name="pyg-schnet-watch", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._is_over.set()

    def lost(self) -> str | None:
        """What is known of a process that is gone."""
        return None

    def end(self) -> SystemExit:
        """How this process ends, whose connection to another one is broken."""
        until = time.monotonic() + 3.0
        while (reason := self.lost()) is None and time.monotonic() < until and type(self) is not _Watch:
            time.sleep(0.05)  # the system needs a moment until it says so
        return Lost(reason or "another process of the run has ended")

    def stop(self) -> None:
        """End the other processes."""

    def _look(self) -> None:
        while not self._is_over.wait(0.5):
            if (reason := self.lost()) is not None:
                if not self._is_over.wait(GRACE):
                    self._say(reason)
                    self.stop()
                    os._exit(1)
                return


class _OfOthers(_Watch):
    """The watch of the first process, which has started the others."""

    def __init__(self, say: Callable[[str], None], others: list[subprocess.Popen]) -> None:
        super().__init__(say)
        self._others = others

    def lost(self) -> str | None:
        """Process with an exit code other than zero."""
        for rank, process in enumerate(self._others, start=1):
            code = process.poll()
            if code:
                how = f"been killed by {_name(-code)}" if code < 0 else f"ended with exit code {code}"
                return f"process {rank} of {len(self._others) + 1} (number {process.pid}) has {how}"
        return None

    def stop(self) -> None:
        """End them without delay."""
        for process in self._others:
            process.kill()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Wait until the others have ended as well."""
        super().__exit__(kind, *error)
        until = time.monotonic() + (60.0 if kind is None else PATIENCE)
        for process in self._others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(until - time.monotonic(), 0.0))
        self.stop()


class _OfFirst(_Watch):
    """The watch of the others, which end when the first process is gone."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(say)
        self._first = int(os.environ.get(_FIRST, os.getppid()))  # it may have gone before this one looked

    def lost(self) -> str | None:
        """Whether another process has become the parent of this one."""
        return None if os.getppid() == self._first else "the first process has been killed"

    def end(self) -> SystemExit:
        """In silence, if the first process is there to speak."""
        found = super().end()
        return found if self.lost() else Followed()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

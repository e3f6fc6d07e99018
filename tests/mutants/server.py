"""A process that has imported what tests need, and forks for every run of them, so that none waits for imports."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

_IMPORTED = [
    "pytest",
    "numpy",
    "scipy.spatial",
    "matplotlib.pyplot",
    "numba",
    "torch",
    "torch.func",
    "torch._dynamo",
    "torch.export",
    "torchmetrics",
    "torch_geometric.nn.models",
    "torch_geometric.transforms",
    "lightning.pytorch.cli",
    "jsonargparse",
    "tensorboard",
    "rich.progress",
    "ase.build",
    "ase.io",
    "ase.db",
    "ase.spacegroup",
    "ase.optimize",
    "ase.phonons",
    "ase.cluster",
    "vesin",
    "safetensors.torch",
    "skimage.measure",
    "plotly.graph_objects",
]
"""Everything but the package itself, its tests, and plugins of pytest, which it has to import itself."""


class TestServer:
    """Runs pytest in forks of one process; needs an operating system that can fork."""

    __test__ = False

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, folder: Path, tests: Sequence[str], *options: str, limit: float) -> tuple[int | None, str]:
        """Exit status of pytest in a folder, ``None`` if it took more than ``limit`` seconds, and what it printed."""
        output = folder / "printed.txt"
        request = {"folder": str(folder), "output": str(output), "arguments": [*options, *tests]}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        child, ended = int(self._process.stdout.readline()), []

        def end() -> None:
            ended.append(True)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)

        timer = threading.Timer(limit, end)
        timer.start()
        code = int(self._process.stdout.readline())
        timer.cancel()
        return None if ended else code, output.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def _serve() -> None:
    """Read requests, and write for each the number of its process and then its exit status."""
    for name in _IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setsid()
            os._exit(_run(**request))
        time.sleep(0.01)  # until it is a group of its own
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(folder: str, output: str, arguments: Sequence[str]) -> int:
    import pytest

    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(folder)
    sys.path[0] = folder
    os.environ["PYTHONPATH"] = folder
    sys.dont_write_bytecode = True  # a file that changes twice in a second would be taken for the same
    code = int(pytest.main(["-q", "-p", "no:cacheprovider", "--tb=no", *arguments]))
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    _serve()

"""Programs that go through all interaction blocks, phase by phase."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from pyg_schnet.backends.numba.lib.compiler import ORDERED, Routine, generate, kernel_of, njit
from pyg_schnet.backends.numba.lib.parallel import evenly, several
from pyg_schnet.backends.numba.lib.partition import Partition


class BlockProgram:
    """Phases that run for one block after the other.

    Args:
        name: Name of the program.
        *phases: Functions ``f(step, task, partition, pairs, weights, ...)`` of the step, the number of blocks gone
            through so far, and the task. Each phase needs what all tasks did in the one before.
    """

    def __init__(self, name: str, *phases: Routine) -> None:
        self._name, self._phases = name, phases
        self._names = {f"phase{k}": phase for k, phase in enumerate(phases)}
        code = phases[0].py_func.__code__
        self._arguments = ", ".join(code.co_varnames[2 : code.co_argcount])

    @cached_property
    def tasks(self) -> Routine:
        """For independent tasks: each runs all phases of all blocks."""
        lines = [
            f"def {self._name}_tasks(begin, end, {self._arguments}):",
            "    for task in range(begin, end):",
            "        for step in range(weights[0].shape[0]):",
            *(f"            {name}(step, task, {self._arguments})" for name in self._names),
        ]
        return njit(self._generate(lines), **ORDERED)

    @cached_property
    def _shared(self) -> Callable:
        """For tasks that share work: all of them run one phase, then the next one."""
        lines = [
            f"def {self._name}_shared({self._arguments}):",
            "    for step in range(weights[0].shape[0]):",
        ]
        for name in self._names:
            lines.append("        for task in prange(partition[0].shape[0] - 1):")
            lines.append(f"            {name}(step, task, {self._arguments})")
        return kernel_of(self._generate(lines), {**ORDERED, "parallel": True})

    def _generate(self, lines: list[str]) -> Callable:
        return generate(lines, self._phases[0].py_func, **self._names)

    def __call__(self, threads: int, partition: Partition, *arguments: Any) -> None:
        """Run all blocks with a number of threads; arguments after the partition are tuples of arrays."""
        n_tasks = len(partition.parts)
        if threads == 1:
            self.tasks.kernel(0, n_tasks, tuple(partition[:4]), *arguments)
            return
        with several(threads):
            if partition.independent:
                self.tasks.parallel(evenly(n_tasks)(threads), tuple(partition[:4]), *arguments)
            else:
                self._shared(tuple(partition[:4]), *arguments)

"""The plan of a call: its program, and why not a faster one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pyg_schnet.engine.eligibility import CALL_ROWS, PROGRAMS, Program, Request

if TYPE_CHECKING:
    from pyg_schnet.engine.cache import Facts


@dataclass(frozen=True)
class Plan:
    """How a call is computed.

    Attributes:
        program: ``"potential"``, energies and gradients of small structures in one call; ``"large"``, those of many
            atoms in little memory, with activations that are recomputed; ``"interactions"``, all interaction blocks
            in one call; ``"layers"``, every layer by itself.
        filters: Whether filters come from tables; ``"mixed"`` if blocks differ.
        backend: How the operators of the program are computed.
        reasons: Why faster programs cannot be used.
    """

    program: Program
    filters: Literal["spline", "exact", "mixed"]
    backend: Literal["numba", "triton", "reference"]
    reasons: tuple[str, ...] = ()


def choose(facts: Facts, request: Request) -> Plan:
    """Choose the plan of a call; a pure function of the facts about the model and the request.

    Args:
        facts: What :data:`~pyg_schnet.engine.eligibility.MODEL_ROWS` found about the model.
        request: The call.

    Returns:
        The fastest program that nothing bars, and what barred the faster ones.
    """
    found = [*facts.found]
    for row in CALL_ROWS:
        found += [(row.bars, reason) for reason in row.find(facts, request)]
    barred = frozenset().union(*(bars for bars, _ in found))
    place = next(k for k, program in enumerate(PROGRAMS) if program not in barred)
    faster = frozenset(PROGRAMS[:place])
    reasons = tuple(dict.fromkeys(reason for bars, reason in found if reason and bars & faster))
    backend: Any = "triton" if request.on_device else "numba" if request.in_memory else "reference"
    backend = "reference" if request.backend == "reference" or request.followed else backend
    return Plan(PROGRAMS[place], facts.filters, backend, reasons)

"""What an audit says: one line for each check, as a table and as JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["ok", "FAIL", "n/a"]


class NotApplicable(Exception):
    """Raised by a check that a model cannot have; the message is the reason."""


@dataclass(frozen=True)
class Result:
    """The outcome of one check.

    Attributes:
        check: Name of the check.
        deviation: What was found, of the structure that comes closest to its bound or exceeds it most; ``None`` where
            the check does not apply, NaN and infinity where the model gave them.
        bound: Largest deviation that passes.
        unit: Unit of both.
        verdict: ``"ok"``, ``"FAIL"`` or ``"n/a"`` (not applicable).
        note: Where the deviation was found, or why the check does not apply.
    """

    check: str
    deviation: float | None
    bound: float | None
    unit: str
    verdict: Verdict
    note: str = ""


@dataclass
class Worst:
    """Keeps the deviation that is largest in relation to its bound.

    Args:
        check: Name of the check.
        unit: Unit of deviations and bounds.
    """

    check: str
    unit: str
    deviation: float | None = None
    bound: float = 0.0
    note: str = ""

    def add(self, deviation: float, bound: float, note: str = "") -> None:
        """Take another deviation with its bound; of equal ones the first that has something to say."""
        if self.deviation is not None:
            new, old = _excess(deviation, bound), _excess(self.deviation, self.bound)
            if new < old or (new == old and (self.note or not note)):
                return
        self.deviation, self.bound, self.note = deviation, bound, note

    def result(self, why_not: str = "none of the structures can show it") -> Result:
        """The result; not applicable, with a reason, where nothing was added."""
        if self.deviation is None:
            raise NotApplicable(why_not)
        verdict: Verdict = "ok" if self.deviation <= self.bound else "FAIL"  # NaN fails
        return Result(self.check, self.deviation, self.bound, self.unit, verdict, self.note)


def _excess(deviation: float, bound: float) -> float:
    if math.isnan(deviation):
        return math.inf
    return deviation / bound if bound > 0 else (math.inf if deviation > 0 else 0.0)


@dataclass(frozen=True)
class Report:
    """The results of an audit; ``print`` shows them as a table.

    Attributes:
        subject: What was examined.
        structures: Names of the structures.
        results: One for each check.
        notes: What else is to be known of the subject.
    """

    subject: str
    structures: tuple[str, ...]
    results: tuple[Result, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(result.check for result in self.results if result.verdict == "FAIL")

    def __getitem__(self, check: str) -> Result:
        """The result of one check by its name."""
        return next(result for result in self.results if result.check == check)

    def __str__(self) -> str:
        lines = [self.subject, f"structures: {', '.join(self.structures)}", *(f"note: {note}" for note in self.notes)]
        width = max(len(result.check) for result in self.results)
        units = max(len("unit"), *(len(result.unit) for result in self.results))
        lines += ["", f"{'check':<{width}}  {'deviation':>9}  {'bound':>9}  {'unit':<{units}}  verdict"]
        for result in self.results:
            numbers = "  ".join(f"{_short(value):>9}" for value in (result.deviation, result.bound))
            line = f"{result.check:<{width}}  {numbers}  {result.unit:<{units}}  {result.verdict:<4}  {result.note}"
            lines.append(line.rstrip())
        lines += ["", _summary(self.results)]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it; numbers that are not finite are words, as ``"nan"``."""
        results = [
            {key: str(value) if isinstance(value, float) and not math.isfinite(value) else value for key, value in row}
            for row in (asdict(result).items() for result in self.results)
        ]
        return {
            "subject": self.subject,
            "structures": list(self.structures),
            "notes": list(self.notes),
            "passed": self.passed,
            "results": results,
        }

    def write_json(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`as_dict` to a file, and return its path; its folder is made where it is not there."""
        from pyg_schnet.models.writing import write_whole  # with all models, which the other checks do not need

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n")
        return path


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return "0" if value == 0 else f"{value:.1e}"


def _summary(results: Iterable[Result]) -> str:
    verdicts = [result.verdict for result in results]
    counts = [
        (verdicts.count("ok"), "ok"),
        (verdicts.count("FAIL"), "failed"),
        (verdicts.count("n/a"), "not applicable"),
    ]
    return ", ".join(f"{count} {word}" for count, word in counts)

"""Plant mistakes in a copy of the repository, one at a time, and see whether the tests notice.

From the folder of the repository::

    python -m tests.mutants --list                 # what would be planted
    python -m tests.mutants --only verlet          # those with a word in their name or file
    python -m tests.mutants --jobs 2 --json mutants.json --markdown mutants.md
    python -m tests.mutants --drawn 60 --seed 1    # another draw

The working tree is never touched. Each mutant is shown to the tests of its module, up to the first failure, and what
they do not notice to those of what is built on it. Survivors that change nothing which can be seen are explained in
``tests/mutants/equivalent.py`` and are not counted; what took too long to be known is not counted as noticed. Exit
status 0 means that at least 95 % of the others were noticed.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from .drawn import draw
from .equivalent import EQUIVALENT
from .mutant import ROOT, Mutant
from .planted import PLANTED
from .server import TestServer
from .trial import Result, attempt, copy_tree, failed_in

WANTED = 0.95
_MARKS = {"killed": ".", "timeout": "t", "survived": "S", "error": "E"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = _parser().parse_args(arguments)
    mutants = [*([] if options.drawn_only else PLANTED), *draw(ROOT, options.drawn, options.seed)]
    mutants = [one for one in mutants if _is_chosen(one, options.only, options.kernels)]
    if options.list:
        for one in mutants:
            print(f"{one.name:<40} {one.file}:{_line_of(one)}  {_shown(one)}")
        return 0
    if not mutants:
        print("no mutant is chosen")
        return 2
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [copy_tree(ROOT, _made(Path(folder) / str(job))) for job in range(options.jobs)]
        servers = [TestServer() for _ in copies]
        results = _run(servers, copies, mutants, options.limit)
        results = _witnessed(servers[0], copies[0], results, options.limit)
        for server in servers:
            server.close()
    report = _report(results, options.seed, time.monotonic() - start)
    print(report)
    if options.markdown:
        Path(options.markdown).write_text(report, encoding="utf-8")
    if options.json:
        rows = [{**one.mutant._asdict(), **one._asdict(), "mutant": one.mutant.name} for one in results]
        Path(options.json).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if _is_enough(results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="names or files with one of these words")
    parser.add_argument("--drawn", type=int, default=60, help="how many to draw beside the selected ones")
    parser.add_argument("--drawn-only", action="store_true", help="leave out the selected ones")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for each of the two stages of a mutant")
    parser.add_argument("--no-kernels", dest="kernels", action="store_false", help="leave out what has to be compiled")
    parser.add_argument("--json", metavar="FILE", help="write the results")
    parser.add_argument("--markdown", metavar="FILE", help="write the report")
    return parser


def _is_chosen(mutant: Mutant, words: Sequence[str], kernels: bool) -> bool:
    named = not words or any(word in mutant.name or word in mutant.file for word in words)
    return named and (kernels or not mutant.is_kernel)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _witnessed(server: TestServer, folder: Path, results: Sequence[Result], limit: float) -> list[Result]:
    """The results, those apart whose test fails without the mistake as well: it has noticed nothing."""
    tests = sorted({_function(one.by) for one in results if "::" in one.by})
    failed = {_function(name) for name in failed_in(server.run(folder, tests, limit=10 * limit)[1])} if tests else set()
    reason = "the test {} fails without the mistake as well"
    return [
        one._replace(outcome="error", by=reason.format(one.by)) if _function(one.by) in failed else one
        for one in results
    ]


def _function(test: str) -> str:
    """Name of a test without its parameters, which may hold anything."""
    return test.partition("[")[0]


def _run(
    servers: Sequence[TestServer], copies: Sequence[Path], mutants: Sequence[Mutant], limit: float
) -> list[Result]:
    """Results in the order of the mutants; kernels first, since they take longest."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for k in sorted(range(len(mutants)), key=lambda k: not mutants[k].is_kernel):
        waiting.put(k)
    results: dict[int, Result] = {}

    def work(server: TestServer, folder: Path) -> None:
        while True:
            try:
                k = waiting.get_nowait()
            except queue.Empty:
                return
            results[k] = attempt(server, folder, mutants[k], limit=limit)
            one = results[k]
            print(
                f"{_MARKS[one.outcome]} {len(results):>3}/{len(mutants)} {one.mutant.name:<40} {one.seconds:5.0f} s  "
                f"{one.by or _shown(one.mutant)}",
                flush=True,
            )

    threads = [threading.Thread(target=work, args=pair) for pair in zip(servers, copies, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[k] for k in sorted(results)]


def _counted(results: Sequence[Result]) -> list[Result]:
    """Without mutants that change nothing which can be seen."""
    return [one for one in results if one.outcome == "killed" or one.mutant.key() not in EQUIVALENT]


def _is_enough(results: Sequence[Result]) -> bool:
    counted = _counted(results)
    noticed = sum(one.outcome == "killed" for one in counted)
    return noticed >= WANTED * len(counted) and not any(one.outcome == "error" for one in counted)


def _report(results: Sequence[Result], seed: int, seconds: float) -> str:
    """The summary in Markdown."""
    lines = [f"{len(results)} mutants in {seconds / 60:.0f} minutes (seed {seed})", ""]
    lines += [
        "| | planted | killed | equivalent | survived | not known |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, kind in (("selected", False), ("drawn", True)):
        some = [one for one in results if one.mutant.name.startswith("drawn-") == kind]
        killed = sum(one.outcome == "killed" for one in some)
        error = sum(one.outcome in ("error", "timeout") for one in _counted(some))
        equal = len(some) - len(_counted(some))
        lines.append(f"| {name} | {len(some)} | {killed} | {equal} | {len(some) - killed - error - equal} | {error} |")
    for one in results:
        if one.outcome != "killed":
            reason = EQUIVALENT.get(one.mutant.key(), one.by or "not explained")
            place = f"`{one.mutant.file}:{_line_of(one.mutant)}`"
            lines += ["", f"- **{one.mutant.name}**, {place}, {one.outcome}: {reason}"]
            lines += ["", "  ```diff", f"  - {_flat(one.mutant.old)}", f"  + {_flat(one.mutant.new)}", "  ```"]
    return "\n".join(lines) + "\n"


def _line_of(mutant: Mutant) -> int | str:
    if mutant.line is not None:
        return mutant.line
    before, found, _ = (ROOT / mutant.path).read_text(encoding="utf-8").partition(mutant.old)
    return before.count("\n") + 1 if found else "?"


def _shown(mutant: Mutant) -> str:
    return f"{_flat(mutant.old)}  ->  {_flat(mutant.new)}"


def _flat(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())

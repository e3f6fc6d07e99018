"""Mistakes drawn at random from the syntax of the modules, the same ones for the same seed and code."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator
from pathlib import Path

from .mutant import PACKAGE, Mutant

LEFT_OUT = ("plotting/", "pretrained/", "backends/numba/", "__init__.py")
"""Pictures, data, and kernels, each of which takes minutes to compile: the selected ones have some of these."""

_COMPARISONS = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}  # fmt: skip
_OPERATIONS = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*")}
_NAMES = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "any": "all", "all": "any", "ceil": "floor",
          "floor": "ceil", "sum": "mean", "mean": "sum", "zeros_like": "ones_like"}  # fmt: skip

Edit = tuple[int, int, int, str]
"""Line from 1 on, begin and end in bytes, and the new text."""


def draw(root: Path, number: int, seed: int = 0) -> list[Mutant]:
    """Mutants of all modules, as even over the modules as their sizes allow.

    Args:
        root: Folder of the repository.
        number: How many.
        seed: Of the draw.
    """
    rng = random.Random(seed)
    texts = {file: (root / PACKAGE / file).read_text(encoding="utf-8") for file in modules(root)}
    sites = {file: found for file, text in texts.items() if (found := list(dict.fromkeys(edits(text))))}
    weights = [len(found) ** 0.5 for found in sites.values()]
    chosen: dict[tuple[str, int], Mutant] = {}
    while len(chosen) < number:
        (file,) = rng.choices(list(sites), weights)
        mutant = _mutant(file, texts[file], rng.choice(sites[file]))
        if mutant is not None:
            chosen.setdefault((mutant.file, mutant.line), mutant)  # one for each line
    return [mutant._replace(name=f"drawn-{k:02d}") for k, mutant in enumerate(chosen.values())]


def modules(root: Path) -> list[str]:
    """Files below the package that are drawn from."""
    folder = root / PACKAGE
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    return [file for file in files if not any(part in file for part in LEFT_OUT)]


def _mutant(file: str, text: str, edit: Edit) -> Mutant | None:
    """The mutant of an edit; ``None`` where it leaves no valid code, or the same."""
    line, begin, end, new = edit
    old = text.split("\n")[line - 1]
    raw = old.encode()
    changed = (raw[:begin] + new.encode() + raw[end:]).decode()
    mutant = Mutant("", file, old, changed, line)
    return mutant if changed != old and _parses(mutant.plant(text)) else None


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def edits(text: str) -> Iterator[Edit]:
    """Edits of the code alone: messages, annotations, documentation and representations stay."""
    lines = [line.encode() for line in text.split("\n")]
    for node in _code(ast.parse(text)):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            yield from _between(lines, node.left, node.comparators[0], _COMPARISONS[type(node.ops[0])])
        elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            yield from _between(lines, node.left, node.right, _OPERATIONS[type(node.op)])
            if isinstance(node.op, (ast.Add, ast.Sub)) and node.lineno == node.end_lineno:  # the second term left out
                yield node.lineno, node.left.end_col_offset, node.end_col_offset, ""
        elif isinstance(node, ast.BoolOp) and len(node.values) == 2:
            swap = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            yield from _between(lines, *node.values, swap)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
            yield node.lineno, node.col_offset, node.operand.col_offset, ""
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
            yield node.lineno, node.col_offset, node.end_col_offset, _other(node.value)
        elif isinstance(node, ast.Attribute) and node.attr in _NAMES and node.lineno == node.end_lineno:
            yield node.end_lineno, node.end_col_offset - len(node.attr), node.end_col_offset, _NAMES[node.attr]
        elif isinstance(node, ast.Name) and node.id in _NAMES:
            yield node.lineno, node.col_offset, node.end_col_offset, _NAMES[node.id]
        elif isinstance(node, ast.IfExp) and node.lineno == node.end_lineno:  # always the first, always the second
            yield node.lineno, node.body.end_col_offset, node.end_col_offset, ""
            yield node.lineno, node.col_offset, node.orelse.col_offset, ""
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and node.lineno == node.end_lineno:
            yield node.lineno, node.col_offset, node.end_col_offset, "pass"


def _code(node: ast.AST) -> Iterator[ast.AST]:
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import)):
                continue
            if isinstance(child, ast.FunctionDef) and child.name in ("__repr__", "vmap"):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            yield child
            yield from _code(child)


def _between(lines: list[bytes], left: ast.AST, right: ast.AST, swap: tuple[str, str]) -> Iterator[Edit]:
    """The operator between two operands, where all is on one line."""
    if left.end_lineno != right.lineno:
        return
    gap = lines[left.end_lineno - 1][left.end_col_offset : right.col_offset].decode()
    word = rf"\b{swap[0]}\b" if swap[0][0].isalpha() else re.escape(swap[0])
    if found := re.search(word, gap):
        begin = left.end_col_offset + len(gap[: found.start()].encode())
        yield left.end_lineno, begin, begin + len(found[0]), swap[1]


def _other(value: float) -> str:
    if isinstance(value, bool):
        return str(not value)
    return str(value + 1) if isinstance(value, int) else repr(float(f"{1.5 * value:.12g}") if value else 1.0)

"""The package as a house: rooms on floors, imports that go down, and few doors to private names of other packages."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pyg_schnet"

FLOORS = (
    ("units", "geometry", "pretrained"),
    ("ops",),
    ("backends",),
    ("nn", "neighbors"),
    ("engine",),
    ("models",),
    ("derivatives", "potential", "data"),
    ("train",),
    ("interfaces", "analysis"),
    ("plotting",),
    ("cli",),
)
"""Rooms from the ground up; those of one floor may import each other."""

FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
REGISTRY = "ops.dispatch"
"""The one file below ``engine`` that imports backends."""

OTHERS = ("torch", "torch_geometric", "lightning")
PRIVATE_ATTRIBUTES = ("_slice_dict", "_inc_dict", "_num_graphs", "_average_model")
"""Of batches and averaged models, which no import shows."""

ROOMS_OF_CHOICE = ("ops", "backends", "nn", "neighbors", "engine", "models", "derivatives", "potential")


class File:
    """A source file: what it imports, and the private names of other packages that it uses.

    Args:
        path: Where it is.
    """

    def __init__(self, path):
        self.path = path
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)  # without the package's own
        self.room = parts[0]
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)

    def nodes(self):
        """Everything that runs, so nothing that only a type checker sees."""
        waiting = [self.tree]
        while waiting:
            node = waiting.pop()
            yield node
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                waiting.extend(node.orelse)
            else:
                waiting.extend(ast.iter_child_nodes(node))

    def imported(self):
        """Dotted names that are imported, on top or in a function, with what they are called here."""
        for node in self.nodes():
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield (alias.name, alias.asname) if alias.asname else (alias.name, alias.name.split(".")[0])
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}: relative imports hide which room a name is from"
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", alias.asname or alias.name
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                for argument in node.args:
                    if isinstance(argument, ast.Constant):
                        yield argument.value, argument.value

    def neighbours(self):
        """Names of the files of the package that it imports."""
        found = set()
        for dotted, _ in self.imported():
            parts = dotted.split(".")
            if parts[0] != PACKAGE.name:
                continue
            inside = [".".join(parts[1:end]) for end in range(len(parts), 0, -1)]
            found.add(next(name for name in inside if name in files()))
        return found - {self.name}

    def private(self):
        """Private names of torch, PyTorch Geometric and Lightning that its code uses."""
        called = {name: dotted for dotted, name in self.imported() if dotted.split(".")[0] in OTHERS}
        called.update({name: name for name in OTHERS if name in called})
        found = {dotted for dotted in called.values() if _has_private_part(dotted)}
        for node in self.nodes():
            if not isinstance(node, ast.Attribute):
                continue
            root, *rest = ast.unparse(node).split(".")
            dotted = ".".join([called.get(root, ""), *rest])
            if root in called and _has_private_part(dotted):
                found.add(dotted)
            elif node.attr in PRIVATE_ATTRIBUTES:
                found.add(node.attr)
        return found


def _is_private(word):
    return word.startswith("_") and not word.startswith("__") and word.strip("_") != ""


def _has_private_part(dotted):
    return any(map(_is_private, dotted.split(".")))


@cache
def files():
    """All files of the package by their names; the package's own is the empty one."""
    return {file.name: file for file in map(File, sorted(PACKAGE.rglob("*.py")))}


def test_every_room_is_in_the_plan():
    rooms = {file.room for file in files().values()}
    assert rooms - {"__init__", "testing"} <= set(FLOOR_OF)


def test_imports_go_down():
    wrong = []
    for file in files().values():
        if file.room == "testing":  # which tests of other packages import, and nothing of this one
            continue
        for name in sorted(file.neighbours()):
            # the front door leads everywhere
            there, here = FLOOR_OF.get(name.split(".")[0], len(FLOORS) - 1), FLOOR_OF.get(file.room, 0)
            if there > here:
                wrong.append(f"{file.name} imports {name or 'the package itself'}")
    assert not [line for line in wrong if not line.startswith(f"{REGISTRY} imports backends")]


def test_backends_are_imported_by_the_registry_and_the_engine_alone():
    importers = {
        file.name
        for file in files().values()
        if file.room not in ("backends", "engine")
        and any(name.split(".")[0] == "backends" for name in file.neighbours())
    }
    assert importers <= {REGISTRY}


def test_backends_know_operators_alone():
    known = {name for file in files().values() if file.room == "backends" for name in file.neighbours()}
    assert {name.split(".")[0] for name in known} <= {"backends", "ops", "units", "geometry"}


def test_no_file_imports_itself_by_way_of_others():
    graph = {name: set(file.neighbours()) for name, file in files().items()}
    while leaves := [name for name, others in graph.items() if not others]:
        for leaf in leaves:
            del graph[leaf]
        for others in graph.values():
            others.difference_update(leaves)
    roots = {name for name in graph if not any(name in others for others in graph.values())}
    while roots:  # what leads into a circle but is in none
        for root in roots:
            del graph[root]
        roots = {name for name in graph if not any(name in others for others in graph.values())}
    assert not graph, f"circles among {sorted(graph)}"


def test_private_names_of_other_packages_are_in_three_files_that_say_why():
    private = {file.name: names for file in files().values() if (names := file.private())}
    assert len(private) <= 3, private
    for name in private:
        assert "private" in files()[name].text, f"{name} does not say why it uses {private[name]}"


@pytest.mark.parametrize("name", sorted(files()), ids=lambda name: name or "pyg_schnet")
def test_files_are_of_a_size_to_read(name):
    assert len(files()[name].text.splitlines()) <= 400


@pytest.mark.parametrize(("word", "place"), [("is_dense_cpu", REGISTRY), ("is_standard", "ops.modules")])
def test_one_room_asks_what_kernels_take(word, place):
    found = {file.name for file in files().values() if word in file.text}
    assert {name for name in found if not name.startswith("engine")} <= {place}


def test_no_variable_or_global_switch_chooses_a_path():
    switches = ("environ", "getenv", "local", "ContextVar")  # local: of threads
    found = []
    for file in files().values():
        if file.room not in ROOMS_OF_CHOICE:
            continue
        for node in file.nodes():
            word = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
            if word in switches or (isinstance(node, ast.Global) and file.room != "backends"):
                found.append(f"{file.name}:{node.lineno} {word or 'global'}")
    assert not found


HEAVY = ("ase", "lightning", "pytorch_lightning", "matplotlib", "tensorboard", "jsonargparse", "rich")


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import pyg_schnet", ("torch", "torch_geometric", "numba", *HEAVY)),
        ("import pyg_schnet.cli", ("torch", "torch_geometric", "numba", *HEAVY)),
        ("from pyg_schnet import SchNet, InteractionGraph, load, radius_graph", ("pyg_schnet.backends.numba", *HEAVY)),
    ],
)
def test_importing_is_light(statement, absent):
    code = f"import sys\n{statement}\nprint(*[name for name in {absent!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []

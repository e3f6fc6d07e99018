"""The table of operators that the contract test walks: each with cases and an independent formula."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.interpolate import BSpline

from pyg_schnet import ops
from pyg_schnet.ops.radius import Ranges

from . import graphs, programs

F64 = torch.float64
CUTOFF, INTERVALS, LOOP = 5.0, 12, 9.0


class Case(NamedTuple):
    """One call of an operator.

    Attributes:
        call: The operator as a function of its real inputs and ``backend``.
        inputs: These inputs.
        expected: The same as a function of numpy arrays in float64: an array, or a tuple of them.
        differentiable: Whether its outputs have derivatives with respect to all inputs.
    """

    call: Callable
    inputs: tuple[torch.Tensor, ...]
    expected: Callable
    differentiable: bool = True


class Operator(NamedTuple):
    """An operator.

    Attributes:
        cases: By name, functions of the dtype that make a case.
        few: Name of the case that is small enough for all elements of second derivatives.
        large: Function of the dtype that makes a case with enough work for several threads.
        registered: Arguments of the registered operator ``torch.ops.pyg_schnet.<name>`` that belong to inputs, if any.
        partial: Whether only one backend has it: it returns ``None`` elsewhere, or has no composition.
    """

    cases: dict[str, Callable]
    few: str | None = None
    large: Callable | None = None
    registered: Callable | None = None
    partial: bool = False


def draw(*shapes, dtype=F64, seed=0):
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=random, dtype=F64).to(dtype) for shape in shapes)


# 1: edge_lengths


def lengths(n_atoms=5, n_edges=14, n_cells=0, loops=False, shift_dtype=torch.int32, with_batch=True):
    def make(dtype):
        random = torch.Generator().manual_seed(n_edges)
        pos = (2.0 * torch.randn(n_atoms, 3, generator=random, dtype=F64)).to(dtype)
        index = torch.randint(n_atoms, (2, n_edges), generator=random)
        index[1] = torch.where(index[0] == index[1], (index[1] + 1) % n_atoms, index[1])
        if loops:
            index[1, ::3] = index[0, ::3]
        shift = torch.randint(-2, 3, (n_edges, 3), generator=random)
        if loops:
            shift[::2] = 0
        batch = torch.arange(n_atoms) * max(n_cells, 1) // n_atoms if with_batch else None
        cell = (4.0 * torch.eye(3) + torch.rand(n_cells, 3, 3, generator=random, dtype=F64)).to(dtype)
        of_atom = np.zeros(n_atoms, int) if batch is None else batch.numpy()

        def call(pos, cell=None, backend="auto"):
            lattice = () if cell is None else (shift.to(shift_dtype), cell, batch)
            return ops.edge_lengths(pos, index, *lattice, loop_length=LOOP, backend=backend)

        def expected(pos, cell=None):
            found = []
            for e, (j, i) in enumerate(index.t().tolist()):
                vec = pos[j] - pos[i]
                if cell is not None:
                    vec = vec + shift[e].numpy() @ cell[of_atom[i]]
                dist = math.sqrt(float(vec @ vec))
                found.append(LOOP if i == j and dist == 0 else dist)
            return np.array(found)

        return Case(call, (pos, cell) if n_cells else (pos,), expected)

    return make


def lengths_registered(pos, cell=None):
    index = torch.tensor([[1, 0, 2], [0, 2, 1]])
    shift = None if cell is None else torch.tensor([[0, 0, 1], [0, 0, 0], [1, 0, -1]])
    batch = None if cell is None else torch.tensor([0, 0, 1])
    return pos, index, shift, cell, batch, LOOP


# 2: spline_basis


def basis(*numbers):
    def make(dtype):
        dist = torch.tensor(numbers, dtype=F64).to(dtype)

        def expected(dist):
            position = dist * INTERVALS / CUTOFF
            inside = dist < CUTOFF
            interval = np.where(inside, np.clip(np.nan_to_num(position), 0, INTERVALS - 1), 0).astype(int)
            elements = [BSpline.basis_element(np.arange(m - 3, m + 2), extrapolate=False) for m in range(4)]
            found = np.stack([np.nan_to_num(element(position - interval)) for element in elements], -1)
            return interval, np.where(inside[:, None], found, 0.0)

        def call(dist, backend="auto"):
            return ops.spline_basis(dist, CUTOFF, INTERVALS, backend=backend)

        return Case(call, (dist,), expected)

    return make


# 3 to 5: splined convolutions


def spline(name, options):
    def make(dtype):
        case = graphs.make_case(**options, dtype=dtype)
        graph, rows = case.graph, case.table.size(0)
        g, x, c, h = case[:4]
        calls = {
            "spline_conv": (lambda x, c, h, **how: ops.spline_conv(x, c, h, graph, **how), (x, c, h), "if"),
            "spline_conv_grad_table": (
                lambda g, x, h, **how: ops.spline_conv_grad_table(g, x, h, rows, graph, **how),
                (g, x, h),
                "kf",
            ),
            "spline_conv_grad_basis": (
                lambda g, x, c, **how: ops.spline_conv_grad_basis(g, x, c, graph, **how),
                (g, x, c),
                "em",
            ),
        }
        call, inputs, output = calls[name]

        def expected(*_):
            return graphs.form(case, output)

        return Case(call, inputs, expected)

    return make


def spline_operator(name):
    def registered(*inputs):
        graph = graphs.make_case(**graphs.FEW, orders=True).graph
        rows = (graphs.FEW["n_intervals"] + 3,) if name == "spline_conv_grad_table" else ()
        return *inputs, *rows, *(None if value is None else value.clone() for value in graph)

    cases = {key: spline(name, options) for key, options in graphs.CASES.items()}
    cases["few"] = spline(name, graphs.FEW)
    return Operator(cases, "few", spline(name, graphs.LARGE), registered)


# the rest


def mlp(n=7, features=6, hidden=5, outputs=3):
    def make(dtype):
        shapes = (n, features), (hidden, features), (hidden,), (outputs, hidden), (outputs,)

        def expected(x, w1, b1, w2, b2):
            return (np.logaddexp(x @ w1.T + b1, 0.0) - math.log(2.0)) @ w2.T + b2

        x, w1, *rest = draw(*shapes, dtype=dtype)
        return Case(ops.mlp, (x, w1 / features**0.5, *rest), expected)  # torch's softplus is linear above 20

    return make


def softplus(*shape):
    def make(dtype):
        return Case(ops.shifted_softplus, draw(shape, dtype=dtype), lambda x: np.logaddexp(x, 0.0) - math.log(2.0))

    return make


def atoms(n, n_structures):
    """Atomic numbers with padding, and the structure of each atom."""
    random = torch.Generator().manual_seed(n)
    batch = torch.randint(n_structures, (n,), generator=random).sort()[0]
    return torch.randint(0, 4, (n,), generator=random), batch


def pool(n=9, outputs=2, mean=False, learned=False):
    def make(dtype):
        z, batch = atoms(n, 3)
        statistics = draw((outputs,), (outputs,), (4, outputs), dtype=dtype, seed=1)
        values = draw((n, outputs), dtype=dtype)

        def call(values, *given, backend="auto"):
            return ops.pool_atoms(values, z, batch, 4, *(given or statistics), mean=mean, backend=backend)

        def expected(values, *given):
            scale, shift, atomref = given or (one.double().numpy() for one in statistics)
            out, counts = np.zeros((4, outputs)), np.zeros(4)
            for i in range(n):
                if z[i] > 0:
                    out[batch[i]] += scale * values[i] + shift + atomref[z[i]]
                    counts[batch[i]] += 1
            return out / np.maximum(counts, 1)[:, None] if mean else out

        return Case(call, (*values, *statistics) if learned else values, expected)

    return make


def species(n=9):
    def make(dtype):
        z, batch = atoms(n, 3)

        def expected(values):
            out, counts = np.zeros((4, 2)), np.zeros(4)
            for i in range(n):
                if z[i] > 0:
                    out[batch[i]] += values[z[i]]
                    counts[batch[i]] += 1
            return out, counts

        def call(values, backend="auto"):
            return ops.sum_species(values, z, batch, 4, backend=backend)

        return Case(call, draw((4, 2), dtype=dtype), expected)

    return make


def norm(*shapes):
    def make(dtype):
        def call(*tensors, backend="auto"):
            return torch.as_tensor(ops.total_norm(tensors, backend=backend), dtype=F64)

        def expected(*tensors):
            return np.sqrt(sum((one**2).sum() for one in tensors))

        return Case(call, draw(*shapes, dtype=dtype), expected, differentiable=False)

    return make


def integers(function, make_expected):
    """A case of an operator that has no real inputs."""

    def make(dtype):
        return Case(lambda backend="auto": function(backend=backend), (), make_expected, differentiable=False)

    return make


def sorting(name, keys, size):
    keys = torch.tensor(keys, dtype=torch.int64)

    def expected():
        ptr = np.array([sum(int(key < k) for key in keys) for k in range(size + 1)])
        order = np.array(sorted(range(len(keys)), key=lambda e: int(keys[e])), dtype=int)
        return ptr if name == "pointer_of_sorted" else (ptr, order)

    return integers(lambda **how: getattr(ops, name)(keys, size, **how), expected)


def rows(index):
    bounds, index = torch.tensor([0, 2, 2, 5, 6]), torch.tensor(index, dtype=torch.int64)

    def expected():
        found = [(row, b) for b, k in enumerate(index.tolist()) for row in range(bounds[k], bounds[k + 1])]
        ptr = np.cumsum([0, *(int(bounds[k + 1] - bounds[k]) for k in index)])
        return np.array([row for row, _ in found], int), np.array([b for _, b in found], int), ptr

    return integers(lambda **how: ops.rows_of(bounds, index, **how), expected)


def pairs(n=40, once=False):
    def make(dtype):
        points = draw((n, 3), dtype=dtype)[0]
        ptr = torch.tensor([0, n // 3, n])
        batch = torch.repeat_interleave(ptr.diff())

        def call(points, backend="auto"):
            if once:
                return ops.close_pairs_once(points, 1.5, batch, len(ptr) - 1, backend=backend)[:2]
            ranges = Ranges(ptr[:-1, None], ptr.diff()[:, None], batch, None)
            return ops.close_pairs(points, points, ranges, 1.5, torch.arange(n), backend=backend)

        def expected(points):
            near = [
                (j, i)
                for i in range(n)
                for j in range(n)
                if batch[i] == batch[j] and i != j and np.linalg.norm(points[i] - points[j]) < 1.5
            ]
            near = [(j, i) for j, i in near if not once or j > i]
            found = np.array(near, int).reshape(-1, 2).T
            return (found, np.searchsorted(found[1], np.arange(n + 1))) if once else found

        return Case(call, (points,), expected, differentiable=False)

    return make


OPERATORS: dict[str, Operator] = {
    "edge_lengths": Operator(
        {
            "open": lengths(),
            "open with loops": lengths(loops=True, n_edges=20),
            "one cell": lengths(n_cells=1, with_batch=False),
            "two cells": lengths(n_cells=2),
            "two cells with loops": lengths(n_cells=2, loops=True, n_edges=30, shift_dtype=torch.int64),
            "shifts of other types": lengths(n_cells=2, shift_dtype=torch.int16),
            "one edge": lengths(n_edges=1),
            "no edges": lengths(n_edges=0),
            "no edges in a cell": lengths(n_edges=0, n_cells=1),
        },
        "two cells",
        lengths(n_atoms=300, n_edges=9000, n_cells=3),
        lengths_registered,
    ),
    "spline_basis": Operator(
        {
            "inside and outside": basis(0.0, 0.3, 1.7, 2.2, 4.9, 5.0, 6.0, math.inf),
            "one": basis(1.0),
            "none": basis(),
            "few": basis(0.3, 1.8, 4.7, 6.0),
        },
        "few",
        basis(*torch.linspace(0.0, 6.0, 5001).tolist()),
        lambda dist: (dist, CUTOFF, INTERVALS, True),
    ),
    **{name: spline_operator(name) for name in ("spline_conv", "spline_conv_grad_table", "spline_conv_grad_basis")},
    "mlp": Operator(
        {"few": mlp(3, 3, 2, 2), "odd": mlp(70, 7, 5, 3), "wide": mlp(150, 128, 64, 1), "one": mlp(1), "none": mlp(0)},
        "few",
        mlp(2500, 64, 32, 1),
    ),
    "shifted_softplus": Operator(
        {"rows": softplus(40, 7), "one": softplus(1), "none": softplus(0, 3), "few": softplus(4)},
        "few",
        softplus(2000, 130),
    ),
    "pool_atoms": Operator(
        {
            "sums": pool(),
            "means": pool(mean=True),
            "learned": pool(mean=True, learned=True),
            "one": pool(1, 1),
            "none": pool(0),
        },
        "means",
        pool(5000),
    ),
    "sum_species": Operator({"some": species(), "one": species(1), "none": species(0)}, "some", species(3000)),
    "total_norm": Operator({"some": norm((3,), (2, 4), ()), "one": norm((1,))}, large=norm((300, 300), (1000,))),
    "sort_edges": Operator({"some": sorting("sort_edges", [3, 0, 3, 1], 5), "none": sorting("sort_edges", [], 2)}),
    "pointer_of_sorted": Operator(
        {"some": sorting("pointer_of_sorted", [0, 0, 2], 4), "none": sorting("pointer_of_sorted", [], 2)}
    ),
    "rows_of": Operator({"some": rows([2, 0, 1, 2]), "one": rows([3]), "none": rows([])}),
    "close_pairs": Operator({"some": pairs(), "one": pairs(1)}, large=pairs(300)),
    "close_pairs_once": Operator(
        {"some": pairs(once=True), "one": pairs(1, once=True)}, large=pairs(300, once=True), partial=True
    ),
    "interactions": Operator(
        {
            "few": programs.case_of(programs.blocks()),
            "divided": programs.case_of(programs.blocks(5, 3, 4, 3, normalize=True)),
            "in evaluation": programs.case_of(programs.blocks(6, 2, 5, 7, learning=False)),
            "one": programs.case_of(programs.blocks(1, 1)),
        },
        "few",
        programs.case_of(programs.blocks(240, 2, 40, 36, n_structures=6)),
    ),
    "filter_table": Operator(
        {
            "few": programs.case_of(programs.tables(1, 2, 2, 9)),
            "two": programs.case_of(programs.tables()),
            "every second sample": programs.case_of(programs.tables(refined=True)),
            "an odd number of samples": programs.case_of(programs.tables(n_samples=15, refined=True, vanishing=False)),
            "no softplus, not to the end": programs.case_of(programs.tables(activate=False, vanishing=False)),
        },
        "few",
        programs.case_of(programs.tables(3, 50, 64, 300)),
    ),
    "potential": Operator(
        {
            "one structure": programs.fixed(programs.potentials()),
            "divided, means": programs.fixed(programs.potentials(6, 2, normalize=True, mean=True)),
            "open with strain": programs.fixed(programs.potentials(6, 2, strain=True)),
            "crystals": programs.fixed(programs.potentials(6, 2, strain=True, periodic=True)),
            "one atom": programs.fixed(programs.potentials(1)),
        },
    ),
}
"""Every public operator that can be told a backend."""

HELPERS = {
    "atom_values",
    "bspline_basis",
    "check_sources",
    "half_list",
    "locate",
    "segment_sum",
    "spline_table",
    "spline_graph",
}
"""Functions that have one way only, with tests of their own."""

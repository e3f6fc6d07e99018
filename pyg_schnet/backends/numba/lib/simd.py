"""Vectors as values of numba, for kernels that its compiler cannot vectorise.

LLVM fits a vector to the registers of the machine: one of 16 float32 takes one register of AVX-512, two of AVX2.
Operations are element by element and in the order in which they are written, so except for :func:`total` nothing
depends on the width of the vectors. Positions count numbers from the start of an array, which must be contiguous;
nothing is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils, config
from numba.core.datamodel import models
from numba.core.datamodel.registry import register_default
from numba.extending import intrinsic

from pyg_schnet.backends.numba.lib.compiler import ORDERED, Routine, njit


def _has_avx512() -> bool:
    """Whether numba compiles for 32 registers of 64 bytes; what it compiles for can be set by its environment."""
    features = config.CPU_FEATURES
    return "+avx512f" in (get_host_cpu_features().flatten() if features is None else features)


ZERO = np.intp(0)
"""Zero as an argument of kernels, which would be compiled again for a literal 0."""

NARROW = 64
"""Bytes of a narrow vector; kernels use wide vectors, then narrow ones, then single numbers for the rest."""

WIDE = 256 if _has_avx512() else NARROW
"""Bytes of a wide vector: as many registers as leave room for six of its kind."""

_CONTRACT = ("contract",)  # a product and a sum may be one instruction
_Index = ir.IntType(32)


class Vector(types.Type):
    """Type of ``width`` numbers of type ``element``."""

    def __init__(self, element: types.Float, width: int) -> None:
        self.element, self.width = element, width
        super().__init__(name=f"Vector({element}, {width})")


@register_default(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        element = manager.lookup(vector.element).get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.width))


def _zero(n_bytes: int | None) -> Callable:
    """Intrinsic that gives a vector of zeros for an array; of one number for ``None``."""

    @intrinsic
    def zero(typing: Any, array: types.Array) -> tuple[Any, Callable]:
        vector = Vector(array.dtype, 1 if n_bytes is None else n_bytes * 8 // array.dtype.bitwidth)

        def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
            return ir.Constant(context.get_value_type(vector), None)

        return vector(array), build

    return zero


wide, narrow, one = _zero(WIDE), _zero(NARROW), _zero(None)


def _pointer(context: Any, builder: ir.IRBuilder, kind: Any, array: ir.Value, position: ir.Value) -> ir.Value:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [position])


@intrinsic
def lanes(typing: Any, vector: Vector) -> tuple[Any, Callable]:
    """Number of elements of a vector."""
    return types.intp(vector), lambda context, builder, signature, args: context.get_constant(types.intp, vector.width)


@intrinsic
def load(typing: Any, like: Vector, array: types.Array, position: Any) -> tuple[Any, Callable]:
    """Elements of an array from a position on, as many as ``like`` has."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        vector = context.get_value_type(like)
        pointer = _pointer(context, builder, array, args[1], args[2])
        pointer = builder.bitcast(pointer, ir.PointerType(vector))
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return like(like, array, types.intp), build


@intrinsic
def store(typing: Any, array: types.Array, position: Any, value: Vector) -> tuple[Any, Callable]:
    """Write a vector to an array from a position on."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        pointer = _pointer(context, builder, array, args[0], args[1])
        pointer = builder.bitcast(pointer, ir.PointerType(context.get_value_type(value)))
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), build


@intrinsic
def address(typing: Any, array: types.Array) -> tuple[Any, Callable]:
    """Where an array begins in memory."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        pointer = context.make_array(array)(context, builder, args[0]).data
        return builder.ptrtoint(pointer, context.get_value_type(types.intp))

    return types.intp(array), build


@intrinsic
def prefetch(typing: Any, array: types.Array, position: Any) -> tuple[Any, Callable]:
    """Prefetch a position of an array, which may be out of range."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        byte = ir.PointerType(ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [byte, _Index, _Index, _Index])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        pointer = builder.bitcast(_pointer(context, builder, array, args[0], args[1]), byte)
        builder.call(function, [pointer, _Index(0), _Index(3), _Index(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return types.void(array, types.intp), build


@intrinsic
def fill(typing: Any, like: Vector, array: types.Array, position: Any) -> tuple[Any, Callable]:
    """A vector, as long as ``like``, of one element of an array."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        vector = context.get_value_type(like)
        element = builder.load(_pointer(context, builder, array, args[1], args[2]))
        undefined = ir.Constant(vector, ir.Undefined)
        first = builder.insert_element(undefined, element, _Index(0))
        return builder.shuffle_vector(first, undefined, _lanes([0] * like.width))

    return like(like, array, types.intp), build


@intrinsic
def at(typing: Any, array: types.Array, position: Any) -> tuple[Any, Callable]:
    """An element of an array of indices."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.load(_pointer(context, builder, array, args[0], args[1]))

    return array.dtype(array, types.intp), build


@intrinsic
def add(typing: Any, a: Vector, b: Vector) -> tuple[Any, Callable]:
    """Sum a + b."""
    return a(a, b), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def multiply(typing: Any, a: Vector, b: Vector) -> tuple[Any, Callable]:
    """Product a b."""
    return a(a, b), lambda context, builder, signature, args: builder.fmul(*args, flags=_CONTRACT)


@intrinsic
def fma(typing: Any, a: Vector, b: Vector, c: Vector) -> tuple[Any, Callable]:
    """Product and sum, a b + c, in one instruction where there is one."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.fadd(builder.fmul(args[0], args[1], flags=_CONTRACT), args[2], flags=_CONTRACT)

    return a(a, b, c), build


@intrinsic
def total(typing: Any, a: Vector) -> tuple[Any, Callable]:
    """Sum of all elements, by halves."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        (value,), width = args, a.width
        while width > 1:
            width //= 2
            undefined = ir.Constant(value.type, ir.Undefined)
            low, high = _lanes(range(width)), _lanes(range(width, 2 * width))
            value = builder.fadd(
                builder.shuffle_vector(value, undefined, low), builder.shuffle_vector(value, undefined, high)
            )
        return builder.extract_element(value, _Index(0))

    return a.element(a), build


@intrinsic
def transpose_square(typing: Any, like: Vector, a: types.Array, i: Any, n: Any, out: Any, o: Any, m: Any) -> Any:
    """Rows of ``like``, n apart from i on, to columns: rows that are m apart from o on; as many as it has elements."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        _, from_array, i, n, to_array, o, m = args
        vector, width = context.get_value_type(like), like.width
        whole, aligned = ir.PointerType(vector), {"align": a.dtype.bitwidth // 8}
        source, target = (context.make_array(a)(context, builder, x).data for x in (from_array, to_array))
        rows = []
        for _ in range(width):
            rows.append(builder.load(builder.bitcast(builder.gep(source, [i]), whole), **aligned))
            i = builder.add(i, n)
        low = _lanes([k // 2 + k % 2 * width for k in range(width)])
        high = _lanes([(k + width) // 2 + k % 2 * width for k in range(width)])
        half = width // 2
        for _ in range(width.bit_length() - 1):  # each round moves one bit of the row's number to the column's
            rows = [
                builder.shuffle_vector(rows[k], rows[k + half], lanes) for k in range(half) for lanes in (low, high)
            ]
        for row in rows:
            builder.store(row, builder.bitcast(builder.gep(target, [o]), whole), **aligned)
            o = builder.add(o, m)
        return context.get_dummy_value()

    return types.void(like, a, types.intp, types.intp, a, types.intp, types.intp), build


def _lanes(numbers: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(_Index, len(numbers)), list(numbers))


def columns(kernel: Routine, wide_too: bool = True) -> Routine:
    """Loop over columns, as many at a time as a wide vector has, then a narrow one, then one by one.

    Args:
        kernel: Function ``f(zero, f, ...)`` of as many columns as ``zero`` has elements, from column ``f`` on.
        wide_too: Whether wide vectors are used; those of many operands would not stay in registers.

    Returns:
        Function ``f(begin, end, like, ...)`` of the columns from ``begin`` to ``end``, of the type of an array.
    """
    first = wide if wide_too else narrow
    n_bytes = WIDE if wide_too else NARROW

    @njit(**ORDERED)
    def loop(begin, end, like, *arguments) -> None:
        f = begin
        while f + n_bytes // like.itemsize <= end:
            kernel(first(like), f, *arguments)
            f += n_bytes // like.itemsize
        while f + NARROW // like.itemsize <= end:
            kernel(narrow(like), f, *arguments)
            f += NARROW // like.itemsize
        while f < end:
            kernel(one(like), f, *arguments)
            f += 1

    return loop

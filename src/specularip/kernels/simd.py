"""Sixteen float32 lanes as one value inside numba kernels.

numba compiles scalar code and relies on LLVM's auto-vectoriser; with several arrays in a loop, LLVM guards
each short loop with aliasing checks and often gives up. A value of LLVM's type <16 x float> is always
vectorised: it is one AVX-512 register, two of AVX2, four of SSE or NEON.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core.cgutils import do_boundscheck
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 16
_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_VECTOR = ir.VectorType(_F32, WIDTH)
_INTEGERS = ir.VectorType(_I32, WIDTH)
_CONTRACT = ("contract",)


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name="f32x16")


lanes = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [value] * WIDTH)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    parts = context.make_array(array_type)(context, builder, array)
    # With NUMBA_BOUNDSCHECK=1, as in the tests: numba checks only its own indexing.
    if config.BOUNDSCHECK:  # type: ignore[attr-defined]
        last = builder.add(index, ir.Constant(index.type, WIDTH - 1))
        for end in (index, last):
            do_boundscheck(context, builder, end, parts.nitems)
    return builder.bitcast(builder.gep(parts.data, [index]), _VECTOR.as_pointer())


@intrinsic
def load(typingctx, array, index):
    """load(array, index): elements index .. index+15 of a flat float32 array."""

    def codegen(context, builder, signature, args):
        pointer = _address(context, builder, signature.args[0], args[0], args[1])
        return builder.load(pointer, align=4)

    return lanes(array, types.intp), codegen


@intrinsic
def store(typingctx, array, index, value):
    """store(array, index, value): the inverse of load."""

    def codegen(context, builder, signature, args):
        pointer = _address(context, builder, signature.args[0], args[0], args[1])
        builder.store(args[2], pointer, align=4)
        return context.get_dummy_value()

    return types.none(array, types.intp, lanes), codegen


@intrinsic
def fill(typingctx, value):
    """fill(value): broadcast one number to every lane."""

    def codegen(context, builder, signature, args):
        one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), args[0], ir.Constant(_I32, 0))
        return builder.shuffle_vector(one, one, ir.Constant(_INTEGERS, [0] * WIDTH))

    return lanes(types.float32), codegen


def _columns_or_rows(divide: bool) -> Any:
    values = [float(i // 4 if divide else i % 4) for i in range(WIDTH)]

    def codegen(context, builder, signature, args):
        return ir.Constant(_VECTOR, values)

    return codegen


@intrinsic
def columns(typingctx):
    """columns(): 0 1 2 3 0 1 2 3 ..., each lane's x in a block of 4x4 pixels."""
    return lanes(), _columns_or_rows(False)


@intrinsic
def rows(typingctx):
    """rows(): 0 0 0 0 1 1 1 1 ..., each lane's y in a block of 4x4 pixels."""
    return lanes(), _columns_or_rows(True)


def _binary(name: str) -> Any:
    @intrinsic
    def operation(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return getattr(builder, name)(args[0], args[1], flags=_CONTRACT)

        return lanes(lanes, lanes), codegen

    return operation


_add, _sub, _mul, _div = _binary("fadd"), _binary("fsub"), _binary("fmul"), _binary("fdiv")


@overload(operator.add, inline="always")
def _overload_add(a, b):
    if a is lanes and b is lanes:
        return lambda a, b: _add(a, b)


@overload(operator.sub, inline="always")
def _overload_sub(a, b):
    if a is lanes and b is lanes:
        return lambda a, b: _sub(a, b)


@overload(operator.mul, inline="always")
def _overload_mul(a, b):
    if a is lanes and b is lanes:
        return lambda a, b: _mul(a, b)


@overload(operator.truediv, inline="always")
def _overload_div(a, b):
    if a is lanes and b is lanes:
        return lambda a, b: _div(a, b)


@intrinsic
def minimum(typingctx, a, b):
    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[0], args[1])

    return lanes(lanes, lanes), codegen


@intrinsic
def maximum(typingctx, a, b):
    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[0], args[1])

    return lanes(lanes, lanes), codegen


@intrinsic
def choose(typingctx, test, threshold, above, otherwise):
    """choose(test, threshold, above, otherwise): above where test > threshold, elsewhere otherwise."""

    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return lanes(lanes, lanes, lanes, lanes), codegen


def _function(name: str) -> Any:
    @intrinsic
    def operation(typingctx, a):
        def codegen(context, builder, signature, args):
            kind = ir.FunctionType(_VECTOR, [_VECTOR])
            function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            return builder.call(function, [args[0]])

        return lanes(lanes), codegen

    return operation


sqrt, nearest = _function("llvm.sqrt.v16f32"), _function("llvm.rint.v16f32")


@intrinsic
def keep_above(typingctx, value, test, threshold):
    """keep_above(value, test, threshold): value where test > threshold, elsewhere 0."""

    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", args[1], args[2]), args[0], _constant(0.0))

    return lanes(lanes, lanes, lanes), codegen


@intrinsic
def any_above(typingctx, a, threshold):
    """any_above(a, threshold): whether a > threshold in some lane."""

    def codegen(context, builder, signature, args):
        bits = builder.bitcast(builder.fcmp_ordered(">", args[0], args[1]), ir.IntType(WIDTH))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(WIDTH), 0))

    return types.boolean(lanes, lanes), codegen


@intrinsic
def exp2(typingctx, a):
    """exp2(a): 2**a to 3e-7 relative for -125 <= a <= 127; smaller a are clamped to -125.

    2**round(a) goes into the exponent bits. The fractional part, in -0.5 .. 0.5, is a minimax polynomial in
    relative error.
    """

    def codegen(context, builder, signature, args):
        floor = _constant(-125.0)
        a = builder.select(builder.fcmp_ordered(">", args[0], floor), args[0], floor)
        # Adding 1.5 * 2**23 leaves the nearest integer in the low bits of the mantissa.
        shifted = builder.fadd(a, _constant(12582912.0))
        rest = builder.fsub(a, builder.fsub(shifted, _constant(12582912.0)))
        result = _constant(0.00132765202)
        for coefficient in (0.00967554191, 0.0555071313, 0.240221197, 0.693146967, 1.00000007):
            product = builder.fmul(result, rest, flags=_CONTRACT)
            result = builder.fadd(product, _constant(coefficient), flags=_CONTRACT)
        exponent = builder.shl(builder.bitcast(shifted, _INTEGERS), ir.Constant(_INTEGERS, [23] * WIDTH))
        return builder.bitcast(builder.add(builder.bitcast(result, _INTEGERS), exponent), _VECTOR)

    return lanes(lanes), codegen


@intrinsic
def log2(typingctx, a):
    """log2(a): to 2e-7, relative where a is near 1, for positive normal numbers.

    a = 2**e m with m in √½ .. √2, and log m = 2 artanh((m - 1) / (m + 1)).
    """

    def codegen(context, builder, signature, args):
        bits = builder.bitcast(args[0], _INTEGERS)
        shift = ir.Constant(_INTEGERS, [23] * WIDTH)
        exponent = builder.ashr(builder.sub(bits, ir.Constant(_INTEGERS, [0x3F3504F3] * WIDTH)), shift)
        mantissa = builder.bitcast(builder.sub(bits, builder.shl(exponent, shift)), _VECTOR)
        one = _constant(1.0)
        ratio = builder.fdiv(builder.fsub(mantissa, one), builder.fadd(mantissa, one))
        square = builder.fmul(ratio, ratio)
        result = _constant(1 / 9)
        for coefficient in (1 / 7, 1 / 5, 1 / 3, 1.0):
            product = builder.fmul(result, square, flags=_CONTRACT)
            result = builder.fadd(product, _constant(coefficient), flags=_CONTRACT)
        scaled = builder.fmul(builder.fmul(ratio, _constant(2.8853900817779268)), result, flags=_CONTRACT)
        return builder.fadd(scaled, builder.sitofp(exponent, _VECTOR), flags=_CONTRACT)

    return lanes(lanes), codegen


def _folder(half: int) -> Any:
    """A step of a pairwise reduction: each group of 2*half lanes of a, then of b, is added up to half
    lanes."""
    groups = [start + lane for start in range(0, WIDTH, 2 * half) for lane in range(half)]
    low = groups + [WIDTH + i for i in groups]
    high = [i + half for i in low]

    @intrinsic
    def fold(typingctx, a, b):
        def codegen(context, builder, signature, args):
            left = builder.shuffle_vector(args[0], args[1], ir.Constant(_INTEGERS, low))
            right = builder.shuffle_vector(args[0], args[1], ir.Constant(_INTEGERS, high))
            return builder.fadd(left, right)

        return lanes(lanes, lanes), codegen

    return fold


fold8, fold4, fold2, fold1 = _folder(8), _folder(4), _folder(2), _folder(1)


def _prefetch(write: bool) -> Any:
    @intrinsic
    def operation(typingctx, array, index):
        def codegen(context, builder, signature, args):
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            pointer = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), _I32, _I32, _I32])
            name = "llvm.prefetch.p0"
            function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            hints = [ir.Constant(_I32, number) for number in (int(write), 3, 1)]
            builder.call(function, [pointer, *hints])
            return context.get_dummy_value()

        return types.none(array, types.intp), codegen

    return operation


prefetch, prefetch_write = _prefetch(False), _prefetch(True)
"""prefetch(array, index): prefetch the cache line of an element of a flat float32 array."""


@intrinsic
def lowest_bit(typingctx, bits):
    """lowest_bit(bits): index of the lowest set bit of a non-zero int64."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen

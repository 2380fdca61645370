"""Roundings to bfloat16 inside a function, and the instruction for them, where the CPU has one.

    float32(bfloat16(x))  -->  rounding(x)

The instruction is one of vectors. Its numbers are those of `to_bfloat16`, but for subnormal ones, below 2^-126: those
become zero, as they are to tiles.
"""

from collections.abc import Callable

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import PrimFunc

from lowprec.schedules.vector_math import from_upper_half, lanes_of, to_bfloat16, upper_half
from lowprec.targets import Target

FLAG = "avx512_bf16"
LANES = 16
"""Of the instruction."""


def has_instruction(target: Target) -> bool:
    """Whether it has the instruction, on vectors of the kernels' width."""
    return target.has(FLAG) and target.lanes == LANES


def instructed_half(x: Expr) -> Expr:
    """The upper half of the nearest bfloat16, by the instruction where x is as wide."""
    if lanes_of(x) != LANES:
        return upper_half(to_bfloat16(x))
    # Called float16, because TVM makes other types of bfloat16, and then crashes where the value has a name.
    half = tirx.call_llvm_pure_intrin(f"float16x{LANES}", f"llvm.x86.avx512bf16.cvtneps2bf16.{32 * LANES}", x)
    return tirx.reinterpret(f"uint16x{LANES}", half)


def instructed_bfloat16(x: Expr) -> Expr:
    """The same as float32."""
    return from_upper_half(instructed_half(x))


def with_roundings(func: PrimFunc, rounding: Callable[[Expr], Expr]) -> PrimFunc:
    """float32(bfloat16(x)) --> rounding(x), in place: TVM would make loops of its own for bfloat16."""

    def rounded(cast: tirx.Cast) -> Expr:
        inner = cast.value
        widens = str(cast.ty).startswith("float32") and isinstance(inner, tirx.Cast)
        if not widens or not str(inner.ty).startswith("bfloat16") or not str(inner.value.ty).startswith("float32"):
            return cast
        return rounding(inner.value)

    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.Cast, rounded), order="post"))

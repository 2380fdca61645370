"""Roundings to bfloat16 by instruction: the nearest number, but zero for subnormal ones; and where they are taken."""

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import te, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.building import quick_passes, write_object
from lowprec.schedules.bfloats import LANES, instructed_half
from lowprec.schedules.epilogue import Constant, Epilogue, Operand, Step, Value
from lowprec.schedules.generic import schedule_generic
from lowprec.schedules.halving import by_instruction
from lowprec.schedules.vector_math import upper_half
from lowprec.schedules.views import UPPER_HALVES, View, load, store
from lowprec.targets import Target, native, parse_target

ROUND, STORE, RELU = (Step(op=op, arguments=(Value(0),)) for op in ("to bfloat16", "upper half", "relu"))
WITH = parse_target("sapphirerapids")
WITHOUT = [parse_target(name) for name in ("cascadelake", "x86-64-v3")]

needs_instruction = pytest.mark.skipif(not native().has("avx512_bf16"), reason="this CPU has no AVX512-BF16")


def after(*steps: Step) -> Epilogue:
    """The steps one after the other, each of the value before."""
    return Epilogue(steps=tuple(Step(op=s.op, arguments=(Value(i), *s.arguments[1:])) for i, s in enumerate(steps)))


def names(epilogue: Epilogue) -> list[str]:
    return [step.op for step in epilogue.steps]


def test_what_is_rounded_and_stored_takes_one_step() -> None:
    found = by_instruction(after(RELU, ROUND, STORE), WITH)
    assert found.steps == (RELU, Step(op="instructed half", arguments=(Value(1),)))


def test_what_is_rounded_and_read_again_is_kept() -> None:
    """The value between two roundings is a step's other argument as well."""
    add = Step(op="add", arguments=(Value(1), Operand(0)))
    view = View(shape=(16,), strides=(0, 0, 0, 0, 1))
    steps = (ROUND, add, Step(op="multiply", arguments=(Value(2), Value(1))), Step(op="relu", arguments=(Value(3),)))
    found = by_instruction(Epilogue(steps=steps, operands=(view,)), WITH)
    assert found.steps == (Step(op="instructed bfloat16", arguments=(Value(0),)), *steps[1:])
    assert found.operands == (view,)


@pytest.mark.parametrize("epilogue", [after(STORE), after(RELU, STORE), after(), after(ROUND, RELU)], ids=str)
def test_other_steps_stay(epilogue: Epilogue) -> None:
    found = by_instruction(epilogue, WITH)
    assert [name.replace("instructed", "to") for name in names(found)] == names(epilogue)


@pytest.mark.parametrize("target", WITHOUT, ids=lambda target: target.name)
def test_declines_without_the_instruction(target: Target) -> None:
    epilogue = after(ROUND, Step(op="add", arguments=(Value(0), Constant(1.0))), STORE)
    assert by_instruction(epilogue, target) is epilogue


def kernel(size: int, lanes: int, half: Callable[[Expr], Expr]) -> tirx.PrimFunc:
    """Stores the halves of its input, as much as its vectors hold."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        source = T.arg("X", T.buffer((size,), "float32"))
        result = T.arg("Y", T.buffer((size,), UPPER_HALVES))
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        with T.serial(0, size // lanes) as vector:
            store(result, vector * lanes, half(load(source, vector * lanes, lanes)), lanes)
    return builder.get()


def rounded(x: NDArray[np.float32], lanes: int) -> NDArray[np.uint16]:
    """What a kernel of this machine stores of x."""
    epilogue = by_instruction(after(ROUND, STORE), native())
    func = kernel(x.size, lanes, lambda value: epilogue.apply(value, [], (0, 0, 0, 0, 0), lanes))
    with quick_passes():
        built = tvm.compile(tvm.IRModule({"main": func}), target=tvm.target.Target(native().tvm_target(1)))
    found = tvm.runtime.tensor(np.full(x.size, 7, np.uint16))
    built["main"](tvm.runtime.tensor(x), found)
    return np.asarray(found.numpy())


def nearest(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    with np.errstate(invalid="ignore"):
        return x.astype(ml_dtypes.bfloat16).view(np.uint16)


@needs_instruction
@pytest.mark.parametrize("lanes", [LANES, 1])
def test_every_half_and_what_lies_between(lanes: int) -> None:
    """All upper halves with ten lower ones: ties, what lies beside them, and both ends."""
    lower = np.array([0, 1, 2, 0x7FFE, 0x7FFF, 0x8000, 0x8001, 0x8002, 0xFFFE, 0xFFFF], np.uint32)
    x = (np.arange(1 << 16, dtype=np.uint32)[:, None] << 16 | lower).reshape(-1).view(np.float32)
    found, expected = rounded(x, lanes), nearest(x)
    if lanes == LANES:
        expected = np.where(np.abs(x) < np.finfo(np.float32).tiny, expected & 0x8000, expected)
    numbers = ~np.isnan(x)
    assert np.array_equal(found[numbers], expected[numbers])
    assert np.isnan((found[~numbers].astype(np.uint32) << 16).view(np.float32)).all()


@needs_instruction
def test_what_is_rounded_may_have_a_name(tmp_path: Path) -> None:
    """Building it for an artifact once ended the process: TVM knew no LLVM type for a variable made of bfloat16."""

    def named(value: Expr) -> Expr:
        half = instructed_half(value)
        variable = tirx.Var("half", half.ty)
        return tirx.Let(variable, half, variable)

    machine = tvm.target.Target(native().tvm_target(1))
    write_object({"main": kernel(10 * LANES, LANES, named)}, machine, tmp_path / "kernel.o")
    assert (tmp_path / "kernel.o").stat().st_size


@needs_instruction
@pytest.mark.parametrize("count", [1, 15, 16, 17, 100])
def test_the_generic_rule_rounds_vectors_and_what_is_left(count: int) -> None:
    source = te.placeholder((tirx.const(count, "int64"),), "float32", "x")
    result = te.compute(
        source.shape, lambda i: upper_half(tirx.Cast("float32", tirx.Cast("bfloat16", source(i) * source(i)))), "halves"
    )
    kernel = schedule_generic(te.create_prim_func([source, result]), native())
    with quick_passes():
        built = tvm.compile(tvm.IRModule({"main": kernel}), target=tvm.target.Target(native().tvm_target(1)))
    x = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    found = tvm.runtime.tensor(np.full(count, 7, np.uint16))
    built["main"](tvm.runtime.tensor(x), found)
    assert np.array_equal(found.numpy(), nearest(x * x))

"""What the machine can do at best, as kernels: multiply-adds in registers, and reading memory.

    multiply_adds:  each thread:  chain[k] = chain[k] * X[0] + X[1]      `ROUNDS` times, all chains side by side
    byte_products:  each thread:  chain[k] += bytes of chain[k] * bytes of X, by the instructions of kernels of bytes
    reading:        each thread:  sums += X[its part]                    `passes` times, in `STREAMS` streams

Factors, starts and buffers come at run time and every sum is stored, so that nothing is computed beforehand or left
out. A chain waits for nothing but itself: there are as many as hide the latency of the adders. The streams are what
hardware prefetchers follow best.
"""

import numpy as np
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lowprec.schedules import amx_tiles as amx
from lowprec.schedules.arithmetic import Arithmetic, Way, arithmetic_of
from lowprec.schedules.views import load, register, splat, store, zeros
from lowprec.targets import Target
from lowprec.tiles import LANES, ROW_BYTES

ROUNDS = 1 << 18
STREAMS, DEPTH = 4, 2
_SPARE_REGISTERS = 4  # for the two operands, and what the compiler needs
AMX_CHAINS = 4
"""Of tiles."""
_BYTE_CHAINS = 16  # enough for the longest latency; products of pairs need registers besides


def chains(target: Target) -> int:
    """Accumulators of `multiply_adds` a thread."""
    return target.vector_registers - _SPARE_REGISTERS


def byte_chains(target: Target) -> int:
    """Accumulators of `byte_products` a thread."""
    return min(chains(target), _BYTE_CHAINS)


def flops_per_call(target: Target, threads: int) -> int:
    """What one call of `multiply_adds` does, a multiply-add being two."""
    return 2 * ROUNDS * chains(target) * target.lanes * threads


def step_elements(target: Target, threads: int) -> int:
    """Elements that all threads together read in one step of `reading`."""
    return threads * STREAMS * DEPTH * target.lanes


def multiply_adds(target: Target, threads: int) -> tirx.PrimFunc:
    """The kernel: arguments X, a vector of factors and one of terms, and Y, a vector of results a thread."""
    lanes = target.lanes
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("multiply_adds")
        x = T.arg("X", T.buffer((2, lanes), "float32"))
        y = T.arg("Y", T.buffer((threads, lanes), "float32"))
        T.func_attr({"tirx.noalias": True, "global_symbol": "multiply_adds"})
        with T.parallel(0, threads) as thread:
            factor, term = T.bind(load(x, 0, lanes)), T.bind(load(x, lanes, lanes))
            values = [register(lanes) for _ in range(chains(target))]
            for index, value in enumerate(values):
                store(value, 0, term * splat(tirx.const(float(index), "float32"), lanes), lanes)
            with T.serial(0, ROUNDS):
                for value in values:
                    store(value, 0, load(value, 0, lanes) * factor + term, lanes)
            _store_sum(y, thread, values, lanes)
    return builder.get()


def byte_operations_per_call(target: Target, threads: int) -> int:
    """What one call of `byte_products` does, the product and the sum of two bytes being two."""
    if target.has("amx_int8"):
        return 2 * ROUNDS * AMX_CHAINS * amx.ROWS * LANES * ROW_BYTES * threads
    return 2 * ROUNDS * byte_chains(target) * target.lanes * arithmetic_of("uint8", target).word * threads


def byte_factors(target: Target) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and type of what `byte_products` takes."""
    if target.has("amx_int8"):
        return (ROW_BYTES,), np.dtype(np.int8)
    how = arithmetic_of("uint8", target)
    return (how.word * target.lanes,), np.dtype(how.weights)


def byte_products(target: Target, threads: int) -> tirx.PrimFunc:
    """The kernel: arguments X, as `byte_factors` has it, and Y, a vector of results a thread.

    A chain multiplies its own bits, so that no product can be taken out of the loop; on AMX none ever is.
    """
    if target.has("amx_int8"):
        return _tile_products(target, threads)
    lanes, how = target.lanes, arithmetic_of("uint8", target)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("byte_products")
        x = T.arg("X", T.buffer((how.word * lanes,), how.weights))
        y = T.arg("Y", T.buffer((threads, lanes), "int32"))
        T.func_attr({"tirx.noalias": True, "global_symbol": "byte_products"})
        with T.parallel(0, threads) as thread:
            weights = [T.bind(part) for part in how.vector(x, 0, lanes)]
            values = [register(lanes, "int32") for _ in range(byte_chains(target))]
            for index, value in enumerate(values):
                store(value, 0, splat(tirx.const(index + 1, "int32"), lanes), lanes)
            with T.serial(0, ROUNDS):
                for value in values:
                    total = load(value, 0, lanes)
                    (updated,) = how.multiply_add([total], _factors(how, total, lanes), weights, lanes)
                    store(value, 0, updated, lanes)
            _store_sum(y, thread, values, lanes)
    return builder.get()


def _tile_products(target: Target, threads: int) -> tirx.PrimFunc:
    """The same arguments; every row and column of a tile is X, so that lane k of the result is that of its first row,
    the sum over chains."""
    lanes = target.lanes
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("byte_products")
        x = T.arg("X", T.buffer((ROW_BYTES,), "int8"))
        y = T.arg("Y", T.buffer((threads, lanes), "int32"))
        T.func_attr({"tirx.noalias": True, "global_symbol": "byte_products"})
        with T.parallel(0, threads) as thread:
            amx.configure([(amx.ROWS, ROW_BYTES)] * amx.TILES)
            for register_ in range(amx.TILES):
                if register_ < AMX_CHAINS:
                    amx.call("tilezero", amx.tile(register_))
                else:
                    amx.call("tileloadd64", amx.tile(register_), amx.address(x, 0), amx.distance(0))
            with T.serial(0, ROUNDS):
                for chain in range(AMX_CHAINS):
                    factors = (AMX_CHAINS + chain // 2, AMX_CHAINS + 2 + chain % 2)
                    amx.call("tdpbusd", amx.tile(chain), *map(amx.tile, factors))
            kept = T.alloc_buffer((AMX_CHAINS * amx.ROWS * lanes,), "int32", scope="global")
            for chain in range(AMX_CHAINS):
                to = amx.address(kept, chain * amx.TILE_BYTES)
                amx.call("tilestored64", amx.tile(chain), to, amx.distance(ROW_BYTES))
            amx.release()
            firsts = [load(kept, chain * amx.ROWS * lanes, lanes) for chain in range(AMX_CHAINS)]
            store(y, thread * lanes, sum(firsts[1:], firsts[0]), lanes)
    return builder.get()


def _factors(how: Arithmetic, total: ir.Expr, lanes: int) -> list[ir.Expr]:
    """A sum's own bits, as what the instructions multiply by weights."""
    match how.way:
        case Way.WORDS:
            return [tirx.call_intrin(f"int8x{4 * lanes}", "tirx.reinterpret", total)]
        case Way.PAIRS:
            return [tirx.call_intrin(f"int16x{2 * lanes}", "tirx.reinterpret", total)] * 2
        case _:
            return [total]


def reading(target: Target, threads: int) -> tirx.PrimFunc:
    """The kernel: arguments steps and passes, X, of which `steps * step_elements` are read, and Y as above."""
    lanes = target.lanes
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("reading")
        steps, passes = T.arg("steps", T.int64()), T.arg("passes", T.int64())
        x = T.arg("X", T.buffer((tirx.Var("size", "int64"),), "float32"))
        y = T.arg("Y", T.buffer((threads, lanes), "float32"))
        T.func_attr({"tirx.noalias": True, "global_symbol": "reading"})
        with T.parallel(0, threads) as thread:
            sums = [register(lanes) for _ in range(STREAMS * DEPTH)]
            for value in sums:
                store(value, 0, zeros(lanes), lanes)
            with T.serial(0, passes), T.serial(0, steps) as step:
                for index, value in enumerate(sums):
                    stream, vector = divmod(index, DEPTH)
                    position = (((thread * STREAMS + stream) * steps + step) * DEPTH + vector) * lanes
                    store(value, 0, load(value, 0, lanes) + load(x, position, lanes), lanes)
            _store_sum(y, thread, sums, lanes)
    return builder.get()


def _store_sum(y: tirx.Buffer, thread: tirx.Var, values: list[tirx.Buffer], lanes: int) -> None:
    total = load(values[0], 0, lanes)
    for value in values[1:]:
        total = total + load(value, 0, lanes)
    store(y, thread * lanes, total, lanes)

"""AMX's registers and instructions: eight tiles, each of up to 16 rows of 64 bytes.

    C[i, j] += sum over 16 words k, of four bytes or two bfloat16:  A[i, k] . B[k, j]

A row of A holds the words of a pixel; a row of B, for one word, its weights for 16 columns; sums are int32, or float32.
"""

from collections.abc import Sequence

import numpy as np
from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.views import Index, store
from lowprec.tiles import ROW_BYTES

ROWS = 16
"""Of a tile."""
TILES = 8
"""There are so many registers."""
TILE_BYTES = ROWS * ROW_BYTES
PRODUCTS = {
    ("int8", "int8"): "tdpbssd",
    ("int8", "uint8"): "tdpbsud",
    ("uint8", "int8"): "tdpbusd",
    ("uint8", "uint8"): "tdpbuud",
    ("bfloat16", "bfloat16"): "tdpbf16ps",
}
"""By what A and B hold."""

_PALETTE = 1
_COLUMNS_AT, _ROWS_AT = 16, 48  # where a configuration says how large tiles are


def configure(shapes: Sequence[tuple[int, int]]) -> None:
    """Tell the thread's tile registers their rows and bytes of a row; `release` takes that back."""
    layout = np.zeros(ROW_BYTES, np.uint8)
    layout[0] = _PALETTE
    for tile, (rows, width) in enumerate(shapes):
        layout[_COLUMNS_AT + 2 * tile], layout[_ROWS_AT + tile] = width, rows
    words = layout.view(np.int32)
    configuration = T.alloc_buffer((len(words),), "int32", scope="global")
    for place, word in enumerate(words):
        store(configuration, place, tirx.const(int(word), "int32"), 1)
    call("ldtilecfg", address(configuration, 0))


def release() -> None:
    """Leave nothing in the tile registers that a switch of threads would have to save."""
    call("tilerelease")


def call(name: str, *arguments: ir.Expr) -> None:
    """One instruction."""
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def tile(number: int) -> ir.Expr:
    """A tile register."""
    return tirx.const(number, "uint8")


def distance(count: int) -> ir.Expr:
    """From one row to the next, in bytes."""
    return tirx.const(count, "int64")


def address(buffer: tirx.Buffer, offset: Index) -> ir.Expr:
    """Of byte `offset`."""
    return T.handle_add_byte_offset(T.address_of(buffer[(0,) * len(buffer.shape)]), offset)

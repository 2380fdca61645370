"""Kernels read no further than their inputs go: these stand at the very beginning, or end, of what may be read, and
where no vector is aligned."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import lowprec

CHILD = """
import ctypes, mmap, sys
import numpy as np
import lowprec

PAGE, NONE = mmap.PAGESIZE, 0
libc = ctypes.CDLL(None, use_errno=True)
art = lowprec.load(sys.argv[1], threads=1)
rng = np.random.default_rng(0)
x = {spec.name: rng.standard_normal(spec.shape, np.float32) for spec in art.inputs}
expected = art(x)


def guard(array, where):
    pages = -(-array.nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, pages + 2 * PAGE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for wall in (base, base + PAGE + pages):
        assert libc.mprotect(ctypes.c_void_p(wall), PAGE, NONE) == 0
    start = PAGE if where == "beginning" else PAGE + pages - array.nbytes - (4 if where == "between" else 0)
    guarded = np.frombuffer(memory, np.float32, array.size, start).reshape(array.shape)
    assert art.manifest.input_alignment == 1, "it would be copied"
    guarded[...] = array
    return guarded


for where in ("beginning", "end", "between"):
    guarded = {name: guard(array, where) for name, array in x.items()}
    for _ in range(2):
        got = art(guarded)
        assert all(np.array_equal(got[name], expected[name]) for name in expected)
print("right")
"""

X = (1, 16, 18, 20)
"""As many bytes as fill whole cache lines."""


Built = tuple[onnx.NodeProto, list[onnx.TensorProto]]


def conv(shape: tuple[int, ...], **attributes: Any) -> Callable[[str], Built]:
    array = np.random.default_rng(1).standard_normal(shape, np.float32)

    def make(name: str) -> Built:
        inputs = [f"x {name}", f"w {name}"]
        return helper.make_node("Conv", inputs, [f"y {name}"], **attributes), [
            numpy_helper.from_array(array, inputs[1])
        ]

    return make


def plain(op: str, **attributes: Any) -> Callable[[str], Built]:
    return lambda name: (helper.make_node(op, [f"x {name}"], [f"y {name}"], **attributes), [])


NODES = {
    "padded rows": conv((16, 16, 3, 3), pads=[1, 1, 1, 1]),
    "padded columns": conv((16, 16, 1, 3), pads=[0, 1, 0, 1]),
    "a stem": conv((8, 16, 7, 7), pads=[3, 3, 3, 3], strides=[2, 2]),
    "wide pads": conv((16, 16, 5, 5), pads=[4, 4, 4, 4]),
    "groups": conv((16, 4, 3, 3), pads=[1, 1, 1, 1], group=4),
    "depthwise": conv((16, 1, 3, 3), pads=[1, 1, 1, 1], group=16),
    "depthwise, unpadded": conv((16, 1, 3, 3), group=16),
    "pointwise": conv((24, 16, 1, 1)),
    "a pool": plain("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "an average": plain("AveragePool", kernel_shape=[2, 2], strides=[2, 2], pads=[1, 0, 1, 0]),
    "a transpose": plain("Transpose", perm=[0, 2, 3, 1]),
    "a softmax": plain("Softmax", axis=1),
}


def test_nothing_beside_an_input_is_read(tmp_path: Path) -> None:
    built = [make(name) for name, make in NODES.items()]
    inputs, outputs = (
        [helper.make_tensor_value_info(f"{each} {name}", TensorProto.FLOAT, shape) for name in NODES]
        for each, shape in (("x", X), ("y", None))
    )
    weights = [tensor for _, tensors in built for tensor in tensors]
    graph = helper.make_graph([node for node, _ in built], "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    lowprec.compile(onnx.shape_inference.infer_shapes(model)).save(tmp_path / "a.lowprec")
    arguments = [sys.executable, "-c", CHILD, str(tmp_path / "a.lowprec")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr

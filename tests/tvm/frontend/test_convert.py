"""The walk from a graph to Relax: names, layers, outputs, refusals. What each operator means, onnx's node tests say."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import relax

from lowprec.errors import Unsupported
from lowprec.frontend.convert import LAYERS, to_relax
from lowprec.frontend.converters import CONVERTERS
from lowprec.frontend.graph import Array, Attribute, Graph, Node, TensorSpec
from lowprec.frontend.operators import SUPPORTED_OPS


def spec(name: str, shape: Sequence[int], dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=tuple(shape))


def node(
    op: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: Mapping[str, Attribute] | None = None,
    *,
    version: int = 17,
    domain: str = "",
) -> Node:
    return Node(
        op=op,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        layer=outputs[0],
        domain=domain,
        version=version,
        attributes=attributes or {},
    )


def graph(
    inputs: Sequence[TensorSpec],
    nodes: Sequence[Node],
    outputs: Sequence[TensorSpec],
    *,
    inner: Sequence[TensorSpec] = (),
    constants: Mapping[str, Array] | None = None,
) -> Graph:
    stored = constants or {}
    types = {item.name: item for item in (*inputs, *inner, *outputs)}
    types.update({name: spec(name, array.shape, array.dtype.name) for name, array in stored.items()})
    return Graph(
        name="test", inputs=tuple(inputs), outputs=tuple(outputs), nodes=tuple(nodes), constants=stored, types=types
    )


def bindings(module: tvm.IRModule) -> dict[str, relax.Expr]:
    return {binding.var.name: binding.value for block in module["main"].body.blocks for binding in block.bindings}


def run(module: tvm.IRModule, *arrays: NDArray[Any]) -> list[NDArray[Any]]:
    machine = relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
    result = machine["main"](*[tvm.runtime.tensor(array) for array in arrays])
    return [result.numpy()] if hasattr(result, "numpy") else [item.numpy() for item in result]


def convolution_with_bias() -> Graph:
    """One strided convolution with a bias, then a ReLU; names as exporters write them."""
    rng = np.random.default_rng(0)
    return graph(
        [spec("input.1", (1, 3, 8, 8))],
        [
            node("Conv", ["input.1", "w", "b"], ["/conv/Conv_output_0"], {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
            node("Relu", ["/conv/Conv_output_0"], ["lv"]),
        ],
        [spec("lv", (1, 4, 4, 4))],
        inner=[spec("/conv/Conv_output_0", (1, 4, 4, 4))],
        constants={
            "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
            "b": rng.standard_normal(4).astype(np.float32),
        },
    )


def test_supported_operators_are_those_with_a_converter() -> None:
    assert frozenset(CONVERTERS) == SUPPORTED_OPS


def test_values_keep_their_names_whatever_helpers_are_called() -> None:
    module = to_relax(convolution_with_bias())
    assert [parameter.name for parameter in module["main"].params] == ["input.1"]
    found = bindings(module)
    assert found["/conv/Conv_output_0"].op.name == "relax.add"
    assert found["lv"].op.name == "relax.nn.relu"


def test_helpers_have_no_names_that_a_tensor_could_have() -> None:
    """The bias is added by a helper, which TVM's builder would call lv, as the model's own tensor is."""
    module = to_relax(convolution_with_bias())
    names = [binding.var.name for block in module["main"].body.blocks for binding in block.bindings]
    assert names == ["", "/conv/Conv_output_0", "lv"]


def test_a_layer_is_found_by_the_name_of_its_value() -> None:
    layers = to_relax(convolution_with_bias())["main"].attrs[LAYERS]
    assert dict(layers.items()) == {"/conv/Conv_output_0": "/conv/Conv_output_0", "lv": "lv"}


def test_the_bias_of_a_convolution_is_a_constant_that_broadcasts() -> None:
    made = convolution_with_bias()
    addition = bindings(to_relax(made))["/conv/Conv_output_0"]
    np.testing.assert_array_equal(addition.args[1].value.numpy(), made.constants["b"].reshape(1, 4, 1, 1))


def test_a_gemm_is_one_product_with_its_numbers_folded() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    made = graph(
        [spec("x", (1, 3))],
        [node("Gemm", ["x", "w", "b"], ["y"], {"alpha": 2.0, "beta": 0.5, "transB": 1})],
        [spec("y", (1, 2))],
        constants={"w": weight, "b": np.array([4, 8], np.float32)},
    )
    module = to_relax(made)
    addition = bindings(module)["y"]
    np.testing.assert_array_equal(addition.args[1].value.numpy(), np.array([2, 4], np.float32))
    x = np.array([[1, 2, 3]], np.float32)
    np.testing.assert_allclose(run(module, x)[0], 2 * x @ weight.T + np.array([2, 4], np.float32))


def test_outputs_that_are_inputs_or_constants_have_their_own_memory() -> None:
    made = graph(
        [spec("x", (2,))],
        [node("Identity", ["x"], ["y"])],
        [spec("y", (2,)), spec("x", (2,)), spec("c", ())],
        constants={"c": np.array(3, np.int64)},
    )
    module = to_relax(made)
    assert all(value.op.name == "relax.call_tir" for value in bindings(module).values())
    x = np.array([1, 2], np.float32)
    first, second, third = run(module, x)
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(second, x)
    assert third.dtype == np.int64
    assert third == 3


def test_a_sum_is_a_chain_of_additions() -> None:
    made = graph(
        [spec(name, (2,)) for name in "abc"],
        [node("Sum", ["a", "b", "c"], ["y"])],
        [spec("y", (2,))],
    )
    operators = [value.op.name for value in bindings(to_relax(made)).values()]
    assert operators == ["relax.add", "relax.add"]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            graph([spec("x", (1,))], [node("Imagined", ["x"], ["y"])], [spec("y", (1,))]),
            "Imagined node 'y': the operator is not supported",
        ),
        (
            graph([spec("x", (1,))], [node("Relu", ["x"], ["y"], domain="org.example")], [spec("y", (1,))]),
            "Relu node 'y': the operator of domain 'org.example' is not supported",
        ),
        (
            graph([spec("x", (1,), "complex64")], [node("Neg", ["x"], ["y"])], [spec("y", (1,), "complex64")]),
            "Neg node 'y': tensor 'x' is complex64, not supported yet",
        ),
        (
            graph([spec("x", (4,))], [node("Relu", ["x"], ["y"])], [spec("y", (5,))]),
            r"Relu node 'y': converted to float32\[4\] where float32\[5\] is expected",
        ),
        (
            graph(
                [spec("x", (4,)), spec("i", (1,), "int64")],
                [node("Split", ["x", "i"], ["y", ""])],
                [spec("y", (4,))],
            ),
            "Split node 'y': output 1 has no name",
        ),
    ],
    ids=lambda value: value.nodes[0].op if isinstance(value, Graph) else "",
)
def test_refusals_name_the_node(made: Graph, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        to_relax(made)


@pytest.mark.parametrize("indices", [[-9, 99, 0], [-(2**62), 2**62, 1]])
def test_a_gather_never_reads_outside_its_input(indices: list[int]) -> None:
    """ONNX leaves such indices open; compiled code must stay within the buffer."""
    made = graph(
        [spec("x", (3, 2)), spec("i", (3,), "int64")], [node("Gather", ["x", "i"], ["y"])], [spec("y", (3, 2))]
    )
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    (found,) = run(to_relax(made), x, np.array(indices))
    np.testing.assert_array_equal(found, x[np.clip(indices, 0, 2)])


def test_a_scatter_never_writes_outside_its_output() -> None:
    made = graph(
        [spec("x", (4,)), spec("i", (2,), "int64"), spec("u", (2,))],
        [node("ScatterElements", ["x", "i", "u"], ["y"])],
        [spec("y", (4,))],
    )
    zeros, ones = np.zeros(4, np.float32), np.ones(2, np.float32)
    (found,) = run(to_relax(made), zeros, np.array([-(2**40), 2**40]), ones)
    np.testing.assert_array_equal(found, [1, 0, 0, 1])


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_aligned_corners_of_one_element_are_the_first(mode: str) -> None:
    resize = node(
        "Resize", ["x", "", "", "sizes"], ["y"], {"mode": mode, "coordinate_transformation_mode": "align_corners"}
    )
    sizes = np.array([1, 1, 1, 5], np.int64)
    x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    made = graph([spec("x", x.shape)], [resize], [spec("y", (1, 1, 1, 5))], constants={"sizes": sizes})
    (got,) = run(to_relax(made), x)
    np.testing.assert_allclose(got.reshape(-1), [0, 0.5, 1, 1.5, 2] if mode == "linear" else [0, 0, 1, 1, 2])


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8"])
@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_integer_division_cannot_trap(op: str, dtype: str) -> None:
    """By zero gives 0, the smallest over -1 wraps: hardware would raise a signal."""
    limits = np.iinfo(dtype)
    a = np.array([7, limits.min, limits.max, 5], dtype)
    b = np.array([0, -1 if limits.min else 3, 2, 0], dtype)
    made = graph(
        [spec("a", (4,), dtype), spec("b", (4,), dtype)], [node(op, ["a", "b"], ["y"])], [spec("y", (4,), dtype)]
    )
    (found,) = run(to_relax(made), a, b)
    assert found[0] == found[3] == 0
    assert found[2] == (limits.max // 2 if op == "Div" else 1)
    if limits.min:
        assert found[1] == (limits.min if op == "Div" else 0)


@pytest.mark.parametrize("op", ["InstanceNormalization", "GroupNormalization", "LayerNormalization"])
def test_normalizations_keep_their_digits_beside_a_large_mean(op: str) -> None:
    """The mean square less the square of the mean would lose them all."""
    attributes: dict[str, Attribute] = {"num_groups": 4} if op == "GroupNormalization" else {}
    size = 16 if op == "LayerNormalization" else 8
    made = graph(
        [spec("x", (2, 8, 16, 16))],
        [node(op, ["x", "scale", "shift"], ["y"], attributes, version=21)],
        [spec("y", (2, 8, 16, 16))],
        constants={"scale": np.ones(size, np.float32), "shift": np.zeros(size, np.float32)},
    )
    x = (np.random.default_rng(0).standard_normal((2, 8, 16, 16)) + 1000).astype(np.float32)
    (found,) = run(to_relax(made), x)
    shape = {"InstanceNormalization": (2, 8, 256), "GroupNormalization": (2, 4, 512), "LayerNormalization": (256, 16)}
    exact = x.astype(np.float64).reshape(shape[op])
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, exact.reshape(x.shape), atol=1000 * 4 * float(np.finfo(np.float32).eps))

"""What a kernel call is said to cost is what its operators ask for: no halo, no packing, nothing that nobody reads."""

import pytest
from tvm import relax, te

from lowprec.layers import Cost
from lowprec.passes.channels_last import channels_last
from lowprec.passes.editing import LAYERS, MAIN, Emitter
from lowprec.passes.halos import move_padding
from lowprec.passes.lowering import lower_units
from lowprec.passes.units import group_units
from lowprec.targets import parse_target
from tests.tvm.passes.programs import Body, program, weights

op, nn = relax.op, relax.op.nn
FLOAT = 4


def costs(shapes: list[tuple[int, ...]], body: Body, *, names: tuple[str, ...] = ()) -> dict[str, Cost]:
    """The cost of every kernel call by its operators."""
    module = program(shapes, body, layers={name: name for name in names})
    lowered = lower_units(move_padding(group_units(channels_last(module))), parse_target("x86-64"))
    return {"+".join(call.operators): call.cost for call in lowered.calls}


def conv(e: Emitter, x: relax.Expr, out: int, *, kernel: int = 3, name: str = "", **options: object) -> relax.Var:
    groups = int(str(options.get("groups", 1)))
    channels = int(x.ty.shape.values[1]) // groups
    return e.emit(nn.conv2d(x, weights(out, channels, kernel, kernel), **options), name)


def test_a_convolution_with_its_epilogue() -> None:
    def body(e: Emitter, x: list[relax.Var]) -> relax.Expr:
        y = e.emit(op.add(conv(e, x[0], 6, padding=1), weights(1, 6, 1, 1)))
        return e.emit(nn.relu(e.emit(op.add(y, x[1]))))

    found = costs([(2, 4, 9, 9), (2, 6, 9, 9)], body)["conv2d+add+add+relu"]
    pixels = 2 * 9 * 9
    assert found.macs == pixels * 6 * 4 * 9, "padding counts as in any table of operations"
    assert found.weight_bytes == FLOAT * (6 * 4 * 9 + 6)
    assert found.tensor_bytes == FLOAT * (pixels * 4 + pixels * 6 + pixels * 6), (
        "a border costs nothing, whoever wrote it"
    )


def test_a_halo_between_kernels_costs_nothing() -> None:
    def body(e: Emitter, x: list[relax.Var]) -> relax.Expr:
        y = e.emit(nn.relu(conv(e, x[0], 8, kernel=1)), "y")
        return e.emit(op.tanh(conv(e, y, 8, padding=1)))

    found = costs([(1, 4, 7, 7)], body, names=("y",))
    assert found["conv2d+relu"].tensor_bytes == FLOAT * 7 * 7 * (4 + 8)
    assert found["conv2d+tanh"].tensor_bytes == FLOAT * 7 * 7 * (8 + 8)


@pytest.mark.parametrize(("groups", "out"), [(3, 6), (12, 12), (12, 24)])
def test_groups_cost_what_the_model_says_however_they_are_merged(groups: int, out: int) -> None:
    found = costs([(1, 12, 8, 8)], lambda e, x: conv(e, x[0], out, groups=groups))["conv2d"]
    assert found.macs == 6 * 6 * out * (12 // groups) * 9
    assert found.weight_bytes == FLOAT * out * (12 // groups) * 9


def test_a_convolution_that_steps_over_pixels_reads_the_others() -> None:
    found = costs([(1, 4, 9, 9)], lambda e, x: conv(e, x[0], 8, kernel=1, strides=2))["conv2d"]
    assert found.tensor_bytes == FLOAT * (5 * 5 * 4 + 5 * 5 * 8)
    wide = costs([(1, 4, 9, 9)], lambda e, x: conv(e, x[0], 8, kernel=3, strides=2))["conv2d"]
    assert wide.tensor_bytes == FLOAT * (9 * 9 * 4 + 4 * 4 * 8)


def test_pools() -> None:
    found = costs([(1, 8, 8, 8)], lambda e, x: e.emit(nn.max_pool2d(x[0], (2, 2), (2, 2))))["max_pool2d"]
    assert found == Cost(tensor_bytes=FLOAT * 8 * (64 + 16))
    sparse = costs([(1, 8, 8, 8)], lambda e, x: e.emit(nn.max_pool2d(x[0], (1, 1), (2, 2))))["max_pool2d"]
    assert sparse == Cost(tensor_bytes=FLOAT * 8 * (16 + 16))


def test_products() -> None:
    constant = costs([(3, 5)], lambda e, x: e.emit(op.matmul(x[0], weights(5, 7))))["matmul"]
    assert constant == Cost(macs=3 * 5 * 7, weight_bytes=FLOAT * 35, tensor_bytes=FLOAT * (15 + 21))
    computed = costs([(2, 3, 5), (2, 5, 7)], lambda e, x: e.emit(op.matmul(x[0], x[1])))["matmul"]
    assert computed == Cost(macs=2 * 3 * 5 * 7, tensor_bytes=FLOAT * 2 * (15 + 35 + 21))
    generic = costs([(4, 3, 5), (1, 5, 7)], lambda e, x: e.emit(op.matmul(x[0], x[1])))["matmul"]
    assert generic == Cost(macs=4 * 3 * 5 * 7, tensor_bytes=FLOAT * (60 + 35 + 84))


def test_a_transposed_convolution_with_computed_weights() -> None:
    def body(e: Emitter, x: list[relax.Var]) -> relax.Expr:
        return e.emit(nn.conv2d_transpose(x[0], x[1], strides=2))

    found = costs([(1, 4, 5, 5), (4, 6, 3, 3)], body)["conv2d_transpose"]
    assert found.macs == 5 * 5 * 4 * 6 * 9


def test_a_slice_moves_what_it_keeps() -> None:
    def body(e: Emitter, x: list[relax.Var]) -> relax.Expr:
        return e.emit(op.tanh(e.emit(op.strided_slice(x[0], [0], [10], [12]))))

    assert costs([(100, 3)], body)["strided_slice+tanh"] == Cost(tensor_bytes=FLOAT * (6 + 6))


def test_a_gather_reads_no_more_of_a_table_than_it_gives() -> None:
    table = weights(1000, 3)
    builder = relax.BlockBuilder()
    rows = relax.Var("rows", relax.TensorType((2,), "int64"))

    def pick(x: te.Tensor, i: te.Tensor) -> te.Tensor:
        return te.compute((2, 3), lambda r, c: x[i[r], c], name="gather")

    with builder.function(MAIN, [rows], attrs={LAYERS: {}}):
        result = builder.emit(builder.call_te(pick, table, rows, primfunc_name_hint="gather"))
        builder.emit_func_output(result)
    lowered = lower_units(move_padding(group_units(builder.get())), parse_target("x86-64"))
    (call,) = lowered.calls
    assert call.cost == Cost(weight_bytes=FLOAT * 6, tensor_bytes=8 * 2 + FLOAT * 6)


def test_a_value_read_twice_moves_once() -> None:
    found = costs([(6, 6)], lambda e, x: e.emit(op.multiply(x[0], e.emit(op.tanh(x[0])))))
    assert found == {"tanh+multiply": Cost(tensor_bytes=FLOAT * (36 + 36))}


def test_elements_that_are_not_four_bytes() -> None:
    found = costs([(6, 6)], lambda e, x: e.emit(op.astype(x[0], "float16")))
    assert found == {"astype": Cost(tensor_bytes=36 * (4 + 2))}

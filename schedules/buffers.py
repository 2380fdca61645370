"""How every kernel of a convolution or product begins: its arguments, and the border of its result."""

from dataclasses import dataclass
from typing import Protocol

from tvm import ir, tirx
from tvm.script.ir_builder import tirx as T

from lowprec.schedules.epilogue import Epilogue
from lowprec.schedules.halo import Halo, fill_halo
from lowprec.schedules.noise import STEP_SHAPE, STEP_TYPE
from lowprec.schedules.tasks import only_if
from lowprec.schedules.views import FLOAT, Index, View, load, store


class Framed(Protocol):
    """What a kernel's parameters say of its arguments."""

    @property
    def input(self) -> View: ...
    @property
    def output(self) -> View: ...
    @property
    def halo(self) -> Halo | None: ...
    @property
    def epilogue(self) -> Epilogue: ...
    @property
    def lanes(self) -> int: ...
    @property
    def bias_width(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What most kernels' parameters say of their arguments."""

    input: View
    output: View
    halo: Halo | None
    bias: bool
    epilogue: Epilogue
    lanes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffers:
    """The kernel's arguments; `low` are the lower bytes of weights that have two, `step` is that of random words."""

    x: tirx.Buffer
    w: tirx.Buffer
    low: tirx.Buffer | None
    bias: tirx.Buffer | None
    operands: list[tirx.Buffer]
    step: tirx.Buffer | None
    y: tirx.Buffer

    def bias_at(self, channel: Index, width: int) -> ir.Expr | None:
        """The bias of some channels, if there is one."""
        return None if self.bias is None else T.bind(load(self.bias, channel, width))


def begin_kernel(
    spec: Framed,
    *,
    weights: View | tuple[int, ...],
    bias: bool,
    packed: str = FLOAT,
    sums: str = FLOAT,
    low: bool = False,
) -> Buffers:
    """Declare X, W, [the lower bytes of W], [bias], the epilogue's operands, [the step] and Y of the function under
    construction, and fill the border. Weights without a view are `packed` numbers, the bias is of the sums' type."""
    T.func_name("main")
    buffers = Buffers(
        x=spec.input.buffer("X"),
        w=weights.buffer("W") if isinstance(weights, View) else T.arg("W", T.buffer(weights, packed)),
        low=T.arg("L", T.buffer(weights.shape if isinstance(weights, View) else weights, "uint8")) if low else None,
        bias=T.arg("B", T.buffer((spec.bias_width,), sums)) if bias else None,
        operands=[view.buffer(f"E{i}") for i, view in enumerate(spec.epilogue.operands)],
        step=T.arg("step", T.buffer(STEP_SHAPE, STEP_TYPE)) if spec.epilogue.draws else None,
        y=spec.output.buffer("Y"),
    )
    T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
    if spec.halo is not None:
        fill_halo(buffers.y, spec.halo, spec.lanes)
    return buffers


def write_output(
    spec: Framed,
    buffers: Buffers,
    value: ir.Expr,
    coordinates: tuple[Index, ...],
    width: int,
    *,
    bias: ir.Expr | None,
    unless: ir.Expr | None = None,
) -> None:
    """A vector of sums, with the bias and through the epilogue, into its place; `unless` something holds that is known
    at run time."""

    def write() -> None:
        result = spec.epilogue.apply(value if bias is None else value + bias, buffers.operands, coordinates, width)
        store(buffers.y, spec.output.address(coordinates), result, width)

    only_if(None if unless is None else tirx.Not(unless), write)

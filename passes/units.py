"""One function per kernel: an operator with everything elementwise that follows it.

    before:  y = conv2d(x, w); z = add(y, b); u = add(z, r); v = relu(u)
    after:   v = unit(x, r)    where  unit(x, r) = relu(add(add(conv2d(x, w), b), r))

A unit (`calling`) grows from an operator along the elementwise ones that use its result, as long as no value but the
last is needed outside. What is a narrow tensor made wide (`widening`) is computed inside, from the narrow one.
Declines when: the next user is not elementwise, changes the shape, or is one that the kernel's epilogue cannot do.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from tvm import IRModule, relax

from lowprec.passes.calling import Caller, Kind, unit_attributes
from lowprec.passes.drawing import WORDS_OP
from lowprec.passes.editing import (
    MAIN,
    Emitter,
    attributes_of,
    bindings,
    dtype_of,
    is_constant,
    is_tensor,
    layers_in,
    op_name,
    replace_tensors,
    result_of,
    shape_of,
    tensors_in,
)
from lowprec.passes.elementwise import CONVERSION, ELEMENTWISE_OPS, EPILOGUE_OPS
from lowprec.passes.signs import multiplies_signs, signs_of
from lowprec.passes.widening import chain_of
from lowprec.schedules.simplifying import HALVES
from lowprec.schedules.views import FLOAT

LONGEST = 64  # operators a unit may have
CONVOLUTIONS = frozenset(f"relax.nn.conv{n}d" for n in (1, 2, 3))
SUMS = ("float32", "int32", "int64")
"""What kernels of products sum in."""
EPILOGUE_TYPES = ("float32", "int64", "int32", "uint32", "int16", "uint8", "int8")
FREE = frozenset({"relax.reshape"})  # the runtime makes these without a kernel
CALLS = frozenset({"relax.call_tir"})


@dataclass(slots=True)
class _Line:
    """One binding of main, with who uses it."""

    index: int
    var: relax.Var
    value: relax.Expr
    users: list[int] = field(default_factory=list)
    returned: bool = False
    widens: bool = False
    """Whether it is a step of a chain that everyone computes for himself."""
    halves: bool = False
    """Whether it is a float32 turned into a float half as wide, only to be turned back: a rounding."""


def group_units(module: IRModule) -> IRModule:
    """The pass, over main."""
    main = module[MAIN]
    lines = _read(main)
    groups = _grow_all(lines)
    layers = layers_in(main)
    caller = Caller()
    new: dict[relax.Var, relax.Expr] = {}
    inside = {index for group in groups.values() for index in group}
    by_var = {line.var: line for line in lines}
    for line in lines:
        members = groups.get(line.index)
        if members is None:
            if line.index not in inside and not line.widens:
                new[line.var] = caller.emit(replace_tensors(line.value, new), line.var.name)
            continue
        layer = _layer_of(lines, members, layers)
        function, arguments = _outline([lines[index] for index in members], layer, by_var)
        new[line.var] = caller.call(function, [new.get(a, a) for a in arguments], line.var.name)
    result = replace_tensors(result_of(main), new)
    return caller.module(caller.function(list(main.params), result, attributes_of(main)), module)


def _read(main: relax.Function) -> list[_Line]:
    lines = [_Line(index, var, value) for index, (var, value) in enumerate(bindings(main))]
    by_var = {line.var: line for line in lines}
    for line in lines:
        for source in set(tensors_in(line.value)):
            if source in by_var:
                by_var[source].users.append(line.index)
    for source in tensors_in(result_of(main)):
        if source in by_var:
            by_var[source].returned = True
    _mark_widening(lines)
    for line in lines:
        line.halves = _is_half_of_rounding(line, [lines[user] for user in line.users])
    return lines


def _is_half_of_rounding(line: _Line, readers: list[_Line]) -> bool:
    if op_name(line.value) != CONVERSION or dtype_of(line.var) not in HALVES or line.returned:
        return False
    back = (op_name(reader.value) == CONVERSION and dtype_of(reader.var) == FLOAT for reader in readers)
    return dtype_of(line.value.args[0]) == FLOAT and len(readers) == 1 and all(back)


def _mark_widening(lines: list[_Line]) -> None:
    """A chain is computed by its readers, if these are units all."""
    values = {line.var: line.value for line in lines}
    for line in reversed(lines):
        readers = [lines[user] for user in line.users]
        local = all(reader.widens or kind_of(reader.value) is not None for reader in readers)
        chained = local and not _is_multiplied(line, readers) and bool(chain_of(line.var, values))
        signs = bool(signs_of(line.var, values)) and all(multiplies_signs(reader.value, values) for reader in readers)
        asks = op_name(line.value) == "relax.greater_equal" and all(
            reader.widens and op_name(reader.value) == "relax.where" for reader in readers
        )
        line.widens = bool(readers or local) and not line.returned and (chained or signs or asks)


def _is_multiplied(line: _Line, readers: list[_Line]) -> bool:
    """Whether a kernel of products reads it as numbers: it takes floats from memory."""
    if dtype_of(line.var) != "float32":
        return False
    products = [reader for reader in readers if kind_of(reader.value) in (Kind.CONVOLUTION, Kind.PRODUCT)]
    return any(source.same_as(line.var) for reader in products for source in reader.value.args[:2])


def kind_of(value: relax.Expr) -> Kind | None:
    """The family an operator belongs to, None for what needs no kernel or is no operator."""
    name = op_name(value)
    if name in FREE or name == WORDS_OP or not name:
        return None
    if name in CONVOLUTIONS and _is_plain_convolution(value):
        return Kind.CONVOLUTION
    if name == "relax.matmul" and _is_plain_product(value):
        return Kind.PRODUCT
    if name.startswith("relax.call_") and name not in CALLS:
        return None
    return Kind.GENERIC if _has_tensors(value) else None


def _has_tensors(value: relax.Expr) -> bool:
    types = value.ty.fields if isinstance(value.ty, relax.TupleType) else [value.ty]
    return all(isinstance(ty, relax.TensorType) for ty in types)


def _is_plain_convolution(value: relax.Call) -> bool:
    """float32 or int32, constant weights: what kernels compute, of images with channels last or left as planes."""
    planes = lies_as_planes(value) and dtype_of(value) == FLOAT
    last = str(value.attrs.data_layout) in ("NWC", "NHWC", "NDHWC")
    return (last or planes) and is_constant(value.args[1]) and dtype_of(value) == dtype_of(value.args[0]) in SUMS


def lies_as_planes(convolution: relax.Call) -> bool:
    """Whether a convolution's images have one channel after the other."""
    return str(convolution.attrs.data_layout) == "NCHW"


def _is_plain_product(value: relax.Call) -> bool:
    """At least rank 2 and at most 5, right-hand side constant and 2-D, or in float32 of the same leading axes."""
    left, right = map(shape_of, value.args)
    if not dtype_of(value) == dtype_of(value.args[0]) in SUMS or 0 in left + right:
        return False
    if dtype_of(value) != "float32" and not is_constant(value.args[1]):
        return False
    if not 2 <= len(left) <= 5:
        return False
    return len(right) == 2 or (len(left) == len(right) and left[:-2] == right[:-2])


def _grow_all(lines: list[_Line]) -> dict[int, list[int]]:
    """Index of each unit's last line -> the unit's lines."""
    taken: set[int] = set()
    halves = {line.var for line in lines if line.halves}
    groups: dict[int, list[int]] = {}
    for line in lines:
        kind = kind_of(line.value)
        if line.index in taken or kind is None or line.widens:
            continue
        members = _grow(lines, line, kind, taken, halves)
        taken.update(members)
        groups[members[-1]] = members
    return groups


def _grow(lines: list[_Line], anchor: _Line, kind: Kind, taken: set[int], halves: Collection[relax.Var]) -> list[int]:
    members = [anchor.index]
    best = list(members)
    if not is_tensor(anchor.var):
        return best
    allowed = ELEMENTWISE_OPS if kind is Kind.GENERIC else EPILOGUE_OPS.keys() | {CONVERSION}
    while len(members) < LONGEST:
        users = sorted({user for index in members for user in lines[index].users} - set(members))
        if not users or users[0] in taken or not _may_follow(lines[users[0]], anchor, allowed, halves):
            break
        members.append(users[0])
        if _is_closed(lines, members) and not (lines[users[0]].widens or lines[users[0]].halves):
            best = list(members)
    return best


def _touches_bfloat16(line: _Line, halves: Collection[relax.Var]) -> bool:
    """TVM rewrites bfloat16 by writing expressions out several times, which breaks the bindings that vector_math puts
    into them: what reads or writes bfloat16 is a kernel of its own, but for the `halves` of roundings."""
    values = (value for value in (line.var, *tensors_in(line.value)) if value not in halves)
    return any(dtype_of(value) == "bfloat16" for value in values)


def _may_follow(line: _Line, anchor: _Line, allowed: Iterable[str], halves: Collection[relax.Var]) -> bool:
    name = op_name(line.value)
    if name not in allowed or not is_tensor(line.var) or shape_of(line.var) != shape_of(anchor.var):
        return False
    if _touches_bfloat16(anchor, halves) or _touches_bfloat16(line, halves):
        return False
    if op_name(anchor.value) in CONVOLUTIONS | {"relax.matmul"} and kind_of(anchor.value) is not Kind.GENERIC:
        values = (value for value in (line.var, *tensors_in(line.value)) if value not in halves)
        return all(dtype_of(value) in EPILOGUE_TYPES for value in values)
    return True


def _is_closed(lines: list[_Line], members: list[int]) -> bool:
    """No value but the last is used outside."""
    inside = set(members)
    return all(not lines[index].returned and inside.issuperset(lines[index].users) for index in members[:-1])


def _layer_of(lines: list[_Line], members: list[int], layers: dict[str, str]) -> str:
    """The layer of the unit's first named value; a nameless unit, such as a layout change, works for its first reader,
    or else for what it reads."""
    named = [lines[index].var.name for index in members if lines[index].var.name in layers]
    if named:
        return layers[named[0]]
    by_var = {line.var: line.index for line in lines}
    forward = (user for index in members for user in lines[index].users)
    backward = (by_var[source] for index in members for source in tensors_in(lines[index].value) if source in by_var)
    seen = set(members)
    queue = [*forward, *backward]
    while queue:
        index = queue.pop(0)
        if lines[index].var.name in layers:
            return layers[lines[index].var.name]
        if index not in seen:
            seen.add(index)
            queue += lines[index].users
    nameless: str = lines[members[-1]].var.name
    return nameless


def _outline(
    members: list[_Line], layer: str, by_var: Mapping[relax.Var, _Line]
) -> tuple[relax.Function, list[relax.Var]]:
    """The unit's function, and what main calls it with."""
    program = _with_chains(members, by_var)
    sources = (source for value in program.values() for source in tensors_in(value) if isinstance(source, relax.Var))
    arguments = [source for source in dict.fromkeys(sources) if source not in program]
    params = [relax.Var(argument.name, argument.ty) for argument in arguments]
    new: dict[relax.Var, relax.Expr] = dict(zip(arguments, params, strict=True))
    emitter = Emitter()
    for var, value in program.items():
        new[var] = emitter.emit(replace_tensors(value, new), var.name)
    kind = kind_of(members[0].value)
    assert kind is not None
    attributes = unit_attributes(kind, layer, [_short(line.value) for line in members])
    return emitter.function(params, new[members[-1].var], attributes), arguments


def _with_chains(members: list[_Line], by_var: Mapping[relax.Var, _Line]) -> dict[relax.Var, relax.Expr]:
    """The unit's lines, each with what it computes for itself before it."""
    inside = {line.var for line in members}
    program: dict[relax.Var, relax.Expr] = {}

    def add(line: _Line) -> None:
        for source in tensors_in(line.value):
            known = by_var.get(source)
            if known is not None and known.widens and source not in inside and source not in program:
                add(known)
        program[line.var] = line.value

    for line in members:
        add(line)
    return program


def _short(value: relax.Expr) -> str:
    """`relax.nn.conv2d` -> `conv2d`; a kernel that a converter wrote is known by its function's name."""
    name = op_name(value)
    if name in CALLS:
        return str(value.args[0].name_hint)
    return name.rsplit(".", 1)[-1]

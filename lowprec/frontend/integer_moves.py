"""Values that only move stay integers.

    MaxPool(DequantizeLinear(x))        -->  DequantizeLinear(MaxPool(x)); and so for whatever moves values
    Conv(MaxPool(DequantizeLinear(x)))  -->  Conv(DequantizeLinear(MaxPool(x))), as soon as a model is read
    QuantizeLinear(DequantizeLinear(x)) -->  x, where scale and zero point are the same

Declines when: the integers are not bytes with one scale and zero point; those of a Concat differ.
"""

from dataclasses import replace

from lowprec.frontend.graph import Graph, Node
from lowprec.frontend.integer_rewrite import BYTES, Quantized, Rewrite
from lowprec.frontend.restoring import PRODUCTS

MOVING = """
Concat DepthToSpace Expand Flatten Gather Identity MaxPool Reshape Slice SpaceToDepth Split Squeeze Tile Transpose
Unsqueeze
"""
MOVES = frozenset(MOVING.split())
"""What gives values that it was given, by order alone."""

MOVED = BYTES | {"int16"}
FIRST_ONLY = MOVES - {"Concat"}
"""Of these the first input alone holds values."""
SINCE = {"Concat": 4, "Flatten": 9, "MaxPool": 12}
"""The opsets from which some take bytes; the others always did."""


def move_integers(graph: Graph) -> Graph:
    """Values move as integers, and are dequantized behind."""
    work = Rewrite(graph=graph)
    for node in graph.nodes:
        _move(work, node)
    return work.finished()


def move_to_products(graph: Graph) -> Graph:
    """The same in front of products with integer weights, where ONNX has those operators for bytes."""
    wanted = {
        node.inputs[0]
        for node in graph.nodes
        if node.op in PRODUCTS and not node.domain and node.inputs[1] in graph.dequantized
    }
    wanted &= _dequantized(graph)
    for node in reversed(graph.nodes):
        if _moves(node) and node.outputs[0] in wanted:
            wanted.update(_moved(node))
    work = Rewrite(graph=graph)
    for node in graph.nodes:
        if node.outputs[0] in wanted:
            _move(work, node)
        else:
            work.nodes.append(node)
    return work.finished()


def _dequantized(graph: Graph) -> set[str]:
    """What is dequantized bytes, moved at most."""
    found: set[str] = set()
    for node in graph.nodes:
        if node.op == "DequantizeLinear":
            is_known = not node.domain and graph.types[node.inputs[0]].dtype in BYTES
        else:
            is_known = _moves(node) and node.version >= SINCE.get(node.op, 1) and found.issuperset(_moved(node))
        if is_known:
            found.add(node.outputs[0])
    return found


def _moved(node: Node) -> tuple[str, ...]:
    """The operands that hold values."""
    return node.inputs[:1] if node.op in FIRST_ONLY else node.inputs


def _moves(node: Node) -> bool:
    return not node.domain and node.op in MOVES and not any(node.outputs[1:]) and len(node.inputs) > 0


def _move(work: Rewrite, node: Node) -> None:
    if not _moves(node):
        work.nodes.append(node)
        return
    operands = _moved(node)
    found = [work.quantized(name, per_tensor=True) for name in operands]
    first = found[0]
    same = first is not None and all(one is not None and one.parameters == first.parameters for one in found)
    words = same and all(one is not None and work.types[one.codes].dtype in MOVED for one in found)
    if first is None or not words or len({work.types[one.codes].dtype for one in found if one is not None}) > 1:
        work.nodes.append(node)
        return
    result = node.outputs[0]
    dtype, shape = work.types[first.codes].dtype, work.types[result].shape
    codes = tuple(one.codes for one in found if one is not None)
    moved = work.emit(
        node.op,
        codes + node.inputs[len(codes) :],
        f"{result}/integers",
        (dtype, shape),
        layer=node.layer,
        attributes=node.attributes,
    )
    work.nodes[-1] = replace(work.nodes[-1], version=node.version)
    source = work.made[operands[0]]
    below = Node(
        op="DequantizeLinear",
        inputs=(moved, *source.inputs[1:]),
        outputs=(result,),
        layer=node.layer,
        version=source.version,
        attributes={},
    )
    work.nodes.append(below)
    work.made[result] = below


def cancel(graph: Graph) -> Graph:
    """Without QuantizeLinear of what was dequantized from the same integers."""
    work = Rewrite(graph=graph)
    same: dict[str, str] = {}
    outputs = work.uses.outputs
    for node in graph.nodes:
        node = replace(node, inputs=tuple(same.get(name, name) for name in node.inputs))
        if node.op == "QuantizeLinear" and not node.domain and node.outputs[0] not in outputs:
            before = work.quantized(node.inputs[0], per_tensor=True)
            after = work.parameters(node, node.outputs[0], per_tensor=True)
            if before is not None and after is not None and _same(before, after, work):
                same[node.outputs[0]] = same.get(before.codes, before.codes)
                continue
        work.nodes.append(node)
        work.made.update((name, node) for name in node.outputs if name)
    return work.finished()


def _same(before: Quantized, after: Quantized, work: Rewrite) -> bool:
    alike = work.types[before.codes].dtype == work.types[after.codes].dtype
    return alike and before.parameters == after.parameters

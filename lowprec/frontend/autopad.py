"""Windows spelled out: kernel, strides, dilations and pads of every convolution and pooling as explicit attributes.

    Conv(auto_pad=SAME_UPPER) --> Conv(kernel_shape, strides, dilations, pads)
    MaxPool(auto_pad=VALID)   --> MaxPool(kernel_shape, strides, pads)
    MaxPool(ceil_mode=1)      --> MaxPool(kernel_shape, strides, longer pads)

Reference: the operators' own pages. SAME: ceil(size / stride) results, the odd element at the end (UPPER) or at the
beginning (LOWER). A transposed convolution's `output_shape` becomes pads, or output_padding where pads would be
negative. Ceiling mode is rounding up the number of windows; ONNX's own inference before opset 22, which ONNX Runtime
obeys, counts one too many where the last would begin behind the input. It stays where pads would be counted or would be
as long as the window.
"""

from dataclasses import replace

from lowprec.errors import Unsupported
from lowprec.frontend.bodies import describe
from lowprec.frontend.graph import Attribute, Graph, Node

POOLS = frozenset(("AveragePool", "LpPool", "MaxPool"))
CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "QLinearConv": 3}
"""The position of the weights."""

Ints = tuple[int, ...]


def spell_out_windows(graph: Graph) -> Graph:
    """The graph with explicit windows."""
    return replace(graph, nodes=tuple(_explicit(node, graph) for node in graph.nodes))


def _explicit(node: Node, graph: Graph) -> Node:
    if node.domain or (node.op not in POOLS and node.op not in CONVOLUTIONS):
        return node
    sizes = graph.types[node.inputs[0]].shape[2:]
    kernel = ints(node, "kernel_shape", ())
    if node.op in CONVOLUTIONS:
        kernel = graph.types[node.inputs[CONVOLUTIONS[node.op]]].shape[2:]
    strides, dilations = ints(node, "strides", (1,) * len(sizes)), ints(node, "dilations", (1,) * len(sizes))
    explicit: dict[str, Attribute] = dict(node.attributes)
    mode = explicit.pop("auto_pad", "NOTSET") or "NOTSET"
    explicit.pop("output_shape", None)
    given = ints(node, "pads", (0,) * (2 * len(sizes)))
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    if node.op == "ConvTranspose":
        explicit |= _transposed(node, graph, mode, given, strides, reach)
    else:
        explicit["pads"] = _pads(mode, given, sizes, strides, reach)
    explicit |= {"kernel_shape": kernel, "strides": strides}
    if node.op in POOLS and node.attributes.get("ceil_mode", 0):
        return _without_ceiling(replace(node, attributes=explicit), graph, reach)
    if node.op in CONVOLUTIONS:
        explicit["dilations"] = dilations
    return replace(node, attributes=explicit)


def ints(node: Node, name: str, default: Ints) -> Ints:
    """An attribute of integers, or its default where it is absent or empty."""
    value = node.attributes.get(name)
    return tuple(int(item) for item in value) if isinstance(value, tuple) and value else default


def _pads(mode: object, given: Ints, sizes: Ints, strides: Ints, reach: Ints) -> Ints:
    if mode == "NOTSET":
        return given
    if mode == "VALID":
        return (0,) * len(given)
    totals = tuple(
        max((-(-size // stride) - 1) * stride + span - size, 0)
        for size, stride, span in zip(sizes, strides, reach, strict=True)
    )
    return split(totals, upper=mode == "SAME_UPPER")


def _without_ceiling(pool: Node, graph: Graph, reach: Ints) -> Node:
    """The pool with end pads that give it as many windows."""
    sizes, results = (graph.types[name].shape[2:] for name in (pool.inputs[0], pool.outputs[0]))
    pads, kernel = ints(pool, "pads", ()), ints(pool, "kernel_shape", ())
    begins, ends = pads[: len(sizes)], pads[len(sizes) :]
    axes = zip(results, ints(pool, "strides", ()), reach, sizes, begins, ends, strict=True)
    longer = tuple(max((count - 1) * s + span - n - begin, end) for count, s, span, n, begin, end in axes)
    counted = pool.op == "AveragePool" and pool.attributes.get("count_include_pad", 0)
    if longer != ends and (counted or any(end >= size for end, size in zip(longer, kernel, strict=True))):
        return pool
    attributes = {name: value for name, value in pool.attributes.items() if name != "ceil_mode"}
    return replace(pool, attributes={**attributes, "pads": (*begins, *longer)})


def split(totals: Ints, *, upper: bool) -> Ints:
    """Begins, then ends; the odd element goes to the end (upper) or to the beginning."""
    small, large = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    return (*small, *large) if upper else (*large, *small)


def _transposed(
    node: Node, graph: Graph, mode: object, given: Ints, strides: Ints, reach: Ints
) -> dict[str, Attribute]:
    """pads and output_padding that give the inferred output size."""
    sizes, wanted = graph.types[node.inputs[0]].shape[2:], graph.types[node.outputs[0]].shape[2:]
    extra = ints(node, "output_padding", (0,) * len(sizes))
    full = tuple((size - 1) * s + span for size, s, span in zip(sizes, strides, reach, strict=True))
    shaped = bool(ints(node, "output_shape", ()))
    if not shaped and mode in ("NOTSET", "VALID"):
        return {"pads": given if mode == "NOTSET" else (0,) * len(given), "output_padding": extra}
    if any(extra) and not shaped:
        raise Unsupported(
            f"{describe(node)}: auto_pad {mode} with output_padding {list(extra)}: ONNX and its runtimes disagree on "
            "the size that makes; give pads"
        )
    totals = tuple(max(f + e - w, 0) for f, e, w in zip(full, extra, wanted, strict=True))
    padding = tuple(w - f + total for w, f, total in zip(wanted, full, totals, strict=True))
    return {"pads": split(totals, upper=mode == "SAME_UPPER"), "output_padding": padding}

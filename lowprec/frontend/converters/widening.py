"""float16 and bfloat16: whatever sums, divides or calls a function is computed in float32 and rounded once.

    y = op(x)  -->  y = cast(op(cast(x, float32)), float16)

Moving, comparing, and single additions or multiplications stay as they are: rounding them is exact either way.
"""

from dataclasses import replace

from tvm import relax

from lowprec.frontend.converters.site import Converter, Expr, Result, Site, constant
from lowprec.frontend.graph import TensorSpec

NARROW = frozenset({"float16", "bfloat16"})
NARROW_ALREADY = """
Abs Add And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Clip Concat ConstantOfShape DepthToSpace
DequantizeLinear Dropout Equal Expand EyeLike Flatten Gather GatherElements GatherND Greater GreaterOrEqual Identity
IsInf IsNaN Less LessOrEqual Max MaxPool MaxUnpool Min Mul Neg Not OneHot Or Pad QuantizeLinear Range Relu Reshape
ReverseSequence Scatter ScatterElements ScatterND Shape Size Slice SpaceToDepth Split Squeeze Sub Tile TopK Transpose
Trilu Unsqueeze Where Xor
"""
STAYS_NARROW = frozenset(NARROW_ALREADY.split())


def wide_spec(spec: TensorSpec) -> TensorSpec:
    return replace(spec, dtype="float32") if spec.dtype in NARROW else spec


def wide_value(site: Site, name: str) -> Expr:
    if site.graph.types[name].dtype not in NARROW:
        return site.values[name]
    known = site.graph.constants.get(name)
    if known is not None:
        return constant(known, "float32")
    return site.emit(relax.op.astype(site.values[name], "float32"))


def wide_site(site: Site) -> Site:
    """The same node as if its narrow tensors were float32."""
    inputs = {name for name in site.node.inputs if name}
    outputs = {name for name in site.node.outputs if name}
    known = {name: site.graph.constants[name] for name in inputs if name in site.graph.constants}
    graph = replace(
        site.graph,
        types={name: wide_spec(site.graph.types[name]) for name in inputs | outputs},
        constants={
            name: array.astype("float32") if array.dtype.name in NARROW else array for name, array in known.items()
        },
    )
    return replace(site, graph=graph, values={name: wide_value(site, name) for name in inputs})


def rounded_to(site: Site, name: str, part: Expr | None) -> Expr | None:
    dtype = site.graph.types[name].dtype if name else ""
    return relax.op.astype(site.emit(part), dtype) if part is not None and dtype in NARROW else part


def converted(site: Site, convert: Converter) -> Result:
    """The node's conversion, in float32 where its tensors are narrow and its operator is not exact on them."""
    names = [name for name in (*site.node.inputs, *site.node.outputs) if name]
    if site.node.op in STAYS_NARROW or all(site.graph.types[name].dtype not in NARROW for name in names):
        return convert(site)
    result = convert(wide_site(site))
    parts = result if isinstance(result, tuple) else (result,)
    names = [*site.node.outputs, *[""] * len(parts)]
    return tuple(rounded_to(site, name, part) for name, part in zip(names, parts, strict=False))

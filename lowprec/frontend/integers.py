"""Products between dequantized operands are products of integers, and values that only move stay integers.

    y = Conv(dequantized x, dequantized w, dequantized b)
    -->  y = Cast(ConvInteger(x, w) + b) * (sx * sw)

    QuantizeLinear(Relu(y), sy)         -->  QuantizeLinear(Relu(Cast(ConvInteger(x, w) + b) * (sx * sw / sy)), 1)
    MaxPool(DequantizeLinear(x))        -->  DequantizeLinear(MaxPool(x)); and so for whatever moves values
    QuantizeLinear(DequantizeLinear(x)) -->  x, where scale and zero point are the same
    QuantizeLinear(an average of dequantized values, sy)  -->  the same of an integer sum * (sx / (sy * n))

This is what the QDQ graph means (S1 to S4 of docs/numerics.md): integers are summed exactly, and one product of float32
brings the sum to where it is needed. Gemm and MatMul are as Conv.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from lowprec.frontend.graph import Graph, Node
from lowprec.frontend.integer_averages import average
from lowprec.frontend.integer_moves import cancel, move_integers
from lowprec.frontend.integer_products import convolution, gemm, matmul
from lowprec.frontend.integer_rewrite import Rewrite
from lowprec.frontend.integer_scaling import Settled
from lowprec.frontend.pruning import prune
from lowprec.frontend.refolding import refold


def to_integers(graph: Graph) -> Graph:
    """The graph on integers, wherever it means the same bits."""
    return prune(refold(cancel(multiply_integers(move_integers(graph)))))


def multiply_integers(graph: Graph) -> Graph:
    """Integer sums, and one float32 product behind."""
    work = Rewrite(graph=graph)
    settled: Settled = {}  # a QuantizeLinear whose scale is in the product -> what it reads
    for node in graph.nodes:
        scaled = settled.get(node.outputs[0])
        if scaled is not None:
            one = work.constant(f"{node.outputs[0]}/one", np.ones((), np.float32))
            work.nodes.append(replace(node, inputs=(node.inputs[0], one, *node.inputs[2:])))
            continue
        convert = CONVERTERS.get(node.op) if not node.domain else None
        if convert is None or not convert(work, node, settled):
            work.nodes.append(node)
    return work.finished()


CONVERTERS: Mapping[str, Callable[[Rewrite, Node, Settled], bool]] = {
    "AveragePool": average,
    "Conv": convolution,
    "Gemm": gemm,
    "GlobalAveragePool": average,
    "MatMul": matmul,
}

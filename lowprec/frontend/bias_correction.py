"""What rounding a layer's weights takes from its sums on average, for its bias to give back: equation 23."""

import math

import numpy as np
from numpy.typing import NDArray

from lowprec.convolution import Conv
from lowprec.frontend.geometry import convolution_of
from lowprec.frontend.graph import Graph, Node
from lowprec.seen import Means

Floats = NDArray[np.float64]

AXES = {"Conv": 1, "Gemm": 1}
"""Layers that have a bias, and the axis of their input that sums are over."""


def shift(node: Node, graph: Graph, errors: Floats, mean: Means) -> Floats:
    """For each output channel; `errors` are what weights are more than their codes say, in the weights' shape."""
    if node.op == "Gemm":
        return np.asarray((errors if node.attributes.get("transB", 0) else errors.T) @ mean.astype(np.float64))
    conv = convolution_of(node, graph.types[node.inputs[0]].shape, errors.shape)
    by_tap = errors.reshape(conv.groups, conv.out_channels // conv.groups, -1, math.prod(conv.kernel)) @ _shares(conv)
    means = mean.astype(np.float64).reshape(conv.groups, -1, 1)
    return np.asarray((by_tap @ means).reshape(conv.out_channels))


def _shares(conv: Conv) -> Floats:
    """Of each tap, how often it lies on the input and not on its padding."""
    shares = np.ones(())
    for axis in range(len(conv.size)):
        first = np.arange(conv.output_size[axis]) * conv.stride[axis] - conv.pads_begin[axis]
        places = first + conv.dilation[axis] * np.arange(conv.kernel[axis])[:, np.newaxis]
        shares = np.multiply.outer(shares, ((places >= 0) & (places < conv.size[axis])).mean(axis=1))
    return shares.reshape(-1)

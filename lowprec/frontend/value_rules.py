"""Operands whose values must make sense: scales, statistics, indices, divisors, sizes."""

import numpy as np

from lowprec.frontend.axis_rules import check_axis
from lowprec.frontend.graph import Array
from lowprec.frontend.subject import Subject

SCALES = {
    "QuantizeLinear": ((1, 2),),
    "DequantizeLinear": ((1, 2),),
    "QLinearConv": ((1, 2), (4, 5), (6, 7)),
    "QLinearMatMul": ((1, 2), (4, 5), (6, 7)),
}


def check_quantization(subject: Subject) -> None:
    """Every constant scale finite and positive, with a zero point of its shape."""
    for scale, zero in SCALES[subject.node.op_type]:
        values = subject.constant(scale)
        if values is not None:
            _check_scale(subject, values)
        shape, point = subject.shape(scale), subject.spec(zero)
        if point is not None and point.shape != shape and {point.shape, shape} != {(), (1,)}:
            subject.refuse(f"its scale is {list(shape)} and its zero point {list(point.shape)}; they must be alike")
    if subject.node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        _check_scale_axis(subject)


def _check_scale(subject: Subject, values: Array) -> None:
    wide = values.astype(np.float32)
    if not np.isfinite(wide).all() or (wide <= 0).any():
        bad = wide[~(np.isfinite(wide) & (wide > 0))].ravel()[0]
        subject.refuse(f"its scale holds {bad}; scales must be finite and greater than zero")


def _check_scale_axis(subject: Subject) -> None:
    data, scale = subject.shape(0), subject.shape(1)
    if not scale or scale == (1,) or subject.int("block_size", 0):
        return
    axis = subject.int("axis", 1)
    if len(scale) != 1 or not -len(data) <= axis < len(data) or scale[0] != data[axis]:
        subject.refuse(f"its scale is {list(scale)} for axis {axis} of an input of shape {list(data)}")


def check_statistics(subject: Subject) -> None:
    """BatchNormalization and InstanceNormalization: one number per channel; no variance negative or NaN."""
    data = subject.shape(0)
    if len(data) < 2:
        subject.refuse(f"its input is {list(data)}; it needs batch and channels")
    if subject.int("spatial", 1) != 0:
        for position in range(1, len(subject.node.input)):
            if subject.shape(position) != (data[1],):
                subject.refuse(f"input {position} is {list(subject.shape(position))}, for {data[1]} channels")
    variance = subject.constant(4)
    if variance is None or not variance.size:
        return
    with np.errstate(invalid="ignore"):  # a signalling NaN
        least = np.min(variance.astype(np.float64))
    if not least >= 0:
        subject.refuse(f"its variance holds {least}; none may be negative or NaN")


def check_gather(subject: Subject) -> None:
    """Constant indices inside the axis they index; compiled code does not look."""
    indices, data = subject.constant(1), subject.shape(0)
    axis = subject.int("axis", 0)
    if not data or not -len(data) <= axis < len(data):
        subject.refuse(f"axis is {axis}, for an input of shape {list(data)}")
    if indices is not None and indices.size:
        low, high, extent = int(indices.min()), int(indices.max()), data[axis]
        if low < -extent or high >= extent:
            subject.refuse(f"its indices go from {low} to {high}, outside the {extent} elements of axis {axis}")


def check_divisor(subject: Subject) -> None:
    """No integer division by a constant zero: the processor would trap."""
    divisor = subject.constant(1)
    spec = subject.spec(1)
    if divisor is None or spec is None or "int" not in spec.dtype:
        return
    if not divisor.all():
        subject.refuse("it divides integers by zero")


def check_resize(subject: Subject) -> None:
    """Scales finite and positive, sizes at least 1."""
    attribute = subject.attributes.get("scales")
    candidates = [subject.constant(1), subject.constant(2)] if subject.version >= 11 else [subject.constant(1)]
    if isinstance(attribute, tuple):
        candidates.append(np.asarray(attribute, np.float64))
    for scales in candidates:
        wide = None if scales is None or scales.dtype.kind not in "fV" else scales.astype(np.float64)
        is_roi = subject.version >= 11 and subject.node.op_type == "Resize" and scales is subject.constant(1)
        if wide is not None and not is_roi and wide.size and not (np.isfinite(wide).all() and (wide > 0).all()):
            subject.refuse(f"its scales are {wide.tolist()[:8]}; they must be finite and greater than zero")
    sizes = subject.constant(3)
    if sizes is not None and sizes.size and int(sizes.min()) < 1:
        subject.refuse(f"its sizes are {sizes.tolist()[:8]}; they must be at least 1")


def check_split(subject: Subject) -> None:
    """As many sizes as results; onnx's inference reads past the end of its own list otherwise."""
    results = len(subject.node.output)
    stated, sizes = subject.attributes.get("num_outputs"), subject.constant(1)
    if isinstance(stated, int) and stated != results:
        subject.refuse(f"num_outputs is {stated}, but it has {results} results")
    lengths = subject.ints("split") or (tuple(sizes.ravel().tolist()) if sizes is not None else None)
    if lengths is not None and len(lengths) != results:
        subject.refuse(f"split gives {len(lengths)} sizes, but it has {results} results")
    check_axis(subject)


def check_slice(subject: Subject) -> None:
    """No step of zero."""
    steps = subject.constant(4)
    if steps is not None and not steps.all():
        subject.refuse("one of its steps is zero")


def check_pad(subject: Subject) -> None:
    """A mode that exists; reflections shorter than what they reflect are left to the converter."""
    mode = subject.attributes.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        subject.refuse(f"mode is {mode!r:.40}; it may be constant, reflect, edge or wrap")


def check_transpose(subject: Subject) -> None:
    """perm is a permutation of the axes."""
    perm, rank = subject.ints("perm"), len(subject.shape(0))
    if perm is not None and sorted(perm) != list(range(rank)):
        subject.refuse(f"perm is {list(perm)}, no order of {rank} axes")


def check_blocks(subject: Subject) -> None:
    """DepthToSpace and SpaceToDepth: a block of at least 1 that divides what it splits."""
    shape, block = subject.shape(0), subject.int("blocksize", 0)
    if len(shape) != 4 or block < 1:
        subject.refuse(f"blocksize is {block} for an input of shape {list(shape)}; it needs at least 1 and rank 4")
    parts = (
        [shape[1] % (block * block)] if subject.node.op_type == "DepthToSpace" else [shape[2] % block, shape[3] % block]
    )
    if any(parts):
        subject.refuse(f"blocksize {block} does not divide its input of shape {list(shape)}")


def check_group_norm(subject: Subject) -> None:
    """Groups that divide the channels."""
    data, groups = subject.shape(0), subject.int("num_groups", 0)
    if len(data) < 2 or groups < 1 or data[1] % groups:
        subject.refuse(f"num_groups is {groups} for an input of shape {list(data)}; it must divide the channels")


def check_lrn(subject: Subject) -> None:
    """A window of at least one channel."""
    if subject.int("size", 0) < 1 or len(subject.shape(0)) < 2:
        subject.refuse(
            f"size is {subject.int('size', 0)} for an input of shape {list(subject.shape(0))}; at least 1 is needed"
        )


def check_gemm(subject: Subject) -> None:
    """C broadcasts to the product, one way."""
    first, second, third = subject.shape(0), subject.shape(1), subject.spec(2)
    if len(first) != 2 or len(second) != 2:
        subject.refuse(f"its operands are {list(first)} and {list(second)}; matrices are needed")
    rows = first[1] if subject.int("transA", 0) else first[0]
    columns = second[0] if subject.int("transB", 0) else second[1]
    if third is None or (subject.version < 7 and not subject.int("broadcast", 0)):
        return
    padded = (1,) * (2 - len(third.shape)) + third.shape
    if len(padded) != 2 or padded[0] not in (1, rows) or padded[1] not in (1, columns):
        subject.refuse(f"C is {list(third.shape)}, which does not broadcast to [{rows}, {columns}]")


def check_prelu(subject: Subject) -> None:
    """The slope broadcasts to the input, one way."""
    data, slope = subject.shape(0), subject.shape(1)
    if subject.version < 7:
        return
    padded = (1,) * (len(data) - len(slope)) + slope
    if len(padded) != len(data) or any(mine not in (1, theirs) for mine, theirs in zip(padded, data, strict=True)):
        subject.refuse(f"its slope is {list(slope)}, which does not broadcast to {list(data)}")


def check_layer_norm(subject: Subject) -> None:
    """Scale and bias broadcast to the axes that are normalized."""
    check_axis(subject)
    data = subject.shape(0)
    axis = subject.int("axis", -1) % max(len(data), 1)
    for position in range(1, len(subject.node.input)):
        spec = subject.spec(position)
        if spec is None:
            continue
        padded = (1,) * (len(data) - len(spec.shape)) + spec.shape
        if len(padded) != len(data) or any(m not in (1, t) for m, t in zip(padded, data, strict=True)):
            subject.refuse(
                f"input {position} is {list(spec.shape)}, which does not fit axes {axis} and on of {list(data)}"
            )

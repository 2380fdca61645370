"""Steps that move elements and change none: reshapes, transposes, slices, concats, pads, gathers."""

import numpy as np

from tests.networks.drawing import Drawing, Refused, Tensor


def reshape(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: value.rank > 0)
    match draw.one_of("flatten", "merge", "squeeze", "unsqueeze", "split"):
        case "flatten":
            return draw.op("Flatten", x, axis=draw.between(0, x.rank))
        case "merge" if x.rank > 1:
            axis = draw.between(0, x.rank - 2)
            return draw.op("Reshape", x, draw.integers(*x.shape[:axis], -1, *x.shape[axis + 2 :]))
        case "squeeze" if 1 in x.shape:
            return draw.op("Squeeze", x)
        case "unsqueeze" if x.rank < 5:
            return draw.op("Unsqueeze", x, draw.integers(draw.between(0, x.rank)))
    factor = draw.one_of(2, 3, 5)
    axis = draw.one_of(*(a for a, n in enumerate(x.shape) if n % factor == 0), -1)
    if axis < 0 or x.rank > 5:
        raise Refused
    return draw.op("Reshape", x, draw.integers(*x.shape[:axis], x.shape[axis] // factor, factor, *x.shape[axis + 1 :]))


def transpose(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: value.rank > 1)
    return draw.op("Transpose", x, perm=draw.rng.permutation(x.rank).tolist())


def shuffle(draw: Drawing) -> Tensor:
    x = draw.image(3, 4)
    groups = draw.one_of(*(g for g in (1, 2, 3, 4, 5, 17) if x.shape[1] % g == 0))
    split = (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    y = draw.op("Reshape", x, draw.integers(*split))
    y = draw.op("Transpose", y, perm=[0, 2, 1, *range(3, len(split))])
    return draw.op("Reshape", y, draw.integers(x.shape[0], -1, *x.shape[2:]))


def blocks(draw: Drawing) -> Tensor:
    if draw.chance(0.5):
        return draw.op("DepthToSpace", draw.image(4), blocksize=2, mode=draw.one_of("DCR", "CRD"))
    return draw.op("SpaceToDepth", draw.image(4), blocksize=2)


def split(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: value.rank > 0 and max(value.shape) > 1)
    axis = draw.one_of(*(a for a, extent in enumerate(x.shape) if extent > 1))
    first = draw.between(1, x.shape[axis] - 1)
    parts = draw.many(
        "Split", x, draw.integers(first, x.shape[axis] - first), outputs=2, axis=axis - draw.between(0, 1) * x.rank
    )
    return draw.op("Concat", *reversed(parts), axis=axis) if draw.chance(0.5) else parts[1]


def concat(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: value.rank > 0)
    axis = draw.between(0, x.rank - 1)
    rest = x.shape[:axis] + x.shape[axis + 1 :]
    parts = [
        x,
        *(draw.pick(lambda v: v.rank == x.rank and v.shape[:axis] + v.shape[axis + 1 :] == rest) for _ in range(2)),
    ]
    y = draw.op("Concat", *parts, axis=axis)
    return (
        draw.op("Concat", y, x, y, axis=draw.between(0, x.rank - 1) if y.shape == x.shape else axis)
        if draw.chance(0.3)
        else y
    )


def slices(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: value.rank > 0)
    axes = sorted(draw.rng.choice(x.rank, draw.between(1, x.rank), replace=False).tolist())
    begin, end, step = [], [], []
    for axis in axes:
        low = draw.between(0, x.shape[axis] - 1)
        high = draw.between(low + 1, x.shape[axis])
        forward = draw.chance(0.75)
        begin.append(low if forward else high - 1)
        end.append(draw.one_of(high, 2**62) if forward else low - 1 - x.shape[axis])
        step.append(draw.between(1, 3) * (1 if forward else -1))
    return draw.op("Slice", x, *(draw.integers(*part) for part in (begin, end, axes, step)))


def pad(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: value.rank > 0)
    mode = draw.one_of("constant", "reflect", "edge")
    widths = [draw.between(0, 2) if draw.chance(0.6) else 0 for _ in range(2 * x.rank)]
    if mode == "reflect":
        widths = [min(w, n - 1) for w, n in zip(widths, x.shape * 2, strict=True)]
    elif mode == "constant" and draw.chance(0.2):
        widths = [-1 if n > 3 and draw.chance(0.5) else w for w, n in zip(widths, x.shape * 2, strict=True)]
    value = [draw.constant(draw.one_of(0.0, 0.5))] if mode == "constant" and draw.chance(0.7) else []
    return draw.op("Pad", x, draw.integers(*widths), *value, mode=mode)


def gather(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: value.rank > 0)
    axis = draw.between(0, x.rank - 1)
    shape = draw.one_of((), (1,), (3,), (2, 2))
    indices = draw.rng.integers(-x.shape[axis], x.shape[axis], shape)
    return draw.op("Gather", x, draw.constant(indices, np.int64), axis=axis)


def spread(draw: Drawing) -> Tensor:
    x = draw.pick(lambda value: value.rank > 0 and value.array.size < 500)
    if draw.chance(0.5):
        return draw.op("Tile", x, draw.integers(*(draw.one_of(1, 1, 2, 3) for _ in x.shape)))
    shape = [draw.one_of(2, 3) if n == 1 and draw.chance(0.5) else n for n in x.shape]
    return draw.op("Expand", x, draw.integers(*(draw.one_of((), (2,)) + tuple(shape))))

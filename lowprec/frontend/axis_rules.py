"""Axes inside the rank, and no axis twice."""

from lowprec.frontend.graph import Array
from lowprec.frontend.subject import Subject

WITH_AXIS = frozenset(
    (
        "ArgMax",
        "ArgMin",
        "Concat",
        "GatherElements",
        "Hardmax",
        "LogSoftmax",
        "LpNormalization",
        "RMSNormalization",
        "ScatterElements",
        "Softmax",
        "TopK",
    )
)
WITH_AXES = {
    "ReduceL1": 18,
    "ReduceL2": 18,
    "ReduceLogSum": 18,
    "ReduceLogSumExp": 18,
    "ReduceMax": 18,
    "ReduceMean": 18,
    "ReduceMin": 18,
    "ReduceProd": 18,
    "ReduceSum": 13,
    "ReduceSumSquare": 18,
    "Squeeze": 13,
}
"""Operators with axes, and the opset from which they are the second input."""


def check_axis(subject: Subject) -> None:
    """The attribute `axis` of an operator on one tensor."""
    rank = len(subject.shape(0))
    axis = subject.attributes.get("axis")
    if isinstance(axis, int) and not -rank <= axis < max(rank, 1):
        subject.refuse(f"axis is {axis}, for an input of rank {rank}")


def check_axes(subject: Subject) -> None:
    """The axes of a reduction or a squeeze, attribute or constant input."""
    given: tuple[int, ...] | Array | None = subject.ints("axes")
    if subject.version >= WITH_AXES[subject.node.op_type]:
        given = subject.constant(1)
    if given is None:
        return
    rank = len(subject.shape(0))
    axes = [int(axis) for axis in given]
    wrong = [axis for axis in axes if not -rank <= axis < rank]
    if wrong:
        subject.refuse(f"axes are {axes}; {wrong[0]} is outside an input of rank {rank}")
    if len({axis % rank for axis in axes}) != len(axes):
        subject.refuse(f"axes are {axes}: one is named twice")


def check_flatten(subject: Subject) -> None:
    """Flatten may cut before the first axis or after the last."""
    rank, axis = len(subject.shape(0)), subject.int("axis", 1)
    if not -rank <= axis <= rank:
        subject.refuse(f"axis is {axis}, for an input of rank {rank}")

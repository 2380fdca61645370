"""When a reshape leaves a permuted tensor's memory alone.

A reshape splits and merges runs of neighbouring axes: the shortest such runs are its groups. With axes permuted in
memory it still moves nothing as long as each group's axes lie together and in order there.
"""

from dataclasses import dataclass

Axes = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regrouped:
    """`arrange`: the physical order the source must have; `axes`: the physical order the result then has."""

    arrange: Axes
    axes: Axes


def groups_of(source: tuple[int, ...], target: tuple[int, ...]) -> list[tuple[Axes, Axes]] | None:
    """The shortest runs of source axes and of target axes with equal products; None when a zero extent hides them."""
    if 0 in source or 0 in target:
        return None
    groups: list[tuple[Axes, Axes]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        left, right = i, j
        have, want = 1, 1
        if i < len(source):
            have, i = source[i], i + 1
        if j < len(target):
            want, j = target[j], j + 1
        while have != want:
            if have < want:
                have, i = have * source[i], i + 1
            else:
                want, j = want * target[j], j + 1
        groups.append((tuple(range(left, i)), tuple(range(right, j))))
    return groups


def regroup(source: tuple[int, ...], target: tuple[int, ...], axes: Axes) -> Regrouped | None:
    """How to reshape a tensor of logical shape `source`, lying as `axes`, into `target` with the least movement.

    The groups keep the physical order of their first axis of more than one element; axes within a group are put in
    order. None when the groups cannot be told.
    """
    groups = groups_of(source, target)
    if groups is None:
        return None

    def place(group: tuple[Axes, Axes]) -> tuple[int, int]:
        positions = [axes.index(axis) for axis in group[0] if source[axis] > 1]
        anywhere = [axes.index(axis) for axis in group[0]]
        first = min(positions or anywhere or [len(axes)])
        return (first, groups.index(group))

    ordered = sorted(groups, key=place)
    return Regrouped(
        arrange=tuple(axis for group, _ in ordered for axis in group),
        axes=tuple(axis for _, group in ordered for axis in group),
    )

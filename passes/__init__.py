"""Graph rewrites, Relax -> Relax, one per file."""

if __name__ != "lowprec.passes":
    raise ImportError(
        "import lowprec.passes: the folder passes/ is part of the package lowprec, not a package of its own"
    )

from collections.abc import Callable

from tvm import IRModule

from lowprec.passes.channels_last import channels_last
from lowprec.passes.halos import move_padding
from lowprec.passes.transposed import plain_convolutions
from lowprec.passes.units import group_units

PASSES: tuple[Callable[[IRModule], IRModule], ...] = (
    plain_convolutions,
    channels_last,
    group_units,
    move_padding,
)
"""Every pass, in the order they run."""

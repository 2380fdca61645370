"""Indices that come at run time: compiled code must never reach outside a buffer, whatever they are."""

from typing import Any

import numpy as np
from tvm import relax, tirx

from lowprec.frontend.converters.site import Expr, Site, constant
from lowprec.frontend.graph import Array


def kind(value: Any) -> str:
    """The type of an element: a TIR expression keeps it elsewhere than a tensor does."""
    return str(value.dtype if hasattr(value, "dtype") else value.ty.dtype)


def inside(index: Any, extent: int) -> Any:
    """An index expression counted from the front and held within [0, extent). ONNX leaves others undefined."""
    wide = index.astype("int64")
    counted = tirx.Select(wide < 0, wide + extent, wide)
    return tirx.max(tirx.min(counted, tirx.const(extent - 1, "int64")), tirx.const(0, "int64"))


def normalized(site: Site, indices: Array, extent: int) -> Array:
    """Constant indices, counted from the front; one outside is refused."""
    wide = indices.astype(np.int64)
    outside = (wide < -extent) | (wide >= extent)
    if outside.any():
        site.refuse(f"index {int(wide[outside][0])} is outside the axis of size {extent}")
    return np.where(wide < 0, wide + extent, wide)


def held(site: Site, index: int, extent: int) -> Expr:
    """The indices that an input holds, as a tensor of int64 within [0, extent)."""
    known = site.known(index)
    if known is not None:
        return constant(normalized(site, known, extent), "int64")
    wide = site.emit(relax.op.astype(site.input(index), "int64"))
    low, top = constant(0, "int64"), constant(extent - 1, "int64")
    behind = site.emit(relax.op.add(wide, constant(extent, "int64")))
    counted = site.emit(relax.op.where(site.emit(relax.op.less(wide, low)), behind, wide))
    return site.emit(relax.op.minimum(site.emit(relax.op.maximum(counted, low)), top))

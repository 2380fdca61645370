"""Kernels that read a tensor wherever it begins: the model's inputs are the caller's memory.

before:  f(X: Buffer(..., align=64), Y)          vectors are loaded as aligned ones
after:   f(X: Buffer(..., align=4), Y)           as any
"""

from collections.abc import Collection

import tvm_ffi
from tvm import tirx

ANYWHERE = 1
"""The alignment that such a parameter needs beside that of its elements."""


def reading_anywhere(function: tirx.PrimFunc, places: Collection[int]) -> tirx.PrimFunc:
    """The kernel, whose parameters at these places need no more than their elements' alignment."""
    params = list(function.params)
    for place in places:
        old = params[place]
        new = tirx.decl_buffer(
            old.shape,
            old.dtype,
            old.name,
            strides=old.strides,
            elem_offset=old.elem_offset,
            scope=old.scope(),
            data_alignment=max(1, old.dtype.itemsize),
            offset_factor=old.offset_factor,
        )
        function = _renamed(function, place, new)
    return function


def _renamed(function: tirx.PrimFunc, place: int, new: tirx.Var) -> tirx.PrimFunc:
    """The kernel with another parameter there."""
    old = function.params[place]
    body = tvm_ffi.structural_map(function.body, (tirx.Var, lambda var: new if var.same_as(old) else var), order="post")
    params = [*function.params[:place], new, *function.params[place + 1 :]]
    return tirx.PrimFunc(params, body, function.ret_type, function.attrs)

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
    if not places:
        return function
    params = [_anywhere(param) if place in places else param for place, param in enumerate(function.params)]
    pairs = [(old, new) for old, new in zip(function.params, params, strict=True) if not new.same_as(old)]

    def renamed(var: tirx.Var) -> tirx.Var:
        return next((new for old, new in pairs if var.same_as(old)), var)

    body = tvm_ffi.structural_map(function.body, (tirx.Var, renamed), order="post")
    return tirx.PrimFunc(params, body, function.ret_type, function.attrs)


def _anywhere(param: tirx.Var) -> tirx.Var:
    """The same tensor, wherever it begins."""
    return tirx.decl_buffer(
        param.shape,
        param.dtype,
        param.name,
        strides=param.strides,
        elem_offset=param.elem_offset,
        scope=param.scope(),
        data_alignment=max(1, param.dtype.itemsize),
        offset_factor=param.offset_factor,
    )

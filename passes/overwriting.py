"""Kernels that write their result over a tensor that is read for the last time: a residual's sum.

    before:  y = f(x, w, b, r)         f(X, W, B, E, Y):  Y = relu(X * W + B + E)        r: not read by anything later
    after:   f(x, w, b, r)             f(X, W, B, E):     E = relu(X * W + B + E)        y: r from here on

Memory is read and written once where it was read, read to be written, and written.
Declines when: the kernel is neither direct nor on AMX, or may need an element of the residual twice (`may_overwrite`);
the tensor is one of the caller's, a weight, an output of the model, or one that shares its memory with others; it lies
otherwise than the result.
"""

from collections import Counter
from collections.abc import Mapping

import tvm_ffi
from tvm import relax, tirx

from lowprec.passes.editing import bindings, result_of, tensors_in


def last_reads(main: relax.Function) -> Mapping[relax.Expr, frozenset[relax.Expr]]:
    """Of each call in main, by its value: what it reads, once, and nothing after it."""
    last: dict[relax.Expr, relax.Expr] = {}
    times: dict[relax.Expr, Counter[relax.Expr]] = {}
    for var, value in bindings(main):
        times[var] = Counter(tensors_in(value))
        last.update(dict.fromkeys(times[var], var))
    kept = set(tensors_in(result_of(main)))
    return {
        var: frozenset(tensor for tensor, count in read.items() if count == 1 and last[tensor] == var) - kept
        for var, read in times.items()
    }


def written_over(function: tirx.PrimFunc, place: int) -> tirx.PrimFunc:
    """The kernel, whose last parameter is the one at `place`."""
    *params, result = function.params
    taken = params[place]

    def renamed(var: tirx.Var) -> tirx.Var:
        return taken if var.same_as(result) else var

    body = tvm_ffi.structural_map(function.body, (tirx.Var, renamed), order="post")
    return tirx.PrimFunc(params, body, function.ret_type, function.attrs)

"""Gemm and MatMul: one `relax.matmul`, what is constant about them folded into the weights."""

import numpy as np
from tvm import relax

from lowprec.frontend.converters.elementwise import lifted
from lowprec.frontend.converters.site import Converter, Expr, Site, constant
from lowprec.frontend.graph import Array

ROWS = 128


def transposed(site: Site, index: int, flag: str) -> Expr:
    value = site.input(index)
    return site.emit(relax.op.permute_dims(value, [1, 0])) if site.integer(flag, 0) else value


def turned(matrix: Array) -> Array:
    """The transpose in memory, some rows at a time: four times as fast as NumPy's copy of a large one."""
    result = np.empty(matrix.shape[::-1], matrix.dtype)
    for begin in range(0, matrix.shape[0], ROWS):
        result[:, begin : begin + ROWS] = matrix[begin : begin + ROWS].T
    return result


def weight_of(site: Site) -> tuple[Expr, float]:
    """B as (K, N), and the factor that it does not carry yet. A float constant carries alpha."""
    alpha = site.number("alpha", 1)
    known = site.known(1)
    if known is None:
        return transposed(site, 1, "transB"), alpha
    known = turned(known) if site.integer("transB", 0) else known
    if alpha != 1 and np.issubdtype(known.dtype, np.floating):
        known, alpha = (known * np.asarray(alpha, known.dtype)).astype(known.dtype), 1
    return constant(known), alpha


def scaled(site: Site, expression: Expr, factor: float) -> Expr:
    """Times a number; integers go through double, as ONNX's real-valued attributes ask for."""
    dtype = site.out().dtype
    if factor == 1:
        return expression
    if dtype.startswith("float"):
        return relax.op.multiply(site.emit(expression), constant(factor, dtype))
    wide = relax.op.multiply(site.emit(relax.op.astype(site.emit(expression), "float64")), constant(factor, "float64"))
    return relax.op.astype(site.emit(wide), dtype)


def addend_of(site: Site) -> Expr | None:
    """beta * C, or None where nothing is added."""
    beta = site.number("beta", 1)
    if not site.has(2) or beta == 0:
        return None
    known = site.known(2)
    if known is not None and np.issubdtype(known.dtype, np.floating):
        return constant((known * np.asarray(beta, known.dtype)).astype(known.dtype))
    return scaled(site, lifted(site, 2), beta)


def convert_gemm(site: Site) -> Expr:
    data = transposed(site, 0, "transA")
    weight, alpha = weight_of(site)
    result = scaled(site, relax.op.matmul(data, weight), alpha)
    addend = addend_of(site)
    return result if addend is None else relax.op.add(site.emit(result), addend)


def convert_matmul(site: Site) -> Expr:
    return relax.op.matmul(site.input(0), site.input(1))


def convert_einsum(site: Site) -> Expr:
    """Blanks in the equation mean nothing."""
    equation = site.text("equation", "").replace(" ", "")
    operands = [site.input(index) for index in range(len(site.node.inputs))]
    return relax.op.einsum(relax.Tuple(operands), equation)


CONVERTERS: dict[str, Converter] = {"Einsum": convert_einsum, "Gemm": convert_gemm, "MatMul": convert_matmul}

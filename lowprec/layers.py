"""What a layer is, for whoever decides or reports: its operator, shapes and costs, without TVM or ONNX."""

from dataclasses import asdict, dataclass
from typing import Any

from lowprec.convolution import Conv

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """`batch` products of (rows, depth) by (depth, cols)."""

    batch: int
    rows: int
    cols: int
    depth: int

    @property
    def macs(self) -> int:
        return self.batch * self.rows * self.cols * self.depth


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a kernel call does at least: the model's multiply-adds, and bytes that move once, those of constants apart
    from those of tensors made at run time."""

    macs: int = 0
    weight_bytes: int = 0
    tensor_bytes: int = 0

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.tensor_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One operator of a model; `name` is what users call it, `output` the tensor it makes.

    `parameters` counts the constant elements it reads, `bytes` all it reads and writes once. `obstacle` says why no
    kernel template computes a convolution or product, when none does. `words` are the types of weights, activations and
    sums of a layer that is not all of float32; one without weights has the type of what it sums or moves three times.
    One that is `alone` reads the model's input and makes its output, but for element-wise operators after it.
    """

    name: str
    op: str
    output: str
    input_shapes: tuple[Shape, ...]
    output_shape: Shape
    parameters: int
    macs: int
    bytes: int
    geometry: Conv | Gemm | None = None
    obstacle: str = ""
    words: tuple[str, str, str] | None = None
    alone: bool = False

    @property
    def integers(self) -> bool:
        """Whether it is a product of integers."""
        return self.geometry is not None and self.words is not None and self.words[2].startswith("int")

    @property
    def intensity(self) -> float:
        """Floating-point operations (two a MAC) per byte moved."""
        return 2 * self.macs / self.bytes if self.bytes else 0.0

    def to_json(self) -> dict[str, Any]:
        """Every field, and what is derived from them that readers ask for."""
        return asdict(self) | {"intensity": self.intensity}

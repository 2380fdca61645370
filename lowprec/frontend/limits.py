"""What a model may ask for before anything is allocated: fixed floors, and shares that grow with the file.

The floors let a small file describe a real network (the nine light networks of the onnx package make up to 575 MB of
weights from 9 KB); the shares let a large file use what it brings.
"""

from dataclasses import dataclass, replace

MEBI = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every cap of the front end. Counts are of items, `*_bytes` of bytes, `nesting` of subgraphs or calls."""

    nodes: int = 16_384
    items: int = 100_000
    rank: int = 16
    elements: int = 1 << 30
    nesting: int = 16
    tensor_bytes: int = 4 << 30
    folded_bytes: int = 256 * MEBI
    constant_bytes: int = 2 << 30
    structure_bytes: int = 128 * MEBI
    evaluation: int = 1 << 27


def limits_for(file_bytes: int) -> Limits:
    """The caps for a file (and its external data) of that size."""
    floor = Limits()
    return replace(
        floor,
        folded_bytes=floor.folded_bytes + 2 * file_bytes,
        constant_bytes=floor.constant_bytes + 4 * file_bytes,
        tensor_bytes=max(floor.tensor_bytes, 4 * file_bytes),
        evaluation=floor.evaluation + 2 * file_bytes,
        structure_bytes=max(floor.structure_bytes, file_bytes),
    )

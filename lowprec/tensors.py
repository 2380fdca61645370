"""What a tensor is called, what it holds and how large it is: the words that models, artifacts and errors share."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A value's name, NumPy dtype name ("float32", "bfloat16", "int64", "bool") and static shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        count = 1
        for extent in self.shape:
            count *= extent
        return count

"""Other libraries' quantizers under lowprec's checks: what each does, and what is wrong with it.

    python -m examples.quantizers                   # a table of verdicts; --only torchao; --json FILE

A quantizer is anything that takes values and words. One that draws from a generator of its own is seeded with the words
it is given, so that it can be asked the same twice. Libraries that are not installed are named and passed over.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import lowprec
from lowprec.formats import BF16, FP16, Fixed, Float, Format, Specials
from lowprec.rounding import Rounding
from lowprec.testing import Quantizer, Verdict, check

Values: TypeAlias = NDArray[np.float32]
Words: TypeAlias = NDArray[np.uint32]

E4M3, E5M2 = Float(4, 3, Specials.NAN), Float(5, 2)
NEAREST, STOCHASTIC = Rounding.NEAREST_EVEN, Rounding.STOCHASTIC


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A library's quantizer, and what it says it does."""

    library: str
    function: str
    quantizer: Quantizer
    format: Format
    rounding: Rounding

    @property
    def name(self) -> str:
        return f"{self.library} {self.function}"


def main(words: Sequence[str] | None = None) -> int:
    """Check every quantizer that can be imported; the exit code says nothing of the verdicts."""
    options = _parser().parse_args(words)
    rows = []
    print(f"{'quantizer':34} {'format':8} {'rounding':13} verdict")
    for subject in subjects(options.only or list(LIBRARIES)):
        verdict = check(subject.quantizer, subject.format, subject.rounding, seed=options.seed)
        rows.append({"quantizer": subject.name, **verdict.to_json()})
        _print(subject, verdict)
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m examples.quantizers", description=__doc__.partition("\n")[0])
    made.add_argument("--only", action="append", choices=LIBRARIES, help="a library; may be given again")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--json", metavar="FILE", help="write the verdicts here as well")
    return made


def _print(subject: Subject, verdict: Verdict) -> None:
    said = "ok" if verdict.passed else f"{len(verdict.problems)} found"
    print(f"{subject.name:34} {subject.format!s:8} {subject.rounding.value:13} {said}")
    for problem in verdict.problems:
        print(f"    {problem}")


def subjects(libraries: Sequence[str]) -> Iterator[Subject]:
    """The quantizers of those libraries that are here."""
    for library in libraries:
        try:
            yield from LIBRARIES[library]()
        except (ImportError, OSError, RuntimeError) as error:
            print(f"{library:34} passed over: {type(error).__name__}, {str(error).partition(chr(10))[0]}")


def _rounded(fmt: Format, rounding: Rounding, x: Values, bits: Words) -> Any:
    return lowprec.round_to(x, fmt, rounding, bits=bits)


def _cast(dtype: type, x: Values, bits: Words) -> Any:
    return x.astype(dtype)


def _cast_tensor(dtype: Any, x: Any) -> Any:
    return x.to(dtype).float()


def _lowprec() -> Iterator[Subject]:
    for fmt, rounding in ((Fixed(2, 14), STOCHASTIC), (BF16, STOCHASTIC), (E4M3, NEAREST)):
        yield Subject(
            library="lowprec",
            function="round_to",
            quantizer=partial(_rounded, fmt, rounding),
            format=fmt,
            rounding=rounding,
        )


def _ml_dtypes() -> Iterator[Subject]:
    for name, fmt in (("bfloat16", BF16), ("float8_e4m3fn", E4M3), ("float8_e5m2", E5M2)):
        dtype = getattr(ml_dtypes, name)
        yield Subject(
            library="ml_dtypes",
            function=f"astype({name})",
            quantizer=partial(_cast, dtype),
            format=fmt,
            rounding=NEAREST,
        )


def _torch() -> Iterator[Subject]:
    import torch

    for name, fmt in (("float16", FP16), ("bfloat16", BF16), ("float8_e4m3fn", E4M3), ("float8_e5m2", E5M2)):
        dtype = getattr(torch, name)
        yield Subject(
            library="torch",
            function=f"to({name})",
            quantizer=_seeded(partial(_cast_tensor, dtype)),
            format=fmt,
            rounding=NEAREST,
        )


def _torchao() -> Iterator[Subject]:
    from torchao.optim.quant_utils import _fp32_to_bf16_sr

    yield Subject(
        library="torchao",
        function="_fp32_to_bf16_sr",
        quantizer=_seeded(lambda x: _fp32_to_bf16_sr(x).float()),
        format=BF16,
        rounding=STOCHASTIC,
    )


def _qpytorch() -> Iterator[Subject]:
    # It compiles itself when it is imported, by a program that may stand beside Python's.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    from qtorch.quant import fixed_point_quantize, float_quantize

    for mode, rounding in (("nearest", NEAREST), ("stochastic", STOCHASTIC)):
        yield Subject(
            library="QPyTorch",
            function="fixed_point_quantize",
            quantizer=_seeded(partial(fixed_point_quantize, wl=16, fl=14, rounding=mode)),
            format=Fixed(2, 14),
            rounding=rounding,
        )
        for exponent, mantissa in ((5, 2), (5, 10)):
            yield Subject(
                library="QPyTorch",
                function=f"float_quantize({exponent}, {mantissa})",
                quantizer=_seeded(partial(float_quantize, exp=exponent, man=mantissa, rounding=mode)),
                format=Float(exponent, mantissa),
                rounding=rounding,
            )


def _seeded(function: Callable[..., Any]) -> Quantizer:
    """A function of a torch tensor that draws from torch's generator."""
    import torch

    def quantizer(x: Values, bits: Words) -> Values:
        torch.manual_seed(int(bits[0]) << 32 | int(bits[-1]))
        return np.asarray(function(torch.from_numpy(x)).numpy())

    return quantizer


LIBRARIES: dict[str, Callable[[], Iterator[Subject]]] = {
    "lowprec": _lowprec,
    "ml_dtypes": _ml_dtypes,
    "torch": _torch,
    "torchao": _torchao,
    "QPyTorch": _qpytorch,
}

if __name__ == "__main__":
    sys.exit(main())

"""The compiled pass of `fused.c`: built by the machine's C compiler when it is first used, kept in the user's cache.

The library is named by what it was made from (source, compiler, flags, CPU), written under another name and renamed
into place, and only loaded from a folder that nobody else can write to. Without a compiler `run` gives None, once with
a warning: torch's own operators do the same, several times slower.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import resources
from pathlib import Path

import torch

from lowprec.formats import (
    Binary,
    DynamicFixed,
    Fixed,
    Float,
    Format,
    Int,
    limits,
    shares_exponents,
    why_not_in_float32,
)
from lowprec.rounding import Rounding
from lowprec.train.philox import Draw

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-shared", "-fPIC")
WIDE = ("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()
COMPILER_SECONDS = 120

PART = 1 << 16
"""Elements that are worth a thread."""

_MODES = tuple(Rounding)
_GRID, _FLOATING, _BINARY = range(3)


class Rule(ctypes.Structure):
    """The structure of the same name in `fused.c`."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "rounding", "bits_used")),
        *((name, ctypes.c_int32) for name in ("mantissa", "has_infinity", "has_subnormals", "has_negative_zero")),
        *((name, ctypes.c_float) for name in ("step", "inverse_step", "low", "high", "draws")),
        *((name, ctypes.c_uint32) for name in ("key0", "key1", "at")),
    )


def rule_of(fmt: Format, rounding: Rounding, bits_used: int) -> Rule | None:
    """The parameters of the pass; None where float32 is not enough for it."""
    if why_not_in_float32(fmt) is not None:
        return None
    rule = Rule(rounding=_MODES.index(rounding), bits_used=bits_used, draws=2.0**bits_used)
    match fmt:
        case Fixed() | DynamicFixed() | Int():
            rule.kind, (rule.low, rule.high) = _GRID, limits(fmt)
            rule.step, rule.inverse_step = 2.0**fmt.exponent, 2.0**-fmt.exponent
        case Float():
            rule.kind, rule.mantissa, rule.has_subnormals = _FLOATING, fmt.mantissa, not shares_exponents(fmt)
            rule.low, rule.high = 2.0**fmt.lowest_exponent, fmt.highest
            rule.has_infinity, rule.has_negative_zero = fmt.has_infinity, fmt.has_negative_zero
            if rule.has_subnormals:
                exponent = fmt.lowest_exponent - fmt.mantissa
                rule.step, rule.inverse_step = 2.0**exponent, 2.0**-exponent
        case Binary():
            rule.kind = _BINARY
    return rule


def run(x: torch.Tensor, rule: Rule, bits: torch.Tensor | Draw | None) -> torch.Tensor | None:
    """The pass over `x`, on as many threads as torch has; None where it cannot be built."""
    function = _function()
    if function is None:
        return None
    source = x.detach().contiguous()
    result = torch.empty_like(source)
    start, words = 0, None
    if isinstance(bits, Draw):
        (rule.key0, rule.key1), rule.at, start = bits.key, bits.step, bits.start
    elif bits is not None:
        words = bits.to(torch.uint32).contiguous()
    count, threads = source.numel(), torch.get_num_threads()
    share = max(PART, -(-count // (threads * 4)) * 4)

    def part(begin: int) -> None:
        function(
            source.data_ptr() + 4 * begin,
            result.data_ptr() + 4 * begin,
            min(share, count - begin),
            start + begin,
            None if words is None else words.data_ptr() + 4 * begin,
            ctypes.byref(rule),
        )

    begins = range(0, count, share)
    if len(begins) <= 1:
        list(map(part, begins))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, begins))
    return result


@cache
def _function() -> Callable[..., None] | None:
    path = _library()
    if path is None:
        return None
    try:
        function = ctypes.CDLL(str(path)).lowprec_round
    except (OSError, AttributeError) as error:
        _warn(f"{path} cannot be loaded ({type(error).__name__})")
        return None
    pointer = ctypes.c_void_p
    function.argtypes = (pointer, pointer, ctypes.c_int64, ctypes.c_uint64, pointer, ctypes.POINTER(Rule))
    function.restype = None
    return function


def _library() -> Path | None:
    """The compiled library, built if need be."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        _warn("there is no C compiler (cc, or what CC names)")
        return None
    source = resources.files("lowprec.train").joinpath("fused.c").read_bytes()
    made_from = (compiler, str(os.stat(compiler).st_mtime_ns), *FLAGS, *WIDE, platform.machine(), _cpu())
    name = hashlib.sha256(source + "\0".join(made_from).encode()).hexdigest()[:24]
    folder = _folder()
    if folder is None:
        _warn("the cache folder cannot be made, or belongs to others")
        return None
    path = folder / f"fused-{name}.so"
    return path if path.exists() else _build(compiler, source, path)


def _build(compiler: str, source: bytes, path: Path) -> Path | None:
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            code, library = Path(folder, "fused.c"), Path(folder, "fused.so")
            code.write_bytes(source)
            command = [compiler, *FLAGS, *WIDE, str(code), "-o", str(library), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=COMPILER_SECONDS)
            library.chmod(0o700)
            library.replace(path)
    except (OSError, subprocess.SubprocessError) as error:
        _warn(f"{compiler} made no library ({type(error).__name__})")
        return None
    return path


def _folder() -> Path | None:
    """A folder of the user's own."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lowprec"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except (OSError, RuntimeError):
        return None
    shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return None if shared or found.st_uid != os.getuid() else folder


def _cpu() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _warn(reason: str) -> None:
    warnings.warn(f"rounding by torch's own operators, which is slower: {reason}", RuntimeWarning, stacklevel=2)

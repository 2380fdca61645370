"""The tiles of AMX, which a process asks Linux for before it uses them: 5.16 and later grant them."""

import ctypes
import functools
import os

_ARCH_PRCTL = 158
_GET_SUPPORTED, _REQUEST = 0x1021, 0x1023
_TILE_DATA = 18
"""The number of the state that tiles are, among those a CPU saves for a process."""


@functools.cache
def grants_tiles() -> bool:
    """Whether this Linux lets a process use them, if the CPU has them."""
    states = ctypes.c_ulong(0)
    failed = _linux().syscall(_ARCH_PRCTL, _GET_SUPPORTED, ctypes.byref(states))
    return not failed and bool(states.value >> _TILE_DATA & 1)


def ask_for_tiles() -> str:
    """Why Linux refuses them to this process; nothing where it grants them, for good."""
    failed = _linux().syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA)
    return os.strerror(ctypes.get_errno()) if failed else ""


def _linux() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)

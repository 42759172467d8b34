"""Memory that is given back to the system in pieces.

The system takes pages back with the process's memory map locked: 170 MB in one call are ten milliseconds and more, in which
no other thread of the process gets a page, and the event loop stands still. Between two pieces the others have their turn.
"""

from __future__ import annotations

import ctypes
import mmap
from ctypes import c_int, c_size_t, c_void_p

#: Bytes that are given back in one call: a fraction of a millisecond.
PIECE = 4 << 20

_advise = ctypes.CDLL(None).madvise  # lets go of the interpreter
_advise.argtypes = (c_void_p, c_size_t, c_int)


def give_back(base: int, size: int) -> None:
    """Gives back the pages of a private mapping, whose contents nobody needs any more; the addresses stay."""
    for at in range(0, size, PIECE):
        _advise(base + at, min(PIECE, size - at), mmap.MADV_DONTNEED)

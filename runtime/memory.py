"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Where the C library can: it keeps freed memory otherwise, in pieces that fit nothing else.

    Takes milliseconds; for the moment after something large was built and its parts thrown away.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim.argtypes = (ctypes.c_size_t,)
        trim(0)

"""The sampler in C (kernels/native/sampling*.c) as Python sees it; runtime/sampling.py defines it.

Calls let other threads run meanwhile.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Collection, Mapping
from ctypes import c_double, c_float, c_int32, c_int64, c_uint64, c_void_p
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sgen.kernels import native

NOT_FINITE, NONE_ALLOWED, OUT_OF_RANGE = -1, -2, -3
"""What stands in the place of a token that could not be chosen."""

MAX_VOCABULARY = 1 << 19
"""Sums of weights are exact for so many tokens."""

_EXACT = "-ffp-contract=off"  # products and sums are never fused: numpy does not either


class Settings(ctypes.Structure):
    """How one request chooses; as `Settings` in sampling.h.  `address` is where C finds it."""

    _fields_ = (
        ("seed", c_uint64),
        ("top_p", c_double),
        ("top_k", c_int64),
        ("num_bias", c_int64),
        ("num_seen", c_int64),
        ("num_output", c_int64),
        ("bias_ids", c_void_p),
        ("bias", c_void_p),
        ("seen", c_void_p),
        ("output", c_void_p),
        ("counts", c_void_p),
        ("temperature", c_float),
        ("min_z", c_float),
        ("repetition", c_float),
        ("frequency", c_float),
        ("presence", c_float),
    )


class NativeSampler:
    """The library; it has no state."""

    def __init__(self, library: native.Library) -> None:
        self._choose = library.free.sm_choose
        self._choose.argtypes = (c_void_p, c_int64, c_void_p, c_int64, c_void_p)
        self._choose.restype = c_int32

    def choose(
        self,
        logits: int,
        vocab_size: int,
        picks: array[int],
        masks: Mapping[int, NDArray[np.uint32]],
    ) -> list[int]:
        """A token for each pick, or the code of why there is none.

        `logits`: address of fp32 [R, vocab_size]; `picks`: int64, four for each: row, position,
        address of its Settings, and 0; `masks`: by the number of a pick, where not all tokens are
        allowed: uint32 [any], bit t % 32 of word t // 32.  MemoryError if there is no memory.
        """
        count = len(picks) // 4
        words = -(-vocab_size // 32)
        if masks:
            table = _table(masks.values(), words)
            address = table.ctypes.data
            for number in masks:
                picks[4 * number + 3] = address
                address += 4 * words
        tokens = array("q", bytes(8 * count))
        where, out = picks.buffer_info()[0], tokens.buffer_info()[0]
        if not self._choose(logits, vocab_size, where, count, out):
            raise MemoryError("no memory for sampling")
        return tokens.tolist()


@lru_cache(maxsize=1)
def library() -> NativeSampler | None:
    """The compiled sampler; None where numpy must do."""
    found = native.load("sampling", (native.NATIVE, _EXACT))
    return None if found is None else NativeSampler(found)


def _table(masks: Collection[NDArray[np.uint32]], words: int) -> NDArray[np.uint32]:
    """Masks of whatever length as the rows of one array [n, words]."""
    table = np.empty((len(masks), words), dtype="<u4")
    for row, mask in enumerate(masks):
        size = len(mask)
        if size == words:
            table[row] = mask
        else:
            table[row, :size] = mask[:words]
            table[row, size:] = 0
    return table

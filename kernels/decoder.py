"""The decoder in C: its structures as ctypes sees them, its threads, and a step of it.

kernels/native/decoder.h says what each field means.  Whoever fills a structure with addresses
keeps what they point to alive.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from ctypes import POINTER, Structure, c_float, c_int, c_int32, c_int64, c_void_p

import numpy as np
import numpy.typing as npt

from sgen.kernels import native
from sgen.kernels.packing import ALIGNMENT, Matrix

KV_KINDS = {"fp32": 0, "bf16": 1, "int8": 2}
"""How keys and values are stored, by the names that users give."""


SPARE_ROWS = 7
"""Rows of memory behind the last of a linear's input, for whoever makes one."""


class Rows(Structure):
    _fields_ = (
        ("columns", c_int32),
        *((name, c_void_p) for name in ("x", "q", "scale")),
        *((name, c_void_p) for name in ("sum16", "sum32", "scaled16", "scaled32")),
    )


class Layer(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("input_norm", "post_norm", "q_norm", "k_norm")),
        *((name, Matrix) for name in ("q", "k", "v", "o", "gate", "up", "down")),
    )


class Model(Structure):
    _fields_ = (
        *((name, c_int32) for name in ("hidden", "num_layers", "heads", "kv_heads", "dim")),
        *((name, c_int32) for name in ("wide", "half", "window")),
        ("eps", c_float),
        ("scale", c_float),
        ("norm", c_void_p),
        ("layers", POINTER(Layer)),
        ("embedding", Matrix),
        ("head", Matrix),
    )


class KV(Structure):
    _fields_ = (
        *((name, c_int32) for name in ("kind", "layers", "heads", "dim")),
        ("pages", c_int64),
        ("data", c_void_p),
    )


class Step(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("num_tokens", "num_requests", "max_pages", "num_logits")),
        *((name, c_void_p) for name in ("tokens", "positions", "slots", "starts")),
        *((name, c_void_p) for name in ("page_table", "seq_lens", "logit_rows")),
    )


class Runner:
    """A model's threads and working memory; steps run one at a time, for whichever thread.

    The structures that `model` points to must outlive it.  `threads` counts the caller's.
    """

    def __init__(self, library: native.Library, model: Model, threads: int) -> None:
        free = library.free
        free.pool_new.restype = free.workspace_new.restype = c_void_p
        free.pool_new.argtypes = (c_int,)
        free.workspace_new.argtypes = (c_void_p, POINTER(Model))
        free.pool_free.argtypes = free.workspace_free.argtypes = (c_void_p,)
        free.pool_free.restype = free.workspace_free.restype = None
        free.decoder_forward.argtypes = (
            c_void_p, POINTER(KV), POINTER(Step), c_void_p, c_void_p, c_void_p,
        )  # fmt: skip
        self._forward = free.decoder_forward
        self._model = model
        self._lock = threading.Lock()
        pool = free.pool_new(threads)
        if not pool:
            raise MemoryError(f"{threads} threads cannot be started")
        self._workspace = free.workspace_new(pool, model)
        if not self._workspace:
            free.pool_free(pool)
            raise MemoryError("no memory for the decoder")
        self._end = weakref.finalize(self, _end, free, self._workspace, pool, os.getpid())
        self._end.atexit = False  # a thread may be in the middle of a step then

    def forward(self, kv: KV, step: Step, cosine: int, sine: int, logits: int) -> None:
        """One step; the last three are addresses of fp32.  MemoryError if there is too little."""
        with self._lock:
            failed = self._forward(self._workspace, kv, step, cosine, sine, logits)
        if failed:
            raise MemoryError(f"no memory for a step of {step.num_tokens} tokens")


def _end(library: ctypes.CDLL, workspace: int, pool: int, process: int) -> None:
    if os.getpid() != process:  # a fork's copy: the threads that would be waited for are not here
        return
    library.workspace_free(workspace)
    library.pool_free(pool)


def block_bytes(library: native.Library, kv: KV) -> int:
    """Bytes of one layer, page and head of keys and values."""
    function = library.quick.kv_block_bytes
    function.restype, function.argtypes = c_int64, (POINTER(KV),)
    return int(function(kv))


def aligned_zeros(size: int) -> npt.NDArray[np.uint8]:
    """`size` bytes of zeros from a multiple of ALIGNMENT on; untouched ones take no memory."""
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]

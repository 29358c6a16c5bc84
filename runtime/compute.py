"""How a model is computed: by which code, on how many threads, with which keys and values."""

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import Literal, get_args

import msgspec
import torch

from sgen.errors import InvalidRequestError
from sgen.kernels import isa, native

KVCacheDtype = Literal["fp32", "bf16", "int8", "fp8"]
ComputePath = Literal["auto", "native", "torch", "triton"]

MAX_THREADS = 1024

_KV_DTYPES: dict[str, tuple[KVCacheDtype, ...]] = {  # the first is the default
    "native": ("bf16", "fp32", "int8"),
    "torch": ("fp32", "int8", "fp8"),
    "triton": ("bf16", "int8", "fp8"),
}


class Compute(msgspec.Struct, frozen=True):
    """What the user may say of it.

    `path`: "native" is C on quantized weights and activations (fast); "torch" dequantizes all
    weights to fp32 (exact, and several times slower); "triton" is an NVIDIA GPU in bf16; "auto" is
    native where this machine has it, and never triton, which has not run on a GPU yet.  `threads`:
    default `SGEN_THREADS`, else what torch takes (the cores, or OMP_NUM_THREADS).
    `kv_cache_dtype`: how keys and values are kept.  The native path has bf16 (its default), fp32
    and int8, the torch path fp32 (its default), int8 and fp8 (e4m3), the triton path bf16 (its
    default), int8 and fp8.  `deterministic`: a request's logits have the same bits in any company;
    on a CPU they always do, on a GPU it costs time.
    """

    path: ComputePath = "auto"
    threads: int | None = None
    kv_cache_dtype: KVCacheDtype | None = None
    deterministic: bool = False

    def __post_init__(self) -> None:
        _check("compute", self.path, get_args(ComputePath))
        if self.kv_cache_dtype is not None:
            _check("kv_cache_dtype", self.kv_cache_dtype, get_args(KVCacheDtype))
        if self.threads is not None:
            _check_threads("threads", self.threads)
        if self.path != "auto":
            self.kv_dtype(self.path)
        elif self.kv_cache_dtype is not None:
            self.kv_dtype("native")

    def kv_dtype(self, path: Literal["native", "torch", "triton"]) -> KVCacheDtype:
        """How a model on this path keeps keys and values; InvalidRequestError if it cannot."""
        known = _KV_DTYPES[path]
        if self.kv_cache_dtype is None:
            return known[0]
        if self.kv_cache_dtype in known:
            return self.kv_cache_dtype
        other = "native" if self.kv_cache_dtype in _KV_DTYPES["native"] else "torch"
        raise InvalidRequestError(
            f"the {path} path keeps keys and values in {', '.join(known)}, "
            f"not in {self.kv_cache_dtype}",
            param="kv_cache_dtype",
            hint=f"choose one of these, or the {other} path (compute)",
        )

    def device(self) -> str | None:
        """Where the triton path runs: "cuda", or "cpu" in Triton's interpreter; None: another path.

        With "triton" a missing GPU is an InvalidRequestError.
        """
        if self.path != "triton":
            return None
        if importlib.util.find_spec("triton") is None:
            raise InvalidRequestError(
                "the triton path needs the package triton, which is not installed",
                param="compute",
                hint="pip install 'sgen[gpu]', or choose another path",
            )
        if os.environ.get("TRITON_INTERPRET") == "1":
            return "cpu"
        if not torch.cuda.is_available():
            raise InvalidRequestError(
                "the triton path needs an NVIDIA GPU, and torch sees none",
                param="compute",
                hint="choose the native path; or set TRITON_INTERPRET=1 to try the kernels on a "
                "CPU, which is very slow",
            )
        return "cuda"

    def num_threads(self) -> int:
        """How many threads a step runs on."""
        if self.threads is not None:
            return self.threads
        said = os.environ.get("SGEN_THREADS")
        if not said:
            return torch.get_num_threads()
        try:
            threads = int(said)
        except ValueError:
            threads = 0
        _check_threads("SGEN_THREADS", threads)
        return threads

    def library(self) -> native.Library | None:
        """The decoder's C code, or None for the torch path.

        With "auto" a missing compiler is a warning, with "native" an InvalidRequestError.  It is
        for models that `device` has no place for.
        """
        if self.path == "torch":
            return None
        try:
            name = isa.chosen()
        except ValueError as error:
            raise InvalidRequestError(str(error), param="SGEN_ISA") from None
        library = None if name is None else isa.load(name)
        if name is None:
            self.without_native("this processor is unknown")
        elif library is None:  # which has been warned of, unless it was asked for
            self._refuse("its C code could not be compiled and kept, or SGEN_NATIVE=0 is set")
        return library

    def without_native(self, reason: str) -> None:
        """Warn of the torch path, or refuse: see `_refuse`."""
        self._refuse(reason)
        warnings.warn(
            f"{reason}: the torch path is used, which is several times slower",
            RuntimeWarning,
            stacklevel=3,
        )

    def _refuse(self, reason: str) -> None:
        """InvalidRequestError if something was asked for that only the native path has."""
        if self.path == "native" or self.kv_cache_dtype not in (None, *_KV_DTYPES["torch"]):
            raise InvalidRequestError(
                f"the native path cannot be had: {reason}",
                param="compute",
                hint='choose the "torch" path; where there is no C compiler, install one',
            )


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidRequestError(f"{name} is {value!r}, not one of {', '.join(known)}", param=name)


def _check_threads(name: str, threads: int) -> None:
    if not 1 <= threads <= MAX_THREADS:
        raise InvalidRequestError(f"{name} must be a number from 1 to {MAX_THREADS}", param=name)

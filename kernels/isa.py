"""Which instruction set the decoder's C code is compiled for.

`SGEN_ISA` forces one by its name; else the best that this processor has is taken.  All of them
compute the same bits (kernels/native/decoder_simd.h).
"""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path

from sgen.kernels import native

OPTIONS = {
    "avx512vnni": (
        "-DSGEN_AVX512", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni",
        "-mavx2", "-mfma", "-mf16c",
    ),
    "avx2": ("-DSGEN_AVX2", "-mavx2", "-mfma", "-mf16c"),
    "neon": ("-DSGEN_NEON", "-march=armv8.2-a+dotprod+fp16"),
    "portable": (),
}  # fmt: skip
"""The compiler's options for each, the best of a kind of machine first."""

_NEEDED = {
    "avx512vnni": {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx2", "fma",
                   "f16c"},
    "avx2": {"avx2", "fma", "f16c"},
    "neon": {"asimd", "asimddp", "fphp"},
}  # fmt: skip
"""What Linux calls the abilities that a processor must have."""

EXACT = ("-ffp-contract=off",)
"""Products and sums are fused where the code says so, and nowhere else: see decoder_simd.h."""


def supported() -> list[str]:
    """The instruction sets that this machine can run, the best first; "portable" is always one."""
    found = _abilities()
    return [name for name in OPTIONS if name not in _NEEDED or _NEEDED[name] <= found]


def chosen() -> str | None:
    """The one to use: `SGEN_ISA`, else the best; None on an unknown processor.

    Portable code is slower than torch, so it is only used where it is asked for.  ValueError if
    SGEN_ISA names one that is unknown, or that this machine cannot run.
    """
    forced = os.environ.get("SGEN_ISA")
    if forced:
        if forced not in supported():
            raise ValueError(
                f"SGEN_ISA={forced}: this machine runs {', '.join(supported())}; unset it"
            )
        return forced
    best = supported()[0]
    return None if best == "portable" else best


def load(isa: str) -> native.Library | None:
    """The decoder's library for an instruction set; None, with a warning, if it cannot be had."""
    return native.load("decoder", (*OPTIONS[isa], *EXACT, "-pthread"))


@lru_cache(maxsize=1)
def _abilities() -> frozenset[str]:
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return frozenset(_NEEDED["neon"])
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    words = (line.split(":", 1)[1].split() for line in lines
             if line.startswith(("flags", "Features")) and ":" in line)  # fmt: skip
    return frozenset(word for found in words for word in found)

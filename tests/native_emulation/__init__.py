"""C for tests: stand-ins for the intrinsics of AVX-512 and NEON, and what compiles with them."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from sgen.kernels import isa, native

HERE = Path(__file__).parent
NATIVE = Path(native.__file__).parent
EMULATED = {
    "emulated-avx512vnni": ("-DSGEN_AVX512", '-DSGEN_INTRINSICS="avx512.h"'),
    "emulated-neon": ("-DSGEN_NEON", '-DSGEN_INTRINSICS="neon.h"'),
}


def compiled(folder: Path, sources: Sequence[Path]) -> dict[str, ctypes.CDLL]:
    """A library of the sources for each instruction set that runs here, the best first; then those
    that do not, emulated."""
    options = {name: isa.OPTIONS[name] for name in isa.supported()} | EMULATED
    return {name: _compiled(folder / f"{name}.so", sources, o) for name, o in options.items()}


@lru_cache
def emulated(name: str, *files: str) -> ctypes.CDLL:
    """A library of files of kernels/native for one of EMULATED; it is made once."""
    with tempfile.TemporaryDirectory() as folder:
        sources = [NATIVE / file for file in files]
        return _compiled(Path(folder) / f"{name}.so", sources, EMULATED[name])


def _compiled(path: Path, sources: Sequence[Path], options: tuple[str, ...]) -> ctypes.CDLL:
    level = "-O0" if options in EMULATED.values() else "-O2"  # the former are slow to optimize
    command = ["cc", level, "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", *options,
               *isa.EXACT, "-pthread", f"-I{HERE}", f"-I{NATIVE}", "-o", str(path),
               *map(str, sources), "-lm"]  # fmt: skip
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(path))

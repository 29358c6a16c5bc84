"""C code, compiled at first use with the system's compiler and loaded through ctypes.

The library of a name is made of the files `name*.c` here.  It is kept in a cache folder, under a
hash of the sources, the compiler and the processor; several processes may make it at once.  Where
there is no compiler, or SGEN_NATIVE=0 is set, there is no library, and callers do without it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from functools import lru_cache
from pathlib import Path

FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden")
NATIVE = "-march=native"
TIMEOUT = 120
"""Seconds that the compiler may take."""

_HERE = Path(__file__).parent


def cache_folder() -> Path:
    """$SGEN_CACHE, else `sgen` in $XDG_CACHE_HOME, else `.cache/sgen` at home."""
    own = os.environ.get("SGEN_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return Path(shared or "~/.cache").expanduser() / "sgen"


class Library:
    """One library, loaded twice: calls through `quick` keep Python's lock, those through `free`
    let other threads run meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.quick = ctypes.PyDLL(str(path))
        self.free = ctypes.CDLL(str(path))


@lru_cache(maxsize=16)
def load(name: str, options: tuple[str, ...] = (NATIVE,)) -> Library | None:
    """The library of a name; None, with a warning the first time, if it cannot be had.

    `options` are given to the compiler; without them it makes code for any processor of this kind.
    """
    if os.environ.get("SGEN_NATIVE") == "0":
        return None
    try:
        return Library(build(name, options))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        warnings.warn(
            f"no native code for {name} ({error!s:.500}): slower Python code is used instead",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def build(name: str, options: tuple[str, ...] = (NATIVE,)) -> Path:
    """The file of a library, compiled if it is not there yet.

    RuntimeError if there is no compiler or it fails; OSError if nothing can be written.
    """
    words = shlex.split(os.environ.get("CC") or "cc")
    compiler = shutil.which(words[0]) if words else None
    if compiler is None:
        raise RuntimeError("there is no C compiler")
    sources = sorted(_HERE.glob(f"{name}*.c"))
    path = cache_folder() / "native" / f"{name}-{_key(name, compiler, [*words[1:], *options])}.so"
    if _is_ours(path):
        return path
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    failure = ""
    known = tuple(o for o in options if o != NATIVE)
    for flags in dict.fromkeys((options, known)):  # not every compiler knows this processor
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            command = [compiler, *words[1:], *FLAGS, *flags, "-o", str(made), *map(str, sources)]
            done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
            if done.returncode == 0:
                made.chmod(0o700)  # whatever the umask: `_is_ours` must know it again
                os.replace(made, path)
                return path
            said = done.stderr.decode(errors="replace").strip()
            failure = said or f"no message, exit status {done.returncode}"
    raise RuntimeError(f"{compiler} failed: {failure}")


def _key(name: str, compiler: str, options: list[str]) -> str:
    h = hashlib.sha256()
    for source in sorted([*_HERE.glob(f"{name}*.c"), *_HERE.glob(f"{name}*.h")]):
        data = source.read_bytes()
        h.update(f"{source.name}\0{len(data)}\0".encode() + data)
    real = os.stat(compiler)
    h.update(repr((os.path.realpath(compiler), real.st_size, real.st_mtime_ns, FLAGS,
                   options)).encode())  # fmt: skip
    h.update(repr((platform.system(), platform.machine(), _processor())).encode())
    return h.hexdigest()[:32]


def _processor() -> str:
    """What tells apart processors that cannot run each other's code."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    found = (line for line in lines if line.startswith(("flags", "Features", "model name")))
    return "\n".join(sorted(set(found)))


def _is_ours(path: Path) -> bool:
    """Whether the file is there, and only this user could have written it."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise RuntimeError(f"{path} could have been written by somebody else")
    return True

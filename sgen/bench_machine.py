"""What a machine and a model file set as limits: bytes a second, bytes a token, bytes in all.

- Bandwidth is the best of some passes over a buffer far larger than any cache: a limit, not a mean.
- A token of a lone stream reads each matrix once; of the embedding one row, unless it is the head.
- Memory and start-up time are those of a process of its own, since a process that has measured
  something else no longer tells.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from sgen.errors import SgenError
from sgen.kernels import native
from sgen.runtime.compute import Compute
from sgen.runtime.weights import checked_weights, open_source, read_config, stored_bytes

BUFFER_BYTES = 512 << 20
PASSES = 12
PROMPT = "The capital of France is"


class Memory(msgspec.Struct, frozen=True):
    """Resident bytes of a process that served requests until its cache was full."""

    after_torch: int  # when it had imported torch and nothing else
    peak: int
    cache_tokens: int

    @property
    def beyond_torch(self) -> int:
        return self.peak - self.after_torch


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float:
    """Processes that ran or wanted to, over the last minute."""
    return os.getloadavg()[0]


def read_bandwidth(
    threads: int, *, buffer_bytes: int = BUFFER_BYTES, passes: int = PASSES
) -> float:
    """Bytes a second that so many threads read from memory together; each reads its own part."""
    words = np.ones(buffer_bytes // 8, dtype=np.uint64)  # not zeros: every page must be there
    parts = np.array_split(words, threads)
    read = _reader()
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(passes):
            start = time.perf_counter()
            total = sum(pool.map(read, parts))
            best = min(best, time.perf_counter() - start)
            assert total == len(words), "the buffer was not read"
    return words.nbytes / best


def _reader() -> Callable[[npt.NDArray[np.uint64]], int]:
    """The sum of an array in C, else in numpy; both let other threads run meanwhile."""
    library = native.load("bandwidth")
    if library is None:
        return lambda part: int(part.sum())
    function = library.free.sum_words
    function.restype = ctypes.c_uint64
    function.argtypes = (ctypes.c_void_p, ctypes.c_int64)
    return lambda part: int(function(part.ctypes.data, len(part)))


def matrix_bytes(path: Path) -> int:
    """Bytes of the matrices that a token reads, as they are in a model's file or folder.

    Errors as loading has them; nothing but the headers is read.
    """
    with open_source(path) as source:
        config = read_config(source)
        matrices = [e for e in checked_weights(source, config) if len(e.shape) == 2]
        if not config.tie_embeddings:
            matrices = [e for e in matrices if e.name != "model.embed_tokens.weight"]
        return sum(stored_bytes(source, e) for e in matrices)


def processor() -> str:
    """What the machine calls its processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def startup_seconds(model: Path, compute: Compute, *, repeat: int = 3) -> float:
    """From the command to its first byte of generated text, warm: the first run does not count."""
    command = [sys.executable, "-m", "sgen.cli", "generate", "--raw", "-p", PROMPT,
               "--model", str(model), "--max-tokens", "4", "--compute", compute.path]  # fmt: skip
    if compute.threads is not None:
        command += ["--threads", str(compute.threads)]
    if compute.kv_cache_dtype is not None:
        command += ["--kv-cache-dtype", compute.kv_cache_dtype]
    if compute.deterministic:
        command.append("--deterministic")
    taken = [_first_byte(command) for _ in range(repeat + 1)]
    return statistics.median(taken[1:])


def _first_byte(command: Sequence[str]) -> float:
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - start
        _, errors = process.communicate()
    if not first:
        raise SgenError(f"the command failed: {errors.decode(errors='replace').strip()[-500:]}")
    return seconds


def memory_of(model: Path, compute: Compute, *, cache_tokens: int) -> Memory:
    """A process of its own loads the model, fills its cache with 16 requests, and tells."""
    asked = msgspec.json.encode(compute).decode()
    command = [sys.executable, "-m", "sgen.bench_memory", str(model), str(cache_tokens), asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SgenError(f"the measuring process failed: {done.stderr.strip()[-500:]}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Memory)

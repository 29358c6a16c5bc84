"""Packed weights, and the files that keep them for the next start.

A model is packed the first time that it is loaded, and written to `packed/<key>.sgen` in the cache
folder as it is packed; from then on that file is mapped, and of the model's own file only the
header is read.  The key stands for the layout and for the state of the model's files.  A saved
file is never half written, and not trusted: what does not fit exactly is made anew.  It is no
condition: where it cannot be written, the weights stay in memory.

The file: a first line, matrices and vectors at multiples of 64 bytes, zeros up to a whole page, an
index (msgpack), and at the very end the length of the index and its SHA-256.  The index has a sum
of all before it, which is looked at whenever the file is loaded: of each page the sum of its 64-bit
words, and the SHA-256 of these.  It finds any changed bit, and pages that are lost, moved or
empty, at about the speed of memory; a hash of every byte would take as long as all else that
loading does.  It misses two changes in one page that cancel out, so it is no defence against
whoever may write to this user's files, and it says nothing of what happens after loading.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

import msgspec
import numpy as np
import torch
from torch import Tensor

from sgen.errors import ModelFileError
from sgen.kernels.native import cache_folder
from sgen.kernels.packing import (
    ALIGNMENT,
    LAYOUT_VERSION,
    Bytes,
    Coding,
    PackedMatrix,
    packed_bytes,
)
from sgen.runtime.config import ModelConfig
from sgen.runtime.quant import QuantTensor
from sgen.runtime.weights import (
    Expected,
    Progress,
    Source,
    checked_weights,
    load_weight,
    stored_bytes,
    stored_name,
)

PackedWeights: TypeAlias = dict[str, PackedMatrix | Tensor]
"""Matrices packed, vectors (norms and biases) as fp32 tensors, by canonical name."""

BUDGET = 8 << 30
"""Bytes that all saved files may have together; the newest one stays, however large."""

_VERSION = 2
_MAGIC = b"sgen packed weights\n".ljust(ALIGNMENT, b"\0")
_TRAILER = 8 + hashlib.sha256().digest_size
_PAGE = 4096  # what is summed up at once
_STEP = 16 << 20  # bytes read between two calls of `progress`
_LEFT_OVER = 3600  # seconds after which an unfinished file is nobody's


class _Entry(msgspec.Struct, frozen=True):
    """A matrix, or a vector of `rows` fp32 numbers, which has no coding."""

    name: str
    offset: int
    rows: int
    columns: int
    coding: Coding | None

    @property
    def nbytes(self) -> int:
        if self.coding is None:
            return self.rows * 4
        return packed_bytes(self.rows, self.columns, self.coding)


class _Index(msgspec.Struct, frozen=True):
    key: str
    entries: list[_Entry]
    sum: bytes  # of all before the index: see `_sum`


def packed_weights(
    source: Source, config: ModelConfig, progress: Progress = lambda done, total: None
) -> PackedWeights:
    """All weights of the decoder, from the saved file if there is one, else packed now and saved.

    Saved weights are mapped: they are not in memory twice, and processes share them.  `progress`
    and errors as for `load_weights`; ModelFileError too where a scale is infinite or NaN.
    """
    expected = checked_weights(source, config)
    key = _key(source)
    path = cache_folder() / "packed" / f"{key}.sgen"
    weights = _read(path, key, expected, progress)
    if weights is None and _has_room(path, sum(stored_bytes(source, e) for e in expected)):
        with contextlib.suppress(OSError):
            _save(path, key, source, _packed(source, config, expected, progress))
            weights = _read(path, key, expected, lambda done, total: None)
    if weights is None:
        weights = dict(_packed(source, config, expected, progress))
    return weights


def _key(source: Source) -> str:
    """Changes with the layout, and whenever one of the model's files is written or replaced."""
    path = source.path.resolve()
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix in (".json", ".safetensors"))
    states = []
    for file in files:
        with contextlib.suppress(OSError):
            s = file.stat()
            states.append((str(file.resolve()), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino))
    text = repr((_VERSION, LAYOUT_VERSION, str(path), states))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _packed(
    source: Source, config: ModelConfig, expected: list[Expected], progress: Progress
) -> Iterator[tuple[str, PackedMatrix | Tensor]]:
    """Each weight as it is packed."""
    total = sum(stored_bytes(source, e) for e in expected)
    done = 0
    progress(done, total)
    for entry in expected:
        weight = load_weight(source, config, entry)
        try:
            yield entry.name, weight.pack() if isinstance(weight, QuantTensor) else weight
        except ValueError as error:
            where = f"tensor {stored_name(source, entry)}"
            raise ModelFileError(str(error), path=str(source.path), where=where) from error
        done += stored_bytes(source, entry)
        progress(done, total)


def _has_room(path: Path, nbytes: int) -> bool:
    """Whether the file can be there and leave as much free: packed weights are a little larger."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return shutil.disk_usage(path.parent).free > 2 * nbytes
    except OSError:
        return False


def _save(
    path: Path, key: str, source: Source, weights: Iterator[tuple[str, PackedMatrix | Tensor]]
) -> None:
    """Write the file, or OSError.  Nobody sees it before it is whole and on the disk."""
    number, name = tempfile.mkstemp(suffix=".part", dir=path.parent)  # for this user's eyes only
    part = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            _write(file, key, weights)
            file.flush()
            os.fsync(file.fileno())
        if _key(source) == key:  # else the model's file was replaced meanwhile
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    _trim(path)


def _write(file: BinaryIO, key: str, weights: Iterator[tuple[str, PackedMatrix | Tensor]]) -> None:
    file.write(_MAGIC)
    entries = []
    for name, weight in weights:
        file.write(bytes(-file.tell() % ALIGNMENT))
        if isinstance(weight, Tensor):
            entry = _Entry(name, file.tell(), len(weight), 1, None)
            file.write(weight.numpy().tobytes())
        else:
            entry = _Entry(name, file.tell(), weight.rows, weight.columns, weight.coding)
            file.write(weight.data.data)
        entries.append(entry)
    file.write(bytes(-file.tell() % _PAGE))
    file.flush()
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as written:
        found = _sum(written)
    index = msgspec.msgpack.encode(_Index(key, entries, found))
    file.write(index + len(index).to_bytes(8, "little") + hashlib.sha256(index).digest())


def _read(
    path: Path, key: str, expected: list[Expected], progress: Progress
) -> PackedWeights | None:
    """The weights of a saved file, mapped; None if there is none that is ours and fits exactly."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                return None  # somebody else could have written it
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None
    index = _checked_index(mapped, key, expected, progress)
    if index is None:
        mapped.close()
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # was used: see `_trim`
    whole = np.frombuffer(mapped, np.uint8)
    return {entry.name: _weight(entry, whole) for entry in index.entries}


def _checked_index(
    mapped: mmap.mmap, key: str, expected: list[Expected], progress: Progress
) -> _Index | None:
    """The index of a file that is sound from end to end, else None.

    Every page is read, so that what is slow about a cold disk happens here.
    """
    index, end = _index(mapped) or (None, 0)
    if index is None or index.key != key or not _fits(index.entries, expected, end):
        return None
    if hasattr(mmap, "MADV_WILLNEED"):
        mapped.madvise(mmap.MADV_WILLNEED)
    return index if _sum(mapped, end, progress) == index.sum else None


def _index(mapped: mmap.mmap) -> tuple[_Index, int] | None:
    """The index and where it begins."""
    size = len(mapped)
    if size < len(_MAGIC) + _TRAILER or mapped[: len(_MAGIC)] != _MAGIC:
        return None
    trailer = mapped[size - _TRAILER :]
    length = int.from_bytes(trailer[:8], "little")
    if length > size - len(_MAGIC) - _TRAILER:
        return None
    end = size - _TRAILER - length
    raw = mapped[end : size - _TRAILER]
    if end % _PAGE or hashlib.sha256(raw).digest() != trailer[8:]:
        return None
    try:
        return msgspec.msgpack.decode(raw, type=_Index), end
    except msgspec.DecodeError:
        return None


def _fits(entries: list[_Entry], expected: list[Expected], size: int) -> bool:
    """Whether these are the weights that the config asks for, and all of them lie before `size`."""
    if [e.name for e in entries] != [e.name for e in expected]:
        return False
    for entry, wanted in zip(entries, expected, strict=True):
        vector = len(wanted.shape) == 1
        shape = (entry.rows,) if vector else (entry.rows, entry.columns)
        if shape != wanted.shape or (entry.coding is None) != vector:
            return False
        try:
            end = entry.offset + entry.nbytes
        except ValueError:  # columns that cannot be coded so
            return False
        if entry.offset < 0 or entry.offset % ALIGNMENT or end > size:
            return False
    return True


def _weight(entry: _Entry, whole: Bytes) -> PackedMatrix | Tensor:
    data = whole[entry.offset : entry.offset + entry.nbytes]
    if entry.coding is None:
        return torch.from_numpy(data.view(np.float32).copy())
    return PackedMatrix(entry.rows, entry.columns, entry.coding, data)


def _sum(
    mapped: mmap.mmap, size: int | None = None, progress: Progress = lambda done, total: None
) -> bytes:
    """SHA-256 of the sums of the pages, of the first `size` bytes; 10 ms for 100 MB in memory."""
    whole = np.frombuffer(mapped, np.dtype("<u8"), -1 if size is None else size // 8)
    whole = whole.reshape(-1, _PAGE // 8)
    digest = hashlib.sha256()
    progress(0, whole.nbytes)
    for start in range(0, len(whole), _STEP // _PAGE):
        pages = whole[start : start + _STEP // _PAGE]
        digest.update(pages.sum(axis=1).astype("<u8").tobytes())
        progress(start * _PAGE + pages.nbytes, whole.nbytes)
    return digest.digest()


def _trim(newest: Path) -> None:
    """Remove the files that were not used for longest, until the rest is within the budget."""
    left = BUDGET
    files = []
    for path in newest.parent.iterdir():
        with contextlib.suppress(OSError):
            status = path.stat()
            if path.suffix == ".part" and time.time() - status.st_mtime > _LEFT_OVER:
                path.unlink()
            elif path.suffix == ".sgen":
                files.append((path != newest, -status.st_mtime_ns, status.st_size, path))
    for other, _, size, path in sorted(files):
        left -= size
        if other and left < 0:
            with contextlib.suppress(OSError):
                path.unlink()

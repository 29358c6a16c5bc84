"""GGUF model files: read through a memory map, with every claim checked before it is believed.

What is true of an open `GGUFFile`:

- every size, count and offset in its header lies within the file; nothing was allocated on the
  header's word alone, so memory stays within a small multiple of the header's own bytes;
- keys and tensor names are unique; tensors do not overlap, and start at aligned offsets;
- tensor data was not read: `data` gives read-only views of the map.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from sgen.errors import ModelFileError, UnsupportedModelError
from sgen.runtime.ggml import GGML_TYPES, UNSUPPORTED_TYPES, GGMLType

Value: TypeAlias = "int | float | bool | str | list[Any] | npt.NDArray[Any]"
"""A metadata value: arrays of numbers are numpy arrays, of strings or of arrays lists."""

_MAX_KEY = 65535  # bytes, by the specification
_MAX_NAME = 64  # bytes of a tensor's name, by the specification
_MAX_DIMS = 4
_MAX_NESTING = 4
_MIN_KEY_VALUE = 8 + 1 + 4 + 1  # length and one byte of key, type, the smallest value
_MIN_TENSOR = 8 + 1 + 4 + 8 + 4 + 8  # length and one byte of name, dims, one dim, type, offset

_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_UNPACK: dict[int, struct.Struct] = {
    t: struct.Struct("<" + code)
    for t, code in zip(_NUMBERS, ("B", "b", "H", "h", "I", "i", "f", "Q", "q", "d"), strict=True)
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of the file; `shape` has the outermost dimension first, as torch has it."""

    name: str
    shape: tuple[int, ...]
    ggml_type: GGMLType
    offset: int  # bytes from the start of the file
    nbytes: int


class GGUFFile:
    """An open GGUF file.

    `metadata` and `tensors` are as in the file, in its order.  Views given by `data` stay valid
    after `close`: the map goes when the last of them does.
    """

    def __init__(
        self,
        path: Path,
        version: int,
        metadata: dict[str, Value],
        tensors: dict[str, TensorInfo],
        mapped: mmap.mmap,
    ) -> None:
        self.path = path
        self.version = version
        self.metadata = metadata
        self.tensors = tensors
        self._mapped: mmap.mmap | None = mapped

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> GGUFFile:
        """Map `path` and read its header.

        ModelFileError: the file is absent, unreadable or broken (the message has the place);
        UnsupportedModelError: an older or big-endian file, or a tensor type that sgen lacks.
        """
        file = Path(path)
        mapped = _map(file)
        try:
            return _parse(file, mapped)
        except BaseException:
            mapped.close()
            raise

    def data(self, name: str) -> npt.NDArray[np.uint8]:
        """The raw bytes of a tensor, uint8 [nbytes], read-only, nothing copied."""
        assert self._mapped is not None, "data() of a closed file"
        info = self.tensors[name]
        return np.frombuffer(self._mapped, np.uint8, info.nbytes, info.offset)

    def close(self) -> None:
        if self._mapped is not None:
            with contextlib.suppress(BufferError):  # views are alive: they own the map from now on
                self._mapped.close()
            self._mapped = None

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _map(path: Path) -> mmap.mmap:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelFileError("not a regular file", path=str(path))
        if status.st_size < 24:
            message = f"{status.st_size} bytes are too few for a GGUF file"
            raise ModelFileError(message, path=str(path), hint="the download may have been cut")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"cannot be read: {error}", path=str(path)) from error


class _Cursor:
    """Reads the header from front to back; every read is checked against the file's end."""

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self.path = path
        self.mapped = mapped
        self.size = len(mapped)
        self.position = 0
        self.subject = "header"

    def fail(self, message: str, *, hint: str = "") -> NoReturn:
        where = f"{self.subject}, offset {self.position}"
        raise ModelFileError(message, path=str(self.path), where=where, hint=hint)

    def advance(self, length: int, what: str) -> int:
        """Step over `length` bytes and return where they start."""
        start = self.position
        if length > self.size - start:
            self.fail(
                f"{what} takes {length} bytes, the file has {self.size - start} left",
                hint="the download may have been cut",
            )
        self.position = start + length
        return start

    def number(self, kind: int, what: str) -> Any:
        unpack = _UNPACK[kind]
        return unpack.unpack_from(self.mapped, self.advance(unpack.size, what))[0]

    def u32(self, what: str) -> int:
        return int(self.number(4, what))

    def u64(self, what: str) -> int:
        return int(self.number(10, what))

    def text(self, what: str, limit: int | None = None) -> str:
        length = self.u64(f"the length of {what}")
        if limit is not None and length > limit:
            self.fail(f"{what} has {length} bytes, at most {limit} are allowed")
        start = self.advance(length, what)
        try:
            return self.mapped[start : start + length].decode()
        except UnicodeDecodeError as error:
            self.fail(f"{what} is not UTF-8: {error}")

    def boolean(self) -> bool:
        value = self.number(0, "a boolean")
        if value > 1:
            self.fail(f"a boolean is {value}, not 0 or 1")
        return bool(value)

    def value(self, kind: int, depth: int = 0) -> Value:
        if kind == _STRING:
            return self.text("a string")
        if kind == _ARRAY:
            return self.array(depth + 1)
        if kind == _BOOL:
            return self.boolean()
        if kind not in _UNPACK:
            self.fail(f"unknown value type {kind}")
        number: int | float = self.number(kind, "a number")
        return number

    def array(self, depth: int) -> Value:
        if depth > _MAX_NESTING:
            self.fail(f"arrays are nested deeper than {_MAX_NESTING}")
        kind = self.u32("an array's type")
        count = self.u64("an array's length")
        if kind in _NUMBERS or kind == _BOOL:
            dtype = _NUMBERS.get(kind, np.dtype("u1"))
            start = self.advance(count * dtype.itemsize, f"an array of {count} numbers")
            numbers: npt.NDArray[Any] = np.frombuffer(self.mapped, dtype, count, start).copy()
            if kind == _BOOL:
                if count and numbers.max() > 1:
                    self.fail("a boolean of an array is neither 0 nor 1")
                numbers = numbers.astype(np.bool_)
            return numbers
        if kind not in (_STRING, _ARRAY):
            self.fail(f"unknown array type {kind}")
        smallest = 8 if kind == _STRING else 12
        if count * smallest > self.size - self.position:
            self.fail(f"an array of {count} does not fit into the file")
        read: Callable[[], Value]
        read = self.element if kind == _STRING else lambda: self.array(depth + 1)
        return [read() for _ in range(count)]

    def element(self) -> str:
        """One string of an array; `text` without its words, since vocabularies have 10^5."""
        start = self.position + 8
        if start <= self.size:
            end = start + int(_UNPACK[10].unpack_from(self.mapped, self.position)[0])
            if end <= self.size:
                try:
                    decoded = self.mapped[start:end].decode()
                except UnicodeDecodeError as error:
                    self.fail(f"a string is not UTF-8: {error}")
                self.position = end
                return decoded
        return self.text("a string of an array")  # says what is wrong


def _parse(path: Path, mapped: mmap.mmap) -> GGUFFile:
    cursor = _Cursor(path, mapped)
    version = _read_version(cursor)
    tensor_count = cursor.u64("the number of tensors")
    key_count = cursor.u64("the number of keys")
    room = cursor.size - cursor.position
    if tensor_count * _MIN_TENSOR + key_count * _MIN_KEY_VALUE > room:
        cursor.fail(f"{tensor_count} tensors and {key_count} keys do not fit into the file")
    metadata: dict[str, Value] = {}
    for index in range(key_count):
        cursor.subject = f"key {index}"
        key = cursor.text("a key", _MAX_KEY)
        if not key or key in metadata:
            cursor.fail(f"the key {key[:80]!r} is there twice" if key else "a key is empty")
        cursor.subject = f"key {key[:80]}"
        metadata[key] = cursor.value(cursor.u32("a value's type"))
    alignment = _alignment(cursor, metadata)
    found = [_read_tensor(cursor, index) for index in range(tensor_count)]
    cursor.subject = "tensor data"
    start = -(-cursor.position // alignment) * alignment
    tensors = _place(cursor, found, start, alignment)
    return GGUFFile(path, version, metadata, tensors, mapped)


def _read_version(cursor: _Cursor) -> int:
    magic = cursor.mapped[:4]
    cursor.advance(4, "the magic")
    if magic != b"GGUF":
        cursor.fail(f"starts with {magic!r}, so it is no GGUF file")
    version = cursor.u32("the version")
    if version & 0xFFFF == 0:
        raise UnsupportedModelError(f"{cursor.path}: a big-endian GGUF file, sgen reads the other")
    if version not in (2, 3):
        raise UnsupportedModelError(
            f"{cursor.path}: GGUF version {version}, sgen reads 2 and 3",
            hint="convert it with a current llama.cpp" if version == 1 else "",
        )
    return version


def _alignment(cursor: _Cursor, metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", 32)
    cursor.subject = "key general.alignment"
    if isinstance(value, bool) or not isinstance(value, int):
        cursor.fail(f"must be an integer, is {type(value).__name__}")
    if not 1 <= value <= 1 << 30 or value & (value - 1):
        cursor.fail(f"must be a power of two, is {value}")
    return value


def _read_tensor(cursor: _Cursor, index: int) -> TensorInfo:
    """One entry of the tensor table; its offset counts from the start of the data."""
    cursor.subject = f"tensor {index}"
    name = cursor.text("a tensor's name", _MAX_NAME)
    if not name:
        cursor.fail("a tensor's name is empty")
    cursor.subject = f"tensor {name}"
    dims = cursor.u32("the number of dimensions")
    if not 1 <= dims <= _MAX_DIMS:
        cursor.fail(f"has {dims} dimensions, 1 to {_MAX_DIMS} are allowed")
    shape = tuple(cursor.u64("a dimension") for _ in range(dims))[::-1]
    number = cursor.u32("the tensor's type")
    offset = cursor.u64("the tensor's offset")
    if 0 in shape:
        cursor.fail(f"has the shape {list(shape)}, without elements")
    if number in UNSUPPORTED_TYPES:
        raise UnsupportedModelError(
            f"{cursor.path}: tensor {name} is {UNSUPPORTED_TYPES[number]}, which sgen does not run",
            hint=f"types that run: {', '.join(t.name for t in GGML_TYPES.values())}",
        )
    if number not in GGML_TYPES:
        cursor.fail(f"has the unknown type {number}")
    kind = GGML_TYPES[number]
    if shape[-1] % kind.block_size:
        cursor.fail(f"rows of {shape[-1]} do not divide into {kind.name} blocks")
    nbytes = kind.row_bytes(shape[-1])
    for rows in shape[:-1]:
        nbytes *= rows
    return TensorInfo(name, shape, kind, offset, nbytes)


def _place(
    cursor: _Cursor, found: list[TensorInfo], start: int, alignment: int
) -> dict[str, TensorInfo]:
    """Tensors by name, in the file's order, once none overlaps or leaves the file."""
    tensors: dict[str, TensorInfo] = {}
    for info in found:
        cursor.subject = f"tensor {info.name}"
        if info.name in tensors:
            cursor.fail("is there twice")
        if info.offset % alignment:
            cursor.fail(f"starts at {info.offset}, no multiple of the alignment {alignment}")
        offset = start + info.offset
        if offset + info.nbytes > cursor.size:
            cursor.fail(
                f"ends at byte {offset + info.nbytes} of a file of {cursor.size}",
                hint="the download may have been cut",
            )
        tensors[info.name] = TensorInfo(info.name, info.shape, info.ggml_type, offset, info.nbytes)
    previous = None
    for info in sorted(tensors.values(), key=lambda t: t.offset):
        if previous is not None and previous.offset + previous.nbytes > info.offset:
            cursor.subject = f"tensor {info.name}"
            cursor.fail(f"overlaps with the tensor {previous.name}")
        previous = info
    return tensors

"""GGUF files written: version 3, little-endian, one tensor after another.

A `GGUFWriter` knows all shapes and types from the start, so that the header is written first and
the data follow as they are made.  The file appears under its name once it is whole: until then it
is a temporary file beside it, which goes away if anything fails.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sgen.runtime.ggml_encode import ENCODERS

_ALIGNMENT = 32  # the format's default
_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": 7, "u8": 10,
            "i8": 11, "f8": 12}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor to be written; `shape` has the outermost dimension first, `kind` is an encoder's."""

    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def nbytes(self) -> int:
        rows = 1
        for size in self.shape[:-1]:
            rows *= size
        return rows * ENCODERS[self.kind].row_bytes(self.shape[-1])


class GGUFWriter:
    """Writes one file; `write` must be called for each planned tensor, in their order.

    As a context manager: the file is put in its place where the block ends well, and otherwise
    removed.  OSError: the disk is full, or the folder cannot be written.
    """

    def __init__(
        self, path: Path, metadata: Mapping[str, object], tensors: Sequence[Planned]
    ) -> None:
        self.path = path
        self._header = _header(metadata, tensors)
        self._left = list(tensors)
        self._file: BinaryIO | None = None
        self._temporary = ""

    def __enter__(self) -> GGUFWriter:
        number, self._temporary = tempfile.mkstemp(".part", f".{self.path.name}.", self.path.parent)
        self._file = os.fdopen(number, "wb")
        self._file.write(self._header)
        return self

    def write(self, data: npt.NDArray[np.uint8]) -> None:
        """The data of the next tensor, uint8 of its size."""
        assert self._file is not None
        planned = self._left.pop(0)
        assert data.dtype == np.uint8
        assert data.nbytes == planned.nbytes, planned.name
        self._file.write(np.ascontiguousarray(data).data)
        self._file.write(bytes(-data.nbytes % _ALIGNMENT))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        try:
            if kind is None:
                assert not self._left, f"{self._left[0].name} was not written"
                self._file.flush()
                os.fsync(self._file.fileno())
                os.chmod(self._temporary, 0o644)
                os.replace(self._temporary, self.path)
        finally:
            self._file.close()
            Path(self._temporary).unlink(missing_ok=True)


def _header(metadata: Mapping[str, object], tensors: Sequence[Planned]) -> bytes:
    assert "general.alignment" not in metadata, "the alignment is always the default"
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        number, raw = _value(value)
        parts += [_text(key), struct.pack("<I", number), raw]
    offset = 0
    for tensor in tensors:
        dims = tensor.shape[::-1]
        parts += [_text(tensor.name), struct.pack(f"<I{len(dims)}Q", len(dims), *dims)]
        parts.append(struct.pack("<IQ", ENCODERS[tensor.kind].number, offset))
        offset += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    header = b"".join(parts)
    return header + bytes(-len(header) % _ALIGNMENT)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: object) -> tuple[int, bytes]:
    """The type's number and the bytes of a value; an integer takes the first type that holds it,
    of 32 bits unsigned, 32 signed, 64 unsigned and 64 signed."""
    match value:
        case bool():
            return _BOOL, struct.pack("<?", value)
        case int():
            code = next(c for c, low, high in _RANGES if low <= value < high)
            return _NUMBERS[_CODES[code]], struct.pack("<" + code, value)
        case float():
            return _NUMBERS["f4"], struct.pack("<f", value)
        case str():
            return _STRING, _text(value)
        case np.ndarray():
            return _ARRAY, _numbers(value)
        case list():
            return _ARRAY, _list(value)
    raise TypeError(f"GGUF has no {type(value).__name__}")


_CODES = {"I": "u4", "i": "i4", "Q": "u8", "q": "i8"}
_RANGES = (("I", 0, 1 << 32), ("i", -(1 << 31), 0), ("Q", 0, 1 << 64), ("q", -(1 << 63), 0))


def _numbers(values: npt.NDArray[Any]) -> bytes:
    number = _NUMBERS[f"{values.dtype.kind}{values.dtype.itemsize}"]
    raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
    return struct.pack("<IQ", number, values.size) + raw


def _list(values: Sequence[object]) -> bytes:
    """Strings or arrays, all of one type; an empty list is one of strings."""
    made = [_value(value) for value in values]
    kinds = {number for number, _ in made} or {_STRING}
    if len(kinds) != 1:
        raise TypeError("the values of an array are of different types")
    return struct.pack("<IQ", kinds.pop(), len(made)) + b"".join(raw for _, raw in made)

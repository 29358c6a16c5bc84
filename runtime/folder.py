"""Hugging Face model folders: `config.json` and safetensors weights, in one file or in shards.

An open `HFFolder` has a config that is an object, and a table of tensors each of which was found
in the one shard that the index gives it; no weights were read.  The files' own headers are checked
by the safetensors library, whose every error becomes a ModelFileError.

Format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sgen.errors import ModelFileError, UnsupportedModelError

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
}
"""Dtypes of tensors that sgen reads, by their names in a safetensors file; which of them may stand
where, weights.py and checkpoint.py say."""

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MAX_CONFIG = 1 << 20  # bytes
_MAX_INDEX = 1 << 26


@dataclass(frozen=True, slots=True)
class FolderTensor:
    """A tensor's place; `dtype` is its name in the file, such as BF16."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    shard: str


class HFFolder:
    """An open folder.  Tensors stay valid after `close`: they own their part of the map."""

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        tensors: dict[str, FolderTensor],
        shards: dict[str, Any],
    ) -> None:
        self.path = path
        self.config = config
        self.tensors = tensors
        self._shards = shards

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> HFFolder:
        """ModelFileError: a file is absent or broken; UnsupportedModelError: pickled weights only,
        or a tensor's dtype does not run."""
        folder = Path(path)
        config = read_json(folder / "config.json", _MAX_CONFIG)
        placed = _shards_by_tensor(folder)
        names = sorted(set(placed.values())) if placed is not None else [_SINGLE]
        shards = {name: _open_shard(folder / name) for name in names}
        tensors: dict[str, FolderTensor] = {}
        for name, shard in shards.items():
            for tensor in _list(folder / name, shard):
                if (placed or {}).get(tensor.name, name) != name or tensor.name in tensors:
                    _fail(folder / name, f"tensor {tensor.name}", "is in another shard too")
                tensors[tensor.name] = tensor
        for name, shard_name in (placed or {}).items():
            if name not in tensors:
                _fail(folder / shard_name, f"tensor {name}", f"{_INDEX} puts it here; it is not")
        return cls(folder, config, tensors, shards)

    def tensor(self, name: str) -> Tensor:
        """A tensor as stored, mapped from the file where the library can."""
        place = self.tensors[name]
        with _wrapped(self.path / place.shard, f"tensor {name}"):
            found: Tensor = self._shards[place.shard].get_tensor(name)
        return found

    def close(self) -> None:
        self._shards.clear()

    def __enter__(self) -> HFFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """The object in a JSON file of at most `limit` bytes; no key may be there twice."""
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except FileNotFoundError as error:
        raise ModelFileError("is missing", path=str(path)) from error
    except OSError as error:
        raise ModelFileError(f"cannot be read: {error}", path=str(path)) from error
    if len(raw) > limit:
        raise ModelFileError(f"is longer than {limit} bytes", path=str(path))

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is there twice")
        return found

    try:
        value = json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"is not JSON: {error}", path=str(path)) from error
    if not isinstance(value, dict):
        raise ModelFileError("must hold a JSON object", path=str(path))
    return value


def _fail(path: Path, where: str, message: str) -> None:
    raise ModelFileError(message, path=str(path), where=where)


@contextmanager
def _wrapped(path: Path, where: str = "") -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, ValueError, RuntimeError, OverflowError) as error:
        raise ModelFileError(
            f"cannot be read: {error}",
            path=str(path),
            where=where,
            hint="the download may have been cut",
        ) from error


def _shards_by_tensor(folder: Path) -> dict[str, str] | None:
    """The index: a file name for each tensor; None where one file holds them all."""
    if (folder / _SINGLE).is_file():
        return None
    if not (folder / _INDEX).is_file():
        if any(folder.glob("pytorch_model*.bin")):
            raise UnsupportedModelError(
                f"{folder}: holds pickled weights, which sgen never opens",
                hint="take a copy of the model that has safetensors files",
            )
        raise ModelFileError(f"has neither {_SINGLE} nor {_INDEX}", path=str(folder))
    index = folder / _INDEX
    placed = read_json(index, _MAX_INDEX).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise ModelFileError("must be an object", path=str(index), where="weight_map")
    for tensor, shard in placed.items():
        if (
            not isinstance(shard, str)
            or PurePosixPath(shard).name != shard
            or "\\" in shard
            or "\0" in shard
            or not shard.endswith(".safetensors")
        ):
            message = f"{str(shard)[:80]!r} is no safetensors file of this folder"
            raise ModelFileError(message, path=str(index), where=f"weight_map {tensor[:80]}")
    return placed


def _open_shard(path: Path) -> Any:
    if not path.is_file():
        raise ModelFileError(
            "this part of the weights is missing",
            path=str(path),
            hint="the download may be incomplete",
        )
    with _wrapped(path):
        return safe_open(path, framework="pt")


def _list(path: Path, shard: Any) -> Iterator[FolderTensor]:
    with _wrapped(path):
        names = list(shard.keys())
    for name in names:
        with _wrapped(path, f"tensor {name[:80]}"):
            view = shard.get_slice(name)
            shape, dtype = tuple(view.get_shape()), str(view.get_dtype())
        if dtype not in DTYPES:
            raise UnsupportedModelError(
                f"{path}: tensor {name[:80]} is {dtype}, which sgen does not run",
                hint=f"dtypes that it reads: {', '.join(DTYPES)}",
            )
        yield FolderTensor(name, shape, dtype, path.name)

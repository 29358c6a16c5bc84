"""The tensors that a quantized checkpoint keeps for one matrix, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

from torch import Tensor

from sgen.errors import ModelFileError
from sgen.runtime.folder import HFFolder
from sgen.runtime.stored import Stored

Load: TypeAlias = Callable[[], Stored]
"""Reads the matrix; the headers of its tensors were found good before."""

FLOATS = ("F32", "F16", "BF16")


@dataclass(slots=True)
class Module:
    """A matrix [N, K] = `shape` by the name that its tensors begin with.

    `names` are those of the tensors that were asked for, which therefore are not left out.
    """

    folder: HFFolder
    name: str
    shape: tuple[int, int]
    names: list[str] = field(default_factory=list)

    def has(self, suffix: str) -> bool:
        return f"{self.name}.{suffix}" in self.folder.tensors

    def dtype(self, suffix: str) -> str:
        """The name of a tensor's dtype in the file, "" where there is no such tensor."""
        tensor = self.folder.tensors.get(f"{self.name}.{suffix}")
        return "" if tensor is None else tensor.dtype

    def size(self, suffix: str) -> tuple[int, ...]:
        """The shape of a tensor that must be there."""
        tensor = self.folder.tensors.get(f"{self.name}.{suffix}")
        if tensor is None:
            self.fail(suffix, "is missing")
        return tensor.shape

    def expect(
        self, suffix: str, dtypes: tuple[str, ...], shape: tuple[int, ...] | None = None
    ) -> None:
        """A tensor must be there, of one of these dtypes and of this shape; ModelFileError."""
        found = self.size(suffix)
        if shape is not None and found != shape:
            self.fail(suffix, f"has the shape {list(found)}, not {list(shape)}")
        if self.dtype(suffix) not in dtypes:
            self.fail(suffix, f"is {self.dtype(suffix)}, not one of {', '.join(dtypes)}")
        self.names.append(f"{self.name}.{suffix}")

    def ignore(self, *suffixes: str) -> None:
        """Tensors that say nothing of the matrix, where they are there."""
        self.names += [f"{self.name}.{s}" for s in suffixes if self.has(s)]

    def tensor(self, suffix: str) -> Tensor:
        return self.folder.tensor(f"{self.name}.{suffix}")

    def fail(self, suffix: str, message: str) -> NoReturn:
        raise ModelFileError(
            message, path=str(self.folder.path), where=f"tensor {self.name}.{suffix}"
        )

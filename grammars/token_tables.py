"""The tables of a vocabulary that masks are made with, kept in a cache folder.

Making them takes a second for a large vocabulary, reading them a few milliseconds.  A file that
is damaged, or of another version, is made again; one that cannot be written is done without.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sgen.grammars.loop_tokens import ALPHABETS, LoopTokens
from sgen.grammars.text import STYLES
from sgen.grammars.text_tokens import TextTokens
from sgen.grammars.token_sets import TokenSet
from sgen.grammars.trie import Trie
from sgen.kernels.native import cache_folder

VERSION = 6
"""Of what the tables hold; to be raised with every change of that."""

SMALL = 2_000
"""Vocabularies of so few tokens are not worth a file."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class TokenTables:
    """The trie of all tokens that grammars may allow, what these do inside JSON strings, by style
    as in STYLES, and in states that repeat characters, by ALPHABETS: from the start on, and then,
    if there is one, from the node of a space on."""

    trie: Trie
    text: tuple[TextTokens, ...]
    loops: tuple[LoopTokens, ...]

    @staticmethod
    def make(walk_bytes: tuple[bytes, ...]) -> TokenTables:
        trie = Trie.of({token: text for token, text in enumerate(walk_bytes) if text})
        text = (TextTokens.of(trie, walk_bytes, style) for style in STYLES)
        loops = [LoopTokens.of(trie, len(walk_bytes), i) for i in range(len(ALPHABETS))]
        space = trie.child(0, 0x20)
        if space is not None:
            loops += [LoopTokens.of(trie, len(walk_bytes), i, space) for i in range(len(loops))]
        return TokenTables(trie, tuple(text), tuple(loops))

    @staticmethod
    def load(walk_bytes: tuple[bytes, ...], digest: str) -> TokenTables:
        """From the cache folder if they are there, else made and put there."""
        if len(walk_bytes) <= SMALL:
            return TokenTables.make(walk_bytes)
        path = cache_folder() / "vocabularies" / f"{digest[:40]}-{VERSION}.npz"
        tables = _read(path, len(walk_bytes))
        if tables is None:
            tables = TokenTables.make(walk_bytes)
            with contextlib.suppress(OSError):
                _write(path, tables)
        return tables

    @property
    def space(self) -> int | None:
        """The node of a space."""
        return self.trie.child(0, 0x20)

    def holds(self, num_tokens: int) -> bool:
        """Whether all parts fit each other and the number of tokens."""
        return (
            self.trie.holds(num_tokens)
            and len(self.text) == len(STYLES)
            and len(self.loops) == len(ALPHABETS) * (1 + (self.space is not None))
            and all(part.holds(num_tokens) for part in self.text)
            and all(part.holds(num_tokens, len(self.trie)) for part in self.loops)
        )


Part = Trie | TokenSet | TextTokens | LoopTokens


def _arrays(part: Part, name: str) -> Arrays:
    found: Arrays = {}
    for field in fields(part):
        value = getattr(part, field.name)
        place = f"{name}.{field.name}"
        found |= _arrays(value, place) if isinstance(value, Part) else {place: value}
    return found


P = TypeVar("P", bound=Part)


def _part(kind: type[P], arrays: Arrays, name: str) -> P:
    """What `_arrays` took apart."""
    inner: dict[str, type[Part]] = {"inside": TokenSet, "after": Trie}
    found: dict[str, Any] = {
        field.name: _part(inner[field.name], arrays, f"{name}.{field.name}")
        if field.name in inner
        else arrays[f"{name}.{field.name}"]
        for field in fields(kind)
    }
    return kind(**found)


def _all_arrays(tables: TokenTables) -> Arrays:
    arrays = _arrays(tables.trie, "trie")
    for i, text in enumerate(tables.text):
        arrays |= _arrays(text, f"text{i}")
    for i, loop in enumerate(tables.loops):
        arrays |= _arrays(loop, f"loop{i}")
    arrays["loops"] = np.array([len(tables.loops)])
    return arrays


def _check(arrays: Arrays) -> NDArray[np.uint8]:
    """A hash of all of them: their names, types and contents."""
    h = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        h.update(f"{name} {array.dtype.str} {array.shape}".encode())
        h.update(np.ascontiguousarray(array).data)
    return np.frombuffer(h.digest(), np.uint8)


def _write(path: Path, tables: TokenTables) -> None:
    arrays = _all_arrays(tables)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, check=_check(arrays), **arrays)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _read(path: Path, num_tokens: int) -> TokenTables | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        check = arrays.pop("check")
        if not np.array_equal(check, _check(arrays)):
            return None
        tables = TokenTables(
            _part(Trie, arrays, "trie"),
            tuple(_part(TextTokens, arrays, f"text{i}") for i in range(len(STYLES))),
            tuple(_part(LoopTokens, arrays, f"loop{i}") for i in range(int(arrays["loops"][0]))),
        )
    except Exception:  # there are many ways in which a file can be damaged, or not be there
        return None
    return tables if tables.holds(num_tokens) else None

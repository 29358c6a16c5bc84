"""The grammar machine in C (kernels/native/grammar*.c) as Python sees it.

Calls of a machine may build states, so they are for one thread at a time: whoever shares one
holds its grammar's lock.  Only the masks of a batch are made without Python's own lock.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_char_p,
    c_int32,
    c_int64,
    c_uint8,
    c_uint32,
    c_void_p,
)
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgen.errors import GrammarError
from sgen.grammars.automata import DEAD, Row
from sgen.grammars.loop_tokens import ALPHABETS, WIDE, LoopTokens, steps
from sgen.grammars.plan import Plan, broken
from sgen.grammars.text_tokens import TextTokens
from sgen.grammars.token_sets import TokenSet
from sgen.grammars.token_tables import TokenTables
from sgen.grammars.trie import Trie
from sgen.grammars.vocabulary import Vocabulary
from sgen.kernels.native import Library, load

MAX_BYTES = 64 << 20
"""Of one machine, with all that it has built."""

MAX_STATES = 1_000_000

_NO_LIMIT = 2**31 - 1

_BAD_PLAN, _LEFT_RECURSION, _TOO_MANY, _TOO_AMBIGUOUS, _TOO_LARGE = 2, 3, 4, 5, 6

_SIGNATURES = {
    "sg_new": ([c_char_p, c_int64, c_int64, c_int32, POINTER(c_int32)], c_void_p),
    "sg_free": ([c_void_p], None),
    "sg_possible": ([c_void_p], c_int32),
    "sg_start": ([c_void_p], c_int32),
    "sg_bytes": ([c_void_p], c_int64),
    "sg_states": ([c_void_p], c_int32),
    "sg_accepts": ([c_void_p, c_int32], c_int32),
    "sg_live": ([c_void_p, c_int32], c_int32),
    "sg_distance": ([c_void_p, c_int32], c_int32),
    "sg_weight": ([c_void_p, c_int32], c_int32),
    "sg_advance": ([c_void_p, c_int32, c_char_p, c_int64], c_int64),
    "sg_row": ([c_void_p, c_int32, c_void_p], c_int64),
    "sg_forced": ([c_void_p, c_int32, c_void_p, c_int64], c_int64),
    "sg_closing": ([c_void_p, c_void_p], c_void_p),
    "sg_tokens_to_close": ([c_void_p, c_int32], c_int64),
    "sg_take": ([c_void_p, c_int32, c_char_p, c_int32], c_int64),
    "sg_mask": ([c_void_p, c_int32, c_int64, c_void_p, c_int32], c_int64),
    "sg_masks": ([c_void_p, c_int32, c_void_p, c_void_p, c_void_p, c_int64], c_int64),
}


@lru_cache(maxsize=1)
def library() -> Library | None:
    """The compiled machine; None where Python must do."""
    found = load("grammar")
    if found is not None:
        for name, (arguments, result) in _SIGNATURES.items():
            for kind in (found.quick, found.free):
                function = getattr(kind, name)
                function.argtypes, function.restype = arguments, result
    return found


def failure(code: int) -> GrammarError:
    """What an error code of the machine says."""
    if code == _BAD_PLAN:
        return broken()
    if code == _LEFT_RECURSION:
        return GrammarError(
            "a rule that begins with itself can never read anything",
            keyword="recursion",
            hint="something must come before the reference to itself",
        )
    if code == _TOO_AMBIGUOUS:
        return GrammarError(
            "the grammar has too many ways to read one text",
            keyword="ambiguity",
            hint="use fewer alternatives or repetitions that overlap",
        )
    if code in (_TOO_MANY, _TOO_LARGE):
        return GrammarError(
            f"the grammar needs more than {MAX_STATES:,} states or {MAX_BYTES >> 20} MiB",
            keyword="states",
            hint="use shorter maximum lengths, or fewer alternatives that overlap",
        )
    raise MemoryError("no memory for the grammar")


class _Trie(Structure):
    _fields_ = (
        ("byte", c_void_p),
        ("at", c_void_p),
        ("tokens", c_void_p),
        ("parent", c_void_p),
    )


class _TokenSet(Structure):
    _fields_ = (
        ("tokens", c_void_p),
        ("chars", c_void_p),
        ("rungs", c_void_p),
        ("ends", c_void_p),
        ("bits", c_void_p),
        ("n", c_int32),
        ("n_rungs", c_int32),
    )


class _TextTokens(Structure):
    _fields_ = (
        ("inside", _TokenSet),
        ("after", _Trie),
        ("before", c_void_p),
        ("longer", c_void_p),
        ("n_longer", c_int32),
    )


class _LoopTokens(Structure):
    _fields_ = (
        ("bytes", c_void_p),
        ("below_space", c_void_p),
        ("steps", c_void_p),
        ("inside", _TokenSet),
        ("exits", c_void_p),
        ("exit_chars", c_void_p),
        ("exit_first", c_void_p),
        ("deep", c_void_p),
        ("n_deep", c_int32),
        ("n_bytes", c_int32),
        ("wide", c_int32),
        ("base", c_int32),
        ("longest", c_int32),
        ("covers", c_uint32),
    )


class _Vocabulary(Structure):
    _fields_ = (
        ("all", _Trie),
        ("text", _TextTokens * 2),
        ("loops", POINTER(_LoopTokens)),
        ("wide", c_void_p),
        ("ends", c_void_p),
        ("byte_is_token", c_void_p),
        ("n_alphabets", c_int32),
        ("n_wide", c_int32),
        ("n_ends", c_int32),
        ("n_words", c_int32),
        ("longest", c_int32),
        ("space", c_int32),
        ("writes_strings", c_int32),
    )


class NativeVocabulary:
    """A vocabulary's tables where the machine can find them; it keeps their arrays alive."""

    def __init__(self, tables: TokenTables, vocabulary: Vocabulary) -> None:
        self._arrays: list[NDArray[Any]] = []
        texts = vocabulary.texts
        ends = np.array(vocabulary.eos_ids, np.int32)
        single = np.array([bytes((byte,)) in texts for byte in range(256)], np.uint8)
        loops = (_LoopTokens * len(tables.loops))(*map(self._loop, tables.loops))
        size = ctypes.sizeof(_LoopTokens)
        for i, loop in enumerate(tables.loops):
            if loop.base[0]:
                place = ctypes.addressof(loops) + i * size
                loops[int(loop.alphabet[0])].below_space = place
        self.struct = _Vocabulary(
            self._trie(tables.trie),
            (_TextTokens * 2)(*map(self._text, tables.text)),
            loops,
            self._address(np.array(WIDE, np.int32)),
            self._address(ends),
            self._address(single),
            len(ALPHABETS),
            len(WIDE),
            len(ends),
            (len(vocabulary) + 31) // 32,
            max(map(len, texts), default=0),
            tables.space or 0,
            bool(single[0x20:0x7F].all() and single[0x80:0xC0].all()),
        )

    def _address(self, array: NDArray[Any]) -> int:
        self._arrays.append(np.ascontiguousarray(array))
        return self._arrays[-1].ctypes.data

    def _trie(self, trie: Trie) -> _Trie:
        nodes = np.stack([trie.first, trie.ends], axis=1)
        parents = trie.parents().astype(np.int32)
        arrays: tuple[NDArray[Any], ...] = (trie.byte, nodes, trie.items, parents)
        return _Trie(*map(self._address, arrays))

    def _set(self, tokens: TokenSet) -> _TokenSet:
        parts = (tokens.tokens, tokens.chars, tokens.rungs, tokens.ends, tokens.bits)
        return _TokenSet(*map(self._address, parts), len(tokens.tokens), len(tokens.rungs))

    def _text(self, text: TextTokens) -> _TextTokens:
        return _TextTokens(
            self._set(text.inside),
            self._trie(text.after),
            self._address(text.before),
            self._address(text.longer),
            len(text.longer) - 1,
        )

    def _loop(self, loop: LoopTokens) -> _LoopTokens:
        letters, wide = ALPHABETS[loop.alphabet[0]]
        return _LoopTokens(
            self._address(np.frombuffer(letters.encode(), np.uint8)),
            None,
            self._address(steps(letters, wide)),
            self._set(loop.inside),
            *map(self._address, (loop.exits, loop.exit_chars, loop.exit_first, loop.deep)),
            len(loop.deep),
            len(letters),
            wide,
            int(loop.base[0]),
            loop.longest,
            sum(
                1 << i
                for i, (others, other_wide) in enumerate(ALPHABETS)
                if set(others) <= set(letters) and other_wide <= wide
            ),
        )


@lru_cache(maxsize=8)
def _native_vocabulary(vocabulary: Vocabulary) -> NativeVocabulary:
    return NativeVocabulary(vocabulary.tables, vocabulary)


class NativeMachine:
    """The automaton of a plan, with the interface of `Pushdown`."""

    def __init__(self, native: Library, plan: Plan) -> None:
        """GrammarError if the plan is broken, or begins with itself."""
        self.native = native
        self._calls = native.quick
        data, error = plan.pack(), c_int32()
        self.handle: int | None = None
        handle = self._calls.sg_new(data, len(data), MAX_BYTES, MAX_STATES, byref(error))
        if handle is None:
            raise failure(error.value)
        self.handle = handle
        self.start: int = self._calls.sg_start(handle)
        self.possible = bool(self._calls.sg_possible(handle))

    def __del__(self) -> None:
        if self.handle is not None:
            self._calls.sg_free(self.handle)

    @property
    def num_states(self) -> int:
        return int(self._calls.sg_states(self.handle))

    @property
    def num_bytes(self) -> int:
        return int(self._calls.sg_bytes(self.handle))

    def row(self, state: int) -> Row:
        after = np.empty(256, np.int32)
        self.check(self._calls.sg_row(self.handle, state, after.ctypes.data))
        targets, classes = np.unique(np.append(after, DEAD), return_inverse=True)
        return classes[:256].astype(np.uint8).tobytes(), tuple(targets.tolist())

    def advance(self, state: int, text: bytes) -> int:
        """The state after some bytes, or DEAD."""
        after: int = self._calls.sg_advance(self.handle, state, text, len(text))
        if after < DEAD:
            raise failure(DEAD - after)
        return after

    def forced(self, state: int, limit: int) -> bytes:
        """The bytes, at most `limit`, that every text goes on with."""
        out = (c_uint8 * limit)()
        size: int = self._calls.sg_forced(self.handle, state, out, limit)
        self.check(size)
        return bytes(out[:size])

    def accepts(self, state: int) -> bool:
        return bool(self._calls.sg_accepts(self.handle, state))

    def live(self, state: int) -> bool:
        return bool(self._calls.sg_live(self.handle, state))

    def distance(self, state: int) -> int:
        return int(self._calls.sg_distance(self.handle, state))

    def weight(self, state: int) -> int:
        return max(1, int(self._calls.sg_weight(self.handle, state)))

    def check(self, result: int) -> None:
        if result < 0:
            raise failure(-result)


class NativeWalker:
    """A machine walked with a vocabulary's tokens.  The grammar's lock must be held."""

    def __init__(self, machine: NativeMachine, vocabulary: Vocabulary) -> None:
        self._machine = machine  # which owns what is behind the handle
        self._vocabulary = _native_vocabulary(vocabulary)
        self._quick, self._free = machine.native.quick, machine.native.free
        self._handle = self._quick.sg_closing(machine.handle, byref(self._vocabulary.struct))
        if self._handle is None:
            raise MemoryError("no memory for the grammar")
        self._mask = self._free.sg_mask

    def tokens_to_close(self, state: int) -> int:
        """Tokens that are enough to complete the text from a state, up to NEVER_CLOSES."""
        tokens: int = self._quick.sg_tokens_to_close(self._handle, state)
        self._machine.check(tokens)
        return tokens

    def take(self, state: int, text: bytes) -> int:
        """The state after a token, or DEAD if that cannot follow or can then not be closed."""
        after: int = self._quick.sg_take(self._handle, state, text, len(text))
        if after < DEAD:
            raise failure(DEAD - after)
        return after

    def make(self, state: int, address: int, force: bool = False) -> tuple[int, int]:
        """Write the mask of a state to an address; the state whose mask it is too, and no less
        than the tokens that close a text after any that is allowed.

        If that is another state whose mask was made before, nothing is written, and the last is
        -1; unless `force` is set.
        """
        made: int = self._mask(self._handle, state, _NO_LIMIT, address, force)
        if made < 0:
            raise failure(-made)
        return made >> 32, made & 0x7FFFFFFF if made & 0x80000000 else -1

    def masks(
        self, states: Sequence[int], remaining: Sequence[int], out: NDArray[np.uint32]
    ) -> None:
        """Write the masks of states within budgets to the rows of `out` [n, ceil(V / 32)]."""
        numbers, budgets = np.array(states, np.int32), np.array(remaining, np.int64)
        self._machine.check(
            self._free.sg_masks(
                self._handle,
                len(numbers),
                numbers.ctypes.data,
                budgets.ctypes.data,
                out.ctypes.data,
                out.shape[1],
            )
        )

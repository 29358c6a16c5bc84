"""What masks are made with: right by trying, and the same from the cache folder."""

from __future__ import annotations

import random
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from sgen.grammars import token_tables
from sgen.grammars.automata import DEAD
from sgen.grammars.loop_tokens import ALPHABETS
from sgen.grammars.text import FIRST, STYLES, SUBSTATES, Text
from sgen.grammars.token_sets import TokenSet
from sgen.grammars.token_tables import TokenTables
from tests.vocabularies import small

TEXTS = small().walk_bytes


def members(tokens: TokenSet) -> dict[int, int]:
    """The tokens and their characters; the bit sets must say the same."""
    found = dict(zip(tokens.tokens.tolist(), tokens.chars.tolist(), strict=True))
    for rung, bits in zip(tokens.rungs.tolist(), tokens.bits, strict=True):
        flags = np.unpackbits(bits.view(np.uint8), bitorder="little")
        assert np.flatnonzero(flags).tolist() == sorted(t for t, n in found.items() if n <= rung)
    return found


def test_tokens_in_strings() -> None:
    tables = TokenTables.make(TEXTS)
    for style, part in zip(STYLES, tables.text, strict=True):
        text = Text(1 << 20, None, style)
        ends = Text(0, None, style)
        inside = members(part.inside)
        order = part.after.items.tolist()
        for token, data in enumerate(TEXTS):
            state, at = FIRST, 0
            while (at < len(data) and data[at] != 0x22) or (state - FIRST) % SUBSTATES:
                if at == len(data) or state == DEAD:
                    break
                classes, targets = text.row(state)
                state, at = targets[classes[data[at]]], at + 1
            if state == DEAD or not data:
                assert token not in inside
                assert token not in order
                continue
            count, substate = divmod(state - FIRST, SUBSTATES)
            if at == len(data):
                assert inside[token] == count + (substate > 0)
                continue
            assert ends.row(FIRST)[0][data[at]], "the string may end here"
            assert part.before[order.index(token)] == count
            assert token not in inside
        longest = sorted({*inside.values(), *part.before.tolist()})
        for room, longer in enumerate(part.longer.tolist()[:-1]):
            assert longer == next(n for n in longest if n > room)


@pytest.mark.parametrize("number", range(len(ALPHABETS)))
def test_tokens_in_loops(number: int) -> None:
    tables = TokenTables.make(TEXTS)
    part, (letters, wide) = tables.loops[number], ALPHABETS[number]
    inside = members(part.inside)
    whole = {}
    for token, data in enumerate(TEXTS):
        text = data.decode(errors="ignore")
        if (
            data
            and text.encode() == data
            and all(c in letters or (wide and c > "\x7f") for c in text)
        ):
            whole[token] = len(text)
    assert whole.items() <= inside.items()
    for token in inside.keys() - whole.keys():
        assert wide, "only a wide character can be begun"
        assert TEXTS[token][-1] >= 0x80
    parents = tables.trie.parents()
    for byte in range(256):
        for at in range(part.exit_first[byte], part.exit_first[byte + 1]):
            node = int(part.exits[at])
            assert tables.trie.byte[node] == byte
            assert not (byte < 0x80 and chr(byte) in letters)
            path = bytearray()
            node = int(parents[node])
            while node:
                path.insert(0, int(tables.trie.byte[node]))
                node = int(parents[node])
            assert len(path.decode()) == part.exit_chars[at]
            assert all(c in letters or (wide and c > "\x7f") for c in path.decode())


def same(a: TokenTables, b: TokenTables) -> bool:
    first, second = token_tables._all_arrays(a), token_tables._all_arrays(b)
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and np.array_equal(first[name], second[name])
        for name in first
    )


def test_kept_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(token_tables, "SMALL", 0)
    made = TokenTables.load(TEXTS, "abc")
    (path,) = (tmp_path / "vocabularies").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(TokenTables, "make", None)
        assert same(TokenTables.load(TEXTS, "abc"), made)
    intact = path.read_bytes()
    rng = random.Random(0)
    for _ in range(25):
        data = bytearray(intact)
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data[: rng.choice([len(data), at])])
        assert same(TokenTables.load(TEXTS, "abc"), made), "a damaged file is made again"
    path.write_bytes(intact)
    assert token_tables._read(path, len(TEXTS)) is not None
    assert token_tables._read(path, len(TEXTS) - 40) is None, "it is of another vocabulary"


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SGEN_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(token_tables, "SMALL", 0)
    assert same(TokenTables.load(TEXTS, "abc"), TokenTables.make(TEXTS))


def test_every_array_is_kept() -> None:
    tables = TokenTables.make(TEXTS)
    assert {f.name for f in fields(tables)} == {"trie", "text", "loops"}
    assert tables.holds(len(TEXTS))

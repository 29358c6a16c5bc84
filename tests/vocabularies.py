"""A vocabulary for tests of grammars, small enough to try every token."""

from __future__ import annotations

from sgen.grammars.vocabulary import Vocabulary

PIECES = [
    '{"', '":', '":"', '","', ',"', '"}', '"]', "}}", "[[", "{}", "[]", "],[", "},{",
    "true", "false", "null", "tru", "alse", "12", "007", "-1", "0.5", "e+", "2024-", "-01",
    "ab", "abc", "name", '"name"', "kind", "cat", "dog", "aa", "ba", " a", "  ", "\n", "\\n",
    "\\u00", "\\ud83d", "\\", "é", "€", "😀", "ü\"", "a😀b", "x" * 30,
]  # fmt: skip
HALVES = [b"\xe2\x82", b"\x82\xac", b"\xf0\x9f", b"\x98\x80", b"\xa9a", b"a\xc3", b"\xac\xe2"]
SPECIAL = 3  # tokens without bytes: two end a text, one does nothing


def small() -> Vocabulary:
    """Every byte, some pieces, some twice, halves of characters, and special tokens."""
    texts = [p.encode() for p in PIECES] + HALVES
    texts += [b"ab", b"a"]  # the same bytes as other tokens
    tokens = [b""] * SPECIAL + [bytes([b]) for b in range(256)] + texts
    return Vocabulary(tokens, eos_ids=[0, 2])


def token_of(vocabulary: Vocabulary, text: bytes) -> int:
    return vocabulary.token_bytes.index(text)

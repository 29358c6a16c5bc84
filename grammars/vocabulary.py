"""What a grammar must know of a tokenizer: each token's bytes, and which tokens end a text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from sgen.grammars.token_tables import TokenTables

_NEVER_IN_TEXT = (0xFE, 0xFF)
"""No UTF-8 text holds these bytes, so they mark the names of special tokens."""


def special_text(name: str) -> bytes:
    """What a grammar reads where the special token of that name stands."""
    return b"\xff" + name.encode() + b"\xfe"


class Vocabulary:
    """The bytes of each token id.

    `token_bytes[t]` is what token t adds to a text.  Special and unused tokens have `b""`: they
    add nothing, and no grammar ever allows them inside text.  `eos_ids` end a text.  `special`
    names special tokens, which a grammar may then ask for by these names.  `encode` gives the
    tokens that the tokenizer makes of a text that continues another; it is for drafts only.
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        eos_ids: Sequence[int],
        special: Mapping[int, str] | None = None,
        encode: Callable[[str], Sequence[int]] | None = None,
    ) -> None:
        self.token_bytes = tuple(token_bytes)
        self.eos_ids = tuple(sorted(set(eos_ids)))
        self.special = dict(special or {})
        self.encode = encode
        for t in self.eos_ids:
            assert self.token_bytes[t] == b"", "a token that ends a text must add nothing to it"

    def __len__(self) -> int:
        return len(self.token_bytes)

    @cached_property
    def digest(self) -> str:
        """Names this vocabulary in caches."""
        h = hashlib.sha256(repr((self.eos_ids, *map(len, self.walk_bytes))).encode())
        h.update(b"".join(self.walk_bytes))
        return h.hexdigest()

    @cached_property
    def walk_bytes(self) -> tuple[bytes, ...]:
        """What a grammar reads for each token, b"" for those that none ever allows.

        It is the token's text, or `special_text` of its name.  Tokens that end a text, and
        tokens with bytes that no text has, are never inside.
        """
        found = [b"" if any(x in b for x in _NEVER_IN_TEXT) else b for b in self.token_bytes]
        for token, name in self.special.items():
            if token not in self.eos_ids and not found[token] and name:
                found[token] = special_text(name)
        return tuple(found)

    @cached_property
    def tables(self) -> TokenTables:
        """What masks are made with; read or made once, at the first use."""
        return TokenTables.load(self.walk_bytes, self.digest)

    @cached_property
    def texts(self) -> frozenset[bytes]:
        """What a grammar reads for the tokens that it may allow."""
        return frozenset(self.walk_bytes) - {b""}

    @cached_property
    def ordered(self) -> tuple[bytes, ...]:
        """`texts` in the order of their bytes."""
        return tuple(sorted(self.texts))

    @cached_property
    def special_ids(self) -> dict[bytes, int]:
        """The tokens that a grammar asks for by name, by what it reads for them."""
        walked = self.walk_bytes
        return {walked[token]: token for token in self.special if walked[token]}

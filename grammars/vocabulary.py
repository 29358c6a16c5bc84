"""What a grammar must know of a tokenizer: each token's bytes, and which tokens end a text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

from sgen.grammars.trie import TokenTrie


class Vocabulary:
    """The bytes of each token id.

    `token_bytes[t]` is what token t adds to a text.  Special and unused tokens have `b""`: they
    add nothing, and no grammar ever allows them inside text.  `eos_ids` end a text.
    """

    def __init__(self, token_bytes: Sequence[bytes], eos_ids: Sequence[int]) -> None:
        self.token_bytes = tuple(token_bytes)
        self.eos_ids = tuple(sorted(set(eos_ids)))
        for t in self.eos_ids:
            assert self.token_bytes[t] == b"", "a token that ends a text must add nothing to it"

    def __len__(self) -> int:
        return len(self.token_bytes)

    @cached_property
    def digest(self) -> str:
        """Names this vocabulary in caches."""
        h = hashlib.sha256(repr(self.eos_ids).encode())
        for b in self.token_bytes:
            h.update(len(b).to_bytes(4, "little") + b)
        return h.hexdigest()

    @cached_property
    def trie(self) -> TokenTrie:
        """All tokens that add text; made once, at the first use."""
        return TokenTrie(self.token_bytes)

    @cached_property
    def texts(self) -> frozenset[bytes]:
        """The bytes of all tokens that add text."""
        return frozenset(self.token_bytes) - {b""}

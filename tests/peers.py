"""llguidance and xgrammar as matchers over a vocabulary, for tests that compare with them.

Both write compact JSON here.  llguidance is told not to narrow a mask to the one token that it
would draft (`no_forcing`), so that its masks are of texts, as ours are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from sgen.grammars.masks import Masker
from sgen.grammars.matcher import Matcher
from sgen.grammars.vocabulary import Vocabulary

Allowed = NDArray[np.bool_]
"""[V]: the tokens that may follow; whether the text may end is `accepting`."""


class Peer(Protocol):
    def allowed(self) -> Allowed: ...

    def accept(self, token: int) -> bool: ...

    def accepting(self) -> bool: ...

    def fork(self) -> Peer: ...


Maker = Callable[[Any], Peer | None]
"""From a schema to a matcher; None if the engine refuses it."""


def bits(words: NDArray[Any], vocabulary: Vocabulary) -> Allowed:
    """The tokens of a mask, without those that have no text."""
    flat = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), bitorder="little")
    has_text = np.array([bool(b) for b in vocabulary.token_bytes])
    allowed: Allowed = flat[: len(vocabulary)].astype(np.bool_) & has_text
    return allowed


class Ours:
    def __init__(self, matcher: Matcher, vocabulary: Vocabulary) -> None:
        self.matcher, self._vocabulary = matcher, vocabulary

    @classmethod
    def of(cls, masker: Masker) -> Ours:
        return cls(Matcher(masker), masker.vocabulary)

    def allowed(self) -> Allowed:
        return bits(self.matcher.allowed(), self._vocabulary)

    def accept(self, token: int) -> bool:
        return self.matcher.accept(token)

    def accepting(self) -> bool:
        return self.matcher.is_accepting()

    def fork(self) -> Ours:
        return Ours(self.matcher.fork(), self._vocabulary)


class _LLGuidance:
    def __init__(self, matcher: Any, vocabulary: Vocabulary) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    def allowed(self) -> Allowed:
        if self._matcher.is_stopped():  # complete, and nothing can follow
            return np.zeros(len(self._vocabulary), np.bool_)
        return bits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), self._vocabulary)

    def accept(self, token: int) -> bool:
        return not self._matcher.is_stopped() and bool(self._matcher.consume_token(token))

    def accepting(self) -> bool:
        return bool(self._matcher.is_accepting())

    def fork(self) -> _LLGuidance:
        return _LLGuidance(self._matcher.deep_copy(), self._vocabulary)


class _Tokens:
    """What llguidance asks of a tokenizer."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        names = [b or b"\xff<%d>" % i for i, b in enumerate(vocabulary.token_bytes)]
        self.tokens = names
        self.eos_token_id, self.bos_token_id = vocabulary.eos_ids[0], None
        self.special_token_ids = [i for i, b in enumerate(vocabulary.token_bytes) if not b]

    def __call__(self, text: bytes) -> list[int]:
        return [self.tokens.index(bytes([b])) for b in text]


def llguidance(vocabulary: Vocabulary) -> Maker:
    peer = pytest.importorskip("llguidance", reason="llguidance (a peer) is not installed")
    tokenizer = peer.LLTokenizer(peer.TokenizerWrapper(_Tokens(vocabulary)), slices=[])
    layout = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}

    def make(schema: Any) -> Peer | None:
        whole = {**schema, "x-guidance": layout} if isinstance(schema, dict) else schema
        grammar = f'%llguidance {{"no_forcing": true}}\nstart: %json {json.dumps(whole)}\n'
        matcher = peer.LLMatcher(tokenizer, peer.LLMatcher.grammar_from_lark(grammar), log_level=0)
        return None if matcher.is_error() else _LLGuidance(matcher, vocabulary)

    return make


class _XGrammar:
    def __init__(self, module: Any, matcher: Any, vocabulary: Vocabulary) -> None:
        self._module, self._matcher, self._vocabulary = module, matcher, vocabulary
        self._mask = module.allocate_token_bitmask(1, len(vocabulary))

    def _words(self) -> NDArray[Any]:
        self._matcher.fill_next_token_bitmask(self._mask)
        words: NDArray[Any] = self._mask.numpy()[0]
        return words

    def allowed(self) -> Allowed:
        return bits(self._words(), self._vocabulary)

    def accept(self, token: int) -> bool:
        return bool(self._matcher.accept_token(token))

    def accepting(self) -> bool:
        end = self._vocabulary.eos_ids[0]
        return bool(int(self._words()[end >> 5]) >> (end & 31) & 1)

    def fork(self) -> _XGrammar:
        return _XGrammar(self._module, self._matcher.fork(), self._vocabulary)


def xgrammar(vocabulary: Vocabulary) -> Maker:
    peer = pytest.importorskip("xgrammar", reason="xgrammar (a peer) is not installed")
    info = peer.TokenizerInfo(
        list(vocabulary.token_bytes),
        vocab_type=peer.VocabType.RAW,
        vocab_size=len(vocabulary),
        stop_token_ids=list(vocabulary.eos_ids),
    )
    compiler = peer.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def make(schema: Any) -> Peer | None:
        try:
            compiled = compiler.compile_json_schema(
                json.dumps(schema), any_whitespace=False, separators=(",", ":"), strict_mode=False
            )
        except RuntimeError:
            return None
        return _XGrammar(peer, peer.GrammarMatcher(compiled), vocabulary)

    return make

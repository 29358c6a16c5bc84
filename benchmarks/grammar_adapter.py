"""sgen's grammar engine as the harness of ../shared/grammar loads it, from the repository's root:

    python ../shared/grammar/harness.py --engine benchmarks.grammar_adapter:SgenEngine --tok MODEL

- The vocabulary is made once, by the runtime's own tokenizer code: what the harness times is what
  a server does.  `init` also compiles one schema and makes one mask, so that nothing that is done
  once per process or once per vocabulary (the native code, the token trie, the slices) is left
  for the first schema.
- `compile` is everything between a schema in memory and a matcher that can make its first mask:
  writing it as JSON text, parsing that, lowering, the checks that every text can end, the machine,
  the cost of closing a text with this vocabulary's tokens, and the matcher.  It runs in this
  process: no cache, no worker.  Rows and masks are made on demand by the masks that need them.
- Keywords and formats that JSON Schema does not define are annotations, as its specification says
  (`unknown="note"`); known ones that cannot be enforced are refused.  Members come in relaxed
  order: those required first, in the order of the schema or of `required`, others as they come.
- A mask is `Matcher.allowed()`, an acceptance `Matcher.accept()`, as in the runtime; the methods
  here are those of the matcher themselves, so that no call is added.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from typing import Any

from sgen.grammars.compile import compile_grammar
from sgen.grammars.masks import Mask, Masker
from sgen.grammars.matcher import Matcher
from sgen.grammars.vocabulary import Vocabulary
from sgen.protocol import GrammarSpec
from sgen.runtime.tokenizer import Tokenizer


def spec_of(schema: object) -> GrammarSpec:
    """A schema as the runtime is given it; also `true` and `false`."""
    return GrammarSpec("json_schema", json.dumps(schema), order="relaxed", unknown="note")


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a Hugging Face tokenizer (a fast one), as the runtime reads it."""
    inner = tokenizer.backend_tokenizer
    ends = [tokenizer.eos_token_id]
    return Tokenizer(inner, vocab_size=len(tokenizer), eos_ids=ends).vocabulary


class SgenMatcher:
    """One schema's masks, and a matcher at the start of a text; `reset` begins another text."""

    __slots__ = ("accept", "fill_mask", "is_finished", "masker", "matcher")

    fill_mask: Callable[[], Mask]
    """[ceil(V / 32)] uint32, read-only: bit t % 32 of word t // 32 for token t."""
    accept: Callable[[int], bool]
    is_finished: Callable[[], bool]
    """Whether the text so far is complete (an end token would be allowed)."""

    def __init__(self, masker: Masker) -> None:
        self.masker = masker
        self.reset()

    def reset(self) -> None:
        matcher = self.matcher = Matcher(self.masker)
        self.fill_mask = matcher.allowed
        self.accept = matcher.accept
        self.is_finished = matcher.is_accepting


class SgenEngine:
    name = "sgen"

    def init(self, tok: Any) -> None:
        """`tok`: a fast tokenizer of transformers."""
        self.vocabulary = vocabulary_of(tok)
        self.compile({"type": "object"}).fill_mask()
        gc.collect()
        gc.freeze()  # as compile workers do: what transformers has loaded is not gone through again

    def compile(self, schema: object) -> SgenMatcher:
        """GrammarError if the schema cannot be enforced."""
        return SgenMatcher(Masker(compile_grammar(spec_of(schema)), self.vocabulary))

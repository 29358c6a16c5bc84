"""What the tests of the front ends ask alike: texts, places of errors, an end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from sgen.errors import GrammarError
from sgen.grammars.grammar import Grammar


def check_means(grammar: Grammar, yes: list[str], no: list[str]) -> None:
    """It has the first texts and none of the others."""
    refused = [t for t in yes if not grammar.matches(t.encode())]
    assert not refused, refused
    accepted = [t for t in no if grammar.matches(t.encode())]
    assert not accepted, accepted


def check_place(error: GrammarError, source: str, place: str) -> None:
    """It is at a `line:column`, from 1 on, and says so."""
    line, column = map(int, place.split(":"))
    start = sum(len(text) for text in source.splitlines(keepends=True)[: line - 1])
    assert error.position == start + column - 1, error.position
    assert f"line {place}: " in error.message, error.message


def check_ends_soon(compiled: Callable[[str], Grammar], source: str) -> None:
    """A text is read, or the source refused, within 4 seconds of this thread."""
    start = time.thread_time()
    with contextlib.suppress(GrammarError):
        compiled(source).matches(b"ab" * 100)
    assert time.thread_time() - start < 4

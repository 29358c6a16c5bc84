"""Cheap proofs about patterns: what they say is so."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.grammars.json_heads import apart, holds, none_inside, simplified, some_inside
from sgen.grammars.json_strings import Strings
from sgen.grammars.work import Work

PATTERNS = ["^a", "^ab", "^b", "b$", "^a$", "^ab$", "^(a|b)c", "^[ab]{2}$", "^x-", "^(?:xy|xz)+$",
            "a", "^$", "", "^a?b", "^[^a]"]  # fmt: skip


def matching(pattern: str) -> Strings:
    return Strings.matching(pattern, "")


def sets() -> st.SearchStrategy[Strings]:
    simple = st.one_of(
        st.sampled_from(PATTERNS).map(matching),
        st.lists(st.sampled_from(["", "a", "ab", "x-"]), max_size=3).map(Strings.values),
        st.just(Strings.everything()),
    )
    pair = st.tuples(simple, simple)
    return st.one_of(simple, pair.map(lambda p: p[0].meet(p[1])),
                     pair.map(lambda p: p[0].meet(p[1].complement())))  # fmt: skip


@settings(max_examples=300, derandomize=True, deadline=None)
@given(strings=sets(), text=st.sampled_from(["", "a", "ab", "b", "aa", "ac", "x-1", "xyxz", "cab"]))
def test_what_is_seen_is_so(strings: Strings, text: str) -> None:
    empty = strings.is_empty(Work())
    assert empty or not none_inside(strings)
    assert not (empty and some_inside(strings))
    assert holds(strings, text) is strings.has(text)
    assert simplified(strings).has(text) is strings.has(text)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("^a", "^b", True),
        ("^ab", "^aa", True),
        ("^a$", "^ab", True),
        ("^[0-9]", "^x-", True),
        ("^(table|view) ", "^schema ", True),
        ("^a", "^ab", False),
        ("a", "^b", False),
        ("^a?b", "^c?d", False),  # not seen, though it is so
    ],
)
def test_patterns_that_are_seen_to_exclude_each_other(a: str, b: str, expected: bool) -> None:
    assert apart(matching(a).inside | matching(b).inside) is expected

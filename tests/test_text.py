"""JSON strings by length: the same words as the general machine reads, from every state."""

from __future__ import annotations

import json
import random

import pytest

from sgen.errors import GrammarError
from sgen.grammars.automata import DEAD, Automaton, combine, run
from sgen.grammars.charset import SCALARS
from sgen.grammars.regex import automaton
from sgen.grammars.regex_syntax import Chars, Many
from sgen.grammars.text import END, FIRST, LONGEST, START, SUBSTATES, Text, TextStyle

STYLES: list[TextStyle] = ["json", "canonical"]
LENGTHS = [(0, None), (1, None), (3, None), (0, 0), (0, 1), (2, 2), (1, 4)]


def walk_together(a: Automaton, b: Automaton) -> int:
    """Every pair of states that some bytes lead to; how many there are."""
    pairs, seen = [(a.start, b.start)], {(a.start, b.start)}
    for left, right in pairs:
        assert a.accepts(left) == b.accepts(right)
        assert a.live(left) == b.live(right)
        assert a.distance(left) == b.distance(right)
        (left_classes, left_targets), (right_classes, right_targets) = a.row(left), b.row(right)
        _, parts = combine((left_classes, right_classes))
        for i, j in parts[1:]:
            pair = left_targets[i], right_targets[j]
            assert DEAD not in pair, "a byte that only one of them can read"
            if pair not in seen:
                seen.add(pair)
                pairs.append(pair)
    return len(pairs)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("low", "high"), LENGTHS)
def test_reads_what_the_general_machine_reads(low: int, high: int | None, style: TextStyle) -> None:
    machine = automaton(Many(Chars(SCALARS), low, high), style)
    assert machine is not None
    assert walk_together(Text(low, high, style), machine) > 2


@pytest.mark.parametrize("style", STYLES)
def test_states_are_arithmetic(style: TextStyle) -> None:
    text = Text(0, 10**6, style)
    state = text.start
    assert state == START
    for byte in b'"' + b"x" * 1234:
        classes, targets = text.row(state)
        state = targets[classes[byte]]
    assert state == FIRST + 1234 * SUBSTATES
    classes, targets = text.row(state)
    assert targets[classes[0x22]] == END


def test_words() -> None:
    rng = random.Random(5)
    letters = 'aé€😀"\\/\n\x00\x1f\x7f\u2028'
    for _ in range(200):
        value = "".join(rng.choice(letters) for _ in range(rng.randrange(6)))
        for ascii_only in (True, False):
            word = json.dumps(value, ensure_ascii=ascii_only).encode()
            for low, high in LENGTHS:
                fits = low <= len(value) and (high is None or len(value) <= high)
                assert run(Text(low, high, "json"), word) == fits
                if not ascii_only:
                    assert run(Text(low, high, "canonical"), word) == fits


@pytest.mark.parametrize(
    "word",
    [b'"\\ud800"', b'"\\ud83dx"', b'"\\udc00"', b'"\xed\xa0\x80"', b'"\xff"', b'"\xc0\x80"',
     b'"\n"', b'"\\x"', b'"\\u00g0"', b'"\xf4\x90\x80\x80"', b"'a'"],
)  # fmt: skip
def test_not_a_json_string(word: bytes) -> None:
    assert not run(Text(0, None, "json"), word)


def test_lengths_that_no_output_has() -> None:
    assert Text(0, 2**64, "json").high == LONGEST
    with pytest.raises(GrammarError, match="minimum length") as caught:
        Text(2**64, None, "json")
    assert caught.value.keyword == "minLength"

"""Counting grammars: states far from both ends of a count share a mask, and no bit of it differs.

The machine in Python counts on in every state, so it says what each mask must be.
"""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import GrammarError
from sgen.grammars import native
from sgen.grammars.automata import DEAD, Literal
from sgen.grammars.compile import compile_grammar
from sgen.grammars.frames import DONE, Limited, Network, Option, Repeat
from sgen.grammars.grammar import Grammar
from sgen.grammars.masks import Masker
from sgen.grammars.plan import Plan
from sgen.grammars.vocabulary import Vocabulary
from sgen.protocol import GrammarSpec

pytestmark = pytest.mark.skipif(native.library() is None, reason="there is no C compiler")

LONGEST = 7
PIECES = ("aaaaaaa", "aa", "a a a ", "b b", "ab", 'a"', '","', '["a', '"a":', '":1,"', "1,1,1,1")
VOCABULARY = Vocabulary(
    [b"", *(bytes([byte]) for byte in range(0x20, 0x7F)), *map(str.encode, PIECES)], [0]
)
"""Its longest token spans several rounds of any count below, and most counts are longer."""


def both(plan: Plan) -> tuple[Masker, Masker]:
    """In C and in Python."""
    found = [Masker(Grammar(plan, in_c=in_c), VOCABULARY) for in_c in (True, False)]
    assert isinstance(found[0].grammar.automaton, native.NativeMachine)
    return found[0], found[1]


def check_masks(c: Masker, p: Masker, s: int, t: int) -> list[int]:
    """Those of two states that should be one, without and with a budget; the tokens allowed."""
    close = c.shortest_close(s)
    assert close == p.shortest_close(t)
    allowed = c.mask(s)
    assert (allowed == p.mask(t)).all()
    for remaining in (close, close + 2):
        assert (c.mask(s, remaining) == p.mask(t, remaining)).all()
    bits = np.unpackbits(allowed.view(np.uint8), bitorder="little")
    return [i for i in np.flatnonzero(bits).tolist() if VOCABULARY.walk_bytes[i]]


def check_walk(plan: Plan, rng: random.Random, steps: int) -> None:
    """Along a random way, which mostly stays within the text: to the end of a count, if it can."""
    c, p = both(plan)
    s, t = c.grammar.start, p.grammar.start
    for _ in range(steps):
        tokens = check_masks(c, p, s, t)
        if not tokens:
            return
        longest = [i for i in tokens if len(VOCABULARY.walk_bytes[i]) > 1]
        token = rng.choice(longest if longest and rng.random() < 0.5 else tokens)
        s, t = c.advance(s, token), p.advance(t, token)
        assert DEAD not in (s, t)


ROUNDS = ("a", "[ab]", "a ", "a+ ", "[a-c]*b", "(a|b b)", "a?", "(ab)*", "(a? ?){0,9}")


@st.composite
def counting_patterns(draw: st.DrawFn, least: int = 0) -> str:
    """One or two counts, the second around the first, beside it or after it."""
    found = ""
    for _ in range(draw(st.integers(1, 2))):
        low = draw(st.integers(least, 9))
        high = draw(st.integers(low, 40))
        head = draw(st.sampled_from(["", "", "a", "b*"]))
        body = draw(st.sampled_from([*ROUNDS, found or "a"]))
        found = draw(st.sampled_from([found, ""])) + f"{head}({body}){{{low},{high}}}"
    return found + draw(st.sampled_from(["", "b", "a*", "[^a]?"]))


@st.composite
def counting_schemas(draw: st.DrawFn) -> dict[str, object]:
    low = draw(st.integers(0, 3))
    high = draw(st.integers(low, 25))
    text: dict[str, object] = {"type": "string", "pattern": f"^{draw(counting_patterns())}$"}
    if draw(st.booleans()):
        text["maxLength"] = draw(st.integers(1, 60))
    items = draw(st.sampled_from([text, {"const": 1}, {"enum": ["a", "ab"]}]))
    array = {"type": "array", "items": items, "minItems": low, "maxItems": high}
    return draw(
        st.sampled_from(
            [
                text,
                array,
                array | {"prefixItems": [{"const": "a"}, {"const": 1}]},
                {"type": "array", "items": array, "maxItems": 12},
                {
                    "type": "object",
                    "patternProperties": {"^[ab]+$": items},
                    "additionalProperties": False,
                    "minProperties": min(low, 1),
                    "maxProperties": high,
                },
            ]
        )
    )


def compiled(kind: str, source: str) -> Plan | None:
    """None for what is refused: no text fits, or too many states."""
    try:
        return compile_grammar(
            GrammarSpec("regex" if kind == "regex" else "json_schema", source)
        ).plan
    except GrammarError:
        return None


@settings(max_examples=60, derandomize=True, deadline=None)
@given(pattern=counting_patterns(), seed=st.integers(0, 9))
def test_random_patterns(pattern: str, seed: int) -> None:
    plan = compiled("regex", pattern)
    if plan is not None:
        check_walk(plan, random.Random(seed), steps=30)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(schema=counting_schemas(), seed=st.integers(0, 9))
def test_random_schemas(schema: dict[str, object], seed: int) -> None:
    plan = compiled("json_schema", json.dumps(schema))
    if plan is not None:
        check_walk(plan, random.Random(seed), steps=30)


def rounds_of(text: str, low: int, high: int) -> Plan:
    """A text again and again."""
    return Plan.of([Literal(text.encode()), Repeat(0, low, high)], 1)


def network_of(text: str, limit: int, size: int) -> Plan:
    """A network in a circle, which can be left at its start alone."""
    circle: list[tuple[Option, ...]] = [(((0,), (i + 1) % size),) for i in range(size)]
    network = Network(((*circle[0], ((), DONE)), *circle[1:]))
    needs = tuple(-i % size for i in range(size))
    return Plan.of([Literal(text.encode()), Limited(network, needs, limit)], 1)


COUNTS = {
    "rounds of one byte": (rounds_of("a", 2, 30), "a", 30),
    "rounds of two": (rounds_of("a ", 2, 30), "a ", 30),
    "a network": (network_of("a", 30, 1), "a", 30),
    "a network that must come round": (network_of("a", 41, 7), "a", 41),
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_count_up_to_the_last(name: str) -> None:
    """Each has the mask that it should have, whatever masks were made before it."""
    plan, text, most = COUNTS[name]
    c, p = both(plan)
    ways = []
    s, t = c.grammar.start, p.grammar.start
    for byte in (text * most).encode():
        ways.append((s, t))
        s, t = c.grammar.next(s, byte), p.grammar.next(t, byte)
        if DEAD in (s, t):
            assert s == t
            break
    for order in (ways, ways[::-1], random.Random(1).sample(ways, len(ways))):
        fresh = Masker(c.grammar, VOCABULARY)
        for s, t in order:
            check_masks(fresh, p, s, t)


SHARED = [
    ("regex", "(a ){0,500}b", "a ", 1),
    ("regex", "([ab]+ ){3,200}", "ab ", 5),
    ("json_schema", '{"type":"string","pattern":"^([ab]+ )*$","maxLength":300}', "ab ", 5),
    (
        "json_schema",
        '{"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":99}',
        "1,",
        5,
    ),
]


@pytest.mark.parametrize(("kind", "source", "text", "begun"), SHARED)
def test_far_from_both_ends_there_is_one_mask(
    kind: str, source: str, text: str, begun: int
) -> None:
    """The very same array, and no states of the machine for each."""
    plan = compiled(kind, source)
    assert plan is not None
    masker, _ = both(plan)
    grammar = masker.grammar
    opening = {"regex": "", "json_schema": "[" if "items" in source else '"'}[kind]
    s = grammar.advance(grammar.start, (opening + text * begun).encode())
    first = masker.mask(s)
    sizes = []
    for _ in range(20):
        before = grammar.num_states
        s = grammar.advance(s, text.encode())
        assert masker.mask(s) is first
        sizes.append(grammar.num_states - before)
    # Those on the way through the text, and what the last of them becomes without its count.
    assert max(sizes[1:]) <= 2 * len(text)


def test_options_without_text_count_too() -> None:
    """One byte of this network takes four of them, so few bytes can come to its limit."""
    states = ((((0,), 1), ((), DONE)), (((1,), 2),), (((1,), 3),), (((1,), 0),))
    network = Limited(Network(states), (0, 3, 2, 1), 50)
    c, p = both(Plan.of([Literal(b"a"), Literal(b""), network], 2))
    s, t = c.grammar.start, p.grammar.start
    for left in range(12, -1, -1):
        tokens = [VOCABULARY.walk_bytes[i] for i in check_masks(c, p, s, t)]
        assert max(map(len, tokens), default=0) == max(n for n in (7, 2, 1, 0) if n <= left)
        s, t = c.grammar.next(s, ord("a")), p.grammar.next(t, ord("a"))


def test_a_text_nested_deeper_than_the_stack_of_a_thread() -> None:
    """Each level is one more continuation, and masks of such a state look at all of them."""
    plan = compile_grammar(GrammarSpec("gbnf", 'root ::= "a" root "b" | "c"')).plan
    masker, _ = both(plan)
    s = masker.grammar.advance(masker.grammar.start, b"a" * 150_000)
    bits = np.unpackbits(masker.mask(s).view(np.uint8), bitorder="little")
    allowed = {VOCABULARY.walk_bytes[i] for i in np.flatnonzero(bits)}
    assert allowed == {b"a", b"c", b"aa", b"aaaaaaa"}

"""What a compiled grammar says: its shortest text, what can follow, and all that is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from sgen.errors import GrammarError
from sgen.grammars.automata import DEAD
from sgen.grammars.compile import compile_grammar
from sgen.grammars.expressions import following
from sgen.grammars.grammar import Grammar
from sgen.protocol import GrammarSpec

MAX_SHOWN = 2_000
"""Bytes of a shortest text."""

MAX_FOLLOWING = 12
"""Ways on that are listed."""

MAX_LITERAL = 32
_PIECE = 4_096
MAX_REFUSALS = 20


def shortest_text(grammar: Grammar) -> tuple[bytes, int]:
    """A text of the fewest bytes, cut at MAX_SHOWN, and how many bytes it has; of several, one
    with letters and digits where it can be."""
    machine, state = grammar.automaton, grammar.start
    length = machine.distance(state)
    text = bytearray()
    while machine.distance(state) and len(text) < MAX_SHOWN:
        nearer = machine.distance(state) - 1
        classes, targets = machine.row(state)
        found = [
            byte
            for byte in range(256)
            if targets[classes[byte]] != DEAD and machine.distance(targets[classes[byte]]) == nearer
        ]
        byte = next((b for b in found if chr(b).isalnum() and b < 0x80), found[0])
        text.append(byte)
        state = targets[classes[byte]]
    return bytes(text), length


def read_as_far(grammar: Grammar, text: bytes) -> tuple[int, int]:
    """How many bytes of a text the grammar can begin with, and the state after them."""
    state, size = grammar.start, 0
    while size < len(text):
        after = grammar.advance(state, text[size : size + _PIECE])
        if after == DEAD:
            break
        state, size = after, min(size + _PIECE, len(text))
    for byte in text[size : size + _PIECE]:
        after = grammar.next(state, byte)
        if after == DEAD:
            break
        state, size = after, size + 1
    return size, state


def ways_on(grammar: Grammar, state: int) -> list[str]:
    """What can follow in a state: literals, sets of characters, special tokens, the end."""
    found = []
    for ranges, target in following(grammar.automaton, state):
        if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
            rest = grammar.forced(target, MAX_LITERAL).decode(errors="ignore")
            found.append(_quoted(chr(ranges[0][0]) + rest))
        else:
            found.append(_set(ranges))
    found += [f"the special token {name}" for name in _special_tokens(grammar, state)]
    classes, targets = grammar.automaton.row(state)
    if any(targets[classes[byte]] != DEAD for byte in range(0x80, 0xC0)):
        found.append("the rest of a character")
    if len(found) > MAX_FOLLOWING:
        found = [*found[: MAX_FOLLOWING - 1], f"{len(found) - MAX_FOLLOWING + 1} more"]
    if grammar.accepts(state):
        found.append("the end")
    return found


def _special_tokens(grammar: Grammar, state: int) -> list[str]:
    """The names of the special tokens that may stand here."""
    begun = grammar.next(state, 0xFF)
    names: list[str] = []
    stack = [(begun, b"")] if begun != DEAD else []
    while stack and len(names) < MAX_FOLLOWING:
        inside, name = stack.pop()
        classes, targets = grammar.automaton.row(inside)
        for byte in range(256):
            target = targets[classes[byte]]
            if target == DEAD:
                continue
            if byte == 0xFE:
                names.append(name.decode(errors="replace"))
            else:
                stack.append((target, name + bytes([byte])))
    return sorted(names)


def _quoted(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if '"' not in text else f"'{quoted[1:-1].replace(chr(92) + chr(34), chr(34))}'"


def _set(ranges: tuple[tuple[int, int], ...]) -> str:
    shown = []
    for low, high in ranges[:8]:
        first, last = _character(low), _character(high)
        shown.append(first if low == high else f"{first}-{last}")
    return f"[{' '.join(shown)}{' …' if len(ranges) > 8 else ''}]"


def _character(code: int) -> str:
    char = chr(code)
    return char if char.isprintable() and char != " " else f"U+{code:04X}"


def refusals(spec: GrammarSpec) -> Iterator[GrammarError]:
    """What is refused in a source, each looked for with those before left out.

    In JSON sources the refused keyword or subschema is dropped and the rest tried again, up to
    MAX_REFUSALS times; elsewhere the first refusal is the only one.
    """
    root: Any = None
    for _ in range(MAX_REFUSALS):
        try:
            compile_grammar(spec)
            return
        except GrammarError as error:
            yield error
            if error.keyword == "unsatisfiable" or spec.kind != "json_schema":
                return
            if root is None:
                try:
                    root = json.loads(spec.source)
                except (ValueError, RecursionError):
                    return
            if not _drop(root, error.pointer or "", error.keyword):
                return
        spec = msgspec.structs.replace(spec, source=json.dumps(root))


def _drop(root: Any, pointer: str, keyword: str) -> bool:
    """Take a keyword at a place out of a schema, or put `true` in the place itself; False if
    that is the whole schema."""
    steps = [s.replace("~1", "/").replace("~0", "~") for s in pointer.split("/")[1:]]
    parents: list[tuple[Any, Any]] = []
    here = root
    for step in steps:
        key: Any = int(step) if isinstance(here, list) and step.isdecimal() else step
        try:
            parents.append((here, key))
            here = here[key]
        except (LookupError, TypeError):
            parents.pop()
            break
    if isinstance(here, dict) and keyword in here:
        del here[keyword]
        return True
    while parents:
        parent, key = parents.pop()
        if isinstance(parent, dict) and key == keyword:
            del parent[key]
            return True
        if parent[key] is not True:
            parent[key] = True
            return True
    return False

"""Rules with the texts of nodes: frames and automata as expressions over characters and names.

A frame is an expression over its parts, or, where that would be long, a rule for each of its
positions; so are automata.  Rules that are used once are then written where they are used.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sgen.errors import GrammarError
from sgen.grammars import frames
from sgen.grammars.automata import Automaton, Literal, Words
from sgen.grammars.charset import SCALARS
from sgen.grammars.encoding import character
from sgen.grammars.expressions import (
    EMPTY,
    NEVER,
    Choice,
    Edges,
    Expression,
    Join,
    Loop,
    Name,
    TooLargeError,
    characters,
    choice,
    depth,
    eliminated,
    join,
    loop,
    size,
    text,
)
from sgen.grammars.pushdown import Costs, Node, Plan, Pushdown
from sgen.grammars.text import Text

MAX_PARTS = 50_000
"""Parts of all rules."""

MAX_POSITIONS = 2_000
"""Positions of one frame."""

MAX_REPEATED = 12
"""Parts of a lexeme that is written out wherever it stands."""

MAX_DEPTH = 30
"""Groups inside each other in one rule."""

Key = tuple[int, int, int]
"""A machine, a node of it, and a position in the node."""

_SPECIAL = b"\xff"
_END = -1


@dataclass(slots=True)
class Rules:
    """Expressions by key; `root` is the first.  `has_special`: special tokens were left out."""

    of: dict[Key, Expression]
    root: Key
    has_special: bool


def rules_of(nodes: Sequence[Node], root: int, *, longest: int, flat: bool = False) -> Rules:
    """The rules of a grammar's nodes, those used once inside their users.

    `longest` is the most parts of the expression of a frame's positions or an automaton's states;
    above, each of these is a rule or, with `flat`, the grammar is refused.  GrammarError if there
    is no text without special tokens, or above the limits.
    """
    writer = _Writer(nodes, root, longest, flat)
    try:
        writer.run()
    except TooLargeError:
        raise too_large() from None
    return Rules(_inlined(writer.rules, writer.root), writer.root, writer.has_special)


def too_large() -> GrammarError:
    return GrammarError(
        "the grammar is too large to be written out",
        keyword="size",
        hint="lower the maximum lengths, or write out its parts",
    )


class _Writer:
    def __init__(self, nodes: Sequence[Node], root: int, longest: int, flat: bool) -> None:
        plan = Plan(nodes)
        self._longest, self._flat = longest, flat
        self._machines: list[tuple[Sequence[Node], Costs]] = [(plan.nodes, plan.costs)]
        self._nested: dict[int, int] = {}
        self._lexemes: dict[Key, Expression] = {}
        self._queue: deque[Key] = deque()
        self._parts = 0
        self.rules: dict[Key, Expression] = {}
        self.root = self._key(0, root)
        self.has_special = False

    def run(self) -> None:
        while self._queue:
            key = self._queue.popleft()
            if key in self.rules:
                continue
            machine, number, _ = key
            node = self._machines[machine][0][number]
            if isinstance(node, frames.Frame):
                self._add(key, self._frame(key, node))
            elif isinstance(node, Pushdown):
                self._add(key, self._machine(node))
            else:
                self._add(key, self._lexeme(key, node))

    def _add(self, key: Key, expression: Expression) -> None:
        self.rules[key] = expression
        self._parts += size(expression)
        if self._parts > MAX_PARTS:
            raise TooLargeError

    def _key(self, machine: int, node: int) -> Key:
        key = machine, node, 0
        self._queue.append(key)
        return key

    def _machine(self, node: Pushdown) -> Expression:
        """A machine among the lexemes has nodes of its own."""
        number = self._nested.get(id(node))
        if number is None:
            number = self._nested[id(node)] = len(self._machines)
            self._machines.append((node.nodes, node.costs))
        return self._part(number, node.root)

    def _part(self, machine: int, number: int) -> Expression:
        """A node where it is used: its name, or what it is if that is short."""
        nodes, costs = self._machines[machine]
        if not costs.of(number).possible:
            return NEVER
        node = nodes[number]
        key = machine, number, 0
        if not isinstance(node, frames.Frame | Pushdown):
            expression = self._lexeme(key, node)
            short = size(expression) <= MAX_REPEATED or isinstance(node, Literal)
            if short and not any(True for _ in names_in(expression)):
                return expression
        if key not in self.rules:
            self._queue.append(key)
        return Name(key)

    def _frame(self, key: Key, frame: frames.Frame) -> Expression:
        machine, number, _ = key
        if isinstance(frame, frames.Sequence):
            return join([self._part(machine, item) for item in frame.items])
        if isinstance(frame, frames.Alternatives):
            return choice([self._part(machine, item) for item in frame.items])
        if isinstance(frame, frames.Repeat):
            return loop(self._part(machine, frame.item), frame.low, frame.high)
        return self._states(key, *self._positions(machine, number, frame))

    def _positions(
        self, machine: int, number: int, frame: frames.Frame
    ) -> tuple[list[Edges], list[bool]]:
        """A frame as an automaton over its parts; its last state is the end."""
        costs = self._machines[machine][1]
        numbers, positions = {0: 0}, [0]
        edges: list[Edges] = []
        for position in positions:  # grows while it is walked
            edges.append([])
            for symbols, after in frame.options(position):
                label = join([self._part(machine, symbol) for symbol in symbols])
                done = after == frames.DONE
                if label == NEVER or not (done or costs.at(number, after).possible):
                    continue
                if not done and after not in numbers:
                    if len(positions) >= MAX_POSITIONS:
                        raise TooLargeError
                    numbers[after] = len(positions)
                    positions.append(after)
                edges[-1].append((label, _END if done else numbers[after]))
        last = len(positions)
        found = [[(label, last if t == _END else t) for label, t in way] for way in edges]
        return [*found, []], [False] * last + [True]

    def _states(self, key: Key, edges: list[Edges], accepting: list[bool]) -> Expression:
        """One expression where it is short, else a rule for each state after the first."""
        try:
            return eliminated(edges, accepting, self._longest)
        except TooLargeError:
            if self._flat:
                raise
            machine, number, _ = key
        names = [Name((machine, number, state)) for state in range(len(edges))]
        for state in range(len(edges)):
            ways: list[Expression] = [EMPTY] if accepting[state] else []
            for label, target in edges[state]:
                end = accepting[target] and not edges[target]
                ways.append(label if end else join([label, names[target]]))
            if state:
                self._add(names[state].key, choice(ways))
            else:
                first = choice(ways)
        return first

    def _lexeme(self, key: Key, node: Automaton) -> Expression:
        known = self._lexemes.get(key)
        if known is None:
            known = self._lexemes[key] = self._new_lexeme(key, node)
        return known

    def _new_lexeme(self, key: Key, node: Automaton) -> Expression:
        if isinstance(node, Literal):
            return self._word(node.word)
        if isinstance(node, Words):
            return choice([self._word(word) for word in node.words])
        if isinstance(node, Text):
            quote = text('"')
            inner = characters(character(SCALARS, node.style))
            spelled = eliminated(*inner, limit=200)
            return join([quote, loop(spelled, node.low, node.high), quote])
        return self._states(key, *characters(node))

    def _word(self, word: bytes) -> Expression:
        if _SPECIAL in word:
            self.has_special = True
            return NEVER
        try:
            return text(word.decode())
        except UnicodeDecodeError:
            raise GrammarError(
                "a part of the grammar is half a character", keyword="utf-8"
            ) from None


def names_in(expression: Expression) -> Iterator[Key]:
    stack = [expression]
    while stack:
        part = stack.pop()
        if isinstance(part, Name):
            yield part.key
        elif isinstance(part, Join | Choice):
            stack += part.items
        elif isinstance(part, Loop):
            stack.append(part.item)


def replaced(expression: Expression, by: Mapping[Key, Expression]) -> Expression:
    """The expression with some names as what they stand for."""
    if isinstance(expression, Name):
        return by.get(expression.key, expression)
    if isinstance(expression, Join):
        return join([replaced(item, by) for item in expression.items])
    if isinstance(expression, Choice):
        return choice([replaced(item, by) for item in expression.items])
    if isinstance(expression, Loop):
        return loop(replaced(expression.item, by), expression.low, expression.high)
    return expression


def _productive(rules: dict[Key, Expression]) -> set[Key]:
    """The rules that have texts."""
    found: set[Key] = set()

    def has_text(expression: Expression) -> bool:
        if isinstance(expression, Name):
            return expression.key in found
        if isinstance(expression, Join):
            return all(map(has_text, expression.items))
        if isinstance(expression, Choice):
            return any(map(has_text, expression.items))
        if isinstance(expression, Loop):
            return expression.low == 0 or has_text(expression.item)
        return expression != NEVER

    before = -1
    while len(found) > before:
        before = len(found)
        for key in reversed(rules):  # mostly written after those that use them
            if key not in found and has_text(rules[key]):
                found.add(key)
    return found


def _inlined(rules: dict[Key, Expression], root: Key) -> dict[Key, Expression]:
    """The rules that `root` needs, in order of their first use, short ones and those used once
    written into their users."""
    productive = _productive(rules)
    if root not in productive:
        raise GrammarError(
            "no text without special tokens satisfies this grammar", keyword="unsatisfiable"
        )
    by: dict[Key, Expression] = dict.fromkeys(rules.keys() - productive, NEVER)
    for key in productive - {root}:
        target: Expression = Name(key)
        while isinstance(target, Name) and size(rules[target.key]) == 1 and target.key != root:
            target = rules[target.key]  # another name for a rule, or a character
        if target != Name(key):
            by[key] = target
    rules = {key: replaced(rules[key], by) for key in productive - by.keys()}
    order = _in_order(rules, root)
    uses = Counter(name for key in order for name in names_in(rules[key]))
    uses[root] += 2
    by = {}
    found: dict[Key, Expression] = {}
    for key in reversed(order):  # what is used once comes after its user
        expression = replaced(rules[key], by)
        once = uses[key] == 1 and depth(expression) < MAX_DEPTH
        (by if once else found)[key] = expression
    return {key: found[key] for key in _in_order(found, root)}


def _in_order(rules: Mapping[Key, Expression], root: Key) -> list[Key]:
    """The rules that `root` leads to, nearest first."""
    order = {root: None}
    queue = deque([root])
    while queue:
        for name in reversed(list(names_in(rules[queue.popleft()]))):
            if name not in order:
                order[name] = None
                queue.append(name)
    return list(order)

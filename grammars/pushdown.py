"""A lazily determinised pushdown automaton over bytes.

A continuation is a linked list of frames at positions, hash-consed, so that equal stacks are one
number.  A configuration is a lexeme, its state, and the continuation after it; a state is an
interned set of configurations.  The same machine serves twice: over characters it is the
automaton of a regular expression, and over lexemes that of a whole grammar.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as List
from dataclasses import replace

from sgen.errors import GrammarError
from sgen.grammars.automata import DEAD, END_ROW, Automaton, Row, combine
from sgen.grammars.frames import DONE, NEVER, Cost, CostOf, Frame, Option, Repeat

Node = Frame | Automaton

MAX_NESTING = 200
"""Objects and arrays inside each other: as deep as the strictest JSON parsers go."""

MAX_CONFIGURATIONS = 2_000

END = 0
"""The empty continuation."""

ACCEPT = 0
"""The configuration of a finished text."""

_SHIFT = 32
_MASK = (1 << _SHIFT) - 1


class Costs:
    """The cheapest text of every node, and of every frame from a position on.

    The least fixed point by a work list; the problem is D. Knuth's "A generalization of
    Dijkstra's algorithm" (1977).
    """

    def __init__(self, nodes: List[Node], lexeme_cost: CostOf) -> None:
        self._nodes = nodes
        self._values = [NEVER] * len(nodes)
        self._at: list[CostOf | None] = [None] * len(nodes)
        users: list[list[int]] = [[] for _ in nodes]
        for number, node in enumerate(nodes):
            if isinstance(node, Frame):
                for child in node.children():
                    users[child].append(number)
        queue: deque[int] = deque()
        for number, node in enumerate(nodes):
            if not isinstance(node, Frame):
                self._values[number] = lexeme_cost(number)
        queue.extend(n for n, node in enumerate(nodes) if isinstance(node, Frame))
        waiting = set(queue)
        while queue:
            number = queue.popleft()
            waiting.discard(number)
            value = self._frame(number)(0)
            if value != self._values[number]:
                self._values[number] = value
                for user in users[number]:
                    if user not in waiting:
                        waiting.add(user)
                        queue.append(user)

    def _frame(self, number: int) -> CostOf:
        node = self._nodes[number]
        assert isinstance(node, Frame)
        return node.costs(self._values.__getitem__)

    def of(self, number: int) -> Cost:
        return self._values[number]

    def at(self, number: int, arg: int) -> Cost:
        """What is left of a frame at position `arg`."""
        if arg == 0:
            return self._values[number]
        at = self._at[number]
        if at is None:
            at = self._at[number] = self._frame(number)
        return at(arg)


def left_recursive(nodes: List[Node], costs: Costs) -> int | None:
    """A node that can begin with itself before any byte is read."""
    done: set[int] = set()
    for root in range(len(nodes)):
        path = [(root, iter(_beginnings(nodes, costs, root)))]
        active = {root}
        while path and root not in done:
            number, rest = path[-1]
            child = next(rest, None)
            if child is None:
                path.pop()
                active.discard(number)
                done.add(number)
            elif child in active:
                return child
            elif child not in done:
                active.add(child)
                path.append((child, iter(_beginnings(nodes, costs, child))))
    return None


def _beginnings(nodes: List[Node], costs: Costs, number: int) -> tuple[int, ...]:
    node = nodes[number]
    return node.first(lambda n: costs.of(n).bytes == 0) if isinstance(node, Frame) else ()


class Plan:
    """Nodes and what they cost: all of a machine that does not change while it runs.

    GrammarError if a node begins with itself.  `segment` is kept for plan.py: the nodes as a
    segment of a flat plan, in two parts, and the machines that it imports.
    """

    segment: tuple[bytes, bytes, tuple[Plan, ...]] | None = None

    def __init__(self, nodes: List[Node]) -> None:
        self.costs = Costs(nodes, lambda n: _lexeme_bytes(nodes[n]))
        if left_recursive(nodes, self.costs) is not None:
            raise GrammarError(
                "a rule that begins with itself can never read anything",
                keyword="recursion",
                hint="something must come before the reference to itself",
            )
        # Where a round may be empty, the least number of rounds says nothing.
        self.nodes: tuple[Node, ...] = tuple(
            replace(node, low=0)
            if isinstance(node, Repeat) and self.costs.of(node.item).bytes == 0
            else node
            for node in nodes
        )


class Pushdown:
    """The automaton of node `root`; it is itself an `Automaton`, so that machines nest.

    Lexeme states of all lexemes are numbered in one sequence, and so are continuations and
    states; none of these numbers ever changes its meaning.  GrammarError if, while it is used,
    it needs more than `max_states`.
    """

    def __init__(self, plan: Plan, root: int, *, max_states: int = 300_000) -> None:
        self.plan, self.root = plan, root
        self.nodes, self.costs = plan.nodes, plan.costs
        self.possible = self.costs.of(root).possible
        self._max_states = max_states

        self._lexemes: list[tuple[int, int]] = [(-1, -1)]  # (node, its state); 0: none
        self._lexeme_numbers: dict[tuple[int, int], int] = {}
        self._lexeme_live = [False]
        self._lexeme_accepts = [False]
        self._lexeme_distance = [0]
        self._lexeme_rows: list[Row | None] = [END_ROW]

        self._conts: list[tuple[int, int, int]] = [(-1, 0, -1)]  # (node, position, parent)
        self._cont_numbers: dict[tuple[int, int, int], int] = {}
        self._cont_depth = [0]
        self._cont_bytes = [0]
        self._expansions: dict[int, tuple[int, ...]] = {END: (ACCEPT,)}

        self._states: list[tuple[int, ...]] = []
        self._state_numbers: dict[tuple[int, ...], int] = {}
        self._rows: list[Row | None] = []
        self._distances: list[int] = []
        self._after: dict[int, tuple[int, ...]] = {}
        self._state_after: dict[int, int] = {}
        self.start = self._state(self._expand(self._push(root, 0, END)) if self.possible else ())

    # What an automaton must be able to do.

    def row(self, state: int) -> Row:
        row = self._rows[state]
        if row is None:
            row = self._rows[state] = self._make_row(self._states[state])
        return row

    def accepts(self, state: int) -> bool:
        return self._states[state][:1] == (ACCEPT,)

    def live(self, state: int) -> bool:
        return self._states[state] not in ((ACCEPT,), ())

    def distance(self, state: int) -> int:
        return self._distances[state]

    def weight(self, state: int) -> int:
        return max(1, len(self._states[state]))

    def advance(self, state: int, text: bytes) -> int:
        """The state after some bytes, or DEAD."""
        for byte in text:
            classes, targets = self.row(state)
            state = targets[classes[byte]]
            if state == DEAD:
                return DEAD
        return state

    def forced(self, state: int, limit: int) -> bytes:
        """The bytes, at most `limit`, that every word continues with from here."""
        found = bytearray()
        while len(found) < limit and not self.accepts(state):
            classes, targets = self.row(state)
            if classes.count(0) != 255:
                break
            found.append(len(classes) - len(classes.lstrip(b"\0")))
            state = targets[classes[found[-1]]]
        return bytes(found)

    @property
    def num_bytes(self) -> int:
        """About; states are the greatest part."""
        return 512 * len(self._states)

    # What costs in tokens are made of.

    @property
    def num_states(self) -> int:
        return len(self._states)

    def configurations(self, state: int) -> list[tuple[int, int]]:
        """(lexeme state, continuation) pairs; (0, END) says that the text may end here."""
        return [(c >> _SHIFT, c & _MASK) for c in self._states[state]]

    def continuation(self, number: int) -> tuple[int, int, int]:
        """(node, position, the continuation after it); END has none."""
        return self._conts[number]

    def lexeme_start(self, node: int) -> int:
        lexeme = self.nodes[node]
        assert not isinstance(lexeme, Frame)
        return self._lexeme_state(node, lexeme.start)

    def lexeme_distance(self, number: int) -> int:
        """Bytes to the end of the lexeme."""
        return self._lexeme_distance[number]

    def lexeme_row(self, number: int) -> Row:
        """A lexeme state's row; its targets are lexeme states in this machine's numbering."""
        row = self._lexeme_rows[number]
        if row is None:
            node, local = self._lexemes[number]
            lexeme = self.nodes[node]
            assert not isinstance(lexeme, Frame)
            classes, targets = lexeme.row(local)
            numbered = tuple(t if t == DEAD else self._lexeme_state(node, t) for t in targets)
            row = self._lexeme_rows[number] = (classes, numbered)
        return row

    # How states come about.

    def _lexeme_state(self, node: int, local: int) -> int:
        key = (node, local)
        number = self._lexeme_numbers.get(key)
        if number is None:
            lexeme = self.nodes[node]
            assert not isinstance(lexeme, Frame)
            number = self._lexeme_numbers[key] = len(self._lexemes)
            self._lexemes.append(key)
            self._lexeme_live.append(lexeme.live(local))
            self._lexeme_accepts.append(lexeme.accepts(local))
            self._lexeme_distance.append(lexeme.distance(local))
            self._lexeme_rows.append(None)
        return number

    def _push(self, node: int, arg: int, parent: int) -> int:
        key = (node, arg, parent)
        number = self._cont_numbers.get(key)
        if number is None:
            number = self._cont_numbers[key] = len(self._conts)
            frame = self.nodes[node]
            nests = isinstance(frame, Frame) and frame.nests
            self._conts.append(key)
            self._cont_depth.append(self._cont_depth[parent] + nests)
            self._cont_bytes.append(self._cont_bytes[parent] + self.costs.at(node, arg).bytes)
        return number

    def _expand(self, cont: int) -> tuple[int, ...]:
        """The configurations with which a continuation can begin."""
        known = self._expansions.get(cont)
        if known is not None:
            return known
        found: set[int] = set()
        seen = {cont}
        fewest: dict[tuple[int, int], int] = {}
        stack = [cont]
        while stack:
            top = stack.pop()
            if top == END:
                found.add(ACCEPT)
                continue
            node, arg, parent = self._conts[top]
            part = self.nodes[node]
            if not isinstance(part, Frame):
                lexeme = self._lexeme_state(node, part.start)
                if self._lexeme_live[lexeme]:
                    found.add(lexeme << _SHIFT | parent)
                following = [parent] if self._lexeme_accepts[lexeme] else []
            elif (
                isinstance(part, Repeat)
                and part.low == 0
                and fewest.setdefault((node, parent), arg) < arg
            ):
                continue  # the same repetition with fewer rounds used can do all this one can
            else:
                options = part.options(arg)
                following = [c for o in options if (c := self._enter(top, o)) is not None]
            for after in following:
                if after not in seen:
                    seen.add(after)
                    stack.append(after)
        self._expansions[cont] = expansion = self._nearest(found)
        return expansion

    def _enter(self, cont: int, option: Option) -> int | None:
        """The continuation of one option of the frame on top; None if no text can fit it."""
        node, _, parent = self._conts[cont]
        symbols, after = option
        depth = self._cont_depth[cont]
        for symbol in symbols:
            cost = self.costs.of(symbol)
            if not cost.possible or depth + cost.depth > MAX_NESTING:
                return None
        if after != DONE:
            rest = self.costs.at(node, after)
            if not rest.possible or self._cont_depth[parent] + rest.depth > MAX_NESTING:
                return None
            parent = self._push(node, after, parent)
        for symbol in reversed(symbols):
            parent = self._push(symbol, 0, parent)
        return parent

    def _make_row(self, configurations: tuple[int, ...]) -> Row:
        running = [c for c in configurations if c != ACCEPT]
        if not running:
            return END_ROW
        rows = [self.lexeme_row(c >> _SHIFT) for c in running]
        conts = [c & _MASK for c in running]
        if len(running) == 1:
            classes, targets = rows[0]
            cont = conts[0]
            return classes, tuple(t if t == DEAD else self._single(t, cont) for t in targets)
        classes, combinations = combine(tuple(row[0] for row in rows))
        numbered = [DEAD]
        for combination in combinations[1:]:
            moves = [
                (rows[i][1][k], conts[i])
                for i, k in enumerate(combination)
                if rows[i][1][k] != DEAD
            ]
            numbered.append(self._joined(moves))
        return classes, tuple(numbered)

    def _joined(self, moves: list[tuple[int, int]]) -> int:
        if len(moves) == 1:
            return self._single(*moves[0])
        merged: set[int] = set()
        for lexeme, cont in moves:
            merged.update(self._reached(lexeme, cont))
        return self._state(self._nearest(merged))

    def _single(self, lexeme: int, cont: int) -> int:
        key = lexeme << _SHIFT | cont
        state = self._state_after.get(key)
        if state is None:
            state = self._state_after[key] = self._state(self._reached(lexeme, cont))
        return state

    def _reached(self, lexeme: int, cont: int) -> tuple[int, ...]:
        """The configurations once a lexeme has come to a state."""
        key = lexeme << _SHIFT | cont
        reached = self._after.get(key)
        if reached is None:
            reached = (key,) if self._lexeme_live[lexeme] else ()
            if self._lexeme_accepts[lexeme]:
                reached = tuple(sorted({*reached, *self._expand(cont)}))
            self._after[key] = reached
        return reached

    def _state(self, configurations: tuple[int, ...]) -> int:
        number = self._state_numbers.get(configurations)
        if number is None:
            number = len(self._states)
            if number >= self._max_states:
                raise GrammarError(
                    f"the grammar needs more than {self._max_states:,} states",
                    keyword="states",
                    hint="use shorter maximum lengths, or fewer alternatives that overlap",
                )
            self._state_numbers[configurations] = number
            self._states.append(configurations)
            self._rows.append(None)
            self._distances.append(min(map(self._distance, configurations), default=-1))
        return number

    def _nearest(self, found: set[int]) -> tuple[int, ...]:
        """The configurations in order; of more than a state may have, those nearest to the end.

        Each can still end, so this leaves no trap: what cannot be read any more are some of the
        texts that can be read in very many ways so far.
        """
        if len(found) <= MAX_CONFIGURATIONS:
            return tuple(sorted(found))
        return tuple(
            sorted(sorted(found, key=lambda c: (self._distance(c), c))[:MAX_CONFIGURATIONS])
        )

    def _distance(self, configuration: int) -> int:
        lexeme, cont = configuration >> _SHIFT, configuration & _MASK
        return self._lexeme_distance[lexeme] + self._cont_bytes[cont]


def _lexeme_bytes(node: Node) -> Cost:
    assert not isinstance(node, Frame)
    return Cost(node.distance(node.start), 0, 0)

"""Takes left recursion out of the nets of rules.

The rules that begin with each other, directly or behind rules that may be empty, form a circle.
A text of one of them is a text that some rule of the circle begins with, of which none comes
first, and then, again and again, the rest of a rule that the text so far can be the first part
of.  That is a finite automaton whose states are those of the circle's nets: the left-corner form
of a grammar (D. Rosenkrantz and P. Lewis, "Deterministic left corner parsing", 1970).  Its size
is that of the circle's nets, for each rule of the circle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sgen.errors import GrammarError
from sgen.grammars.rules import Call, Net, Nets, Part, Rounds, Symbol
from sgen.grammars.work import Work

MAX_CIRCLE = 20_000
"""Edges of the nets of all rules that begin with each other, times the number of these rules."""


class LeftCorners:
    """What rules begin with, and their nets without left recursion."""

    def __init__(self, nets: Nets, work: Work) -> None:
        self._nets = nets
        self._work = work
        self._nullable = _nullable_rules(nets)
        self._take_first_rounds_out()
        self._circles: dict[str, tuple[str, ...]] = {}
        self.first: dict[str, int] = {}
        """By rule, the nodes that its texts may begin with, as a set of bits."""
        self.height: dict[str, int] = {}
        """By rule, a number above those of the rules that it begins with; in a circle all alike."""
        for group in _groups(nets.of, self._beginnings):
            self.height.update(dict.fromkeys(group, len(self.height)))
            self._add_group(group)

    def nullable(self, symbol: Symbol) -> bool:
        """Whether a symbol may read nothing."""
        if isinstance(symbol, Part):
            return False
        if isinstance(symbol, Rounds):
            return symbol.low == 0 or self.nullable(symbol.call)
        return not symbol.nonempty and symbol.rule in self._nullable

    def begins_with(self, symbol: Symbol) -> int:
        """The nodes that the texts of a symbol may begin with, as a set of bits."""
        if isinstance(symbol, Part):
            return 1 << symbol.node
        return self.first[(symbol.call if isinstance(symbol, Rounds) else symbol).rule]

    def net(self, call: Call) -> Net:
        """The net of a rule, in which it does not begin with itself."""
        circle = self._circles.get(call.rule)
        if circle is None and not call.nonempty:
            return self._nets.of[call.rule]
        return self._combined(call, circle or (call.rule,))

    def following(self, root: str) -> dict[int, int]:
        """By node, the nodes that may directly follow it in texts of `root`, as sets of bits."""
        found: dict[int, int] = {}
        behind = dict.fromkeys(self._nets.of, 0)  # by rule
        waiting = [root]
        reached = {root}
        while waiting:
            rule = waiting.pop()
            net = self._nets.of[rule]
            self._work.spend(1 + net.size() // 8)
            for edges in net.edges:
                for symbol, target in edges:
                    if symbol is None:
                        continue
                    after = self._after(net, target, behind[rule])
                    if isinstance(symbol, Part):
                        found[symbol.node] = found.get(symbol.node, 0) | after
                        continue
                    called = symbol.rule if isinstance(symbol, Call) else symbol.call.rule
                    if isinstance(symbol, Rounds):
                        after |= self.first[called]
                    if called not in reached or behind[called] | after != behind[called]:
                        reached.add(called)
                        behind[called] |= after
                        waiting.append(called)
        return found

    def _after(self, net: Net, state: int, behind: int) -> int:
        """The nodes that may be read from a state on, or `behind` the net."""
        found, seen, stack = 0, {state}, [state]
        while stack:
            state = stack.pop()
            if state == net.accept:
                found |= behind
            for symbol, target in net.edges[state]:
                if symbol is not None:
                    found |= self.begins_with(symbol)
                if (symbol is None or self.nullable(symbol)) and target not in seen:
                    seen.add(target)
                    stack.append(target)
        return found

    def _take_first_rounds_out(self) -> None:
        """Writes out the first of each counted rounds, so that no net begins with rounds.

        Where a round may be empty, any number of rounds is as many, or fewer, that are not.
        """
        for net in self._nets.of.values():
            for state in range(len(net.edges)):
                for symbol, target in net.edges[state][:]:
                    if not isinstance(symbol, Rounds):
                        continue
                    net.edges[state].remove((symbol, target))
                    empty = self.nullable(symbol.call)
                    if self.nullable(symbol):
                        net.add(state, None, target)
                    call = Call(symbol.call.rule, empty)
                    low = 0 if empty else max(0, symbol.low - 1)
                    high = None if symbol.high is None else symbol.high - 1
                    after = net.state()
                    net.add(state, call, after)
                    net.add(after, Rounds(call, low, high) if high != 0 else None, target)

    def _left(self, net: Net) -> set[int]:
        """The states in which nothing need have been read."""
        seen, stack = {net.start}, [net.start]
        while stack:
            for symbol, target in net.edges[stack.pop()]:
                if (symbol is None or self.nullable(symbol)) and target not in seen:
                    seen.add(target)
                    stack.append(target)
        return seen

    def _beginnings(self, rule: str) -> Iterator[str]:
        """The rules that a rule may begin with."""
        net = self._nets.of[rule]
        for state in self._left(net):
            for symbol, _ in net.edges[state]:
                if isinstance(symbol, Call):
                    yield symbol.rule

    def _add_group(self, group: tuple[str, ...]) -> None:
        """Takes note of rules that all begin with each other, or of one rule alone."""
        inside = set(group)
        first = 0
        for rule in group:
            net = self._nets.of[rule]
            self._work.spend(1 + net.size() // 8)
            for state in self._left(net):
                for symbol, _ in net.edges[state]:
                    if isinstance(symbol, Part):
                        first |= 1 << symbol.node
            for other in self._beginnings(rule):
                if other in inside:
                    self._circles[rule] = group
                else:
                    first |= self.first[other]
        for rule in group:
            self.first[rule] = first
        size = sum(self._nets.of[rule].size() for rule in group) * len(group)
        if group[0] in self._circles and size > MAX_CIRCLE:
            raise GrammarError(
                f"{_circle(group)}, which is too much left recursion to rewrite",
                keyword="left recursion",
                hint="write `item (separator item)*` instead of a rule that begins with itself",
            )

    def _combined(self, call: Call, circle: tuple[str, ...]) -> Net:
        """The automaton that the docstring of this file describes, for one rule of a circle."""
        net = Net([[], [], []], start=0, begin=1, accept=2)
        inside = {rule: net.embed(self._nets.of[rule]) for rule in circle}
        done = {rule: net.state() for rule in circle}
        for rule in circle:
            self._embed_beginning(net, rule, inside[rule], done)
        net.done = done[call.rule]
        net.add(net.done, None, net.accept)
        net.add(net.start, None, net.begin)
        if self.nullable(call):
            net.add(net.start, None, net.accept)
        return net

    def _embed_beginning(self, net: Net, rule: str, offset: int, done: dict[str, int]) -> None:
        """Ways into a rule's net, and out of it, by which something has been read."""
        source = self._nets.of[rule]
        self._work.spend(1 + source.size() // 8)
        left = {state: net.state() for state in sorted(self._left(source))}
        net.add(net.begin, None, left[source.start])
        net.add(offset + source.accept, None, done[rule])
        for state, copy in left.items():
            for symbol, target in source.edges[state]:
                if symbol is None:
                    net.add(copy, None, left[target])
                    continue
                if self.nullable(symbol):
                    net.add(copy, None, left[target])
                if isinstance(symbol, Call) and symbol.rule in done:
                    net.add(done[symbol.rule], None, offset + target)
                else:
                    net.add(copy, self.nonempty(symbol), offset + target)

    def nonempty(self, symbol: Symbol) -> Symbol:
        """All texts of a symbol but the empty one."""
        if isinstance(symbol, Call):
            return Call(symbol.rule, True) if self.nullable(symbol) else symbol
        if isinstance(symbol, Rounds):
            return Rounds(symbol.call, max(1, symbol.low), symbol.high)
        return symbol


def _circle(group: tuple[str, ...]) -> str:
    written = sorted(name for name in group if "(" not in name)  # others are repetitions in these
    names = ", ".join(f"`{name}`" for name in written[:5]) + (", ..." * (len(written) > 5))
    if len(written) == 1:
        return f"the rule {names} begins with itself"
    return f"the rules {names} begin with each other"


def _nullable_rules(nets: Nets) -> set[str]:
    """The rules that may be empty: each is looked at again when one that it uses turns out so."""
    users: dict[str, list[str]] = {rule: [] for rule in nets.of}
    for rule in nets.of:
        for used in set(nets.calls(rule)):
            users[used].append(rule)
    found: set[str] = set()
    waiting = list(nets.of)
    while waiting:
        rule = waiting.pop()
        if rule not in found and _is_nullable(nets.of[rule], found):
            found.add(rule)
            waiting += users[rule]
    return found


def _is_nullable(net: Net, nullable: set[str]) -> bool:
    seen, stack = {net.start}, [net.start]
    while stack:
        for symbol, target in net.edges[stack.pop()]:
            if isinstance(symbol, Part) or target in seen:
                continue
            if isinstance(symbol, Rounds):
                empty = symbol.low == 0 or symbol.call.rule in nullable
            else:
                empty = symbol is None or symbol.rule in nullable
            if empty:
                seen.add(target)
                stack.append(target)
    return net.accept in seen


def _groups(
    rules: dict[str, Net], following: Callable[[str], Iterator[str]]
) -> Iterator[tuple[str, ...]]:
    """The strongly connected components, those first that others lead to.

    R. Tarjan, "Depth-first search and linear graph algorithms" (1972), without recursion.
    """
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    open_rules: list[str] = []
    is_open: set[str] = set()
    for root in rules:
        if root in order:
            continue
        order[root] = low[root] = len(order)
        open_rules.append(root)
        is_open.add(root)
        path = [(root, following(root))]
        while path:
            rule, rest = path[-1]
            child = next(rest, None)
            if child is None:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[rule])
                if low[rule] == order[rule]:
                    first = open_rules.index(rule) if open_rules[-1] != rule else -1
                    group = tuple(open_rules[first:])
                    del open_rules[first:]
                    is_open.difference_update(group)
                    yield group
            elif child not in order:
                order[child] = low[child] = len(order)
                open_rules.append(child)
                is_open.add(child)
                path.append((child, following(child)))
            elif child in is_open:
                low[rule] = min(low[rule], order[child])

"""Regular expressions as automata: anchors, lengths, and the way from a tree to a lexeme."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from sgen.errors import GrammarError
from sgen.grammars.automata import Automaton
from sgen.grammars.builder import Builder
from sgen.grammars.charset import Ranges
from sgen.grammars.encoding import Style, character
from sgen.grammars.frames import Repeat
from sgen.grammars.pushdown import Plan, Pushdown
from sgen.grammars.regex_syntax import (
    ANY,
    EMPTY,
    NOTHING,
    Anchor,
    Chars,
    Concat,
    Either,
    Look,
    Many,
    Tree,
    concat,
    either,
    many,
)
from sgen.grammars.work import Work

MAX_EXPANSION = 2_000
"""Nodes after writing out nested counted repetitions; those of one character are only counted.
So no text can be read in more ways than a machine has room for."""

MAX_STATES = 300_000
"""A string with a maximum length needs about a dozen for each character that it comes to."""


def whole(tree: Tree) -> Tree:
    """The texts that the tree matches from end to end, as a tree without anchors.

    GrammarError for look-around.
    """
    return _resolved(tree, left=True, right=True)


def anywhere(tree: Tree) -> Tree:
    """The texts in which the tree matches somewhere, as JSON Schema's `pattern` is meant.

    GrammarError for look-around.
    """
    items = tree.items if isinstance(tree, Concat) else (tree,)
    first, last = 0, len(items)
    while first < last and _is_anchor(items[first], at_start=True):
        first += 1
    while last > first and _is_anchor(items[last - 1], at_start=False):
        last -= 1
    if not any(map(_has_conditions, items[first:last])):
        before, after = () if first else (ANY,), () if last < len(items) else (ANY,)
        return concat((*before, *items[first:last], *after))
    return _anywhere(tree)


def _is_anchor(tree: Tree, *, at_start: bool) -> bool:
    return isinstance(tree, Anchor) and tree.at_start == at_start


def _anywhere(tree: Tree) -> Tree:
    inner = _resolved(tree, left=False, right=False)
    first = _resolved(tree, left=True, right=False)
    last = _resolved(tree, left=False, right=True)
    both = _resolved(tree, left=True, right=True)
    parts = [concat((ANY, inner, ANY))]
    if first != inner:
        parts.append(concat((first, ANY)))
    if last != inner:
        parts.append(concat((ANY, last)))
    if both not in (inner, first, last):
        parts.append(both)
    return either(parts)


def _resolved(tree: Tree, *, left: bool, right: bool) -> Tree:
    """What the tree matches where the text before it is empty (`left`) or not, and the text after
    it (`right`); both may also be empty where that is not said, which lets no anchor match."""
    if isinstance(tree, Anchor):
        return EMPTY if (left if tree.at_start else right) else NOTHING
    if isinstance(tree, Look):
        raise GrammarError(
            "look-around is supported only where what stands before it, from the start of the "
            "text on, or after it, up to the end, has one length",
            keyword="look-around",
            position=tree.position,
        )
    if not _has_conditions(tree):
        return tree
    if isinstance(tree, Either):
        return either(_resolved(item, left=left, right=right) for item in tree.items)
    if isinstance(tree, Many):
        return _resolved_rounds(tree, left, right)
    assert isinstance(tree, Concat), "a set of characters has no conditions"
    free = next(i for i, item in enumerate(tree.items) if _has_conditions(item))
    if len(tree.items) == 1:
        return _resolved(tree.items[0], left=left, right=right)
    free = max(free, 1)
    return _resolved_pair(concat(tree.items[:free]), concat(tree.items[free:]), left, right)


def _resolved_pair(a: Tree, b: Tree, left: bool, right: bool) -> Tree:
    """One after the other: either may be empty, and then the other stands at that end."""
    a_inner, b_inner = (
        _resolved(a, left=left, right=False),
        _resolved(b, left=False, right=right),
    )
    parts: list[Tree] = [concat((a_inner, b_inner))]
    if right and nullable(b, left=False, right=True):
        parts.append(_resolved(a, left=left, right=True))
    if left and nullable(a, left=True, right=False):
        parts.append(_resolved(b, left=True, right=right))
    if nullable(a, left=left, right=right) and nullable(b, left=left, right=right):
        parts.append(EMPTY)
    return either(part for i, part in enumerate(parts) if i == 0 or part != parts[0])


def _resolved_rounds(tree: Many, left: bool, right: bool) -> Tree:
    """The first round may stand at the start, the last one at the end."""
    item, low, high = tree.item, tree.low, tree.high
    parts: list[Tree] = []
    if any(nullable(item, left=a, right=b) for a, b in ((left, False), (False, right))):
        low = 0
    if low == 0 or nullable(item, left=left, right=right):
        parts.append(EMPTY)
    if low <= 1:
        parts.append(_resolved(item, left=left, right=right))
    if high is None or high >= 2:
        between = many(
            _resolved(item, left=False, right=False),
            max(low - 2, 0),
            None if high is None else high - 2,
        )
        first = _resolved(item, left=left, right=False)
        last = _resolved(item, left=False, right=right)
        parts.append(concat((first, between, last)))
    return either(parts)


def nullable(tree: Tree, *, left: bool = True, right: bool = True) -> bool:
    """Whether the empty text matches, where `left`, `right` say whether it is at the ends."""
    if isinstance(tree, Anchor):
        return left if tree.at_start else right
    if isinstance(tree, Many):
        return tree.low == 0 or nullable(tree.item, left=left, right=right)
    if isinstance(tree, Concat):
        return all(nullable(item, left=left, right=right) for item in tree.items)
    if isinstance(tree, Either):
        return any(nullable(item, left=left, right=right) for item in tree.items)
    return False


def _has_conditions(tree: Tree) -> bool:
    """Whether there are anchors or look-around in it."""
    if isinstance(tree, Concat | Either):
        return any(map(_has_conditions, tree.items))
    return _has_conditions(tree.item) if isinstance(tree, Many) else not isinstance(tree, Chars)


def expansion(tree: Tree, *, nested: bool = False) -> int:
    """Nodes of the tree written out; a repeated single character that is not itself repeated is
    counted as the automaton runs, and weighs one."""
    if isinstance(tree, Chars | Anchor | Look):
        return 1
    if isinstance(tree, Many):
        if isinstance(tree.item, Chars) and not nested:
            return 1
        rounds = tree.high if tree.high is not None else max(tree.low, 1)
        return expansion(tree.item, nested=True) * rounds
    return 1 + sum(expansion(item, nested=nested) for item in tree.items)


def lengths(tree: Tree) -> tuple[int, int | None]:
    """The least and the greatest number of characters (None: no end)."""
    if isinstance(tree, Chars):
        return 1, 1
    if isinstance(tree, Anchor | Look):
        return 0, 0
    if isinstance(tree, Many):
        low, high = lengths(tree.item)
        if high == 0 or tree.high == 0:
            return 0, 0
        endless = high is None or tree.high is None
        return low * tree.low, None if endless else (high or 0) * (tree.high or 0)
    sizes = [lengths(item) for item in tree.items]
    join = max if isinstance(tree, Either) else sum
    highs = [high for _, high in sizes if high is not None]
    low = (min if isinstance(tree, Either) else sum)(low for low, _ in sizes)
    return low, join(highs) if len(highs) == len(sizes) else None


def with_length(tree: Tree, low: int, high: int | None) -> Tree | None:
    """The texts of the tree with `low` to `high` characters; None: it takes an intersection."""
    least, most = lengths(tree)
    if least >= low and (high is None or (most is not None and most <= high)):
        return tree
    if (high is not None and least > high) or (most is not None and most < low):
        return NOTHING
    if isinstance(tree, Either):
        parts = [with_length(item, low, high) for item in tree.items]
        return None if None in parts else either(part for part in parts if part is not None)
    items: list[Tree] = list(tree.items) if isinstance(tree, Concat) else [tree]
    varying = [i for i, item in enumerate(items) if len(set(lengths(item))) > 1]
    if len(varying) != 1:
        return None
    loop = items[varying[0]]
    if not isinstance(loop, Many):
        return None
    size, largest = lengths(loop.item)
    if size != largest or size == 0:
        return None
    fixed = sum(lengths(item)[0] for i, item in enumerate(items) if i != varying[0])
    fewest = max(loop.low, -(-(low - fixed) // size))
    greatest = loop.high
    if high is not None:
        rounds = (high - fixed) // size
        greatest = rounds if greatest is None else min(greatest, rounds)
    if greatest is not None and fewest > greatest:
        return NOTHING
    items[varying[0]] = many(loop.item, fewest, greatest)
    return concat(items)


def size(tree: Tree) -> int:
    """What it takes to make an automaton of the tree: its nodes, and the ranges of its sets."""
    if isinstance(tree, Chars):
        return 1 + 5 * len(tree.ranges)
    if isinstance(tree, Anchor | Look):
        return 1
    if isinstance(tree, Many):
        return 1 + size(tree.item)
    return 1 + sum(map(size, tree.items))


def automaton(tree: Tree, style: Style = "utf8", work: Work | None = None) -> Automaton | None:
    """The texts of an anchorless tree in UTF-8, or as JSON strings with their quotes.

    None if there is no such text.  Its size is counted as `work`.
    """
    if work is not None:
        work.spend(size(tree))
    plan, root = _plan(tree, style)
    machine = Pushdown(plan, root, max_states=MAX_STATES)
    return machine if machine.possible else None


def lower_tree(builder: Builder, tree: Tree, chars: Callable[[Ranges], Automaton]) -> int:
    """The node of an anchorless tree; `chars` makes the lexeme of one character of a set."""
    if isinstance(tree, Chars):
        if not tree.ranges:
            return builder.never()
        known = builder.find(tree)
        return builder.lexeme(tree, chars(tree.ranges)) if known is None else known
    if isinstance(tree, Many):
        item = lower_tree(builder, tree.item, chars)
        return builder.frame(Repeat(item, tree.low, tree.high))
    if isinstance(tree, Either):
        return builder.alternatives(lower_tree(builder, item, chars) for item in tree.items)
    assert isinstance(tree, Concat), "anchors have been resolved"
    return builder.sequence(lower_tree(builder, item, chars) for item in tree.items)


@lru_cache(maxsize=512)  # plans hold nothing that changes
def _plan(tree: Tree, style: Style) -> tuple[Plan, int]:
    if expansion(tree) > MAX_EXPANSION:
        raise GrammarError(
            f"nested repetitions expand to more than {MAX_EXPANSION:,} nodes",
            keyword="quantifier",
            hint="lower the inner or the outer count",
        )
    builder = Builder()
    root = lower_tree(builder, tree, lambda ranges: character(ranges, style))
    if style != "utf8":
        quote = builder.literal(b'"')
        root = builder.sequence([quote, root, quote])
    return Plan(builder.nodes()), root

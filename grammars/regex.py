"""Regular expressions as automata: anchors, lengths, and the way from a tree to a lexeme."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from sgen.errors import GrammarError
from sgen.grammars.automata import Automaton
from sgen.grammars.builder import Builder
from sgen.grammars.encoding import Style, character
from sgen.grammars.frames import Repeat
from sgen.grammars.pushdown import Plan, Pushdown
from sgen.grammars.regex_syntax import ANY, EMPTY, Anchor, Chars, Concat, Either, Many, Tree
from sgen.grammars.work import Work

NOTHING = Chars(())
"""Matches no text."""

MAX_EXPANSION = 1_000
"""Nodes after writing out nested counted repetitions; those of one character are only counted."""

MAX_STATES = 300_000
"""A string with a maximum length needs about a dozen for each character that it comes to."""


def whole(tree: Tree) -> Tree:
    """The texts that the tree matches from end to end.  Anchors at the ends mean nothing."""
    return _resolve(tree, False, False, True, True)


def anywhere(tree: Tree) -> Tree:
    """The texts in which the tree matches somewhere, as JSON Schema's `pattern` is meant."""
    return _resolve(tree, True, True, True, True)


def _resolve(tree: Tree, pad_left: bool, pad_right: bool, left: bool, right: bool) -> Tree:
    """The tree without anchors, and with any text at its open ends.

    `left`, `right`: this part stands at that end of the whole; `pad_*`: and no anchor ties it.
    """
    if isinstance(tree, Either):
        return Either(tuple(_resolve(t, pad_left, pad_right, left, right) for t in tree.items))
    if isinstance(tree, Chars | Many):
        _refuse_anchors(tree)
        before = (ANY,) if pad_left else ()
        after = (ANY,) if pad_right else ()
        return Concat((*before, tree, *after)) if before or after else tree
    items = tree.items if isinstance(tree, Concat) else (tree,)
    first, last = 0, len(items)
    while left and first < last and _is_anchor(items[first], at_start=True):
        first += 1
    while right and last > first and _is_anchor(items[last - 1], at_start=False):
        last -= 1
    pad_left, pad_right = pad_left and first == 0, pad_right and last == len(items)
    if first == last:
        return ANY if pad_left or pad_right else EMPTY
    if last - first == 1:
        if isinstance(items[first], Anchor):
            _refuse_anchors(items[first])
        return _resolve(items[first], pad_left, pad_right, left, right)
    head = _resolve(items[first], pad_left, False, left, False)
    tail = _resolve(items[last - 1], False, pad_right, False, right)
    for item in items[first + 1 : last - 1]:
        _refuse_anchors(item)
    return Concat((head, *items[first + 1 : last - 1], tail))


def _is_anchor(tree: Tree, *, at_start: bool) -> bool:
    return isinstance(tree, Anchor) and tree.at_start == at_start


def _refuse_anchors(tree: Tree) -> None:
    if isinstance(tree, Anchor):
        raise GrammarError(
            "an anchor that is not at the end of the pattern",
            keyword="anchor",
            position=tree.position,
            hint="`^` belongs first and `$` last; no text can match it elsewhere",
        )
    if isinstance(tree, Many):
        _refuse_anchors(tree.item)
    elif not isinstance(tree, Chars):
        for item in tree.items:
            _refuse_anchors(item)


def expansion(tree: Tree, *, nested: bool = False) -> int:
    """Nodes of the tree written out; a repeated single character that is not itself repeated is
    counted as the automaton runs, and weighs one."""
    if isinstance(tree, Chars | Anchor):
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
    if isinstance(tree, Anchor):
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
    items = list(tree.items) if isinstance(tree, Concat) else [tree]
    varying = [i for i, item in enumerate(items) if len(set(lengths(item))) > 1]
    if len(varying) != 1:
        return None
    many = items[varying[0]]
    if not isinstance(many, Many):
        return None
    size, largest = lengths(many.item)
    if size != largest or size == 0:
        return None
    fixed = sum(lengths(item)[0] for i, item in enumerate(items) if i != varying[0])
    fewest = max(many.low, -(-(low - fixed) // size))
    greatest = many.high
    if high is not None:
        rounds = (high - fixed) // size
        greatest = rounds if greatest is None else min(greatest, rounds)
    if greatest is not None and fewest > greatest:
        return NOTHING
    items[varying[0]] = Many(many.item, fewest, greatest)
    return Concat(tuple(items))


def size(tree: Tree) -> int:
    """What it takes to make an automaton of the tree: its nodes, and the ranges of its sets."""
    if isinstance(tree, Chars):
        return 1 + 5 * len(tree.ranges)
    if isinstance(tree, Anchor):
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


@lru_cache(maxsize=512)  # plans hold nothing that changes
def _plan(tree: Tree, style: Style) -> tuple[Plan, int]:
    if expansion(tree) > MAX_EXPANSION:
        raise GrammarError(
            f"nested repetitions expand to more than {MAX_EXPANSION:,} nodes",
            keyword="quantifier",
            hint="lower the inner or the outer count",
        )
    builder = Builder()
    root = _lower(builder, tree, style)
    if style != "utf8":
        quote = builder.literal(b'"')
        root = builder.sequence([quote, root, quote])
    return Plan(builder.nodes()), root


def _lower(builder: Builder, tree: Tree, style: Style) -> int:
    if isinstance(tree, Chars):
        if not tree.ranges:
            return builder.never()
        return builder.lexeme(tree, character(tree.ranges, style))
    if isinstance(tree, Many):
        item = _lower(builder, tree.item, style)
        return builder.frame(Repeat(item, tree.low, tree.high))
    if isinstance(tree, Either):
        return builder.alternatives(_lower(builder, item, style) for item in tree.items)
    assert isinstance(tree, Concat), "anchors have been resolved"
    return builder.sequence(_joined(builder, tree.items, style))


def _joined(builder: Builder, items: Iterable[Tree], style: Style) -> Iterable[int]:
    """The parts of a sequence, runs of single characters as one literal."""
    text = ""
    for item in items:
        char = _character(item)
        if char is not None and style == "utf8":
            text += char
            continue
        if text:
            yield builder.literal(text.encode())
            text = ""
        yield _lower(builder, item, style)
    if text:
        yield builder.literal(text.encode())


def _character(tree: Tree) -> str | None:
    if isinstance(tree, Chars) and len(tree.ranges) == 1 and tree.ranges[0][0] == tree.ranges[0][1]:
        return chr(tree.ranges[0][0])
    return None

"""Look-around as intersection and difference of whole languages.

Where the place of a condition is known, because what stands between it and one end of the text has
one length, it is a condition on all of the text: `^ab(?!c).*$` is `^ab.*$` without `^abc`.  The
same holds for a condition on every character up to the end, `^(?:(?!ab).)*$`.
"""

from __future__ import annotations

from typing import NamedTuple

from sgen.grammars.regex import anywhere, lengths, nullable
from sgen.grammars.regex_syntax import ANY, Anchor, Chars, Concat, Look, Many, Tree, concat


class Conditions(NamedTuple):
    """Texts that `tree` matches, that all of `inside` match, and that none of `outside` does; trees
    without anchors."""

    tree: Tree
    inside: tuple[Tree, ...]
    outside: tuple[Tree, ...]


def conditions(tree: Tree, *, search: bool) -> Conditions:
    """What a pattern demands of a text as a whole; `search`: it may match anywhere in it.

    GrammarError for look-around at other places.
    """
    items: list[Tree] = list(tree.items) if isinstance(tree, Concat) else [tree]
    if not search:
        items = [Anchor(at_start=True, position=0), *items, Anchor(at_start=False, position=0)]
    kept: list[Tree] = []
    inside: list[Tree] = []
    outside: list[Tree] = []
    for i, item in enumerate(items):
        found = _condition(items, i)
        if found is None:
            kept.append(item)
            continue
        replacement, condition, negative = found
        kept.append(replacement)
        (outside if negative else inside).append(condition)
    return Conditions(
        anywhere(concat(kept)), tuple(map(anywhere, inside)), tuple(map(anywhere, outside))
    )


def _condition(items: list[Tree], i: int) -> tuple[Tree, Tree, bool] | None:
    """What stands for an item that is or holds look-around, and the condition on the text; None if
    it is neither, or if it cannot be said so."""
    item = items[i]
    before, after = _consuming(items[:i]), _consuming(items[i + 1 :])
    from_start = _is_anchored(items, i, at_start=True) and _has_one_length(before)
    to_end = _is_anchored(items, i, at_start=False)
    if isinstance(item, Look):
        if item.ahead and from_start:
            return concat(()), concat((_START, *before, item.item)), item.negative
        if not item.ahead and to_end and _has_one_length(after):
            return concat(()), concat((item.item, *after, _END)), item.negative
        at_edge = i == len(items) - 1 if item.ahead else i == 0
        if at_edge and not item.negative:
            return item.item, ANY, False
        return None
    if not isinstance(item, Many) or not isinstance(item.item, Concat) or after:
        return None
    look, *rest = item.item.items
    if (
        from_start
        and to_end
        and isinstance(look, Look)
        and look.ahead
        and look.negative
        and len(rest) == 1
        and isinstance(rest[0], Chars)
        and not nullable(look.item)
    ):
        repeated = Many(rest[0], item.low, item.high)
        return repeated, concat((_START, *before, ANY, look.item)), True
    return None


_START = Anchor(at_start=True, position=0)
_END = Anchor(at_start=False, position=0)


def _consuming(items: list[Tree]) -> list[Tree]:
    return [item for item in items if not isinstance(item, Anchor | Look)]


def _has_one_length(items: list[Tree]) -> bool:
    low, high = lengths(concat(items))
    return low == high


def _is_anchored(items: list[Tree], i: int, *, at_start: bool) -> bool:
    """Whether an anchor ties the items on one side of item `i`, or item `i` itself."""
    for item in items if at_start else reversed(items):
        if isinstance(item, Anchor):
            if item.at_start == at_start:
                return True
        elif not isinstance(item, Look):
            return False
    return False

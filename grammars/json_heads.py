"""What the first characters of patterns are: cheap proofs that two of them exclude each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, zip_longest
from typing import NamedTuple

from sgen.grammars.charset import Ranges, intersection, union
from sgen.grammars.json_strings import Part, Strings
from sgen.grammars.language import of_pattern
from sgen.grammars.regex_syntax import NOTHING, Chars, Concat, Either, Many, Tree

LONGEST = 24
"""Characters that are looked at."""


class Head(NamedTuple):
    """Sets that hold the first characters of every text; `whole`: there are no more of them."""

    sets: tuple[Ranges, ...]
    whole: bool


_UNKNOWN = Head((), False)


def apart(parts: Iterable[Part]) -> bool:
    """Whether some two of the parts of a set of strings are seen to exclude each other."""
    trees = [t for kind, text in parts if kind == "pattern"
             for t in of_pattern(text, search=True).trees]  # fmt: skip
    heads = list(map(head, trees))
    return any(
        any(not intersection(x, y) for x, y in zip(a.sets, b.sets, strict=False))
        or (a.whole and len(a.sets) < len(b.sets))
        or (b.whole and len(b.sets) < len(a.sets))
        for a, b in combinations(heads, 2)
    )


def none_inside(strings: Strings) -> bool:
    """Whether a set is seen at once to be empty."""
    if len(strings.inside) > 1 and apart(strings.inside):
        return True
    return any(
        other.inside <= strings.inside and other == Strings(inside=other.inside)
        for other in strings.without
    )


def some_inside(strings: Strings) -> bool:
    """Whether a text is seen at once to be in a set."""
    if strings.only is not None or strings.high is not None:
        return False
    if len(strings.inside) == 1 and not (strings.without or strings.low):
        ((kind, pattern),) = strings.inside
        if kind == "pattern":
            found = of_pattern(pattern, search=True)
            return len(found.trees) == 1 and not found.without and found.trees[0] != NOTHING
    if not strings.inside and all(other.only is not None for other in strings.without):
        return True  # all but a list
    return any(len(probe) >= strings.low and holds(strings, probe) for probe in _PROBES)


_PROBES = ("", "a", "A1", "zz~", "\u2603")


@lru_cache(maxsize=4096)
def holds(strings: Strings, text: str) -> bool:
    """Whether a text is in a set; most are told apart by their first characters."""
    if _begins_otherwise(strings, text):
        return False
    kept = frozenset(other for other in strings.without if not _begins_otherwise(other, text))
    return replace(strings, without=kept).has(text)


def _begins_otherwise(strings: Strings, text: str) -> bool:
    for kind, pattern in strings.inside:
        if kind == "pattern":
            for tree in of_pattern(pattern, search=True).trees:
                sets, whole = head(tree)
                if len(text) < len(sets) or (whole and len(text) > len(sets)):
                    return True
                for char, ranges in zip(text, sets, strict=False):
                    if not any(low <= ord(char) <= high for low, high in ranges):
                        return True
    return False


def simplified(strings: Strings) -> Strings:
    """The same set without taking away what is seen not to be in it."""
    if not strings.without or not strings.inside:
        return strings
    kept = frozenset(
        other for other in strings.without
        if other.only is not None or not apart(strings.inside | other.inside)
    )  # fmt: skip
    return strings if len(kept) == len(strings.without) else replace(strings, without=kept)


@lru_cache(maxsize=1024)
def head(tree: Tree) -> Head:
    """The head of the texts that match a tree from end to end."""
    if isinstance(tree, Chars):
        return Head((tree.ranges,), True)
    if isinstance(tree, Concat):
        return _concat(map(head, tree.items))
    if isinstance(tree, Either):
        return _either([head(item) for item in tree.items])
    if isinstance(tree, Many):
        rounds = min(tree.low, LONGEST)
        found = _concat([head(tree.item)] * rounds)
        return Head(found.sets, found.whole and tree.high == rounds)
    return _UNKNOWN


def _concat(heads: Iterable[Head]) -> Head:
    sets: list[Ranges] = []
    for one in heads:
        sets += one.sets
        if not one.whole or len(sets) > LONGEST:
            return Head(tuple(sets[:LONGEST]), False)
    return Head(tuple(sets), True)


def _either(heads: list[Head]) -> Head:
    shortest = min(len(h.sets) for h in heads)
    columns = zip_longest(*(h.sets[:shortest] for h in heads))
    same = all(h.whole and len(h.sets) == shortest for h in heads)
    return Head(tuple(union(*column) for column in columns), same)

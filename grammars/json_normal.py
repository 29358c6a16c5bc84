"""The normal form of a set of JSON values: a union by type of conjunctive parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sgen.grammars.json_arrays import Arrays
from sgen.grammars.json_numbers import Numbers
from sgen.grammars.json_objects import Objects
from sgen.grammars.json_strings import Strings


@dataclass(frozen=True, slots=True)
class Normal:
    """The union of all that is named."""

    null: bool = False
    booleans: frozenset[bool] = frozenset()
    numbers: tuple[Numbers, ...] = ()
    strings: tuple[Strings, ...] = ()
    arrays: tuple[Arrays, ...] = ()
    objects: tuple[Objects, ...] = ()

    def unseen(self) -> bool:
        """Whether its schema has looked at no member or item."""
        return not any(o.seen != _ALL_OBJECTS.seen for o in self.objects) and not any(
            a.seen != _ALL_ARRAYS.seen for a in self.arrays
        )

    def listed(self) -> set[object] | None:
        """Its values, told apart by type too; None if they are not all listed scalars."""
        if self.arrays or self.objects:
            return None
        found: set[object] = {("boolean", value) for value in self.booleans}
        if self.null:
            found.add("null")
        lists = [*(n.finite for n in self.numbers), *(s.finite for s in self.strings)]
        for values in lists:
            if values is None:
                return None
            found |= values
        return found

    @property
    def parts(self) -> int:
        return len(self.numbers) + len(self.strings) + len(self.arrays) + len(self.objects)


_ALL_ARRAYS, _ALL_OBJECTS = Arrays(), Objects()

NOTHING = Normal()
EVERYTHING = Normal(
    null=True,
    booleans=frozenset((False, True)),
    numbers=(Numbers.everything(),),
    strings=(Strings.everything(),),
    arrays=(_ALL_ARRAYS,),
    objects=(_ALL_OBJECTS,),
)


def union(normals: Iterable[Normal]) -> Normal:
    """The values in any of some sets."""
    null, booleans = False, frozenset[bool]()
    numbers: list[Numbers] = []
    strings: list[Strings] = []
    arrays: list[Arrays] = []
    objects: list[Objects] = []
    for normal in normals:
        null, booleans = null or normal.null, booleans | normal.booleans
        numbers += normal.numbers
        strings += normal.strings
        arrays += normal.arrays
        objects += normal.objects
    # All of a type stand for their parts, except where it matters what these have looked at.
    if _ALL_ARRAYS in arrays:
        arrays = [_ALL_ARRAYS, *(a for a in arrays if a.seen != _ALL_ARRAYS.seen)]
    if _ALL_OBJECTS in objects:
        objects = [_ALL_OBJECTS, *(o for o in objects if o.seen != _ALL_OBJECTS.seen)]
    return Normal(
        null,
        booleans,
        joined_numbers(numbers),
        joined_strings(strings),
        tuple(dict.fromkeys(arrays)),
        distinct_objects(objects),
    )


def joined_numbers(parts: list[Numbers]) -> tuple[Numbers, ...]:
    """A union in fewer parts: listed values are one."""
    if Numbers.everything() in parts:
        return (Numbers.everything(),)
    found = tuple(dict.fromkeys(p for p in parts if p.only is None))
    listed = frozenset(v for p in parts for v in p.only or ())
    return (Numbers(only=listed), *found) if listed else found


def joined_strings(parts: list[Strings]) -> tuple[Strings, ...]:
    if Strings.everything() in parts:
        return (Strings.everything(),)
    found = tuple(dict.fromkeys(p for p in parts if p.only is None))
    listed = frozenset(v for p in parts for v in p.only or ())
    return (Strings(only=listed), *found) if listed else found


def distinct_objects(parts: list[Objects]) -> tuple[Objects, ...]:
    """Equal parts once."""
    if len(parts) < 2:
        return tuple(parts)
    return tuple({part.key(): part for part in reversed(parts)}.values())[::-1]

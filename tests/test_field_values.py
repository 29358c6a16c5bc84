"""What a field may be, by its place in a body."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest

from sgen.server.field_values import allowed_values


class Part(msgspec.Struct):
    kind: Literal["text", "image"] = msgspec.field(name="type")


class Body(msgspec.Struct):
    parts: list[Part | str]
    part: Part | None = None
    count: int = 0


@pytest.mark.parametrize(
    ("data", "allowed"),
    [
        ({"parts": [], "part": {"type": "txt"}}, ["image", "text"]),
        ({"parts": ["a", {"type": "txt"}]}, ["image", "text"]),
        ({"parts": [], "count": "three"}, []),
    ],
)
def test_values_at_the_places_that_msgspec_names(data: Any, allowed: list[str]) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(data, Body)
    place = str(caught.value).partition("at `$.")[2].removesuffix("`")
    assert place
    assert allowed_values(Body, place) == allowed


def test_an_unknown_place_has_none() -> None:
    assert allowed_values(Body, "") == allowed_values(Body, "part.size") == []

"""Reasoning: what a model writes between its markers before it answers.

It comes first or not at all.  Where the chat template itself writes the marker that begins it, the
output starts inside; else reasoning is there exactly if the output, white space apart, begins with
that marker.  It ends at the first marker that ends it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sgen.protocol import ModelInfo, PromptPart, RoleStart

BREAKS = {"type": "regex", "pattern": "\n{0,2}"}
"""What models write between reasoning and constrained output."""


class Markers(msgspec.Struct, frozen=True):
    """`open`: the prompt holds `begin` already."""

    begin: str
    end: str
    open: bool


def markers_of(prompt: tuple[PromptPart, ...], info: ModelInfo) -> Markers | None:
    """The markers of an output; None where the model has none, or does not begin a message of its
    own: it goes on with what somebody else wrote."""
    begins = bool(prompt) and isinstance(prompt[-1], RoleStart)
    if info.reasoning is None or not begins:
        return None
    return Markers(*info.reasoning, info.reasoning_open)


def behind_reasoning(markers: Markers, rest: dict[str, Any]) -> dict[str, Any]:
    """The format (see grammars/structural.py) of reasoning, and `rest` behind it."""
    text = {"type": "any_text"}
    if markers.open:
        thought = {"type": "tag", "begin": "", "content": text, "end": markers.end}
        return _sequence(thought, BREAKS, rest)
    thought = {"type": "tag", "begin": markers.begin, "content": text, "end": markers.end}
    both = _sequence(BREAKS, thought, BREAKS)
    return _sequence({"type": "optional", "content": both}, rest)


def _sequence(*elements: dict[str, Any]) -> dict[str, Any]:
    return {"type": "sequence", "elements": list(elements)}

"""Marks that stand in a text for what is not known yet, so that refs work in f-strings.

A mark holds a secret of its run, so no other text can contain one by chance or by intent.  Its
padding and its ends are characters that this process has drawn from Unicode's private planes, so
that any piece of a mark, of whichever run, is found; and inside it has characters that escaping,
case changes and white-space changes alter.  A text that was changed after a ref was put into it is
refused, never sent on with half a mark in it.
"""

from __future__ import annotations

import secrets
from typing import Literal

from sgen.errors import ProgramError

Kind = Literal["v", "a"]

_HALF = 12


def _draw() -> str:
    return chr(0xF0000 + secrets.randbelow(0xFFFE))


_START, _PAD, _END, _POISON = _draw(), _draw(), _draw(), _draw()


class Markers:
    """The marks of one run.  A text that is cut loses the end of a mark, which is longer than two
    times `width`, so a program that cuts texts to less than that is found out."""

    def __init__(self, width: int = 1024) -> None:
        secret = secrets.token_hex(_HALF)
        self._halves = (secret[:_HALF], secret[_HALF:])
        self._head = f'{_START}{_PAD * width}\t<&"%Ref {secret}:'
        self._tail = f":{secret}{_PAD * width}{_END}"

    def mark(self, kind: Kind, number: int) -> str:
        """The mark of variable ("v") or argument place ("a") `number`."""
        return f"{self._head}{kind}{number}{self._tail}"

    def touches(self, text: str) -> bool:
        """Whether a mark, or what is left of one, or a ref's repr is in the text."""
        if text.isascii():
            lowered = text.lower()
            return self._halves[0] in lowered or self._halves[1] in lowered
        lowered = text.lower()
        return any(c in lowered for c in (_START, _PAD, _END, _POISON, *self._halves))

    def split(self, text: str) -> list[str | tuple[Kind, int]]:
        """The text in pieces: plain texts, none empty, and (kind, number) of the marks."""
        if not self.touches(text):
            return [text] if text else []
        pieces: list[str | tuple[Kind, int]] = []
        start = 0
        while (at := text.find(self._head, start)) >= 0:
            self._add_plain(pieces, text[start:at])
            inner = at + len(self._head)
            end = text.find(self._tail, inner)
            body = text[inner:end] if end >= 0 else ""
            if not body[1:].isdecimal():
                raise _changed()
            pieces.append(("v" if body[0] == "v" else "a", int(body[1:])))
            start = end + len(self._tail)
        self._add_plain(pieces, text[start:])
        return pieces

    def _add_plain(self, pieces: list[str | tuple[Kind, int]], text: str) -> None:
        if _POISON in text:
            raise ProgramError(
                "the repr of a ref was put into a text, as by printing a list of refs",
                hint="await the refs and use their values, or add them one by one",
            )
        if self.touches(text):
            raise _changed()
        if text:
            pieces.append(text)


def poisoned(text: str) -> str:
    """A text for people, which no run accepts."""
    return text + _POISON


def _changed() -> ProgramError:
    return ProgramError(
        "a text was changed after a ref without a value was put into it, or comes from another run",
        hint="await the ref first, then change the text",
    )

"""Tags in free text: where triggers, ends and the special tokens of the same names may stand.

Where a fixed text holds a name in brackets, such as `<tool_call>`, `<|python_tag|>` or
`[TOOL_CALLS]`, the special token of that name may stand for it, in vocabularies that have one; so
both ways are in the grammar, and free text itself has no special tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from sgen.errors import GrammarError
from sgen.grammars.builder import Builder
from sgen.grammars.frames import DONE, Network, Option
from sgen.grammars.free_text import free_text
from sgen.grammars.vocabulary import special_text

MAX_WATCHED = 4_096
"""Bytes of all words that one free text watches for."""

MAX_WORD = 256

_NAME = re.compile(r"<[^<>\s]{1,80}>|\[[^\[\]\s]{1,80}\]")


@dataclass(frozen=True, slots=True)
class Mark:
    """A fixed text, or, with `token`, the special token of that name alone."""

    text: str
    token: bool = False

    def lower(self, builder: Builder, start: int = 0) -> int:
        """The node of the text from character `start` on, names in it as tokens or spelled."""
        if self.token:
            return builder.literal(special_text(self.text))
        nodes: list[int] = []
        done = start
        for found in _NAME.finditer(self.text, start):
            if found.start() > done:
                nodes.append(builder.literal(self.text[done : found.start()].encode()))
            name = found.group()
            nodes.append(builder.words((name.encode(), special_text(name))))
            done = found.end()
        if done < len(self.text):
            nodes.append(builder.literal(self.text[done:].encode()))
        return builder.sequence(nodes)

    def tokens(self, builder: Builder, before: int) -> Iterator[tuple[str, int]]:
        """Special tokens that may stand within the first `before` characters: the text ahead of
        each, and the node of the token and the rest."""
        if self.token:
            yield "", self.lower(builder)
            return
        for found in _NAME.finditer(self.text):
            if found.start() < before:
                token = builder.literal(special_text(found.group()))
                rest = self.lower(builder, found.end())
                yield self.text[: found.start()], builder.sequence([token, rest])

    def starts(self, other: Mark) -> bool:
        """Whether `other` begins with this."""
        if self.token or other.token:
            return self == other
        return other.text.startswith(self.text)


@dataclass(frozen=True, slots=True)
class Tag:
    """`body` is the node of the content and the end, `pointer` its place in the source."""

    begin: Mark
    body: int
    pointer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedText:
    """Free text with tags in it, up to one of the closers or, without any, up to the end.

    A trigger in free text leads to the tags that begin with it.  `first`: a tag stands at the
    beginning; `once`: only a closer follows a tag.
    """

    tags: Sequence[Tag] = ()
    triggers: Sequence[Mark] = ()
    excludes: Sequence[Mark] = ()
    closers: Sequence[Mark] = ()
    first: bool = False
    once: bool = False
    pointer: str

    def lower(self, builder: Builder) -> int:
        """Its node.  GrammarError for triggers without tags, and for what could never begin."""
        self._check()
        begin = int(self.first)  # the state of free text; what follows it is the next one
        after = begin + 2 if self.once else begin
        states: list[tuple[Option, ...]] = []
        if self.first:
            states.append(tuple(((tag.begin.lower(builder), tag.body), after) for tag in self.tags))
        states += _FreeText(builder, self, begin).states(after)
        if self.once:
            ends: list[tuple[int, ...]] = [(mark.lower(builder),) for mark in self.closers]
            states.append(tuple((symbols, DONE) for symbols in ends or [()]))
        return builder.frame(Network(tuple(states)))

    def _check(self) -> None:
        for trigger in self.triggers:
            if not any(trigger.starts(tag.begin) for tag in self.tags):
                self.refuse(f"no tag begins with the trigger {trigger.text!r}", "triggers")
        for tag in self.tags:
            if not any(trigger.starts(tag.begin) for trigger in self.triggers):
                raise GrammarError(
                    f"the tag {tag.begin.text!r} begins with none of the triggers",
                    keyword="begin",
                    pointer=tag.pointer,
                )

    def refuse(self, message: str, keyword: str, hint: str = "") -> NoReturn:
        raise GrammarError(message, keyword=keyword, pointer=self.pointer, hint=hint)


class _FreeText:
    """Two states: free text, and what follows it before anything else is read."""

    def __init__(self, builder: Builder, around: TaggedText, begin: int) -> None:
        self._builder = builder
        self._around = around
        self._begin = begin
        marks = (*around.triggers, *around.excludes, *around.closers)
        words = (mark.text.encode() for mark in marks if mark.text and not mark.token)
        self._words = tuple(dict.fromkeys(words))
        if (
            sum(map(len, self._words)) > MAX_WATCHED
            or max(map(len, self._words), default=0) > MAX_WORD
        ):
            around.refuse(
                f"free text can watch for words of {MAX_WORD} bytes, and {MAX_WATCHED:,} in all",
                "triggers",
            )
        self._here: list[Option] = []
        self._behind: list[Option] = []

    def states(self, after: int) -> list[tuple[Option, ...]]:
        """`after`: the state that a tag leads to."""
        around = self._around
        if not around.closers or any(not mark.text for mark in around.closers):
            self._behind.append(((), DONE))
        for mark in around.closers:
            self._add_closer(mark)
        begun = {tag for trigger in around.triggers for tag in self._add_trigger(trigger, after)}
        for tag in around.tags:
            ours = [len(t.text) for t in around.triggers if t.starts(tag.begin)]
            for ahead, node in tag.begin.tokens(self._builder, min(ours)):
                self._add(ahead, (node, tag.body), after)
            if tag not in begun:
                around.refuse(f"the tag {tag.begin.text!r} can never begin: another word comes "
                              "before its trigger is complete", "triggers",
                              "leave out the longer of the two triggers")  # fmt: skip
        plain = self._up_to("")
        if plain is not None and self._behind:
            self._here.append(((plain,), self._begin + 1))
        return [tuple(self._here), tuple(self._behind)]

    def _add_trigger(self, trigger: Mark, after: int) -> list[Tag]:
        """The tags that a trigger in the text leads to; none if it can never be complete."""
        builder = self._builder
        tags = [tag for tag in self._around.tags if trigger.starts(tag.begin)]
        if trigger.token:
            return tags
        rests = [
            builder.sequence([tag.begin.lower(builder, len(trigger.text)), tag.body])
            for tag in tags
        ]
        return tags if self._add(trigger.text, (builder.alternatives(rests),), after) else []

    def _add_closer(self, mark: Mark) -> None:
        comes = mark.token or not mark.text or self._add(mark.text, (), DONE)
        for ahead, node in mark.tokens(self._builder, len(mark.text)):
            self._add(ahead, (node,), DONE)
        if not comes:
            self._around.refuse(
                f"the end {mark.text!r} can never come: another word is within it", "end"
            )

    def _add(self, ahead: str, nodes: tuple[int, ...], target: int) -> bool:
        """Free text that ends in `ahead`, and the nodes; False if there is no such text."""
        if not ahead:
            self._behind.append((nodes, target))
            return True
        text = self._up_to(ahead)
        if text is not None:
            self._here.append(((text, *nodes), target))
        return text is not None

    def _up_to(self, ending: str) -> int | None:
        key = ("free text", self._words, ending)
        known = self._builder.find(key)
        if known is None:
            table = free_text(self._words, ending.encode(), self._builder.work)
            if table is None:
                return None
            known = self._builder.lexeme(key, table)
        return known

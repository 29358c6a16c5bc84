"""From the parts of a prompt to tokens, by the model's own chat template.

- A message's text is put into the rendered template by us, not by the template: it renders a
  placeholder.  So special tokens written in a message stay plain characters, and tokens that the
  model generated stay the tokens they were.  The same holds for every text of a tool or a call.
- Templates come with the model; a request never brings one.
- Text between two runs of generated tokens is encoded as one text, so a prompt has the tokens that
  the same text would have in one piece.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from sgen.errors import InvalidRequestError
from sgen.protocol import PromptPart, Text, Tokens, ToolFormat
from sgen.runtime.conversation import Content, Conversation, read
from sgen.runtime.habits import THINK, Habits, habits_of
from sgen.runtime.template import ChatTemplate, Fields, check_shown
from sgen.runtime.texts import (
    CLOSE,
    OPEN,
    PLACEHOLDER,
    REASONING,
    Texts,
    check_unicode,
    escape,
)
from sgen.runtime.tokenizer import Tokenizer
from sgen.runtime.tool_prompts import (
    as_plain,
    call_value,
    one_call_each,
    result_value,
    tool_value,
    without_system,
)

Piece = str | Text | Tokens
"""str: text of the template, in which special tokens are meant."""


class PromptEncoder:
    """Prompts to token ids, for one model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        source = tokenizer.chat_template
        self._template = ChatTemplate(source, tokenizer.special_tokens) if source else None
        self._habits = habits_of(self._template) if self._template else None

    @property
    def has_template(self) -> bool:
        return self._template is not None

    @property
    def tool_format(self) -> ToolFormat:
        """How the model is told to write calls."""
        return (self._habits and self._habits.tools) or "json"

    @property
    def reasoning(self) -> tuple[str, str] | None:
        """What begins and ends reasoning in the text of an output, where the template or the
        vocabulary knows it."""
        ids = self._tokenizer.encode(THINK[1], special=True)
        if any(map(self._tokenizer.is_special, ids)):
            return None  # no text of an output has it
        in_template = self._template is not None and THINK[1] in self._template.source
        return THINK if in_template or len(ids) == 1 else None

    @property
    def reasoning_open(self) -> bool:
        """Whether the template begins the reasoning, so that an output starts inside of it."""
        return self._habits is not None and self._habits.reasoning_open

    def encode(self, parts: Sequence[PromptPart]) -> list[int]:
        """Token ids of a prompt; InvalidRequestError if its roles make no sense, a text is not
        valid Unicode, or the JSON of a tool or a call is none."""
        return self._encode_pieces(list(self._pieces(parts)))

    def render(self, parts: Sequence[PromptPart]) -> str:
        """The text that the tokens of `encode` stand for, special tokens by their names (but for
        one that starts a plain text).  Errors as `encode` has them."""
        pieces = self._pieces(parts)
        return "".join(piece if isinstance(piece, str) else piece.text for piece in pieces)

    # --- parts to pieces -------------------------------------------------------------------------

    def _pieces(self, parts: Sequence[PromptPart]) -> Iterator[Piece]:
        for part in parts:
            if isinstance(part, Text):
                check_unicode(part.text)
        conversation = read(parts)
        if not conversation.messages:
            yield from conversation.after
            return
        if self._template is None or self._habits is None:
            raise InvalidRequestError(
                "the model has no chat template, so it knows no roles",
                param="prompt",
                hint="write the prompt as plain text, or use an instruction-tuned model",
            )
        yield from _Rendering(self._template, self._habits, conversation).pieces()

    # --- pieces to tokens ------------------------------------------------------------------------

    def _encode_pieces(self, pieces: Sequence[Piece]) -> list[int]:
        tokenizer = self._tokenizer
        chat = any(isinstance(p, str) for p in pieces)
        ids = [tokenizer.bos_id] if tokenizer.add_bos and not chat else []
        out: list[int] = [i for i in ids if i is not None]
        stretch: list[str | Text] = []
        for piece in pieces:
            if isinstance(piece, Tokens):
                out += self._encode_stretch(stretch, inner=bool(out))
                out += piece.ids
                stretch = []
            elif isinstance(piece, Text) and stretch and isinstance(stretch[-1], Text):
                # Joined, so that no special token hides across two parts.
                stretch[-1] = Text(stretch[-1].text + piece.text)
            elif piece:  # an empty piece of the template would keep two texts from being joined
                stretch.append(piece)
        return out + self._encode_stretch(stretch, inner=bool(out))

    def _encode_stretch(self, pieces: Sequence[str | Text], *, inner: bool) -> list[int]:
        """Encode neighbouring texts as one, unless a person's text spells out a special token."""
        runs: list[list[str | Text]] = []
        joinable = False
        for piece in pieces:
            hostile = isinstance(piece, Text) and self._tokenizer.has_special(piece.text)
            if joinable and not hostile:
                runs[-1].append(piece)
            else:
                runs.append([piece])
            joinable = not hostile
        out: list[int] = []
        for run in runs:
            out += self._encode_run(run, inner=inner or bool(out))
        return out

    def _encode_run(self, run: Sequence[str | Text], *, inner: bool) -> list[int]:
        """Encode as one text where this gives the special tokens of the template's pieces and no
        others; a normalizer, or the seam of two pieces, could make more.  Else piece by piece."""
        tokenizer = self._tokenizer
        texts = [p.text if isinstance(p, Text) else p for p in run]
        if len(run) == 1 and isinstance(
            run[0], Text
        ):  # any token that it spells is plain, <unk> too
            return tokenizer.encode(texts[0], inner=inner)
        meant: list[int] = []
        known: dict[str, list[int]] = {}  # the same pieces stand between the texts of many tools
        for piece in run:
            if isinstance(piece, str):
                if piece not in known:
                    ids = tokenizer.encode(piece, special=True)
                    known[piece] = [i for i in ids if tokenizer.is_special(i)]
                meant += known[piece]
        ids = tokenizer.encode("".join(texts), special=True, inner=inner)
        if [i for i in ids if tokenizer.is_special(i)] == meant:
            return ids
        out: list[int] = []
        for piece, text in zip(run, texts, strict=True):
            special = isinstance(piece, str)
            out += tokenizer.encode(text, special=special, inner=inner or bool(out))
        return out


class _Rendering:
    """One conversation, as the template shows it."""

    def __init__(self, template: ChatTemplate, habits: Habits, conversation: Conversation) -> None:
        self._template = template
        if habits.tools is None:
            conversation = as_plain(conversation)
        self._messages = conversation.messages
        if habits.one_call:
            self._messages = one_call_each(self._messages)
        if not habits.system:
            self._messages = without_system(self._messages)
        self._after = conversation.after
        self._texts = Texts()
        self._tools = [tool_value(tool, self._texts) for tool in conversation.tools]
        self._fields = [self._fields_of(i, habits) for i in range(len(self._messages))]

    def pieces(self) -> Iterator[Piece]:
        text, offset = self._text(), 0
        for i, message in enumerate(self._messages):
            if message.before:
                end = self._end_of(i, text) if i else 0
                yield from self._fill(text[offset:end])
                yield from message.before
                offset = end
        if self._after:
            end = self._end_of(len(self._messages), text)
            yield from self._fill(text[offset:end])
            yield from self._after
            offset = end
        yield from self._fill(text[offset:])
        last = self._messages[-1]
        if not last.closed and last.role == "assistant":
            yield from last.content

    def _fields_of(self, i: int, habits: Habits) -> Fields:
        message = self._messages[i]
        short_id = habits.tools == "mistral"
        fields: dict[str, Any] = {}
        if message.role == "tool":
            fields |= result_value(message, self._texts, short_id=short_id)
        if message.role == "assistant" and message.closed and habits.reasoning != "kept":
            reasoning, content = _split_reasoning(message.content, habits.reasoning_open)
            if reasoning and habits.reasoning == "field":
                where = "the reasoning of a message"
                fields["reasoning_content"] = self._texts.placeholder(REASONING, reasoning, where)
            self._messages[i] = message = replace(message, content=content)
        if message.calls:
            calls = [call_value(c, self._texts, short_id=short_id) for c in message.calls]
            fields["tool_calls"] = calls
            if not any(part.text for part in message.content):
                fields["content"] = ""  # templates ask whether there is any
        return fields

    def _text(self) -> str:
        """The template's text up to where the next token belongs, with placeholders."""
        n = len(self._messages)
        last = self._messages[-1]
        if last.closed:
            text = self._render(n, prompt=False)
        elif last.role == "assistant" and n > 1:
            text = self._render(n - 1, prompt=True)
        else:
            # The message being written: what the template says before its content.
            marker = f"{OPEN}{n - 1}{CLOSE}"
            before, _, _ = self._render(n, prompt=False).partition(marker)
            text = before if last.role == "assistant" else before + marker
            shown = n - 1 if last.role == "assistant" else n
            check_shown(text, [m.role for m in self._messages[:shown]], self._fields[:shown])
        self._check_tools(text)
        return text

    def _render(self, number: int, *, prompt: bool) -> str:
        """The first messages."""
        return self._template.render(
            [m.role for m in self._messages[:number]],
            prompt=prompt,
            fields=self._fields[:number],
            tools=self._tools,
        )

    def _check_tools(self, text: str) -> None:
        """The model sees every tool that it may call, and every call that it made."""
        functions = [tool["function"] for tool in self._tools]
        functions += [c["function"] for f in self._fields for c in f.get("tool_calls", ())]
        shown = {m["kind"] + m["number"] for m in PLACEHOLDER.finditer(text)}
        for function in functions:
            found = PLACEHOLDER.match(function["name"])
            if found is not None and found["kind"] + found["number"] not in shown:
                raise InvalidRequestError(
                    f"the model's chat template does not show tool {self._texts.of(found)!r}"
                    " or its call with these messages",
                    param="prompt",
                    hint="templates often show tools beside the first or the last user message",
                )

    def _end_of(self, number: int, text: str) -> int:
        """Where in `text` the first messages end, if the template writes them one by one."""
        head = self._render(number, prompt=False)
        if not text.startswith(head):
            raise InvalidRequestError(
                "the model's chat template does not allow text between messages",
                param="prompt",
                hint="put the text into a role",
            )
        return len(head)

    def _fill(self, text: str) -> Iterator[Piece]:
        """The template's text with each placeholder replaced by what it stands for."""
        offset = 0
        for found in PLACEHOLDER.finditer(text):
            yield text[offset : found.start()]
            offset = found.end()
            yield from [Text(self._texts.of(found))] if found["kind"] else self._content(found)
        yield text[offset:]

    def _content(self, found: re.Match[str]) -> Sequence[Text | Tokens]:
        message = self._messages[int(found["number"])]
        content: Content = message.content
        if self._template.trims(message.role):
            content = list(_trimmed(content))
        if not found["escapes"]:
            return content
        text = "".join(part.text for part in content)
        return [Text(escape(text, len(found["escapes"])))]


def _split_reasoning(content: Content, is_open: bool) -> tuple[str, Content]:
    """The reasoning that a text begins with, and the rest; generated tokens are kept together."""
    begin, end = THINK
    if any(isinstance(part, Tokens) for part in content):
        return "", content
    head, found, rest = "".join(part.text for part in content).partition(end)
    if not found or not (is_open or head.lstrip().startswith(begin)):
        return "", content
    return head.lstrip().removeprefix(begin).strip("\n"), [Text(rest.lstrip("\n"))]


def _trimmed(content: Content) -> Iterator[Text | Tokens]:
    """Content as a template that strips white space would have it; generated tokens stay."""
    for i, part in enumerate(content):
        if isinstance(part, Tokens):
            yield part
            continue
        text = part.text.lstrip() if i == 0 else part.text
        yield Text(text.rstrip() if i == len(content) - 1 else text)

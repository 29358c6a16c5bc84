"""From the parts of a prompt to tokens, by the model's own chat template.

- A message's text is put into the rendered template by us, not by the template: it renders a
  placeholder.  So special tokens written in a message stay plain characters, and tokens that the
  model generated stay the tokens they were.
- Templates come with the model; a request never brings one.
- Text between two runs of generated tokens is encoded as one text, so a prompt has the tokens that
  the same text would have in one piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sgen.errors import InvalidRequestError
from sgen.protocol import PromptPart, Role, RoleEnd, RoleStart, Text, Tokens
from sgen.runtime.template import CLOSE, OPEN, ChatTemplate, check_shown
from sgen.runtime.tokenizer import Tokenizer

Piece = str | Text | Tokens
"""str: text of the template, in which special tokens are meant."""


@dataclass(slots=True)
class Message:
    role: Role
    content: list[Text | Tokens] = field(default_factory=list)
    closed: bool = False


class PromptEncoder:
    """Prompts to token ids, for one model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        source = tokenizer.chat_template
        self._template = ChatTemplate(source, tokenizer.special_tokens) if source else None

    @property
    def has_template(self) -> bool:
        return self._template is not None

    def encode(self, parts: Sequence[PromptPart]) -> list[int]:
        """Token ids of a prompt; InvalidRequestError if its roles make no sense or a text is not
        valid Unicode."""
        for part in parts:
            if isinstance(part, Text):
                _check_unicode(part.text)
        return self._encode_pieces(list(self._pieces(parts)))

    # --- parts to pieces -------------------------------------------------------------------------

    def _pieces(self, parts: Sequence[PromptPart]) -> Iterator[Piece]:
        messages, raw = _messages(parts)
        yield from raw.get(0, ())
        if not messages:
            return
        text, offset = self._render(messages), 0
        for i in range(1, len(messages) + 1):
            if i in raw:
                end = self._end_of(messages[:i], text)
                yield from _fill(text[offset:end], messages, self._template)
                yield from raw[i]
                offset = end
        yield from _fill(text[offset:], messages, self._template)
        if not messages[-1].closed and messages[-1].role == "assistant":
            yield from messages[-1].content

    def _render(self, messages: Sequence[Message]) -> str:
        """The template's text up to where the next token belongs, with placeholders."""
        if self._template is None:
            raise InvalidRequestError(
                "the model has no chat template, so it knows no roles",
                param="prompt",
                hint="write the prompt as plain text, or use an instruction-tuned model",
            )
        roles = [m.role for m in messages]
        last = messages[-1]
        if last.closed:
            return self._template.render(roles, prompt=False)
        if last.role == "assistant" and len(roles) > 1:
            return self._template.render(roles[:-1], prompt=True)
        # The message being written: what the template says before its content.
        marker = f"{OPEN}{len(roles) - 1}{CLOSE}"
        before, _, _ = self._template.render(roles, prompt=False).partition(marker)
        text = before if last.role == "assistant" else before + marker
        check_shown(text, roles[:-1] if last.role == "assistant" else roles)
        return text

    def _end_of(self, messages: Sequence[Message], text: str) -> int:
        """Where in `text` these first messages end, if the template writes them one by one."""
        assert self._template is not None
        head = self._template.render([m.role for m in messages], prompt=False)
        if not text.startswith(head):
            raise InvalidRequestError(
                "the model's chat template does not allow text between messages",
                param="prompt",
                hint="put the text into a role",
            )
        return len(head)

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
        meant: list[int] = []
        for piece in run:
            if isinstance(piece, str):
                meant += filter(tokenizer.is_special, tokenizer.encode(piece, special=True))
        ids = tokenizer.encode("".join(texts), special=True, inner=inner)
        if [i for i in ids if tokenizer.is_special(i)] == meant:
            return ids
        out: list[int] = []
        for piece, text in zip(run, texts, strict=True):
            special = isinstance(piece, str)
            out += tokenizer.encode(text, special=special, inner=inner or bool(out))
        return out


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise InvalidRequestError(
            f"a text of the prompt is not valid Unicode: a lone surrogate at character {e.start}",
            param="prompt",
        ) from e


def _messages(
    parts: Sequence[PromptPart],
) -> tuple[list[Message], dict[int, list[Text | Tokens]]]:
    """Messages, and the parts outside of them by the number of messages before."""
    messages: list[Message] = []
    raw: dict[int, list[Text | Tokens]] = {}
    for part in parts:
        is_open = bool(messages) and not messages[-1].closed
        match part:
            case RoleStart(role):
                if is_open:
                    raise InvalidRequestError(
                        f"role {role!r} starts inside role {messages[-1].role!r}", param="prompt"
                    )
                messages.append(Message(role))
            case RoleEnd():
                if not is_open:
                    raise InvalidRequestError("a role ends that did not start", param="prompt")
                messages[-1].closed = True
            case _ if is_open:
                messages[-1].content.append(part)
            case _:
                raw.setdefault(len(messages), []).append(part)
    return messages, raw


def _fill(text: str, messages: Sequence[Message], template: ChatTemplate | None) -> Iterator[Piece]:
    """The template's text with each placeholder replaced by its message's content."""
    first, *rest = text.split(OPEN)
    yield first
    for chunk in rest:
        number, _, after = chunk.partition(CLOSE)
        message = messages[int(number)]
        trim = template is not None and template.trims(message.role)
        yield from _trimmed(message.content) if trim else message.content
        yield after


def _trimmed(content: Sequence[Text | Tokens]) -> Iterator[Text | Tokens]:
    """Content as a template that strips white space would have it; generated tokens stay."""
    for i, part in enumerate(content):
        if isinstance(part, Tokens):
            yield part
            continue
        text = part.text.lstrip() if i == 0 else part.text
        yield Text(text.rstrip() if i == len(content) - 1 else text)

"""Chat templates that come with a model: compiled, bounded, and never shown a person's text.

- A template renders a placeholder for each message; `render` gives nothing in which one of them
  is missing, broken, twice there or out of order.
- Templates run in a sandbox with a budget of work (see sandbox.py).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sgen.errors import InvalidRequestError, UnsupportedModelError
from sgen.protocol import Role
from sgen.runtime.sandbox import BUDGET, Environment
from sgen.runtime.texts import CLOSE, ESCAPED, OPEN, PLACEHOLDER

_MAX_SOURCE = 1 << 18  # characters

Fields = Mapping[str, Any]
"""What a message has beside its role and the placeholder of its content: calls, for one; with
`content`, that instead of the placeholder."""


class ChatTemplate:
    """A compiled template; `render(roles)` gives its text with a placeholder for each content."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        if len(source) > _MAX_SOURCE:
            raise UnsupportedModelError(
                f"the model's chat template is longer than {_MAX_SOURCE} characters"
            )
        self.source = source
        self._environment = Environment()
        self._lock = threading.Lock()  # the budget is of one rendering
        try:
            self._template = self._environment.from_string(source)
        except Exception as e:  # beside syntax errors, those of Python's own compiler and stack
            raise UnsupportedModelError(
                f"the model's chat template does not compile: {str(e)[:500] or type(e).__name__}"
            ) from e
        self._special_tokens = dict(special_tokens)
        roles: tuple[Role, ...] = ("system", "user", "assistant", "tool")
        self._trims = {role: self._does_trim(role) for role in roles}

    def render(
        self,
        roles: Sequence[Role],
        *,
        prompt: bool,
        fields: Sequence[Fields] = (),
        tools: Sequence[Any] = (),
    ) -> str:
        """The template's text for messages of these roles; `prompt`: then the assistant speaks.

        `fields` has one entry a message, or none; strings of them and of `tools` are placeholders.
        InvalidRequestError where the template refuses the messages (their order, for one), or
        does not show each of them once.
        """
        text = self._render(roles, prompt, fields, tools)
        check_shown(text, roles, fields)
        return text

    def trims(self, role: Role) -> bool:
        """Whether the template strips white space around the content of this role."""
        return self._trims[role]

    def _render(
        self,
        roles: Sequence[Role],
        prompt: bool,
        fields: Sequence[Fields] = (),
        tools: Sequence[Any] = (),
    ) -> str:
        messages = [
            {"role": role, "content": f"{OPEN}{i}{CLOSE}", **(fields[i] if fields else {})}
            for i, role in enumerate(roles)
        ]
        shown = {"tools": list(tools)} if tools else {}
        try:
            with self._lock:
                self._environment.left = BUDGET
                return self._template.render(
                    messages=messages,
                    add_generation_prompt=prompt,
                    **shown,
                    **self._special_tokens,
                )
        except Exception as e:  # templates may fail in any way that Python can
            names = ", ".join(roles[:8]) + (", …" if len(roles) > 8 else "")
            raise InvalidRequestError(
                f"the model's chat template refuses messages of roles {names}: {str(e)[:500]}",
                param="prompt",
                hint="templates often want system first, then user and assistant in turn",
            ) from e

    def _does_trim(self, role: Role) -> bool:
        roles: tuple[Role, ...] = ("user",) if role == "user" else ("user", role)
        if role == "system":
            roles = ("system", "user")
        try:
            text = self._render(roles, False, [{"content": f" {OPEN} "}] * len(roles))
        except InvalidRequestError:
            return False
        return f" {OPEN} " not in text.replace(ESCAPED, "")


def check_shown(text: str, roles: Sequence[Role], fields: Sequence[Fields] = ()) -> None:
    """InvalidRequestError unless the text has each message's placeholder once, whole, in order.

    System messages may be anywhere: some templates show them within the first user's turn.  Text
    beside calls may be left out, as some templates do, and so may an empty one.
    """
    matches = list(PLACEHOLDER.finditer(text))
    found = [int(m["number"]) for m in matches if not m["kind"]]
    shown = Counter(found)
    for i, role in enumerate(roles):
        may_lack = bool(fields) and "tool_calls" in fields[i]
        if shown[i] != 1 and not (may_lack and shown[i] == 0):
            raise InvalidRequestError(
                f"the model's chat template does not show message {i} of role {role} once",
                param="prompt",
                hint="leave out the messages that this model does not take",
            )
    turns = [n for n in found if n < len(roles) and roles[n] != "system"]
    known = all(n < len(roles) for n in found)
    whole = text.count(OPEN) == text.count(CLOSE) == len(matches)
    if turns != sorted(turns) or not whole or not known:
        raise InvalidRequestError(
            "the model's chat template does not show the messages in their order",
            param="prompt",
        )

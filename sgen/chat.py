"""`sgen chat`: a conversation on the terminal, or line by line through a pipe."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator

import msgspec

from sgen.engine import Engine
from sgen.errors import ProgramError, SgenError
from sgen.protocol import (
    GenerateRequest,
    PromptPart,
    RoleEnd,
    RoleStart,
    SamplingParams,
    Text,
    Tokens,
    Usage,
)
from sgen.terminal import show_error

HELP = "/help shows this, /new starts anew, /exit leaves; Ctrl-C stops an answer"


class Conversation:
    """The prompt so far; answers stay the tokens that they were generated as."""

    def __init__(self, engine: Engine, system: str | None, params: SamplingParams) -> None:
        self._engine = engine
        self._params = params
        self._start: list[PromptPart] = []
        if system is not None:
            self._start = [RoleStart("system"), Text(system), RoleEnd()]
        self._parts = list(self._start)
        self._turns = 0

    def restart(self) -> None:
        self._parts = list(self._start)

    async def answer(self, message: str, *, echo: bool) -> dict[str, object]:
        """Send a message; the answer's text, how it ended, and its usage.

        An answer that fails or is stopped leaves the conversation as it was before the message.
        """
        self._turns += 1
        question: list[PromptPart] = [RoleStart("user"), Text(message), RoleEnd()]
        prompt = (*self._parts, *question, RoleStart("assistant"))
        request = GenerateRequest(id=f"chat-{self._turns}", prompt=prompt, params=self._params)
        text, reason, usage = "", "", Usage()
        ids: list[int] = []
        async for chunk in self._engine.extend(request):
            if echo:
                sys.stdout.write(chunk.text)
                sys.stdout.flush()
            text += chunk.text
            ids += chunk.token_ids
            reason, usage = chunk.finish_reason or reason, chunk.usage or usage
        self._parts += question
        self._parts += [RoleStart("assistant"), Tokens(tuple(ids), text), RoleEnd()]
        return {"text": text, "finish_reason": reason, "usage": msgspec.to_builtins(usage)}


def chat(
    system: str | None, load: Callable[[], Engine], params: SamplingParams, *, as_json: bool
) -> int:
    """Read messages from stdin until it ends; `as_json` prints an object for each answer."""
    shown = sys.stdin.isatty() and not as_json
    with load() as engine:
        if not engine.info.has_chat_template:
            raise ProgramError(
                f"{engine.info.name} has no chat template", hint="use `sgen generate --raw`"
            )
        conversation = Conversation(engine, system, params)
        if shown:
            print(f"{engine.info.name} — {HELP}")
        for line in _lines(shown):
            if line == "/exit":
                break
            if line == "/help":
                print(HELP)
            elif line == "/new":
                conversation.restart()
            elif line:
                _turn(conversation, line, as_json=as_json)
    return 0


def _lines(shown: bool) -> Iterator[str]:
    while True:
        try:
            yield input("> " if shown else "").strip()
        except EOFError:
            return


def _turn(conversation: Conversation, line: str, *, as_json: bool) -> None:
    start = time.monotonic()
    try:
        answer = asyncio.run(conversation.answer(line, echo=not as_json))
    except KeyboardInterrupt:
        print("\n(stopped)", file=sys.stderr)
        return
    except SgenError as error:
        # The conversation goes on without this message.
        show_error(error, as_json=as_json)
        return
    if as_json:
        print(json.dumps(answer, ensure_ascii=False), flush=True)
        return
    usage = answer["usage"]
    assert isinstance(usage, dict)
    rate = usage.get("completion_tokens", 0) / (time.monotonic() - start)
    print(flush=True)
    print(
        f"({usage.get('cached_tokens', 0)} tokens from the cache, {rate:.1f} tok/s)",
        file=sys.stderr,
    )

"""A server without a model, for tests of endpoints: in this process, or on a socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from sgen.frontend.fake import FakeBackend, prompt_text
from sgen.protocol import GrammarSpec, PromptPart
from sgen.runtime.stats import EngineStats
from sgen.server.backend import EngineState


class ServedFake(FakeBackend):
    """FakeBackend as a `ServerBackend`: a token is a character."""

    state: EngineState = "ready"

    async def check(self, grammar: GrammarSpec) -> int:
        return self.check_grammar(grammar)

    async def tokenize(self, prompt: Sequence[PromptPart]) -> list[int]:
        return [ord(c) for c in prompt_text(prompt)]

    async def detokenize(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    async def apply_template(self, prompt: Sequence[PromptPart]) -> str:
        return prompt_text(prompt)

    async def stats(self) -> EngineStats:
        raise NotImplementedError("this engine keeps no counters")


@contextmanager
def on_socket(app: Starlette) -> Iterator[str]:
    """The server's address on loopback, while the block runs."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, http="h11", log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()

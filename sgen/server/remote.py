"""An engine in a process of its own, as the HTTP process sees it: `ServerBackend` over the link.

- The socket is read whenever something is there, whoever is slow to take his chunks: those wait
  at their request, at most as many as it has tokens.
- A process that does not answer is killed.  When it dies, however it dies, everything that was
  asked of it ends with EngineClosedError at once, and another is started, after a pause that
  doubles while they keep dying.  Only an engine that cannot be loaded is given up.
- Everything here belongs to the event loop in which `start` was called, but `cancel`,
  `check_grammar` and `count_tokens`, which are for any thread; the latter two wait, so they are
  for any other thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

from sgen.errors import EngineClosedError, InvalidRequestError, SgenError
from sgen.protocol import (
    Chunk,
    GenerateRequest,
    GrammarSpec,
    ModelInfo,
    PromptPart,
    ScoreRequest,
    Scores,
)
from sgen.runtime.stats import EngineStats
from sgen.server.backend import EngineState
from sgen.server.link import (
    Answer,
    Cancel,
    Check,
    Checked,
    Chunks,
    Command,
    Counted,
    Detokenize,
    EngineOptions,
    Extend,
    Failed,
    Frames,
    LinkError,
    Loading,
    News,
    NotLoaded,
    Ready,
    Render,
    Score,
    Scored,
    Stats,
    Tokenize,
    Tokenized,
    Withdraw,
    Written,
    error_of,
    frame,
    news_of,
)

FIRST_PAUSE = 0.5
"""Seconds before a process that died is followed by another; then twice as long each time."""

LONGEST_PAUSE = 30.0

SOUND_SECONDS = 60.0
"""A process that was ready for so long did not die of its start: the next pause is the first."""

END_SECONDS = 8.0
"""For a process whose link was closed; then it is killed."""

PATIENCE = 30.0
"""Seconds in which a process must say how it is, which takes it a millisecond whatever it computes:
who does not is stopped or stuck, and is killed."""

Progress = Callable[[str, int, int], None]
T = TypeVar("T")

log = logging.getLogger(__name__)


def engine_command() -> tuple[str, ...]:
    """How this interpreter becomes the engine process."""
    return (sys.executable, "-P", "-m", "sgen.server.engine_process")


class RemoteEngine:
    """A `ServerBackend`.  Await `start` first, and `close` at the end."""

    def __init__(
        self,
        options: EngineOptions,
        *,
        command: Sequence[str] | None = None,
        progress: Progress = lambda stage, done, total: None,
        pause: float = FIRST_PAUSE,
        patience: float = PATIENCE,
    ) -> None:
        """`command` starts the process.  In seconds: `pause` is the first before a restart, and
        `patience` how long a process may be silent."""
        self._options = options
        self._command = tuple(command or engine_command())
        self._progress = progress
        self._first_pause = pause
        self._patience = patience
        self._state: EngineState = "starting"
        self._info: ModelInfo | None = None
        self._connection: _Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.restarts = 0

    async def start(self) -> None:
        """Returns when the engine is ready.  Raises as Engine.load does if it cannot be loaded,
        EngineClosedError if the process dies over it; then nothing is left running."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._open()
        except BaseException:
            if self._state == "starting":  # not closed meanwhile
                self._state = "failed"
            raise
        self._keeper = asyncio.create_task(self._keep(), name="engine-keeper")

    async def close(self) -> None:
        """End the process, and with EngineClosedError all requests.  May be called again."""
        self._state = "closed"
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._connection is not None:
            await self._connection.end("the engine was closed", END_SECONDS)

    @property
    def state(self) -> EngineState:
        if self._state == "ready" and (self._connection is None or self._connection.ended):
            return "restarting"  # which its keeper will say in a moment
        return self._state

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return None if self._connection is None else self._connection.process.pid

    # --- Backend -------------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo:
        """As the engine said last.  EngineClosedError before it was ever ready."""
        if self._info is None:
            raise self._unready()
        return self._info

    async def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Chunks as they come; closing the iterator cancels the request within one step."""
        connection = self._ready()
        call = connection.begin(lambda number: Extend(number, request))
        try:
            while True:
                chunk = await call.get()
                assert isinstance(chunk, Chunk)
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            connection.withdraw(call)

    async def score(self, request: ScoreRequest) -> Scores:
        """How likely each option is as the continuation of the prompt."""
        return (await self._ask(Scored, lambda number: Score(number, request))).value

    def cancel(self, request_id: str) -> None:
        """Stop a request, of whichever kind; unknown and finished ones are ignored."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel, request_id)

    def check_grammar(self, grammar: GrammarSpec) -> int:
        """As `check`, for other threads than the loop's."""
        return self._wait(self.check(grammar))

    def count_tokens(self, prompt: Sequence[PromptPart]) -> int:
        """For other threads than the loop's, which await `tokenize`."""
        return len(self._wait(self.tokenize(prompt)))

    # --- ServerBackend -------------------------------------------------------------------------

    async def check(self, grammar: GrammarSpec) -> int:
        """Compile it; the least number of tokens of an output.  GrammarError if refused."""
        return (await self._ask(Checked, lambda number: Check(number, grammar))).value

    async def tokenize(self, prompt: Sequence[PromptPart]) -> list[int]:
        """The tokens of a prompt.  InvalidRequestError if its roles make no sense."""
        return (await self._ask(Tokenized, lambda n: Tokenize(n, tuple(prompt)))).value

    async def detokenize(self, ids: Sequence[int]) -> str:
        """The text of tokens.  InvalidRequestError for ids outside the vocabulary."""
        return (await self._ask(Written, lambda n: Detokenize(n, tuple(ids)))).value

    async def apply_template(self, prompt: Sequence[PromptPart]) -> str:
        """The text of a prompt, special tokens by their names."""
        return (await self._ask(Written, lambda n: Render(n, tuple(prompt)))).value

    async def stats(self) -> EngineStats:
        """Counters since the engine's start, and pages as they are now."""
        return (await self._ask(Counted, Stats)).value

    # --- the rest ------------------------------------------------------------------------------

    async def _ask(self, kind: type[T], question: Callable[[int], Command]) -> T:
        connection = self._ready()
        call = connection.begin(question)
        try:
            answer = await call.get()
        finally:
            connection.withdraw(call)
        assert isinstance(answer, kind), "an answer of another kind"
        return answer

    def _wait(self, awaited: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            awaited.close()
            raise self._unready()
        return asyncio.run_coroutine_threadsafe(awaited, self._loop).result()

    def _cancel(self, request_id: str) -> None:
        if self._connection is not None:
            self._connection.send(Cancel(request_id))

    def _ready(self) -> _Connection:
        if self._connection is None or self.state != "ready":
            raise self._unready()
        return self._connection

    def _unready(self) -> EngineClosedError:
        now = {"starting": "being loaded", "closed": "closed", "failed": "not to be loaded"}
        return EngineClosedError(
            f"the engine is {now.get(self.state, 'being restarted')}", hint="try again later"
        )

    async def _open(self) -> None:
        """Start a process and wait until it is ready."""
        connection = await _connect(self._command, self._progress)
        self._connection = connection
        try:
            connection.send(self._options)
            self._info = await connection.ready
        except BaseException:
            await connection.end("the engine was not loaded", END_SECONDS)
            raise
        self._state = "ready"

    async def _keep(self) -> None:
        """Have a process running, until the engine is closed or cannot be loaded."""
        pause = self._first_pause
        while self._connection is not None:
            since = time.monotonic()
            await self._watch(self._connection)
            self._state = "restarting"
            self.restarts += 1
            code = await self._connection.end("", END_SECONDS)
            if time.monotonic() - since > SOUND_SECONDS:
                pause = self._first_pause
            log.error("the engine process ended with code %s; another is started", code)
            try:
                pause = await self._reopen(pause)
            except SgenError as error:
                log.error("the engine cannot be loaded any more: %s", error)
                self._state = "failed"
                return

    async def _watch(self, connection: _Connection) -> None:
        """Returns when the process is lost; one that does not answer is killed."""
        while not connection.lost.is_set():
            if not await connection.answers(self._patience):
                log.error(
                    "the engine process did not answer for %g s, and is killed", self._patience
                )
                connection.process.kill()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await connection.lost.wait()

    async def _reopen(self, pause: float) -> float:
        """Start processes until one is ready; the pause before another.  Raises what is wrong with
        the model or the options, where trying again is no use."""
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                await self._open()
            except (EngineClosedError, OSError) as error:  # it died again, or could not be started
                log.error("the engine process did not start: %s", error)
            else:
                return pause


class _Call:
    """What came for a call, and who waits for it."""

    __slots__ = ("_items", "_waiter", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._items: deque[Chunk | Answer | SgenError] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: Chunk | Answer | SgenError) -> None:
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> Chunk | Answer:
        while not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        item = self._items.popleft()
        if isinstance(item, SgenError):
            raise item
        return item


class _Connection(asyncio.Protocol):
    """One engine process and the link to it, until either ends."""

    def __init__(self, process: subprocess.Popen[bytes], progress: Progress) -> None:
        self.process = process
        self.ready: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()
        self.lost = asyncio.Event()
        self.ended = False  # the link: nothing can be sent any more
        self._progress = progress
        self._frames = Frames()
        self._numbers = count()
        self._calls: dict[int, _Call] = {}
        self._transport: asyncio.Transport | None = None

    def begin(self, command: Callable[[int], Command]) -> _Call:
        """Send a call of the next number.  InvalidRequestError if it cannot be sent."""
        call = _Call(next(self._numbers))
        try:
            self.send(command(call.number))
        except LinkError as error:
            raise InvalidRequestError(f"the request is no good: {error}") from None
        self._calls[call.number] = call
        return call

    def withdraw(self, call: _Call) -> None:
        """Nobody waits for it any more; one that has ended is ignored."""
        if self._calls.pop(call.number, None) is not None:
            self.send(Withdraw(call.number))

    def send(self, command: Command) -> None:
        if self._transport is not None and not self.ended:
            self._transport.write(frame(command))

    async def answers(self, seconds: float) -> bool:
        """Does the process say anything within so many seconds, or end?"""
        call = self.begin(Stats)
        try:
            async with asyncio.timeout(seconds):
                await call.get()
        except TimeoutError:
            return False
        except SgenError:
            pass
        finally:
            self.withdraw(call)
        return True

    async def end(self, why: str, seconds: float) -> int:
        """Close the link, which ends the process; after so many seconds it is killed.  Its code."""
        if self._transport is not None:
            self._transport.abort()
        self._lose(why)
        try:
            return await asyncio.to_thread(self.process.wait, seconds)
        except subprocess.TimeoutExpired:
            log.error("the engine process did not end, and is killed")
            self.process.kill()
            return await asyncio.to_thread(self.process.wait)

    # --- asyncio.Protocol ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self.ended:
            return
        try:
            for body in self._frames.feed(data):
                self._take(news_of(body))
        except LinkError as error:
            log.error("the engine process sent what nobody understands: %s", error)
            self.process.kill()
            self._lose("the engine process sent what nobody understands")

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose("the engine process ended")

    def _lose(self, why: str) -> None:
        if self.ended:
            return
        self.ended = True
        hint = "try again: another one is being started"
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.put(EngineClosedError(why, hint=hint))
        if not self.ready.done():
            self.ready.set_exception(EngineClosedError(f"{why} before it was ready"))
            self.ready.exception()  # whoever waits gets it; that nobody does is no error
        self.lost.set()

    def _take(self, news: News) -> None:
        match news:
            case Chunks(items):
                for number, chunk in items:
                    self._give(number, chunk, last=chunk.finish_reason is not None)
            case Failed(number, failure):
                self._give(number, error_of(failure), last=True)
            case Loading(stage, done, total):
                self._progress(stage, done, total)
            case Ready(info):
                if not self.ready.done():
                    self.ready.set_result(info)
            case NotLoaded(failure):
                if not self.ready.done():
                    self.ready.set_exception(error_of(failure))
            case _:
                self._give(news.call, news, last=True)

    def _give(self, number: int, item: Chunk | Answer | SgenError, *, last: bool) -> None:
        """To whom it is for; late news of calls that were withdrawn are for nobody."""
        call = self._calls.get(number)
        if call is None:
            return
        if last:
            del self._calls[number]
        call.put(item)


async def _connect(command: Sequence[str], progress: Progress) -> _Connection:
    """Start a process whose standard input is the other end of a socket."""
    ours, theirs = socket.socketpair()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TOKENIZERS_PARALLELISM": "false",  # one text at a time, in the thread that asks for it
    }
    with theirs:
        try:
            process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=environment,
                process_group=0,  # a terminal's interrupt is for this process
            )
        except BaseException:
            ours.close()
            raise
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: _Connection(process, progress), sock=ours)
    return connection

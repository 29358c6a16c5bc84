"""The engine's side of the link: commands in, calls of an engine, news out.

- One thread reads commands, and does nothing that takes long: preparing a request, and every
  question, has threads of its own.  Those that must wait for a compile worker have others than the
  rest, so hard grammars hold up nobody else.
- The step loop's callbacks only put chunks into a list; another thread sends all of a step in one
  frame, and it is woken when the model begins to run, which needs no Python.
- It ends when the other side has closed the connection.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn, Protocol, TypeVar, assert_never

import msgspec

from sgen.errors import InvalidRequestError, SgenError
from sgen.protocol import (
    Chunk,
    GenerateRequest,
    GrammarSpec,
    ModelInfo,
    PromptPart,
    ScoreRequest,
    Scores,
    Usage,
)
from sgen.runtime.stats import EngineStats
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
    Question,
    Ready,
    Render,
    Score,
    Scored,
    Stats,
    Tokenize,
    Tokenized,
    Withdraw,
    Written,
    command_of,
    failure_of,
    frame,
)

END_SECONDS = 5
"""For the last step and the compile workers; after that the system ends the process."""

SWITCH_SECONDS = 0.0005
"""How long another thread may keep Python's lock when the step loop wants it; Python's own default
is ten times that, several times a step."""

QUICK_THREADS = 4
COMPILE_THREADS = 32
"""They wait for the compile workers, which are fewer; the next request waits for a thread."""

_READ_BYTES = 1 << 18

log = logging.getLogger(__name__)

R = TypeVar("R", bound=GenerateRequest | ScoreRequest)


class Hosted(Protocol):
    """What is asked of an engine: CallbackEngine, or a test's fake of it."""

    info: ModelInfo

    def prepare(self, request: GenerateRequest) -> Any: ...
    def trie(self, request: ScoreRequest) -> Any: ...
    def knows(self, grammar: GrammarSpec) -> bool: ...
    def check_grammar(self, grammar: GrammarSpec) -> int: ...
    def encode(self, prompt: Sequence[PromptPart]) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def render(self, prompt: Sequence[PromptPart]) -> str: ...
    def submit(
        self,
        request: GenerateRequest,
        prepared: Any,
        on_chunk: Callable[[Chunk], None],
        on_error: Callable[[SgenError], None],
    ) -> Any: ...
    def submit_score(
        self,
        request: ScoreRequest,
        trie: Any,
        on_done: Callable[[Usage], None],
        on_error: Callable[[SgenError], None],
    ) -> Any: ...
    def cancel(self, request_id: str) -> None: ...
    def withdraw(self, handle: Any) -> None: ...
    def stats(self) -> EngineStats: ...
    def close(self) -> None: ...


Progress = Callable[[str, int, int], None]
Load = Callable[[EngineOptions, Progress, Callable[[], None]], Hosted]
"""Makes the engine.  It reports its progress, and its engine calls the last argument whenever
callbacks have been called, once a step."""


def run(load: Load) -> NoReturn:
    """Be an engine process whose engine is made by `load`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_SECONDS)
    with socket.socket(fileno=0) as connection:
        serve(connection, load, lambda: signal.alarm(END_SECONDS))
    os._exit(0)  # threads that still prepare what nobody waits for would be joined first


def serve(connection: socket.socket, load: Load, on_end: Callable[[], object]) -> None:
    """Be the engine process until the other side closes the connection; then `on_end` is called
    first, and the engine is closed.  LinkError where the other side does not keep to the link."""
    commands = _commands(connection)
    options = next(commands, None)
    if not isinstance(options, EngineOptions):
        raise LinkError("the options of the engine did not come first")
    outbox = Outbox(connection)
    try:
        engine = load(options, lambda *stage: outbox.send(frame(Loading(*stage))), outbox.deliver)
    except SgenError as error:
        outbox.send(frame(NotLoaded(failure_of(error))))
        outbox.close()
        return
    host = _Host(engine, outbox)
    outbox.send(frame(Ready(engine.info)))
    try:
        for command in commands:
            host.take(command)
    finally:
        on_end()
        host.close()
        engine.close()
        outbox.close()


def _commands(connection: socket.socket) -> Iterator[Command]:
    frames = Frames()
    while True:
        try:
            data = connection.recv(_READ_BYTES)
        except OSError:
            return
        if not data:
            return
        for body in frames.feed(data):
            yield command_of(body)


class Outbox:
    """News on their way, in order, sent by a thread of their own."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._changed = threading.Condition()  # guards the two below
        self._items: list[tuple[int, Chunk] | bytearray] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sgen-outbox", daemon=True)
        self._thread.start()

    def put(self, item: tuple[int, Chunk] | bytearray) -> None:
        """A call's chunk, or a frame; it is sent after the next `deliver`."""
        with self._changed:
            self._items.append(item)

    def deliver(self) -> None:
        """Have sent what was put."""
        with self._changed:
            if self._items:
                self._changed.notify()

    def send(self, item: bytearray) -> None:
        """Put it and deliver."""
        with self._changed:
            self._items.append(item)
            self._changed.notify()

    def close(self) -> None:
        """Send what is left, as far as somebody reads it, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._closed)
                items, self._items = self._items, []
            if not items:
                return
            try:
                self._connection.sendall(_joined(items))
            except OSError:  # nobody reads any more; who reads commands will notice, too
                return


def _joined(items: Sequence[tuple[int, Chunk] | bytearray]) -> bytearray:
    """The frames of news; neighbouring chunks share one."""
    out = bytearray()
    chunks: list[tuple[int, Chunk]] = []
    for item in items:
        if isinstance(item, tuple):
            chunks.append(item)
            continue
        if chunks:
            out += frame(Chunks(chunks))
            chunks = []
        out += item
    return out + frame(Chunks(chunks)) if chunks else out


class _Call:
    """A request of the other side.  `handle` is set once the engine has it.

    The engine knows it by an id of its own: one that was withdrawn is there until the step ends,
    while the other side may have given its id to the next."""

    __slots__ = ("cancelled", "engine_id", "handle", "number", "request_id", "withdrawn")

    def __init__(self, number: int, request_id: str) -> None:
        self.number = number
        self.request_id = request_id
        self.engine_id = f"{request_id}/{number}"
        self.handle: Any = None
        self.cancelled = False
        self.withdrawn = False


class _Host:
    """Runs commands on an engine.  `take` and `close` belong to one thread."""

    def __init__(self, engine: Hosted, outbox: Outbox) -> None:
        self._engine = engine
        self._outbox = outbox
        self._quick = ThreadPoolExecutor(QUICK_THREADS, "sgen-prepare")
        self._compiling = ThreadPoolExecutor(COMPILE_THREADS, "sgen-compile")
        # The engine's own thread only takes calls out, for which it needs no lock.
        self._lock = threading.Lock()  # guards calls' handles, and whether they are cancelled
        self._calls: dict[int, _Call] = {}

    def take(self, command: Command) -> None:
        match command:
            case Extend(number, request):
                self._start(_Call(number, request.id), self._extend, request)
            case Score(number, request):
                self._start(_Call(number, request.id), self._score, request)
            case Withdraw(number):
                self._withdraw(number)
            case Cancel(request_id):
                self._cancel(request_id)
            case Stats(number):
                self._try(number, lambda: Counted(number, self._engine.stats()))
            case EngineOptions():
                raise LinkError("the engine has its options already")
            case Tokenize() | Detokenize() | Render() | Check():
                pool = self._pool(command.grammar if isinstance(command, Check) else None)
                pool.submit(self._try, command.call, partial(self._answer, command))
            case _:
                assert_never(command)

    def close(self) -> None:
        """Start nothing any more."""
        for pool in (self._quick, self._compiling):
            pool.shutdown(wait=False, cancel_futures=True)

    def _pool(self, grammar: GrammarSpec | None) -> ThreadPoolExecutor:
        if grammar is None or self._engine.knows(grammar):
            return self._quick
        return self._compiling

    # --- questions -------------------------------------------------------------------------------

    def _answer(self, question: Question) -> Answer:
        engine = self._engine
        match question:
            case Tokenize(number, prompt):
                return Tokenized(number, engine.encode(prompt))
            case Detokenize(number, ids):
                return Written(number, engine.decode(ids))
            case Render(number, prompt):
                return Written(number, engine.render(prompt))
            case Check(number, grammar):
                return Checked(number, engine.check_grammar(grammar))

    def _try(self, number: int, answer: Callable[[], News | None]) -> None:
        """Send the answer to a call, or what became of it instead."""
        try:
            news = answer()
            if news is not None:
                self._outbox.send(frame(news))
        except SgenError as error:
            self._failed(number, error)
        except LinkError as error:
            self._failed(number, InvalidRequestError(f"the answer cannot be sent: {error}"))
        except Exception as error:
            log.exception("call %d failed", number)
            self._failed(number, SgenError(f"it failed: {type(error).__name__}: {error}"))

    def _failed(self, number: int, error: SgenError) -> None:
        self._fail(number, error)
        self._outbox.deliver()

    def _fail(self, number: int, error: SgenError) -> None:
        self._calls.pop(number, None)
        self._outbox.put(frame(Failed(number, failure_of(error))))

    # --- requests --------------------------------------------------------------------------------

    def _start(self, call: _Call, run: Callable[[_Call, R], None], request: R) -> None:
        self._calls[call.number] = call
        grammar = request.grammar if isinstance(request, GenerateRequest) else None
        request = msgspec.structs.replace(request, id=call.engine_id)
        self._pool(grammar).submit(self._try, call.number, partial(run, call, request))

    def _extend(self, call: _Call, request: GenerateRequest) -> None:
        prepared = self._engine.prepare(request)
        with self._lock:
            if call.cancelled:  # as the engine ends those that it has
                call.handle = ()
                self._chunk(call, Chunk(finish_reason="cancelled", usage=Usage()))
                self._outbox.deliver()
            elif not call.withdrawn:
                call.handle = self._engine.submit(
                    request,
                    prepared,
                    partial(self._chunk, call),
                    partial(self._fail, call.number),
                )

    def _chunk(self, call: _Call, chunk: Chunk) -> None:
        """On the step loop's thread, as `_fail` may be."""
        if chunk.finish_reason is not None:
            self._calls.pop(call.number, None)
        if not call.withdrawn:
            self._outbox.put((call.number, chunk))

    def _score(self, call: _Call, request: ScoreRequest) -> None:
        trie = self._engine.trie(request)
        usages: list[Usage] = []

        def done(usage: Usage) -> None:
            usages.append(usage)
            if len(usages) == len(request.options):
                self._quick.submit(self._try, call.number, scored)

        def scored() -> Scored:
            self._calls.pop(call.number, None)
            return Scored(call.number, Scores(trie.scores(), sum(usages, Usage())))

        with self._lock:
            if not call.withdrawn:
                call.handle = self._engine.submit_score(
                    request, trie, done, partial(self._fail, call.number)
                )

    def _withdraw(self, number: int) -> None:
        call = self._calls.pop(number, None)
        if call is None:  # it has ended
            return
        with self._lock:
            call.withdrawn = True
            handle = call.handle
        if handle is not None:
            self._engine.withdraw(handle)

    def _cancel(self, request_id: str) -> None:
        with self._lock:
            named = [c for c in list(self._calls.values()) if c.request_id == request_id]
            for call in named:
                call.cancelled |= call.handle is None
        for call in named:
            self._engine.cancel(call.engine_id)

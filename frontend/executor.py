"""Runs nodes as they are fed, live from a program or all at once from its IR.

All methods are called on the executor's loop.  Each branch is a lane: its nodes run in their
order, lanes run side by side, one task per lane and only while it waits.  A generation that fails
or is cancelled ends its lane (what would follow it has no text to follow); no other lane.  After
`close` no request of this run is open in the backend.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sgen.errors import CancelledError, EngineClosedError, OutputError, ProgramError, SgenError
from sgen.frontend import ir
from sgen.frontend.events import ROLE_END, Event, EventKind, Span, role_heading, variable_key
from sgen.frontend.lanes import (
    Decode,
    Dependency,
    Lane,
    Work,
    default_decode,
    gen_value,
    option_score,
    token_ways,
)
from sgen.frontend.values import Cell, Failure, Outcome
from sgen.protocol import (
    Backend,
    Chunk,
    GenerateRequest,
    RoleEnd,
    RoleStart,
    ScoreRequest,
    TokenLogprob,
    Usage,
)

Emit = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run keeps to on a server.  The ids of its requests begin with `run_id`; `characters`
    bounds the text that nodes write and that forks hand on, all branches together."""

    run_id: str = ""
    cache_salt: str = ""
    characters: int | None = None


class Executor:
    """One run.  `args` are the values of an IR's arguments; a live program needs none."""

    def __init__(
        self,
        backend: Backend,
        *,
        loop: asyncio.AbstractEventLoop,
        args: Mapping[str, Any] | None = None,
        emit: Emit | None = None,
        terms: Terms | None = None,
    ) -> None:
        self.backend = backend
        self.loop = loop
        self.usage = Usage()
        self._args = dict(args or {})
        self._emit = emit or _ignore
        self._terms = terms or Terms()
        self._id = self._terms.run_id or secrets.token_hex(6)
        self._requests = 0
        self._characters = 0
        self._root = Lane((), born=True)
        self._lanes = {ir.ROOT: self._root}
        self._cells: dict[int, Cell] = {}
        self._names: dict[int, str] = {}
        self._failures: list[tuple[Lane, Failure]] = []
        self._idle: list[asyncio.Future[None]] = []
        self._closed = False

    # feeding

    def feed(self, node: ir.Node, cell: Cell | None = None, decode: Decode | None = None) -> None:
        """Run the node after those of its branch that were fed before."""
        lane = self._lanes[node.branch]
        work = Work(node, cell)
        if isinstance(node, (ir.Gen, ir.Select)):
            work.cell = cell or Cell()
            work.decode = decode or default_decode(node)
            self._cells[node.var] = work.cell
            self._names[node.var] = variable_key(lane.path, node.name)
        elif isinstance(node, ir.Fork):
            for child in node.children:
                path = (*lane.path, len(lane.children))
                self._lanes[child] = Lane(path, born=False)
                lane.children.append(self._lanes[child])
        if self._closed:
            self._skip(work, Failure(CancelledError("the run is over"), seen=True))
            return
        lane.queue.append(work)
        self._kick(lane)

    def _kick(self, lane: Lane) -> None:
        """Do what can be done at once, and start a task for the rest."""
        if lane.task is not None or not lane.born or self._closed:
            return
        while lane.queue and self._at_once(lane, lane.queue[0]):
            lane.queue.popleft()
        if lane.queue:
            lane.task = self.loop.create_task(self._drain(lane))
            lane.task.add_done_callback(lambda _: self._drained(lane))
        else:
            self._notify()

    async def _drain(self, lane: Lane) -> None:
        while lane.queue:
            work = lane.queue.popleft()
            if not self._at_once(lane, work):
                await self._attempt(lane, work)

    def _drained(self, lane: Lane) -> None:
        lane.task = None
        self._kick(lane)  # a task that was cancelled before it began has left its queue
        self._notify()

    def _at_once(self, lane: Lane, work: Work) -> bool:
        """Run the node if nothing has to be waited for."""
        try:
            return self._immediate(lane, work)
        except Exception as error:  # an argument's own __format__ may raise anything
            self._fail(lane, work, error)
            return True

    def _immediate(self, lane: Lane, work: Work) -> bool:
        node = work.node
        if lane.failure is None and work.cell is not None:
            lane.failure = work.cell.failure  # it was cancelled while it stood in the queue
        if lane.failure is not None:
            self._skip(work, lane.failure)
            return True
        match node:
            case ir.Text():
                cells = [self._cells[p.var] for p in node.pieces if isinstance(p, ir.Var)]
                if not all(c.succeeded for c in cells):
                    return False
                self._write(lane, node)
            case ir.RoleStart():
                lane.parts.append(RoleStart(node.role))
                self._show(lane, Span("role", role_heading(node.role), lane.path, node.role))
            case ir.RoleEnd():
                lane.parts.append(RoleEnd())
                self._show(lane, Span("role", ROLE_END, lane.path))
            case ir.Fork():
                self._fork(lane, node)
            case _:
                return False
        return True

    def _write(self, lane: Lane, node: ir.Text) -> None:
        text = self.text_of(node.pieces)
        lane.append_text(text)
        self._show(lane, Span("text", text, lane.path))

    def text_of(self, pieces: Iterable[ir.Piece]) -> str:
        """The pieces put together; all variables in them are bound."""
        texts: list[str] = []
        for piece in pieces:
            match piece:
                case ir.Lit():
                    text = piece.text
                case ir.Var():
                    text = self._cells[piece.var].outcome().text
                case ir.Arg():
                    text = format(ir.argument_value(self._args, piece.name, piece.path), "")
            self._count(text)
            texts.append(text)
        return "".join(texts)

    def _count(self, text: str) -> None:
        """Before it is copied: a short program may ask for any number of copies."""
        self._characters += len(text)
        most = self._terms.characters
        if most is not None and self._characters > most:
            raise ProgramError(f"the program writes more than {most:,} characters")

    def _show(self, lane: Lane, span: Span) -> None:
        if span.text:
            lane.spans.append(span)
            kind: EventKind = "role" if span.kind == "role" else "text"
            self._emit(Event(kind, lane.path, span.name, span.text))

    def _fork(self, lane: Lane, node: ir.Fork) -> None:
        children = [self._lanes[c] for c in node.children]
        text = lane.text
        self._count(text)
        self._emit(Event("fork", lane.path, value=tuple(c.path for c in children)))
        for child in children:
            child.parts = list(lane.parts)
            child.inherited = text
            child.born = True
            self._kick(child)

    # waiting nodes

    async def _attempt(self, lane: Lane, work: Work) -> None:
        """Run a node that waits; whatever goes wrong ends the lane."""
        lane.current = work.cell
        try:
            await self._wait_for(lane, work)
        except asyncio.CancelledError:
            failure = lane.failure or (work.cell.failure if work.cell else None)
            if self._closed or failure is None:
                raise
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            lane.failure = failure
        except Dependency as dependency:
            lane.failure = dependency.failure
            self._skip(work, dependency.failure)
        except Exception as error:
            self._fail(lane, work, error)
        finally:
            lane.current = None

    async def _wait_for(self, lane: Lane, work: Work) -> None:
        match work.node:
            case ir.Text() as node:
                await self._gather_vars(node)
                self._write(lane, node)
            case ir.Gen() as node:
                assert work.cell is not None
                await self._generate(lane, node, work.cell, work.decode)
            case ir.Select() as node:
                assert work.cell is not None
                await self._select(lane, node, work.cell, work.decode)
            case ir.Join() as node:
                await self.settle(node.children)
                paths = tuple(self._lanes[c].path for c in node.children)
                self._emit(Event("join", lane.path, value=paths))
            case _:
                raise AssertionError("all other nodes run at once")

    async def _gather_vars(self, node: ir.Text) -> None:
        for piece in node.pieces:
            if isinstance(piece, ir.Var):
                cell = self._cells[piece.var]
                await cell.settled()
                if cell.failure is not None:
                    raise Dependency(cell.failure)

    async def _generate(self, lane: Lane, node: ir.Gen, cell: Cell, decode: Decode) -> None:
        request = GenerateRequest(
            id=self._request_id(node.name),
            prompt=tuple(lane.parts),
            params=node.params,
            grammar=node.grammar,
            cache_salt=self._terms.cache_salt,
        )
        self._emit(Event("var.start", lane.path, node.name))
        ids: list[int] = []
        logprobs: list[TokenLogprob] = []
        try:
            async for chunk in self._chunks(request):
                ids.extend(chunk.token_ids)
                logprobs.extend(chunk.logprobs)
                if chunk.text:
                    cell.push(chunk.text)
                    ways = token_ways(chunk, constrained=node.grammar is not None)
                    self._emit(Event("var.delta", lane.path, node.name, chunk.text, tokens=ways))
        finally:
            text = cell.text
            if text:
                constrained = node.grammar is not None
                lane.spans.append(Span("generated", text, lane.path, node.name, constrained))
        lane.append_output(ids, text, chunk.stop)
        assert chunk.finish_reason is not None
        if cell.finished:  # cancelled while its last chunk was on its way
            return
        value = gen_value(node, text, chunk, decode)
        usage = chunk.usage or Usage()
        outcome = Outcome(value, text, chunk.finish_reason, None, tuple(logprobs), usage)
        self._bind(lane, node.name, cell, outcome)

    async def _chunks(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """The request's chunks up to the last; leaving early cancels it."""
        stream = self.backend.extend(request)
        finished = False
        try:
            async for chunk in stream:
                finished = chunk.finish_reason is not None
                if finished and chunk.usage is not None:
                    self.usage = self.usage + chunk.usage
                if chunk.finish_reason == "cancelled":
                    raise CancelledError("the engine cancelled this request")
                if chunk.finish_reason == "error":
                    raise SgenError("the engine stopped this request by an error")
                yield chunk
                if finished:
                    return
            raise EngineClosedError("the engine's answer ended before its last piece")
        finally:
            if not finished:
                self.backend.cancel(request.id)
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()

    async def _select(self, lane: Lane, node: ir.Select, cell: Cell, decode: Decode) -> None:
        request = ScoreRequest(
            id=self._request_id(node.name),
            prompt=tuple(lane.parts),
            options=node.options,
            cache_salt=self._terms.cache_salt,
        )
        self._emit(Event("var.start", lane.path, node.name))
        answered = False
        try:
            answers = await self.backend.score(request)
            answered = True
        finally:
            if not answered:
                self.backend.cancel(request.id)
        self.usage = self.usage + answers.usage
        if len(answers.options) != len(node.options):
            raise EngineClosedError("the engine did not score all options")
        scores = [option_score(a, node.by) for a in answers.options]
        best = max(range(len(scores)), key=scores.__getitem__)
        text = node.options[best]
        if cell.finished:  # cancelled while the answer was on its way
            return
        lane.append_text(text)
        lane.spans.append(Span("generated", text, lane.path, node.name, constrained=True))
        cell.push(text)
        self._emit(Event("var.delta", lane.path, node.name, text))
        by_value = {decode(o): score for o, score in zip(node.options, scores, strict=True)}
        outcome = Outcome(decode(text), text, scores=by_value, usage=answers.usage)
        self._bind(lane, node.name, cell, outcome)

    def _bind(self, lane: Lane, name: str, cell: Cell, outcome: Outcome) -> None:
        self._emit(Event("var.end", lane.path, name, value=outcome.value, usage=outcome.usage))
        cell.finish(outcome)

    def _request_id(self, name: str) -> str:
        self._requests += 1
        return f"{self._id}#{self._requests}:{name}"

    # failing and cancelling

    def _fail(self, lane: Lane, work: Work, error: Exception) -> None:
        name = getattr(work.node, "name", None)
        if name is not None:
            error.add_note(f"while generating {variable_key(lane.path, name)!r}")
        failure = Failure(error, seen=isinstance(error, CancelledError))
        self._failures.append((lane, failure))
        if not isinstance(error, OutputError):  # then the text is there, and others can follow
            lane.failure = failure
        self._emit(Event("error", lane.path, name, value=error))
        self._skip(work, failure)

    def _skip(self, work: Work, failure: Failure) -> None:
        if work.cell is not None:
            work.cell.fail(failure)
        if isinstance(work.node, ir.Fork):
            for child in work.node.children:
                lane = self._lanes[child]
                lane.born = True
                lane.failure = lane.failure or failure
                self._kick(lane)

    def cancel(self, cell: Cell) -> None:
        """Stop a variable's generation; what follows it in its branch is cancelled with it."""
        if cell.finished:
            return
        name = next((self._names[v] for v, c in self._cells.items() if c is cell), "")
        cell.fail(Failure(CancelledError(f"{name!r} was cancelled"), seen=True))
        for lane in self._lanes.values():
            if lane.current is cell and lane.task is not None:
                self._emit(Event("cancel", lane.path, name))
                lane.task.cancel()

    def cancel_branches(self, branches: Iterable[int]) -> None:
        """Stop all that goes on in the branches and in their children."""
        for branch in branches:
            for lane in self._lanes[branch].family():
                self._cancel_lane(lane)
        self._notify()

    def _cancel_lane(self, lane: Lane) -> None:
        if not lane.busy:
            return
        failure = Failure(CancelledError("its branch was cancelled"), seen=True)
        lane.failure = lane.failure or failure
        lane.born = True
        if lane.current is not None:
            lane.current.fail(failure)
        while lane.queue:
            self._skip(lane.queue.popleft(), failure)
        self._emit(Event("cancel", lane.path))
        if lane.task is not None:
            lane.task.cancel()

    # ending

    def _notify(self) -> None:
        idle, self._idle = self._idle, []
        for waiter in idle:
            if not waiter.done():
                waiter.set_result(None)

    async def settle(self, branches: Iterable[int] | None = None) -> None:
        """Wait until all that was fed to these branches (by default all) and to their children
        is done, however it went."""
        roots = self._roots(branches)
        while any(lane.busy for root in roots for lane in root.family()):
            waiter: asyncio.Future[None] = self.loop.create_future()
            self._idle.append(waiter)
            await waiter

    def _roots(self, branches: Iterable[int] | None) -> list[Lane]:
        return [self._root] if branches is None else [self._lanes[b] for b in branches]

    def raise_unseen(self, branches: Iterable[int] | None = None) -> None:
        """Raise the first error, of these branches (by default of all) and of their children,
        that nobody has seen."""
        roots = self._roots(branches)
        lanes = {lane.path for root in roots for lane in root.family()}
        for lane, failure in self._failures:
            if lane.path in lanes and not failure.seen:
                failure.seen = True
                raise failure.error

    async def close(self) -> None:
        """Stop everything.  Afterwards every cell is finished."""
        self._closed = True
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        over = Failure(CancelledError("the run ended before this was generated"), seen=True)
        for cell in self._cells.values():
            cell.fail(over)

    # results

    def idle(self, branch: int) -> bool:
        """Whether all that was fed to the branch is done."""
        return not self._lanes[branch].busy

    def text(self, branch: int = ir.ROOT) -> str:
        """The branch's transcript so far, with what it inherited."""
        return self._lanes[branch].text

    def spans(self) -> tuple[Span, ...]:
        """The spans of all branches, each after its parent's."""
        return tuple(span for lane in self._root.family() for span in lane.spans)

    def variables(self) -> dict[str, Any]:
        """The values that are bound, in the order of the program."""
        cells = ((self._names[var], cell) for var, cell in sorted(self._cells.items()))
        return {name: cell.outcome().value for name, cell in cells if cell.succeeded}

    async def value(self, var: int) -> Any:
        """A variable's value when it is there."""
        return (await self._cells[var]).value


def _ignore(event: Event) -> None:
    """Nobody listens."""

"""POST /v1/programs runs a program that comes as its IR; POST /v1/grammars/check tries a grammar.

All that can be refused is refused before anything runs: what is no program, limits, arguments that
its nodes cannot take, and grammars, each by the place in the body where it stands.  While it runs,
an error of one branch is an event, and the run's own error its last.  Whatever way it ends (its
client goes, too), no request of it is left in the engine.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sgen.errors import CancelledError, GrammarError, OutputError
from sgen.frontend import ir
from sgen.frontend.events import Event
from sgen.frontend.executor import Terms
from sgen.frontend.lanes import Decode
from sgen.frontend.plan import token_bound
from sgen.frontend.runs import argument_fault, run_ir
from sgen.grammar_files import line_and_column, place_of
from sgen.protocol import Backend, GrammarSpec
from sgen.server.backend import ServerBackend
from sgen.server.errors import APIError, as_api_error
from sgen.server.formats import schema_text
from sgen.server.http import (
    admitted,
    check_model,
    json_response,
    read_body,
    request_id,
    server_of,
    sse,
    until_disconnect,
)
from sgen.server.settings import Limits
from sgen.server.wire_programs import (
    Done,
    Failed,
    GrammarAnswer,
    GrammarBody,
    ProgramBody,
    ProgramEvent,
    Refusal,
    as_wire,
    sse_bytes,
)


async def run_program(request: Request) -> Response:
    """Events of the run as they come, or its answer alone."""
    server = server_of(request)
    body = await read_body(request, ProgramBody)
    check_model(request, body.model)
    limits = server.settings.limits
    check_program(body, limits, server.backend.info.context_length)
    terms = Terms(request_id(request), body.cache_salt, limits.program_characters)
    async with admitted(request):
        await until_disconnect(request, check_grammars(server.backend, body.program, limits))
        events = program_events(server.backend, body, terms)
        if body.stream:
            return sse(request, _as_bytes(events), _error_bytes)
        return json_response(await until_disconnect(request, _last(events)))


async def check_grammar(request: Request) -> Response:
    """Whether a grammar can be enforced; a refusal is an answer, no error."""
    server = server_of(request)
    body = await read_body(request, GrammarBody)
    spec = GrammarSpec(body.kind, body.source, body.whitespace, body.order, body.unknown)
    check_source(spec, server.settings.limits, "source")
    async with admitted(request):
        try:
            least = await until_disconnect(request, server.backend.check(spec))
        except GrammarError as error:
            return json_response(GrammarAnswer(ok=False, error=_refusal(error, spec)))
    return json_response(GrammarAnswer(ok=True, min_tokens=least))


routes = [
    Route("/v1/programs", run_program, methods=["POST"]),
    Route("/v1/grammars/check", check_grammar, methods=["POST"]),
]


# --- before it runs --------------------------------------------------------------------------


def check_program(body: ProgramBody, limits: Limits, context_length: int) -> None:
    """ProgramError or APIError (400) says what cannot run, and why."""
    program = body.program
    nodes = program.nodes
    _within("nodes", len(nodes), limits.program_nodes)
    branches = 1 + sum(len(n.children) for n in nodes if isinstance(n, ir.Fork))
    _within("branches", branches, limits.program_branches)
    options = sum(len(n.options) for n in nodes if isinstance(n, ir.Select))
    _within("options of its selects", options, limits.enum_entries)
    grammars = {n.grammar for n in nodes if isinstance(n, ir.Gen) and n.grammar is not None}
    _within("different grammars", len(grammars), limits.program_grammars)
    ir.validate(program)
    bounds = [token_bound(node) for node in nodes if isinstance(node, ir.Gen)]
    total = sum(context_length if b is None else min(b, context_length) for b in bounds)
    most = max(limits.program_tokens, context_length)  # one generation may have all there is
    _within("tokens to generate, counted by max_tokens", total, most)
    _check_arguments(body)


def _within(what: str, count: int, most: int) -> None:
    if count > most:
        message = f"the program has {count:,} {what}; {most:,} are the most"
        raise APIError(400, message, param="program", code="program_too_large")


def _check_arguments(body: ProgramBody) -> None:
    program = body.program
    missing = [name for name in program.params if name not in body.args]
    fault = f"argument {missing[0]!r} is missing" if missing else argument_fault(program, body.args)
    if fault:
        raise APIError(400, fault, param="args", code="invalid_argument")


async def check_grammars(backend: ServerBackend, program: ir.Program, limits: Limits) -> None:
    """Compile each grammar once.  APIError (400) names the node and the place in its grammar."""
    least: dict[GrammarSpec, int] = {}
    for index, node in enumerate(program.nodes):
        if not isinstance(node, ir.Gen) or node.grammar is None:
            continue
        param = f"program.nodes[{index}]"
        if node.grammar not in least:
            try:
                check_source(node.grammar, limits, f"{param}.grammar")
                least[node.grammar] = await backend.check(node.grammar)
            except (GrammarError, APIError) as error:
                refused = as_api_error(error, param=f"{param}.grammar")
                refused.message = f"the grammar of {node.name!r}: {refused.message}"
                raise refused from error
        most = node.params.max_tokens
        if node.params.finish == "valid" and most is not None and most < least[node.grammar]:
            raise APIError(
                400,
                f"{node.name!r} cannot be valid within max_tokens={most}: its grammar takes at "
                f"least {least[node.grammar]} tokens",
                param=f"{param}.params.max_tokens",
                code="max_tokens_below_minimum",
            )


def check_source(spec: GrammarSpec, limits: Limits, param: str) -> None:
    """APIError (400) where a source is more than sources of its kind may be.  One that is broken
    passes: who compiles it says where."""
    most = limits.pattern_bytes if spec.kind == "regex" else limits.schema_bytes
    if len(spec.source.encode()) > most:
        message = f"the {spec.kind} has more than {most:,} bytes"
        raise APIError(400, message, param=param, code="grammar_too_large")
    try:
        if spec.kind == "choices":
            count = len(msgspec.json.decode(spec.source, type=list[msgspec.Raw]))
            if count > limits.enum_entries:
                message = f"{count:,} choices, and at most {limits.enum_entries:,} are allowed"
                raise APIError(400, message, param=param, code="grammar_too_large")
        elif spec.kind in ("json_schema", "structural_tag") and spec.source.lstrip()[:1] == "{":
            schema_text(spec.source.encode(), param, limits)
    except msgspec.DecodeError:
        return
    except APIError as error:
        if error.code != "invalid_json":
            raise


def _refusal(error: GrammarError, spec: GrammarSpec) -> Refusal:
    line = column = None
    offset = place_of(error, spec.source)
    if offset is None and spec.kind in ("json_schema", "choices", "structural_tag"):
        try:
            json.loads(spec.source)
        except json.JSONDecodeError as fault:
            offset = fault.pos
        except (ValueError, RecursionError):
            pass
    if offset is not None:
        line, column = line_and_column(spec.source, offset)
    return Refusal(
        message=error.message,
        keyword=error.keyword,
        hint=error.hint,
        pointer=error.pointer,
        line=line,
        column=column,
    )


# --- while it runs ---------------------------------------------------------------------------


async def program_events(
    backend: Backend, body: ProgramBody, terms: Terms
) -> AsyncGenerator[ProgramEvent, None]:
    """The events of a run; what ends it by an error is raised.  Closing it ends the run."""
    queue: asyncio.Queue[Event | None] = asyncio.Queue()  # bounded by the run's own limits
    decoders = _decoders(body.program)
    run = run_ir(body.program, body.args, backend, decoders, queue.put_nowait, terms)
    task = asyncio.create_task(run)
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (event := await queue.get()) is not None:
            if event.kind != "error":
                yield as_wire(event)
            elif event.branch or event.name is not None:  # the run's own is raised below
                yield as_wire(event, _as_api_error(event.value))
        try:
            await task
        except Exception as error:
            raise _as_api_error(error) from error
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _decoders(program: ir.Program) -> Mapping[int, Decode]:
    gens = (node for node in program.nodes if isinstance(node, ir.Gen))
    return {node.var: _json_as_written for node in gens if node.value == "json"}


def _json_as_written(text: str) -> msgspec.Raw:
    """JSON that is passed on, not read: not every number survives that."""
    msgspec.json.decode(text)
    return msgspec.Raw(text.encode())


def _as_api_error(error: BaseException) -> APIError:
    if isinstance(error, OutputError):  # the program asked for what can be cut
        found = APIError(422, str(error), kind="invalid_request_error", code="output_cut")
    elif isinstance(error, CancelledError):
        found = APIError(499, str(error), code="cancelled")
    else:
        found = as_api_error(error)
    notes = getattr(error, "__notes__", ())
    if notes and found.status < 500:
        found.message = f"{found.message} ({'; '.join(notes)})"
    return found


async def _last(events: AsyncGenerator[ProgramEvent, None]) -> Done:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Done):
                return event
    raise AssertionError("a run ends with its answer, or by an error")


async def _as_bytes(events: AsyncGenerator[ProgramEvent, None]) -> AsyncIterator[bytes]:
    async with aclosing(events):
        async for event in events:
            yield sse_bytes(event)


def _error_bytes(error: APIError) -> bytes:
    return sse_bytes(Failed((), None, error.body()["error"]))

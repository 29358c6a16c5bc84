"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's interface.

Its client adds /v1 to the base URL itself; others do not, so that both paths lead here.  Thinking
is where the model has it, whatever `thinking` asks for, in blocks without a signature.  An absent
`temperature` is 1.  Errors have Anthropic's form (see `error_message`).
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sgen.protocol import PromptPart, SamplingParams, ToolCall
from sgen.server.errors import APIError
from sgen.server.events import Job, ToolChoice
from sgen.server.formats import Constraint, check_count, placed_events, schema_constraint
from sgen.server.generation import generate
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
from sgen.server.messages_stream import MessageWriter
from sgen.server.settings import Limits
from sgen.server.tools import GivenTool, Tools, choose, define_tools
from sgen.server.turns import Turns, drain, written
from sgen.server.wire_messages import (
    Block,
    CountRequest,
    Message,
    MessageObject,
    MessagesRequest,
    MessageUsage,
    TokensCount,
    Tool,
    ToolChoiceBody,
)

_NAMES = {"prompt": "messages", "stop": "stop_sequences"}


async def create_message(request: Request) -> Response:
    body = await read_body(request, MessagesRequest)
    model = check_model(request, body.model)
    server, id = server_of(request), request_id(request)
    limits = server.settings.limits
    constraint = _constraint(body, limits)
    job = job_of(body, id, constraint, limits)
    async with admitted(request):
        message = MessageObject(id=f"msg_{uuid4().hex}", model=model, usage=MessageUsage())
        if body.stream:  # whose first event has the tokens of the prompt, before it is computed
            counted = await until_disconnect(request, server.backend.tokenize(job.prompt))
            message.usage.input_tokens = len(counted)
        writer = MessageWriter(message, id)
        said = written(placed_events(generate(server.backend, job), constraint, _NAMES), writer)
        if body.stream:
            return sse(request, said, writer.failure)
        await until_disconnect(request, drain(said))
    return json_response(message)


async def count_tokens(request: Request) -> Response:
    body = await read_body(request, CountRequest)
    check_model(request, body.model)
    server = server_of(request)
    tools = _tools(body.tools or [], server.settings.limits)
    prompt = _prompt(body, tools)
    async with admitted(request):
        ids = await until_disconnect(request, server.backend.tokenize(prompt))
    return json_response(TokensCount(len(ids)))


def job_of(body: MessagesRequest, id: str, constraint: Constraint | None, limits: Limits) -> Job:
    """APIError 400 for what this server cannot do, naming the field."""
    tools = _tools(body.tools or [], limits)
    return Job(
        id=id,
        prompt=_prompt(body, tools),
        params=_params(body, limits),
        grammar=constraint.spec if constraint is not None else None,
        tools=tools,
        tool_choice=_tool_choice(body.tool_choice, tools),
        cache_salt=body.cache_salt or "",
    )


def _params(body: MessagesRequest, limits: Limits) -> SamplingParams:
    if body.max_tokens < 1:
        raise APIError(400, "must be at least 1", param="max_tokens", code="invalid_value")
    stops = body.stop_sequences or []
    check_count("stop_sequences", len(stops), limits.stop_texts)
    if not all(stops):
        raise APIError(400, "none may be empty", param="stop_sequences", code="invalid_value")
    return SamplingParams(
        max_tokens=body.max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
        min_p=body.min_p or 0.0,
        seed=body.seed,
        stop=tuple(stops),
        finish=body.finish,
    )


def _constraint(body: MessagesRequest, limits: Limits) -> Constraint | None:
    config = body.output_config.format if body.output_config is not None else None
    form, param = (
        (config, "output_config.format") if config else (body.output_format, "output_format")
    )
    if form is None:
        return None
    if form.type != "json_schema" or form.schema is None:
        message = "only {type: json_schema, schema: {...}} is supported"
        raise APIError(400, message, param=param, code="invalid_value")
    return schema_constraint(msgspec.json.encode(form.schema), f"{param}.schema", limits)


def _tools(given: Sequence[Tool], limits: Limits) -> Tools:
    functions: list[GivenTool] = []
    for index, tool in enumerate(given):
        place = f"tools.{index}"
        if tool.type not in (None, "custom"):
            message = f"tools of type {tool.type[:80]!r} are not supported, only custom ones"
            raise APIError(400, message, param=f"{place}.type", code="unsupported_tool")
        schema = msgspec.json.encode(tool.input_schema)
        functions.append(GivenTool(tool.name, tool.description, schema, place, "input_schema"))
    return define_tools(functions, limits)


def _tool_choice(given: ToolChoiceBody | None, tools: Tools) -> ToolChoice:
    if given is None:
        return choose("auto", tools)
    if (given.type == "tool") != bool(given.name):
        message = 'a name belongs to {type: "tool"}, and to it alone'
        raise APIError(400, message, param="tool_choice", code="invalid_value")
    mode = "required" if given.type == "tool" else given.type
    parallel = not given.disable_parallel_tool_use
    return choose(mode, tools, name=given.name or None, parallel=parallel)


def _prompt(body: MessagesRequest | CountRequest, tools: Tools) -> tuple[PromptPart, ...]:
    """A last message of the assistant's is the beginning of the answer."""
    if not body.messages:
        raise APIError(400, "there is none", param="messages", code="invalid_value")
    turns = Turns(tools)
    if body.system:
        turns.say("system", _text(body.system, "system"))
    for index, message in enumerate(body.messages):
        _add(turns, message, f"messages.{index}.content")
    return turns.parts(resume=body.messages[-1].role == "assistant")


def _add(turns: Turns, message: Message, param: str) -> None:
    if isinstance(message.content, str):
        turns.say(message.role, message.content)
        return
    for index, block in enumerate(message.content):
        place = f"{param}.{index}"
        match message.role, block.type:
            case _, "text":
                turns.say(message.role, block.text)
            case "assistant", "tool_use":
                arguments = msgspec.json.encode(block.input or {}).decode()
                turns.call(ToolCall(block.name, arguments, block.id))
            case "user", "tool_result":
                text = _text(block.content or "", f"{place}.content")
                turns.result(block.tool_use_id, f"Error: {text}" if block.is_error else text)
            case "assistant", "thinking" | "redacted_thinking":
                pass  # templates leave the thoughts of earlier turns out
            case role, kind:
                wrong = f"blocks of type {kind[:80]!r} are not supported in a message of the {role}"
                raise APIError(400, wrong, param=f"{place}.type", code="unsupported_content")


def _text(content: str | list[Block], param: str) -> str:
    if isinstance(content, str):
        return content
    for index, block in enumerate(content):
        if block.type != "text":
            message = f"blocks of type {block.type[:80]!r} are not supported here, only text"
            place = f"{param}.{index}.type"
            raise APIError(400, message, param=place, code="unsupported_content")
    return "\n\n".join(block.text for block in content)


routes = [
    Route(f"{base}/messages{path}", endpoint, methods=["POST"])
    for base in ("/v1", "")
    for path, endpoint in (("", create_message), ("/count_tokens", count_tokens))
]

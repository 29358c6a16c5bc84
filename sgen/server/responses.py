"""POST /v1/responses: OpenAI's newer interface, without what a server would have to keep.

`input` is the whole conversation each time.  `store` is accepted and nothing is stored; what
would need an earlier response (`previous_response_id`, `conversation`) or a later look
(`background`) is refused.  Absent `temperature` and `top_p` are 1, as OpenAI has them; absent
`strict` enforces a schema too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sgen.protocol import PromptPart, Role, SamplingParams, ToolCall
from sgen.server.errors import APIError
from sgen.server.events import Job, ToolChoice
from sgen.server.formats import (
    Constraint,
    any_object,
    check_top_logprobs,
    placed_events,
    schema_constraint,
)
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
from sgen.server.responses_stream import ResponseWriter
from sgen.server.settings import Limits
from sgen.server.tools import GivenTool, Tools, call_arguments, choose, define_tools, only
from sgen.server.turns import Turns, drain, written
from sgen.server.wire_responses import (
    FunctionTool,
    InputItem,
    InputPart,
    ResponseObject,
    ResponseRequest,
    TextConfig,
    TextFormat,
)

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_NAMES = {"max_tokens": "max_output_tokens", "prompt": "input"}
_LOGPROBS = "message.output_text.logprobs"


async def create_response(request: Request) -> Response:
    body = await read_body(request, ResponseRequest)
    model = check_model(request, body.model)
    server = server_of(request)
    limits = server.settings.limits
    constraint = _constraint(body.text, limits)
    job = job_of(body, request_id(request), constraint, limits)
    writer = ResponseWriter(_new_response(body, model))
    async with admitted(request):
        said = written(placed_events(generate(server.backend, job), constraint, _NAMES), writer)
        if body.stream:
            return sse(request, said, writer.failure)
        await until_disconnect(request, drain(said))
    return json_response(writer.response)


def job_of(body: ResponseRequest, id: str, constraint: Constraint | None, limits: Limits) -> Job:
    """APIError 400 for what this server cannot do, naming the field."""
    _refuse_state(body)
    tools = _tools(body.tools or [], limits)
    choice, callable_tools = _tool_choice(body, tools)
    return Job(
        id=id,
        prompt=_prompt(body, tools),
        params=_params(body, limits),
        grammar=constraint.spec if constraint is not None else None,
        tools=callable_tools,
        tool_choice=choice,
        cache_salt=body.cache_salt or "",
    )


def _refuse_state(body: ResponseRequest) -> None:
    kept = {
        "previous_response_id": body.previous_response_id,
        "conversation": body.conversation,
        "prompt": body.prompt,
    }
    for name, value in kept.items():
        if value is not None:
            message = f"{name} is not supported: nothing is stored here; send the whole input"
            raise APIError(400, message, param=name, code="unsupported_parameter")
    if body.background:
        message = "background is not supported: nothing is stored here; use stream"
        raise APIError(400, message, param="background", code="unsupported_parameter")


def _tools(given: Sequence[FunctionTool], limits: Limits) -> Tools:
    functions: list[GivenTool] = []
    for index, tool in enumerate(given):
        place = f"tools[{index}]"
        if tool.type != "function":
            message = f"tools of type {tool.type[:80]!r} are not supported, only functions"
            raise APIError(400, message, param=f"{place}.type", code="unsupported_tool")
        schema = msgspec.json.encode(tool.parameters)
        functions.append(GivenTool(tool.name, tool.description, schema, place))
    return define_tools(functions, limits)


def _tool_choice(body: ResponseRequest, tools: Tools) -> tuple[ToolChoice, Tools]:
    """And the tools that may be called; all of them are shown."""
    parallel = body.parallel_tool_calls is not False
    given = body.tool_choice or "auto"
    if isinstance(given, str):
        return choose(given, tools, parallel=parallel), tools
    if given.type == "function":
        return choose("required", tools, name=given.name, parallel=parallel), tools
    if given.type == "allowed_tools":
        allowed = only(tools, {tool.name for tool in given.tools if tool.type == "function"})
        return choose(given.mode or "auto", allowed, parallel=parallel), allowed
    message = f"tool_choice of type {given.type[:80]!r} is not supported"
    raise APIError(400, message, param="tool_choice", code="invalid_value")


def _params(body: ResponseRequest, limits: Limits) -> SamplingParams:
    if body.max_output_tokens is not None and body.max_output_tokens < 1:
        message = "max_output_tokens must be at least 1"
        raise APIError(400, message, param="max_output_tokens", code="invalid_value")
    top = body.top_logprobs or 0
    check_top_logprobs("top_logprobs", top, limits)
    return SamplingParams(
        max_tokens=body.max_output_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
        min_p=body.min_p or 0.0,
        seed=body.seed,
        logprobs=top if top or _LOGPROBS in (body.include or []) else None,
        finish=body.finish,
    )


def _constraint(text: TextConfig | None, limits: Limits) -> Constraint | None:
    form = text.format if text is not None else None
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return Constraint(any_object(), "text.format")
    if form.type == "json_schema" and form.schema is not None:
        return schema_constraint(msgspec.json.encode(form.schema), "text.format.schema", limits)
    if form.type == "json_schema":
        raise APIError(400, "text.format has no schema", param="text.format.schema")
    message = f"text.format of type {form.type[:80]!r} is not supported"
    raise APIError(400, message, param="text.format.type", code="invalid_value")


def _prompt(body: ResponseRequest, tools: Tools) -> tuple[PromptPart, ...]:
    turns = Turns(tools)
    if body.instructions:
        turns.say("system", body.instructions)
    if isinstance(body.input, str):
        turns.say("user", body.input)
    else:
        for index, item in enumerate(body.input):
            _add(turns, item, f"input[{index}]")
    if turns.last_role is None:
        raise APIError(400, "input is empty", param="input", code="invalid_value")
    return turns.parts()


def _add(turns: Turns, item: InputItem, param: str) -> None:
    match item.type:
        case "message":
            role = _ROLES.get(item.role)
            if role is None:
                message = f"there is no role {item.role[:80]!r}"
                raise APIError(400, message, param=f"{param}.role", code="invalid_value")
            turns.say(role, _text(item.content, f"{param}.content"))
        case "function_call":
            arguments = call_arguments(item.arguments.encode(), f"{param}.arguments")
            turns.call(ToolCall(item.name, arguments, item.call_id))
        case "function_call_output":
            turns.result(item.call_id, _text(item.output, f"{param}.output"))
        case "reasoning":
            pass  # templates leave the thoughts of earlier turns out
        case _:
            message = f"items of type {item.type[:80]!r} are not supported"
            raise APIError(400, message, param=f"{param}.type", code="unsupported_item")


def _text(content: str | list[InputPart] | None, param: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for index, part in enumerate(content):
        if part.type not in ("input_text", "output_text", "text", "refusal"):
            message = f"content of type {part.type[:80]!r} is not supported: the model reads text"
            place = f"{param}[{index}].type"
            raise APIError(400, message, param=place, code="unsupported_content")
        texts.append(part.refusal if part.type == "refusal" else part.text)
    return "".join(texts)


def _new_response(body: ResponseRequest, model: str) -> ResponseObject:
    text = body.text or TextConfig()
    return ResponseObject(
        id=f"resp_{uuid4().hex}",
        created_at=int(time.time()),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        metadata=body.metadata or {},
        model=model,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        prompt_cache_key=body.prompt_cache_key,
        reasoning=body.reasoning,
        safety_identifier=body.safety_identifier,
        temperature=1.0 if body.temperature is None else body.temperature,
        text=msgspec.structs.replace(text, format=text.format or TextFormat("text")),
        tool_choice=body.tool_choice or "auto",
        tools=body.tools or [],
        top_logprobs=body.top_logprobs or 0,
        top_p=1.0 if body.top_p is None else body.top_p,
        truncation=body.truncation or "disabled",
        user=body.user,
    )


routes = [Route("/v1/responses", create_response, methods=["POST"])]

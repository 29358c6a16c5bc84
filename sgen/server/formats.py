"""From the fields of a request to sampling parameters, and to the one grammar of the output.

Every schema is enforced whole, with or without `strict`.  JSON of a schema is compact; that of
`json_object`, of which nothing is known, has bounded white space.  A grammar's text with `::=` in
it is GBNF, else Lark.  An absent temperature is 1, as OpenAI and vLLM have it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, cast

import msgspec
from msgspec import Raw

from sgen.errors import GrammarError, InvalidRequestError, SgenError
from sgen.protocol import GrammarSpec, SamplingParams
from sgen.server.errors import APIError, as_api_error
from sgen.server.events import GenerationEvent
from sgen.server.settings import Limits
from sgen.server.wire_sampling import GenerationRequest, ResponseFormat


class Constraint(msgspec.Struct, frozen=True):
    """A grammar, and the field of the request that it stands in."""

    spec: GrammarSpec
    param: str


def sampling_params(
    body: GenerationRequest, limits: Limits, logprobs: int | None
) -> SamplingParams:
    """`logprobs` has been checked.  APIError 400, InvalidRequestError for what is out of range."""
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    check_count("stop", len(stop), limits.stop_texts)
    check_count("logit_bias", len(body.logit_bias or ()), limits.logit_bias)
    if body.include_stop_str_in_output:
        message = "include_stop_str_in_output is not supported: a stop text is never output"
        raise APIError(400, message, param="include_stop_str_in_output", code="unsupported")
    given: dict[str, Any] = {
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "max_tokens": _max_tokens(body),
        "stop": tuple(text for text in stop if text),
        "stop_token_ids": tuple(body.stop_token_ids or ()),
        "logit_bias": _bias(body.logit_bias or {}),
        "logprobs": logprobs,
    }
    for name in ("top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
                 "seed", "ignore_eos", "finish"):  # fmt: skip
        if getattr(body, name) is not None:
            given[name] = getattr(body, name)
    if body.top_k is not None:
        given["top_k"] = 0 if body.top_k == -1 else body.top_k  # vLLM's word for all
    return SamplingParams(**given)


def check_count(param: str, count: int, limit: int) -> None:
    """APIError 400 where a field has more entries than it may."""
    if count > limit:
        message = f"{param} has {count:,} entries, and at most {limit:,} are allowed"
        raise APIError(400, message, param=param, code="invalid_value")


def check_top_logprobs(param: str, count: int | None, limits: Limits) -> None:
    """APIError 400 for more log-probabilities of a token than may be asked for."""
    if count is not None and not 0 <= count <= limits.top_logprobs:
        message = f"{param} must be between 0 and {limits.top_logprobs}, not {count}"
        raise APIError(400, message, param=param, code="invalid_value")


def count_of(body: GenerationRequest, limits: Limits) -> int:
    """How many choices of each prompt."""
    n = 1 if body.n is None else body.n
    if not 1 <= n <= limits.choices:
        message = f"n must be between 1 and {limits.choices}, not {n}"
        raise APIError(400, message, param="n", code="invalid_value")
    return n


def constraint_of(body: GenerationRequest, limits: Limits) -> Constraint | None:
    """What the output must be; APIError 400 if two fields say it."""
    found = [*_response_format(body.response_format, limits)]
    outputs = body.structured_outputs
    if outputs is not None:
        name, others = "structured_outputs", len(found)
        found += _schema(outputs.json, f"{name}.json", limits)
        found += _text("regex", outputs.regex, f"{name}.regex", limits)
        found += _choices(outputs.choice, f"{name}.choice", limits)
        found += _text("grammar", outputs.grammar, f"{name}.grammar", limits)
        found += _tag(outputs.structural_tag, f"{name}.structural_tag", limits)
        if outputs.json_object:
            found.append(Constraint(any_object(), f"{name}.json_object"))
        if len(found) == others:
            message = f"{name} says nothing of what the output must be"
            raise APIError(400, message, param=name, code="missing_required_parameter")
    found += _schema(body.guided_json, "guided_json", limits)
    found += _text("regex", body.guided_regex, "guided_regex", limits)
    found += _choices(body.guided_choice, "guided_choice", limits)
    found += _text("grammar", body.guided_grammar, "guided_grammar", limits)
    found += _text("regex", body.regex, "regex", limits)
    found += _text("grammar", body.ebnf, "ebnf", limits)
    found += _schema(body.json_schema, "json_schema", limits)
    found += _text("grammar", body.grammar or None, "grammar", limits)  # llama.cpp's "" is none
    if len(found) > 1:
        first, second = found[0].param, found[1].param
        message = f"{first} and {second} both say what the output must be: give one of them"
        raise APIError(400, message, param=second, code="invalid_value")
    return found[0] if found else None


def schema_constraint(raw: Raw | bytes, param: str, limits: Limits) -> Constraint:
    """JSON that is valid by a schema, which stands at `param`."""
    return Constraint(GrammarSpec("json_schema", schema_text(raw, param, limits)), param)


def any_object() -> GrammarSpec:
    """Any JSON object."""
    return GrammarSpec("json_schema", '{"type":"object"}', whitespace="any")


_SAME: Mapping[str, str] = MappingProxyType({})


def placed(
    error: Exception, constraint: Constraint | None, names: Mapping[str, str] = _SAME
) -> APIError:
    """The error of a job, by the name of the field that it is about.  `names`: what the interface
    calls the engine's parameters."""
    if isinstance(error, GrammarError) and (error.pointer or "").startswith("/tools/"):
        named = as_api_error(error)
        return APIError(named.status, named.message, param=error.pointer[1:], code=named.code)  # type: ignore[index]  # it is a text that begins so
    found = as_api_error(error, param=constraint.param if constraint is not None else None)
    found.param = names.get(found.param or "", found.param)
    return found


async def placed_events(
    events: AsyncIterator[GenerationEvent],
    constraint: Constraint | None,
    names: Mapping[str, str] = _SAME,
) -> AsyncGenerator[GenerationEvent, None]:
    """The events; errors are placed."""
    try:
        async with aclosing(cast(AsyncGenerator[GenerationEvent, None], events)) as stream:
            async for event in stream:
                yield event
    except SgenError as error:
        raise placed(error, constraint, names) from error


def schema_text(raw: Raw | bytes, param: str, limits: Limits) -> str:
    """A schema as it was sent, or the text of it where it was sent as one; APIError 400 names the
    limit that it breaks, and the place."""
    data = bytes(raw)
    if data.lstrip()[:1] == b'"':
        data = msgspec.json.decode(data, type=str).encode()
    if len(data) > limits.schema_bytes:
        message = (
            f"the schema has {len(data):,} bytes, and at most {limits.schema_bytes:,} are allowed"
        )
        raise APIError(400, message, param=param, code="schema_too_large")
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        message = f"the schema is not JSON: {error}"
        raise APIError(400, message, param=param, code="invalid_json") from None
    _check_schema(value, param, limits)
    return data.decode()


def _check_schema(root: object, param: str, limits: Limits) -> None:
    stack: list[tuple[object, str, int]] = [(root, "", 1)]
    while stack:
        value, place, depth = stack.pop()
        if depth > limits.schema_depth and isinstance(value, (dict, list)):
            raise _refused(
                f"the schema is nested more than {limits.schema_depth} deep", param, place
            )
        if isinstance(value, dict):
            _check_members(value, param, place, limits)
            for name, item in value.items():
                step = name.replace("~", "~0").replace("/", "~1")
                stack.append((item, f"{place}/{step}", depth + 1))
        elif isinstance(value, list):
            stack += [(item, f"{place}/{i}", depth + 1) for i, item in enumerate(value)]


def _check_members(value: dict[str, Any], param: str, place: str, limits: Limits) -> None:
    entries = value.get("enum")
    if isinstance(entries, list) and len(entries) > limits.enum_entries:
        text = f"enum has {len(entries):,} entries, and at most {limits.enum_entries:,} are allowed"
        raise _refused(text, param, f"{place}/enum")
    patterns = value.get("patternProperties")
    texts = [value.get("pattern"), *(patterns if isinstance(patterns, dict) else ())]
    for text in texts:
        if isinstance(text, str):
            _check_pattern(text, f"{param}{place}", limits)


def _check_pattern(text: str, param: str, limits: Limits) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > limits.pattern_bytes:
        message = f"a pattern has {size:,} bytes, and at most {limits.pattern_bytes:,} are allowed"
        raise APIError(400, message, param=param, code="pattern_too_large")


def _refused(message: str, param: str, place: str) -> APIError:
    return APIError(
        400, f"{message} at {place or '/'}", param=param + place, code="schema_too_large"
    )


def _response_format(given: ResponseFormat | None, limits: Limits) -> list[Constraint]:
    if given is None or given.type == "text":
        return []
    name = "response_format"
    if given.type == "json_object":
        return _schema(given.schema, f"{name}.schema", limits) or [Constraint(any_object(), name)]
    if given.type == "structural_tag":
        members = {
            k: v for k in ("structures", "triggers", "format") if _is_given(v := getattr(given, k))
        }
        return _tag(Raw(msgspec.json.encode(members)), name, limits)
    inner = given.json_schema
    found = [] if inner is None else _schema(inner.schema, f"{name}.json_schema.schema", limits)
    if not found:
        message = "response_format of type json_schema needs json_schema.schema"
        raise APIError(400, message, param=f"{name}.json_schema", code="missing_required_parameter")
    return found


def _is_given(raw: Raw) -> bool:
    return bytes(raw) not in (b"", b"null")


def _schema(raw: Raw, param: str, limits: Limits) -> list[Constraint]:
    if not _is_given(raw):
        return []
    return [schema_constraint(raw, param, limits)]


def _tag(raw: Raw, param: str, limits: Limits) -> list[Constraint]:
    if not _is_given(raw):
        return []
    return [Constraint(GrammarSpec("structural_tag", schema_text(raw, param, limits)), param)]


def _text(kind: str, text: str | None, param: str, limits: Limits) -> list[Constraint]:
    if text is None:
        return []
    if kind == "regex":
        _check_pattern(text, param, limits)
        return [Constraint(GrammarSpec("regex", text), param)]
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > limits.schema_bytes:
        message = f"the grammar has {size:,} bytes, and at most {limits.schema_bytes:,} are allowed"
        raise APIError(400, message, param=param, code="grammar_too_large")
    return [Constraint(GrammarSpec("gbnf" if "::=" in text else "lark", text), param)]


def _choices(choices: list[str] | None, param: str, limits: Limits) -> list[Constraint]:
    if choices is None:
        return []
    check_count(param, len(choices), limits.enum_entries)
    return [Constraint(GrammarSpec("choices", json.dumps(choices)), param)]


def _max_tokens(body: GenerationRequest) -> int | None:
    for name in ("max_completion_tokens", "max_tokens", "n_predict"):
        value: int | None = getattr(body, name)
        if value is None or (name == "n_predict" and value == -1):
            continue
        if value < 1:
            raise InvalidRequestError(f"{name} must be at least 1, not {value}", param=name)
        return value
    return None


def _bias(given: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token): value for token, value in given.items()}
    except ValueError:
        message = "the keys of logit_bias are token ids, as texts of digits"
        raise APIError(400, message, param="logit_bias", code="invalid_value") from None

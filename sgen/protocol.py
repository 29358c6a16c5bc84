"""What crosses the line between the language and an engine: requests in, chunks out.

A leaf module of msgspec Structs (and of the `Backend` protocol): `frontend` and `runtime` both
speak it, and never import each other.  The same bytes go to an engine in this process, to one in
another process, or to a server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec

from sgen.errors import InvalidRequestError

FinishReason = Literal["stop", "length", "cancelled", "error"]


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How tokens are chosen and when generation ends.

    Greedy exactly when `temperature` is 0.  Noise is a function of (seed, position) alone, so a
    seeded request gives the same text in any batch; with `seed=None` the engine draws one.
    `max_tokens=None` means up to the end of the context.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0  # on tokens already generated, as OpenAI defines it
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0  # on prompt and output, as Hugging Face defines it
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    stop: tuple[str, ...] = ()  # the matched text is not part of the output
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None  # None: no; n: of the chosen token and of the n likeliest
    finish: Literal["valid", "truncate"] = "valid"  # only constrained output can be kept valid

    def __post_init__(self) -> None:
        for param, text, is_right in _PARAM_CHECKS:
            value = getattr(self, param)
            if not is_right(value):
                raise InvalidRequestError(
                    f"{param} must be {text}, not {_shown(value)}", param=param
                )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "..."


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _within(value: Any, low: float, high: float) -> bool:
    """Is it a number in the range?  NaN is in none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_bias(value: Any) -> bool:
    if not isinstance(value, dict) or len(value) > 1024:
        return False
    return all(_is_int(t) and _within(b, -100.0, 100.0) for t, b in value.items())


def _is_stop(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) > 16:
        return False
    return all(isinstance(text, str) and text for text in value)


# Types too: msgspec checks them where it decodes, but not where Python calls the constructor.
_PARAM_CHECKS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    (
        "max_tokens",
        "an integer of at least 1 or None",
        lambda v: v is None or (_is_int(v) and v >= 1),
    ),
    ("temperature", "a number between 0 and 100", lambda v: _within(v, 0.0, 100.0)),
    ("top_k", "an integer, 0 (all) or more", lambda v: _is_int(v) and v >= 0),
    ("top_p", "a number above 0 and at most 1", lambda v: _within(v, 0.0, 1.0) and v > 0),
    ("min_p", "a number between 0 and 1", lambda v: _within(v, 0.0, 1.0)),
    ("presence_penalty", "a number between -2 and 2", lambda v: _within(v, -2.0, 2.0)),
    ("frequency_penalty", "a number between -2 and 2", lambda v: _within(v, -2.0, 2.0)),
    (
        "repetition_penalty",
        "a number above 0, at most 10",
        lambda v: _within(v, 0.0, 10.0) and v > 0,
    ),
    ("logit_bias", "at most 1,024 token ids with numbers within 100", _is_bias),
    (
        "seed",
        "a 64-bit integer or None",
        lambda v: v is None or (_is_int(v) and -(2**63) <= v < 2**64),
    ),
    ("stop", "a tuple of at most 16 texts, none empty", _is_stop),
    (
        "stop_token_ids",
        "a tuple of token ids",
        lambda v: isinstance(v, tuple) and all(map(_is_int, v)),
    ),
    ("ignore_eos", "a bool", lambda v: isinstance(v, bool)),
    (
        "logprobs",
        "an integer between 0 and 20 or None",
        lambda v: v is None or (_is_int(v) and 0 <= v <= 20),
    ),
    ("finish", '"valid" or "truncate"', lambda v: v in ("valid", "truncate")),
)


Role = Literal["system", "user", "assistant", "tool"]


class Text(msgspec.Struct, frozen=True, tag="text"):
    """Text that a person or a program wrote; special tokens in it are plain characters."""

    text: str


class Tokens(msgspec.Struct, frozen=True, tag="tokens"):
    """What a model wrote: its tokens are kept, never made again from the text."""

    ids: tuple[int, ...]
    text: str


class RoleStart(msgspec.Struct, frozen=True, tag="role_start"):
    role: Role
    tool_call_id: str = ""  # of role "tool": which call this is the result of


class RoleEnd(msgspec.Struct, frozen=True, tag="role_end"):
    pass


class ToolDefinition(msgspec.Struct, frozen=True, tag="tool"):
    """A tool that the model may call; `parameters` is the JSON Schema of its arguments, as text.
    Definitions come before the first message."""

    name: str
    description: str = ""
    parameters: str = "{}"


class ToolCall(msgspec.Struct, frozen=True, tag="tool_call"):
    """In an assistant's message, behind its text: a call that was made; `arguments` is JSON text,
    an object."""

    name: str
    arguments: str
    id: str = ""


PromptPart = Text | Tokens | RoleStart | RoleEnd | ToolDefinition | ToolCall
"""A prompt is a tuple of parts.  Parts between RoleStart and RoleEnd are a message, rendered by
the model's own chat template; an open RoleStart at the end is the message being written.  Tools
are shown as the template shows them, or where it has no place for them by a system text."""

ToolFormat = Literal["hermes", "llama3", "mistral", "json"]
"""How a model writes calls: `<tool_call>` elements (Qwen, Hermes), an object with `parameters`
(Llama 3), `[TOOL_CALLS]` and a list (Mistral), or a list of objects with `arguments`."""


class GrammarSpec(msgspec.Struct, frozen=True):
    """What the output must be: a regex, a JSON Schema (as JSON text), one of some choices (as a
    JSON list of strings), or text with structural tags (as JSON text).  Lark and GBNF sources
    have their places here.

    The options are those of JSON Schemas.  `whitespace`: none; line breaks and indentation of up
    to 40 spaces; or either, at each place.  `order` of the members of an object: that of the
    schema, others last; relaxed, that of the schema or of `required` until all that are required
    are there, the rest as they come; or any.  `unknown` keywords and formats, which no draft
    defines: refused, or, as the specification has it, annotations, each of them noted
    (`Grammar.notes`); then `format` is one too, and 1.0 an integer, where the declared dialect
    says so.
    """

    kind: Literal["regex", "json_schema", "choices", "lark", "gbnf", "structural_tag"]
    source: str
    whitespace: Literal["compact", "pretty", "any"] = "compact"
    order: Literal["schema", "relaxed", "any"] = "schema"
    unknown: Literal["refuse", "note"] = "refuse"


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Extend `prompt` by generated tokens, constrained by `grammar` where there is one."""

    id: str  # unique among running requests
    prompt: tuple[PromptPart, ...]
    params: SamplingParams = SamplingParams()
    grammar: GrammarSpec | None = None
    cache_salt: str = ""  # requests of different salts never share cached prefixes

    def __post_init__(self) -> None:
        params = self.params
        if self.grammar is not None and params.finish == "valid":
            param = "stop" if params.stop else "stop_token_ids" if params.stop_token_ids else ""
            if param:
                raise InvalidRequestError(
                    f"{param} could cut output that must be valid",
                    param=param,
                    hint='put the end into the grammar, or take finish="truncate"',
                )


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Score each of `options` as the continuation of `prompt`."""

    id: str
    prompt: tuple[PromptPart, ...]
    options: tuple[str, ...]
    cache_salt: str = ""


class OptionScore(msgspec.Struct, frozen=True):
    """How likely an option is.

    `tree` is its probability when the model walks the token trie of all options, choosing only
    where they part (the probabilities of all options add up to 1, and length plays no part);
    `logprobs` are its own tokens' log-probabilities (natural log) over the whole vocabulary.
    """

    tree: float
    logprobs: tuple[float, ...]


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one request: the prompt's, how many of those came from the cache, the output's."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
        )


class Scores(msgspec.Struct, frozen=True):
    """One score an option, in their order, and what it took: options are scored side by side, so
    `usage` counts the prompt once for each, all but the first from the cache."""

    options: tuple[OptionScore, ...]
    usage: Usage


class TokenLogprob(msgspec.Struct, frozen=True):
    """Natural log-probabilities by the raw logits, before masks, penalties and temperature.

    `top` has the likeliest tokens.  `data` is what the token adds to the text, which may be a part
    of a character only, and `top_data` what each of `top` would.
    """

    token: int
    text: str
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    data: bytes = b""
    top_data: tuple[bytes, ...] = ()


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of output.  Texts concatenate to the final text; never half a UTF-8 character.

    `forced` are the places in `token_ids` where a grammar left no choice.  The last chunk has
    `finish_reason` and `usage`; `stop` is the stop text that matched.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    forced: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop: str | None = None
    usage: Usage | None = None


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a program may know of the model behind a backend."""

    name: str
    context_length: int
    vocab_size: int
    has_chat_template: bool
    compute: str = ""  # which code computes it, on how many threads, with which keys and values
    tool_format: ToolFormat = "json"
    reasoning: tuple[str, str] | None = (
        None  # what begins and ends it, e.g. ("<think>", "</think>")
    )
    reasoning_open: bool = False  # the chat template itself writes what begins it


class Backend(Protocol):
    """What runs requests: the engine here, an engine process, or a server.

    A fork is no operation of its own: it is a second request with the same prefix.
    """

    @property
    def info(self) -> ModelInfo: ...

    def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Chunks as they come; closing the iterator cancels the request within one step."""

    async def score(self, request: ScoreRequest) -> Scores:
        """How likely each option is as the continuation of the prompt."""

    def cancel(self, request_id: str) -> None:
        """Stop a request; unknown and finished ones are ignored."""

    def check_grammar(self, grammar: GrammarSpec) -> int:
        """Compile it; the least number of tokens of an output. GrammarError if refused."""

    def count_tokens(self, prompt: Sequence[PromptPart]) -> int: ...

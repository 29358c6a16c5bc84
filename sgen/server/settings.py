"""What a server is started with: where it listens, who may call it, and its limits."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one request may ask for; each is tested at the limit and one past it.  Bytes, counts
    and seconds.  What a grammar may cost is bounded by its compile service."""

    header_bytes: int = 32 << 10  # request line and header lines together
    body_bytes: int = 4 << 20
    json_depth: int = 200
    text_bytes: int = 512 << 10  # to be made tokens, or shown, alone
    schema_bytes: int = 64 << 10
    schema_depth: int = 64
    enum_entries: int = 4096
    pattern_bytes: int = 1 << 10
    tools: int = 128
    tools_bytes: int = 256 << 10  # their schemas together
    choices: int = 16  # n
    stop_texts: int = 16
    logit_bias: int = 1024
    top_logprobs: int = 20
    program_nodes: int = 4096
    program_branches: int = 128  # with the root
    program_grammars: int = 64  # different ones
    program_tokens: int = 65_536  # of all its generations, by their max_tokens
    program_characters: int = 1 << 20  # that its nodes write and its forks hand on
    running: int = 256  # requests at a time, running or waiting in the engine
    queue: int = 256  # more that wait for a place; one more is told 429
    connections: int = 1024
    header_seconds: float = 10.0  # for a whole header to come
    body_seconds: float = 30.0  # for a whole body to come
    idle_seconds: float = 60.0  # a connection without a request is kept
    write_seconds: float = 60.0  # a reader may take nothing
    keep_alive_seconds: float = 10.0  # between two comments of a silent stream
    drain_seconds: float = 30.0  # after SIGTERM, for what is running


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`api_keys`: none means that anybody may call."""

    model: str | None = None  # None: the embedded one
    served_names: tuple[str, ...] = ()  # further names of the model
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    limits: Limits = Limits()
    playground: bool = True

"""`sgen serve`: its options, and what they mean for the server and its engine."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sgen.errors import InvalidRequestError
from sgen.server.settings import Limits, Settings


def serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="a GGUF file, a folder, or a name")
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    parser.add_argument(
        "--port", type=int, default=8000, help="default: 8000; 0 takes any free one"
    )
    parser.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="required of requests, may be repeated; also SGEN_API_KEYS, with commas between "
        "(default: none needed)",
    )
    parser.add_argument("--api-key-file", metavar="FILE", help="API keys, one a line")
    parser.add_argument(
        "--served-name",
        action="append",
        default=[],
        metavar="NAME",
        help="another name of the model, may be repeated",
    )
    parser.add_argument(
        "--cache-tokens",
        type=int,
        metavar="N",
        help="size of the KV cache (default: what 1 GiB holds)",
    )
    parser.add_argument(
        "--max-running", type=int, metavar="N", help="requests in one step of the engine"
    )
    parser.add_argument(
        "--queue", type=int, metavar="N", help="requests that may wait; one more is told 429"
    )
    parser.add_argument(
        "--unknown-keywords",
        choices=["refuse", "note"],
        default="refuse",
        help="of schemas, which no draft defines: a 400 (default), or annotations as the "
        "specification has it",
    )
    parser.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a site whose pages may call, may be repeated",
    )
    parser.add_argument("--no-playground", action="store_true", help="no page at /")
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="may be repeated; the names and their defaults: " + _shown(Limits()),
    )
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"]
    )


def serve_command(args: argparse.Namespace) -> int:
    """Runs until a signal; the exit status."""
    settings = settings_of(args)
    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    # What needs the network stack is imported here: `sgen --help` does without.
    from sgen.server.link import EngineOptions
    from sgen.server.serve import serve

    for option in ("threads", "cache_tokens", "max_running"):
        value = getattr(args, option)
        if value is not None and value < 1:
            name = option.replace("_", "-")
            raise InvalidRequestError(f"--{name} must be at least 1, not {value}", param=option)
    options = EngineOptions(
        model=args.model,
        cache_tokens=args.cache_tokens,
        path=args.compute,
        threads=args.threads,
        kv_cache_dtype=args.kv_cache_dtype,
        deterministic=args.deterministic,
        max_running=args.max_running,
        unknown_keywords=args.unknown_keywords,
    )
    return serve(settings, options)


def settings_of(args: argparse.Namespace) -> Settings:
    """InvalidRequestError says which option is wrong."""
    limits = list(args.limit)
    if args.queue is not None:
        limits.append(f"queue={args.queue}")
    if not 0 <= args.port < 1 << 16:
        raise InvalidRequestError(f"--port {args.port} is not from 0 to 65535", param="port")
    return Settings(
        model=args.model,
        served_names=tuple(args.served_name),
        host=args.host,
        port=args.port,
        api_keys=_keys(args.api_key, args.api_key_file),
        cors_origins=tuple(args.cors_origin),
        limits=_limits(limits),
        playground=not args.no_playground,
    )


def _shown(limits: Limits) -> str:
    return ", ".join(f"{name}={value}" for name, value in msgspec.structs.asdict(limits).items())


def _keys(given: Sequence[str], path: str | None) -> tuple[str, ...]:
    keys = [*given, *os.environ.get("SGEN_API_KEYS", "").split(",")]
    if path is not None:
        try:
            keys += Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise InvalidRequestError(f"--api-key-file {path}: {why}") from error
    kept = tuple(dict.fromkeys(key.strip() for key in keys if key.strip()))
    if path is not None and not kept:
        # An empty file must not open the server to everybody.
        raise InvalidRequestError(f"--api-key-file {path} has no key")
    return kept


def _limits(given: Sequence[str]) -> Limits:
    values: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or name not in Limits.__struct_fields__:
            names = ", ".join(Limits.__struct_fields__)
            wrong = f"there is no limit {name}" if equals else "it is not NAME=VALUE"
            raise InvalidRequestError(f"--limit {one}: {wrong}", hint=f"names: {names}")
        values[name] = value
    try:
        limits = msgspec.convert(values, Limits, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(
            f"--limit: {error}", hint="counts and bytes are integers, seconds are numbers"
        ) from error
    for name in values:
        least = 0 if name == "queue" else 1
        if name.endswith("_seconds"):
            least = 0
        if not getattr(limits, name) >= least:
            raise InvalidRequestError(f"--limit {name} must be at least {least}")
    return limits

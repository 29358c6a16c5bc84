"""`sgen quantize SRC DST --format F`: a GGUF file with other types of weights."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from sgen.errors import InvalidRequestError


def quantize_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a GGUF file, or a name of one")
    parser.add_argument("target", metavar="DST", help="the file to write, which ends in .gguf")
    parser.add_argument(
        "--format",
        required=True,
        choices=["q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0", "iq4_nl",
                 "iq4_xs", "mxfp4"],
        help="the type of its matrices",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace DST where it exists")


def quantize_command(args: argparse.Namespace) -> int:
    from sgen.runtime.hub import resolve_model
    from sgen.runtime.quantize import quantize_gguf

    source, target = Path(resolve_model(args.source)), Path(args.target)
    if source.is_dir():
        raise InvalidRequestError(
            f"{source} is a folder, and only GGUF files are quantized so far",
            param="SRC",
            hint="convert it to a GGUF file of F16 or BF16 with llama.cpp first",
        )
    if target.suffix != ".gguf":
        raise InvalidRequestError(f"{target} does not end in .gguf", param="DST")
    if target.exists() and not args.force:
        raise InvalidRequestError(
            f"{target} exists", param="DST", hint="give another name, or --force to replace it"
        )
    meter = _Meter(sys.stderr.isatty())
    try:
        quantize_gguf(source, target, args.format, meter.update)
    except OSError as error:
        raise InvalidRequestError(f"cannot write {target}: {error}", param="DST") from error
    finally:
        meter.close()
    before, after = source.stat().st_size, target.stat().st_size
    if args.json:
        found = {"path": str(target), "format": args.format, "bytes": after, "from_bytes": before}
        print(json.dumps(found))
    else:
        print(f"{target}: {after / 1e6:.1f} MB, {after / before:.0%} of {source.name}")
    return 0


class _Meter:
    """One line on a terminal: how much is done, and about how long the rest takes."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._start = time.monotonic()

    def update(self, done: int, total: int) -> None:
        if not self._enabled or not total:
            return
        left = (time.monotonic() - self._start) / max(done, 1) * (total - done)
        text = f"quantizing {done / total:4.0%}" + (f", {left:.0f} s left" if done else "")
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._enabled:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

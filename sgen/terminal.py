"""What the command line shows: progress bars, text with its constrained parts marked, facts."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

import msgspec

from sgen.errors import SgenError

if TYPE_CHECKING:  # an engine alone does not need the language
    from sgen.frontend.events import Run, Span

REFRESH_SECONDS = 0.1
_WIDTH = 24


class ProgressBar:
    """One line on stderr that is drawn over itself, and taken away at the end."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._drawn = 0.0
        self._shown = 0

    def update(self, stage: str, done: int, total: int) -> None:
        """Bytes where `total` is above a million, else things."""
        now = time.monotonic()
        if not self._enabled or (now - self._drawn < REFRESH_SECONDS and done < total):
            return
        self._drawn = now
        share = done / total if total else 1.0
        filled = round(share * _WIDTH)
        if total > 1_000_000:
            counts = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
        else:
            counts = f"{done} of {total}"
        self._write(f"{stage:<13}{'#' * filled}{'.' * (_WIDTH - filled)} {counts}")

    def _write(self, line: str) -> None:
        sys.stderr.write("\r" + line.ljust(self._shown))
        sys.stderr.flush()
        self._shown = len(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown:
            sys.stderr.write("\r" + " " * self._shown + "\r")
            sys.stderr.flush()


# Without colours the marks are brackets that no ordinary text has.
_PLAIN = {"constrained": ("⟦", "⟧"), "generated": ("", ""), "role": ("", ""), "text": ("", "")}
_COLOUR = {
    "constrained": ("\x1b[1;32m", "\x1b[0m"),
    "generated": ("\x1b[36m", "\x1b[0m"),
    "role": ("\x1b[2m", "\x1b[0m"),
    "text": ("", ""),
}


def show_run(run: Run[Any], out: TextIO) -> None:
    """A run's text with its constrained parts marked, its value, and one line of facts."""
    colour = out.isatty() and "NO_COLOR" not in os.environ
    marks = _COLOUR if colour else _PLAIN
    branches: dict[tuple[int, ...], list[Span]] = {}
    for span in run.spans:
        branches.setdefault(span.branch, []).append(span)
    for branch, spans in branches.items():
        text = "".join(_marked(span, marks) for span in spans).strip("\n")
        if branch:
            indent = "  " * len(branch)
            text = f"{indent}branch {'.'.join(map(str, branch))}  {text}"
            text = text.replace("\n", f"\n{indent}  ")
        print(text, file=out)
    before, after = marks["constrained"]
    print(f"\n({before}like this{after}: constrained by a grammar)", file=out)
    print(f"\n{run.output!r}\n{facts(run)}", file=out)


def _marked(span: Span, marks: Mapping[str, tuple[str, str]]) -> str:
    kind = "constrained" if span.constrained else span.kind
    before, after = marks[kind]
    return f"{before}{span.text}{after}" if span.text else ""


def facts(run: Run[Any]) -> str:
    """One line: what was computed, what was not, and how fast."""
    usage, seconds = run.usage, max(run.seconds, 1e-9)
    return (
        f"{usage.prompt_tokens - usage.cached_tokens} tokens prefilled, "
        f"{usage.cached_tokens} from the cache, {usage.completion_tokens} decoded, "
        f"{usage.completion_tokens / seconds:.1f} tok/s, {seconds:.1f} s"
    )


def show_error(error: SgenError, *, as_json: bool) -> None:
    """An error with its remedy: text on stderr, or an object in the place of the result."""
    if as_json:
        body = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
        print(json.dumps({"error": body}), flush=True)
        return
    notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
    print(f"sgen: {error}{notes}", file=sys.stderr)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: models, structs, dataclasses and enums become what they say."""
    return msgspec.to_builtins(value, enc_hook=_to_builtins, str_keys=True)


def _to_builtins(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)  # pydantic models
    return dump(mode="json") if callable(dump) else repr(value)

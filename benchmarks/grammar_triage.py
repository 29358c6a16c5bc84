"""What the JSON Schema front end refuses or gets wrong: `python -m benchmarks.grammar triage`.

Each schema is compiled and each instance is read byte by byte by a matcher over a vocabulary of
the 256 bytes, so no tokenizer is loaded and the whole development set takes seconds.  With
`--masks MODEL` the instances are also read with that model's tokens, and the slowest masks are
listed.
"""

from __future__ import annotations

import argparse
import re
import signal
import statistics
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import grammar_data
from benchmarks.grammar_adapter import spec_of
from benchmarks.grammar_data import Record
from sgen.errors import GrammarError
from sgen.grammars.compile import compile_grammar
from sgen.grammars.masks import Mask, Masker
from sgen.grammars.matcher import Matcher
from sgen.grammars.vocabulary import Vocabulary

BYTES = Vocabulary([bytes([b]) for b in range(256)] + [b""], eos_ids=[256])
SECONDS = 25.0  # the harness's limit for one schema


@dataclass
class Found:
    """What became of some schemas."""

    schemas: int = 0
    right: int = 0  # schemas of which every verdict is right
    unread: int = 0  # instances of refused schemas
    verdicts: dict[tuple[bool, bool], int] = field(default_factory=lambda: defaultdict(int))
    refused: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # ids
    wrong: list[str] = field(default_factory=list)
    compiles: list[tuple[float, str]] = field(default_factory=list)  # ms
    masks: list[tuple[float, str]] = field(default_factory=list)  # us


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """TimeoutError after so many seconds (where Python code runs)."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def triage(records: list[Record], tokens: Tokens | None) -> Found:
    found = Found()
    for record in records:
        found.schemas += 1
        try:
            with limit(SECONDS):
                _one(found, record, tokens)
        except GrammarError as error:
            _refused(found, record, error.keyword or "?", error.message)
        except Exception as error:  # a fault of ours: counted and named like a refusal
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}:{frame.lineno}"
            _refused(found, record, f"! {type(error).__name__} in {place}", str(error))
    return found


def _refused(found: Found, record: Record, keyword: str, message: str) -> None:
    """Count it under its keyword and reason, without what differs from schema to schema."""
    reason = message.splitlines()[0] if message else ""
    reason = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", reason)
    reason = re.sub(r"\d[\d,.]*", "N", re.sub(r"(^|\s)#?/\S+", " /…", reason))
    found.refused[f"{keyword}: {reason[:90]}"].append(record["id"])
    found.unread += len(record["tests"])


def _one(found: Found, record: Record, tokens: Tokens | None) -> None:
    start = time.process_time()
    masker = Masker(compile_grammar(spec_of(record["schema"])), BYTES)
    found.compiles.append((1e3 * (time.process_time() - start), record["id"]))
    good = bool(record["tests"])
    for i, test in enumerate(record["tests"]):
        text = grammar_data.text(test["data"]).encode("utf-8", "surrogatepass")
        matcher = Matcher(masker)
        read = next((at for at, byte in enumerate(text) if not matcher.accept(byte)), len(text))
        accepted = read == len(text) and matcher.is_accepting()
        found.verdicts[test["valid"], accepted] += 1
        if accepted != test["valid"]:
            note = " (by format only)" if test.get("format_only") else ""
            good = good and bool(note)
            name = f"{record['id']} [{i}]{note}"
            if accepted:
                found.wrong.append(f"{name} INVALID ACCEPTED: {_fault(record, test)}")
            else:
                found.wrong.append(
                    f"{name} VALID REJECTED at {read}: {_place(text, read, matcher)}"
                )
    found.right += good
    if tokens is not None:
        found.masks += tokens.slowest(record, 3)


def _place(text: bytes, read: int, matcher: Matcher) -> str:
    """The text around the byte that was refused, and the bytes that were possible there."""
    bits = np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little")[:257]
    possible = [i for i in np.flatnonzero(bits).tolist() if i < 256]
    named = "".join(chr(b) if 32 < b < 127 else "·" for b in possible[:40])
    end = " or the end" if bits[256] else ""
    before, after = (
        part.decode("utf-8", "replace")
        for part in (text[max(0, read - 70) : read], text[read : read + 30])
    )
    return f"…{before}⟦{after}⟧ possible: {len(possible)} bytes {named}{end}"


def _fault(record: Record, test: dict[str, Any]) -> str:
    """Why jsonschema says that the instance is invalid."""
    try:
        import jsonschema
    except ImportError:
        return "(jsonschema is not installed, so the reason is unknown)"
    kind = jsonschema.validators.validator_for(
        record["schema"], default=jsonschema.Draft202012Validator
    )
    errors = kind(record["schema"], format_checker=kind.FORMAT_CHECKER).iter_errors(test["data"])
    try:
        error = jsonschema.exceptions.best_match(errors)
    except Exception as failure:  # a reference that jsonschema cannot resolve, for example
        return f"(jsonschema: {type(failure).__name__})"
    if error is None:
        return "(jsonschema finds no fault)"
    path = "/".join(map(str, error.absolute_path))
    return f"{error.validator} at /{path}: {error.message[:120]}"


class Tokens:
    """A model's tokens: what masks over them cost."""

    def __init__(self, model: str) -> None:
        from sgen.runtime.gguf import GGUFFile
        from sgen.runtime.hub import resolve_model
        from sgen.runtime.tokenizer import tokenizer_from_gguf

        path = resolve_model(model)
        with GGUFFile.open(path) as file:
            names = file.metadata["tokenizer.ggml.tokens"]
            assert isinstance(names, list)
            self.tokenizer = tokenizer_from_gguf(file.metadata, len(names), str(path))
        self.times: list[float] = []  # us, of every mask
        self.slowest({"id": "", "schema": {}, "tests": [{"data": {}}]}, 0)
        self.times.clear()

    def slowest(self, record: Record, count: int) -> list[tuple[float, str]]:
        """The slowest masks of a schema's instances, and where each was."""
        masker = Masker(compile_grammar(spec_of(record["schema"])), self.tokenizer.vocabulary)
        found: list[tuple[float, str, int]] = []
        texts = [grammar_data.text(t["data"]) for t in record["tests"]]
        for text in texts:
            matcher, done = Matcher(masker), 0
            for token in self.tokenizer.encode(text)[:1500]:
                start = time.thread_time_ns()
                mask = matcher.allowed()
                found.append(((time.thread_time_ns() - start) / 1e3, text, done))
                if not _has(mask, token) or not matcher.accept(token):
                    break
                done += len(self.tokenizer.vocabulary.token_bytes[token])
        self.times += [us for us, _, _ in found]
        found.sort(reverse=True)
        return [
            (us, f"{record['id']} after {text.encode()[max(0, at - 60) : at]!r}")
            for us, text, at in found[:count]
        ]


def _has(mask: Mask, token: int) -> bool:
    return bool(int(mask[token >> 5]) >> (token & 31) & 1)


def report(found: Found, tokens: Tokens | None, *, ids: int, lines: int) -> None:
    refused = sum(map(len, found.refused.values()))
    v = found.verdicts
    print(
        f"{found.schemas} schemas: {found.schemas - refused} compiled "
        f"({(found.schemas - refused) / found.schemas:.1%}), all-correct {found.right} "
        f"({found.right / found.schemas:.1%}); valid accepted {v[True, True]} of "
        f"{v[True, True] + v[True, False]}, invalid rejected {v[False, False]} of "
        f"{v[False, False] + v[False, True]} (bytes, no tokenizer)\n"
        f"instances: {v[True, True] + v[False, False]} right, "
        f"{v[True, False] + v[False, True]} wrong, {found.unread} of refused schemas"
    )
    print(f"\nrefused: {refused}")
    for reason, names in sorted(found.refused.items(), key=lambda r: len(r[1]), reverse=True):
        more = ", …" if len(names) > ids else ""
        print(f"  {len(names):3d} {reason} — {', '.join(names[:ids])}{more}")
    print(f"\nwrong verdicts: {len(found.wrong)}")
    for line in found.wrong[:lines]:
        print(f"  {line}")
    if len(found.wrong) > lines:
        print(f"  … and {len(found.wrong) - lines} more (--lines)")
    _print_slow("compile, ms", found.compiles, [ms for ms, _ in found.compiles])
    if tokens is not None:
        _print_slow("masks, us", found.masks, tokens.times)


def _print_slow(title: str, slow: list[tuple[float, str]], times: list[float]) -> None:
    if not times:
        return
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    mean = statistics.fmean(times)
    print(f"\n{title}: mean {mean:.2f}; p50 {p50:.2f}, p95 {p95:.1f}, p99 {p99:.1f}; slowest")
    for cost, name in sorted(slow, reverse=True)[:10]:
        print(f"  {cost:10.1f} {name}")


def run(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.grammar triage", description=__doc__
    )
    parser.add_argument("--data", type=Path, default=grammar_data.DATA)
    parser.add_argument("--suite", action="store_true", help="the JSON-Schema-Test-Suite instead")
    parser.add_argument("--id", default="", help="only schemas whose id contains this")
    parser.add_argument("--masks", metavar="MODEL", help="time masks too, as of smollm2 or a GGUF")
    parser.add_argument("--ids", type=int, default=4, help="ids printed of each reason")
    parser.add_argument("--lines", type=int, default=40, help="wrong verdicts printed")
    args = parser.parse_args(arguments)
    path = grammar_data.SUITE if args.suite else args.data
    if not path.is_file():
        raise SystemExit(grammar_data.missing() or f"{path} is not there")
    records = [r for r in grammar_data.load(path) if args.id in r["id"]]
    if not records:
        raise SystemExit(f"no schema of {path} has {args.id!r} in its id")
    start = time.perf_counter()
    tokens = Tokens(args.masks) if args.masks else None
    report(triage(records, tokens), tokens, ids=args.ids, lines=args.lines)
    print(f"\n{time.perf_counter() - start:.1f} s")

"""The grammar engine beside its peers: `python -m benchmarks.grammar [--quick] [--out FILE]`.

Prints a table for each vocabulary (SmolLM2's and Qwen2.5's, if that model is in the model folder):
what is asked of us, and what sgen, llguidance (strict and lenient) and xgrammar do in this very
run, on the schemas of ../shared/grammar and by its harness: thread CPU time, one thread, every
engine in a process of its own, all in turn at each schema.  xgrammar compiles slowly and runs a
sample (`--xgrammar`).  The test suite's verdicts hang on no vocabulary and are taken with the
first.  Peers must be installed; sgen does not need them otherwise.

`python -m benchmarks.grammar triage` lists what the JSON Schema front end refuses or gets wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import grammar_data, grammar_runs, grammar_triage
from benchmarks.grammar_data import Record
from benchmarks.grammar_runs import Result
from benchmarks.grammar_worker import ENGINES
from sgen.runtime.hub import models_folder

MODELS = {"SmolLM2": "smollm2.gguf", "Qwen2.5": "qwen0.5b.gguf"}

ROWS = {
    "schemas run": ("", ""),
    "compiled": ("97 %", "97 %"),
    "refused / timed out or crashed": ("", ""),
    "schemas all-correct": ("96 %", "96 %"),
    "valid instances accepted": ("99.5 %", "99.5 %"),
    "invalid instances rejected": ("100 %", "100 %"),
    "test suite right / wrong / refused": ("80 % / 0.5 %", ""),
    "compile ms p50 / p99": ("0.3 / 15", "0.3 / 15"),
    "masks": ("", ""),
    "mask us average; p50 / p99": ("9; 2 / 70", "15; 3 / 120"),
    "… first instance of a schema": ("14; / 150", "38; / 350"),
    "… schemas that all engines compile": ("", ""),
    "accept us p50 / p99": ("", ""),
    "forced tokens, share of output": ("24 %", "21 %"),
    "MB per grammar p95": ("5", "5"),
}
"""Rows of the table, with the goals for SmolLM2's and Qwen's vocabulary."""


def first_fills(result: Result) -> list[float]:
    """Times of the masks of a schema's first instance, none of which was made before."""
    if not result["tests"]:
        return []
    first = result["tests"][0]
    times: list[float] = result["fills"][: min(first["pos"] + 1, first["n"])]
    return times


def compiled(results: Sequence[Result]) -> list[Result]:
    return [r for r in results if "compile_error" not in r and "fatal" not in r]


def times(values: Sequence[float]) -> str:
    if not values:
        return "—"
    p50, p99 = np.percentile(values, [50, 99])
    return f"{np.mean(values):.1f}; {p50:.1f} / {p99:.0f}"


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "—"


def suite(results: Sequence[Result], records: Sequence[Record]) -> str:
    """Verdicts right, wrong, and not given because the schema was refused (or ended the engine)."""
    count = {r["id"]: len(r["tests"]) for r in records}
    done = compiled(results)
    right = sum(t["acc"] == t["valid"] for r in done for t in r["tests"])
    total = sum(count[r["id"]] for r in results)
    refused = total - sum(len(r["tests"]) for r in done)
    parts = [right, total - refused - right, refused]
    return " / ".join(share(part, total) for part in parts) if total else "see above"


def column(results: Sequence[Result], common: set[str]) -> dict[str, str]:
    """An engine's column, as far as it comes from the real-world schemas."""
    s = grammar_data.harness().summarize(
        {"engine": "", "tok": "", "init_s": 0, "init_rss_mb": 0, "res": list(results)}
    )
    done = compiled(results)
    more = [r["more"] for r in done]
    held = [m["bytes"] for m in more if m["bytes"] is not None]
    shared = [us for r in done if r["id"] in common for us in r["fills"]]
    return {
        "schemas run": str(s["n"]),
        "compiled": share(s["compiled"], s["n"]),
        "refused / timed out or crashed": f"{s['comp_err']} / {s['fatal']}",
        "schemas all-correct": share(s["schema_ok"], s["schema_tested"]),
        "valid instances accepted": share(s["valid_acc"], s["valid_n"]),
        "invalid instances rejected": share(s["inv_rej"], s["inv_n"]),
        "compile ms p50 / p99": f"{s['comp'][0]:.2f} / {s['comp'][2]:.1f}",
        "masks": f"{s['nm']:,}",
        "mask us average; p50 / p99": times([us for r in done for us in r["fills"]]),
        "… first instance of a schema": times([us for r in done for us in first_fills(r)]),
        "… schemas that all engines compile": f"{times(shared)} ({len(common)})",
        "accept us p50 / p99": f"{s['acc'][0]:.1f} / {s['acc'][1]:.1f}",
        "forced tokens, share of output": share(
            sum(m["forced"] for m in more), sum(m["tokens"] for m in more)
        ),
        "MB per grammar p95": f"{np.percentile(held, 95) / 1e6:.2f}" if held else "n/a",
    }


def table(goals: Sequence[str], columns: Mapping[str, Mapping[str, str]]) -> str:
    lines = ["| | goal | " + " | ".join(columns) + " |", "| --- " * (2 + len(columns)) + "|"]
    for row, goal in zip(ROWS, goals, strict=True):
        cells = [cells.get(row, "not installed") for cells in columns.values()]
        lines.append(f"| {row} | {goal} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measure(
    model: Path, args: argparse.Namespace, *, with_suite: bool
) -> dict[str, dict[str, str]]:
    """The columns of one vocabulary."""
    sample: Callable[..., list[Record]] = grammar_data.harness().sample
    records = sample(grammar_data.load(grammar_data.DATA), args.schemas)
    groups = sample(grammar_data.load(grammar_data.SUITE), args.groups) if with_suite else []
    slow = sample(records, args.xgrammar)
    here = [e for e in args.engines if not grammar_runs.not_installed(e)]
    with tempfile.TemporaryDirectory() as folder:
        grammar_runs.save_tokenizer(model, Path(folder))
        with grammar_runs.workers(here, Path(folder)) as started:
            which = {e: slow if e == "xgrammar" else records for e in here}
            results = grammar_runs.run(started, which, repeat=args.repeat)
            verdicts = grammar_runs.run(started, dict.fromkeys(here, groups), repeat=1)
    common = set.intersection(*({r["id"] for r in compiled(results[e])} for e in here))
    columns: dict[str, dict[str, str]] = {e: {} for e in args.engines}
    for engine in here:
        columns[engine] = column(results[engine], common)
        columns[engine]["test suite right / wrong / refused"] = suite(verdicts[engine], groups)
    return columns


def main() -> None:
    if sys.argv[1:2] == ["triage"]:
        grammar_triage.run(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a sample of everything, in 3 minutes")
    parser.add_argument("--schemas", type=int, help="how many schemas are run (0: all)")
    parser.add_argument("--groups", type=int, help="how many groups of the test suite (0: all)")
    parser.add_argument("--xgrammar", type=int, help="how many schemas xgrammar runs")
    parser.add_argument("--repeat", type=int, default=1, help="times are medians of so many runs")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--out", type=Path, help="write the tables here too, as JSON")
    args = parser.parse_args()
    if grammar_data.missing():
        raise SystemExit(grammar_data.missing())
    for name, full, quick in (("schemas", 0, 60), ("groups", 0, 40), ("xgrammar", 64, 8)):
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else full)
    results: dict[str, Any] = {}
    for i, (name, file) in enumerate(MODELS.items()):
        model = models_folder() / file
        if name not in args.models:
            continue
        if not model.is_file():
            print(f"{name}: {model} is not there\n")
            continue
        start, load = time.perf_counter(), os.getloadavg()[0]
        columns = results[name] = measure(model, args, with_suite=i == 0)
        print(f"{name}: {time.perf_counter() - start:.0f} s, median of {args.repeat}; ", end="")
        print(f"load average {load:.1f} before, {os.getloadavg()[0]:.1f} after\n")
        print(table([goal[i] for goal in ROWS.values()], columns), end="\n\n", flush=True)
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

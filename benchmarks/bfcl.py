"""Function calls of the Berkeley Function-Calling Leaderboard (v4), through the server.

    python -m benchmarks.bfcl ~/.cache/sgen/models/qwen1.5b.gguf --limit 40
    python -m benchmarks.bfcl --url http://127.0.0.1:8000 --sets simple_python,multiple

Every question is asked with `tool_choice` "required", greedily.  `parse` and `valid` are the shares
of answers whose calls are JSON, and valid by the schema of the tool that they name: both must be
100 %, or the exit status is 1.  `names` is the share in which the right functions were called, and
`right` that in which all of their arguments were acceptable too: these are the model's.

Arguments are compared as the leaderboard's own checker would, but without its tolerance for
punctuation: a value must be one of those listed, texts whatever their case, 3 for 3.0; "" in the
list means that the argument may be left out.  Data: ../shared/data.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema

from benchmarks.served import serve

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
SETS = ("simple_python", "multiple", "parallel")
KINDS = {"dict": "object", "float": "number", "tuple": "array"}  # Python's names of JSON's types
MAX_TOKENS = 400
GOOD = ("parse", "valid", "names", "right")

Row = dict[str, Any]


class Outcome(NamedTuple):
    """Of one question; `refused` is what the server said to a request that it did not take."""

    parse: bool = False
    valid: bool = False
    names: bool = False
    right: bool = False
    refused: str = ""


def as_schema(node: Any) -> Any:
    """A JSON Schema of the set's parameters; members that no schema has are left out."""
    if isinstance(node, list):
        return [as_schema(value) for value in node]
    if not isinstance(node, dict):
        return node
    kept = {key: as_schema(value) for key, value in node.items() if key != "optional"}
    kind = kept.get("type")
    if isinstance(kind, str):
        kept["type"] = KINDS.get(kind, kind)
        if kind == "any":
            del kept["type"]
        if "default" in kept and not isinstance(kept["default"], dict):
            del kept["default"]
    return kept


def api_name(name: str) -> str:
    """Names of tools have no dots in OpenAI's interface."""
    return name.replace(".", "_")


def request_of(row: Row, model: str) -> Row:
    """The chat request of a question."""
    tools = [
        {
            "type": "function",
            "function": {
                "name": api_name(function["name"]),
                "description": function["description"],
                "parameters": as_schema(function["parameters"]),
            },
        }
        for function in row["function"]
    ]
    return {
        "model": model,
        "messages": row["question"][0],
        "tools": tools,
        "tool_choice": "required",
        "parallel_tool_calls": len(row["ground_truth"]) > 1,
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }


def _same(given: Any, listed: Any) -> bool:
    if isinstance(given, list) and isinstance(listed, list):
        return len(given) == len(listed) and all(map(_same, given, listed))
    if isinstance(given, dict) and isinstance(listed, dict):
        # In the truth each member of an object has its own list of acceptable values.
        return is_right(given, listed)
    return bool(given == listed) or str(given).strip().lower() == str(listed).strip().lower()


def is_right(given: Row, truth: Row) -> bool:
    """Is every argument one of the acceptable values, and none too many?"""
    known = all(key in truth for key in given)
    return known and all(
        any(_same(given[key], value) for value in values) if key in given else "" in values
        for key, values in truth.items()
    )


def judge(row: Row, body: Row, reply: Row) -> Outcome:
    """The outcome of an answer."""
    calls = reply["choices"][0]["message"].get("tool_calls") or []
    try:
        made = [
            (call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls
        ]
    except ValueError:
        return Outcome()
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in body["tools"]}
    valid = bool(made) and all(
        name in schemas and jsonschema.Draft202012Validator(schemas[name]).is_valid(arguments)
        for name, arguments in made
    )
    wanted = [(api_name(name), args) for one in row["ground_truth"] for name, args in one.items()]
    names = sorted(name for name, _ in made) == sorted(name for name, _ in wanted)
    return Outcome(bool(made), valid, names, names and _all_right(made, wanted))


def _all_right(made: list[tuple[str, Row]], wanted: list[tuple[str, Row]]) -> bool:
    """Each wanted call is matched by one that was made, in any order."""
    left = list(made)
    for name, truth in wanted:
        match = next((c for c in left if c[0] == name and is_right(c[1], truth)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def ask(url: str, row: Row, model: str) -> Outcome:
    """Sends the question and judges the answer."""
    body = request_of(row, model)
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as reply:
            return judge(row, body, json.load(reply))
    except urllib.error.HTTPError as error:
        return Outcome(refused=f"{row['id']}: {error.code} {error.read().decode()[:300]}")


def measure(url: str, model: str, name: str, limit: int | None, at_once: int) -> bool:
    """Runs one set and prints its line; were all calls valid?"""
    lines = (DATA / f"bfcl_{name}_dev.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:limit]]
    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        outcomes = list(pool.map(lambda row: ask(url, row, model), rows))
    seconds = time.perf_counter() - started
    shares = {key: sum(getattr(one, key) for one in outcomes) / len(outcomes) for key in GOOD}
    cells = "  ".join(f"{shares[key]:6.1%}" for key in GOOD)
    refused = [one.refused for one in outcomes if one.refused]
    print(f"{name:14} {len(rows):4}  {cells}  {len(refused):7}  {seconds:6.0f}", flush=True)
    for text in refused:
        print(f"  refused {text}")
    for row, one in zip(rows, outcomes, strict=True):
        if not one.refused and not one.valid:
            print(f"  not valid: {row['id']}")
    return bool(shares["valid"] == 1.0)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", help="as for sgen serve")
    parser.add_argument("--url", help="a server that stands; else one is started")
    parser.add_argument("--sets", default=",".join(SETS), help=",".join(SETS))
    parser.add_argument("--limit", type=int, help="questions of each set; default: all")
    parser.add_argument("--at-once", type=int, default=8)
    args = parser.parse_args(argv)
    with contextlib.ExitStack() as stack:
        url = args.url or stack.enter_context(serve(args.model)).url
        with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as reply:
            model = json.load(reply)["data"][0]["id"]
        print(f"{model}\n{'set':14} {'n':>4}  " + "  ".join(f"{key:>6}" for key in GOOD), end="")
        print(f"  {'refused':>7}  {'s':>6}")
        good = [measure(url, model, s, args.limit, args.at_once) for s in args.sets.split(",")]
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())

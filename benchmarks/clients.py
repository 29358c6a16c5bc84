"""The clients that people use, each in a virtual environment of its own, against one server.

    python -m benchmarks.clients                        # all of them; makes what is missing
    python -m benchmarks.clients --only openai-3,ai     # some
    python -m benchmarks.clients --url http://127.0.0.1:8000

Prints a table of cases, and ends with 1 where one failed.  The scripts and the pinned versions are
in tests/clients, the environments in build/clients (about 1 GB, and a minute of downloads).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.served import serve

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "tests" / "clients"
PLACES = ROOT / "build" / "clients"
PYTHON_CLIENTS = {
    "openai-3": "run_openai.py",
    "openai-2": "run_openai.py",
    "anthropic": "run_anthropic.py",
    "pydantic-ai": "run_pydantic_ai.py",
    "langchain": "run_langchain.py",
    "instructor": "run_instructor.py",
    "openai-agents": "run_openai_agents.py",
    "smolagents": "run_smolagents.py",
    "llama-index": "run_llama_index.py",
    "litellm": "run_litellm.py",
    "dspy": "run_dspy.py",
}
NODE_CLIENT = "ai"
CLIENTS = (*PYTHON_CLIENTS, NODE_CLIENT)
SECONDS = 480  # for all cases of a client


class Case(NamedTuple):
    """What one case of one client came to; `error` is empty where it passed."""

    client: str
    case: str
    seconds: float
    error: str


def prepare(client: str) -> list[str]:
    """Makes the client's environment where it is missing or of other pins; the command that runs
    its script."""
    place = PLACES / client
    return _prepare_node(place) if client == NODE_CLIENT else _prepare_python(place, client)


def _prepare_python(place: Path, client: str) -> list[str]:
    pins = SCRIPTS / "requirements" / f"{client}.txt"
    python, made = place / "bin" / "python", place / "pins.txt"
    if not made.exists() or made.read_bytes() != pins.read_bytes():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--upgrade", "pip"], check=True)  # an old one searches for minutes
        subprocess.run([*pip, "-r", str(pins)], check=True)
        shutil.copy(pins, made)
    return [str(python), str(SCRIPTS / PYTHON_CLIENTS[client])]


def _prepare_node(place: Path) -> list[str]:
    place.mkdir(parents=True, exist_ok=True)
    pins, made = SCRIPTS / NODE_CLIENT / "package.json", place / "package.json"
    if not made.exists() or made.read_bytes() != pins.read_bytes():
        shutil.copy(pins, made)
        try:
            subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=place, check=True)
        except BaseException:
            made.unlink()
            raise
    shutil.copy(SCRIPTS / NODE_CLIENT / "run.mjs", place)
    return ["node", str(place / "run.mjs")]


def run(client: str, url: str, model: str) -> list[Case]:
    """All cases of a client.  A script that ends early is a failed case of its own."""
    try:
        done = subprocess.run(
            [*prepare(client), url, model], capture_output=True, text=True, timeout=SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        return [Case(client, "(script)", 0.0, str(error)[:300])]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
    cases = [Case(client, one["case"], one["seconds"], one["error"]) for one in found]
    if not cases or (done.returncode and not any(case.error for case in cases)):
        why = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        cases.append(Case(client, "(script)", 0.0, why[0][:300]))
    return cases


def show(cases: Sequence[Case]) -> str:
    """The table: a line a case."""
    lines = [f"{'client':14} {'case':28} {'':6} {'s':>6}"]
    for case in cases:
        state = "FAILED" if case.error else "ok"
        lines.append(
            f"{case.client:14} {case.case:28} {state:6} {case.seconds:6.1f}  {case.error[:160]}"
        )
    passed = sum(not case.error for case in cases)
    return "\n".join([*lines, f"{passed} of {len(cases)} cases passed"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", default=",".join(CLIENTS), help="names, comma-separated")
    parser.add_argument("--url", help="a server that stands, without /v1; else one is started")
    parser.add_argument("--model", default="smollm2")
    args = parser.parse_args(argv)
    chosen = args.only.split(",")
    if unknown := set(chosen) - set(CLIENTS):
        parser.error(f"no client {sorted(unknown)}: take of {', '.join(CLIENTS)}")
    cases: list[Case] = []
    with contextlib.ExitStack() as stack:
        url = args.url or stack.enter_context(serve(args.model)).url
        for client in chosen:
            cases += run(client, url, args.model)
            print(f"{client} done", file=sys.stderr)
    print(show(cases))
    return int(any(case.error for case in cases))


if __name__ == "__main__":
    sys.exit(main())

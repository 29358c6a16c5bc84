"""Run a program on a server: it goes there as data, and its events come back while it runs.

sgen serve &
python examples/remote_program.py --ticket "The app crashes when I log in."
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from sgen.frontend import ir

sys.path.insert(0, str(Path(__file__).parent))
from triage import triage

Event = dict[str, Any]


def events(url: str, program: ir.Program, args: dict[str, Any]) -> Iterator[Event]:
    """The events of a run on the server at `url`, the last of them "done" or "error"."""
    body = {"program": json.loads(ir.encode(program)), "args": args}
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("SGEN_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = Request(f"{url}/v1/programs", json.dumps(body).encode(), headers)
    with urlopen(request) as response:
        for line in response:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def shown(event: Event) -> str:
    """An event as a line, or nothing for the pieces of a variable's text."""
    branch = ".".join(map(str, event.get("branch", ()))) or "root"
    match event["type"]:
        case "var.end":
            usage = event["usage"]
            cached = f"{usage['cached_tokens']} of {usage['prompt_tokens']} prompt tokens cached"
            return f"{branch}: {event['name']} = {event['value']!r} ({cached})"
        case "fork" | "join":
            return f"{branch}: {event['type']} of {len(event['branches'])}"
        case "error":
            return f"{branch}: {event['error']['message']}"
        case "done":
            return f"result: {event['result']} in {event['seconds']:.1f} s"
    return ""


def main() -> int:
    """Run the triage example remotely; the exit status is 1 if it fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--ticket", default="The app crashes when I log in.")
    options = parser.parse_args()
    event: Event = {"type": "error"}
    try:
        for event in events(options.url, triage.compile().ir, {"ticket": options.ticket}):
            if line := shown(event):
                print(line)
    except HTTPError as error:
        print(error.read().decode(), file=sys.stderr)
    except URLError as error:
        print(f"no server at {options.url} ({error.reason}): sgen serve", file=sys.stderr)
    return 0 if event["type"] == "done" else 1


if __name__ == "__main__":
    sys.exit(main())

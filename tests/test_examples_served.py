"""Every example that talks to a server runs against one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.served import Served

EXAMPLES = Path(__file__).parent.parent / "examples"


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_the_openai_client(served: Served) -> None:
    printed = _output(sys.executable, str(EXAMPLES / "openai_client.py"), served.url)
    assert printed.startswith("title=")


def test_the_agent(served: Served) -> None:
    assert _output(sys.executable, str(EXAMPLES / "agent.py"), served.url).startswith("clothes=")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(served: Served) -> None:
    answer = json.loads(_output("sh", str(EXAMPLES / "serve_curl.sh"), served.url))
    city = json.loads(answer["choices"][0]["message"]["content"])
    assert set(city) == {"name", "capital"}

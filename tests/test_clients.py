"""Clients that people use work unchanged: those that install beside the tests, without a network.

`python -m benchmarks.clients` runs all of them, each in an environment of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.clients import CLIENTS, PYTHON_CLIENTS, SCRIPTS, Case, show
from benchmarks.served import Served

SHORT = ("run_openai.py", "run_pydantic_ai.py", "run_instructor.py")


@pytest.mark.parametrize("script", SHORT)
def test_client(script: str, served: Served) -> None:
    model = served.get("/v1/models")["data"][0]["id"]
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), served.url, model],
        capture_output=True,
        text=True,
        timeout=240,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"case"')]
    assert len(lines) == (SCRIPTS / script).read_text().count("@case\n")
    assert [line for line in lines if not json.loads(line)["ok"]] == [], done.stderr[-4000:]


def test_every_client_has_its_script_and_pins() -> None:
    for client in CLIENTS:
        if client in PYTHON_CLIENTS:
            assert (SCRIPTS / PYTHON_CLIENTS[client]).is_file()
            pins = (SCRIPTS / "requirements" / f"{client}.txt").read_text().split()
            assert pins
            assert all("==" in pin for pin in pins)
    versions = json.loads((SCRIPTS / "ai" / "package.json").read_text())["dependencies"].values()
    assert all(version[0].isdigit() for version in versions)


def test_the_table_counts_what_failed() -> None:
    table = show([Case("a", "one", 0.5, ""), Case("b", "two", 1.0, "AssertionError: no")])
    assert "1 of 2 cases passed" in table
    assert "FAILED" in table.splitlines()[2]

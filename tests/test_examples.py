"""Every example runs, and so does what the README shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SERVED = {"openai_client", "agent", "remote_program"}  # need a server, and have tests with one
EXAMPLES = sorted(p for p in (ROOT / "examples").glob("*.py") if p.stem not in SERVED)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example_runs(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=200, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert not done.stderr


def test_the_readme_shows_the_example_as_it_is() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    source = re.sub(r"\n+", "\n", (ROOT / "examples" / "triage.py").read_text())
    shown = re.sub(r"\n+", "\n", blocks[0]).strip()
    assert shown in source

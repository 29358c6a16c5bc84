"""What a type checker makes of programs: `typed_programs.py` says so line by line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
PROGRAMS = Path(__file__).parent / "typed_programs.py"
PACKAGES = ("frontend", "grammars", "runtime", "kernels")


def _revealed(text: str) -> str:
    """A revealed type without module names."""
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)


def _link_tree(folder: Path) -> Path:
    """Where a type checker finds the package: what `make types` makes, or the same in `folder`."""
    made = REPOSITORY / "build" / "types"
    if made.is_dir():
        return made
    tree = folder / "types" / "sgen"
    tree.mkdir(parents=True)
    for entry in (REPOSITORY / "sgen").iterdir():
        (tree / entry.name).symlink_to(entry)
    for package in PACKAGES:
        (tree / package).symlink_to(REPOSITORY / package)
    return tree.parent


def test_mypy_reveals_what_the_comments_say(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--hide-error-context", "--no-pretty", str(PROGRAMS)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "MYPYPATH": str(_link_tree(tmp_path)), "PYTHONSAFEPATH": "1"},
    )
    found: dict[int, str] = {}
    for line in result.stdout.splitlines():
        at = re.match(r".*typed_programs\.py:(\d+): (\w+): (.*)", line)
        if at is None:
            continue
        number, kind, text = int(at[1]), at[2], at[3]
        shown = re.match(r'Revealed type is "(.*)"$', text)
        code = re.search(r"\[([\w-]+)\]$", text)
        if shown:
            found[number] = _revealed(shown[1])
        elif kind == "error" and code:
            found[number] = f"error: {code[1]}"
    expected = {
        number: line.rsplit("  # ", 1)[1]
        for number, line in enumerate(PROGRAMS.read_text().splitlines(), 1)
        if "  # " in line
    }
    assert found == expected, result.stdout + result.stderr

"""Where the data and the harness of the grammar benchmarks are: in ../shared/grammar.

They are kept beside the repository where sgen is developed, and are not part of it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY.parent / "shared" / "grammar"
DATA = FOLDER / "jsonschema_dev.jsonl"
SUITE = FOLDER / "suite_dev.jsonl"

Record = dict[str, Any]
"""`id`, `subset`, `schema`, and `tests`: each `data`, `valid`, and perhaps `format_only`."""


def missing() -> str:
    """What to say where the folder is not there; "" where it is."""
    if (FOLDER / "harness.py").is_file():
        return ""
    return (
        f"{FOLDER} is not there: it holds the harness and the schemas that these benchmarks run, "
        "and is kept where sgen is developed; nothing else can be measured without it"
    )


def harness() -> ModuleType:
    """The harness as a module; its `worker` must be able to import it by name, hence the path."""
    if "harness" not in sys.modules:
        spec = importlib.util.spec_from_file_location("harness", FOLDER / "harness.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["harness"] = module
        spec.loader.exec_module(module)
    return sys.modules["harness"]


def load(path: Path) -> list[Record]:
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def text(value: object) -> str:
    """An instance as the harness writes it: compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

"""Ready-made Lark grammars, each a file of this folder with a rule `start`.

    GrammarSpec("lark", library.source("json"))

A grammar imports them by `%import sgen.json`, or a part by `%import sgen.json.value`.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

PACKAGE = "sgen"
"""The first part of the names by which grammars import these."""


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """The grammars there are, in alphabetical order."""
    files = (file.name for file in resources.files(__package__).iterdir())
    return tuple(sorted(f.removesuffix(".lark") for f in files if f.endswith(".lark")))


def source(name: str) -> str:
    """The text of one of `names()`; KeyError if it is none."""
    if name not in names():
        raise KeyError(f"no grammar {name!r} in the library; there are {', '.join(names())}")
    return resources.files(__package__).joinpath(f"{name}.lark").read_text("utf-8")


def load(base_path: object, path: str) -> tuple[str, str]:
    """For lark's own `import_paths`: the text of `sgen/NAME.lark`; OSError for all others."""
    if path == f"{PACKAGE}.lark":
        return path, "".join(f"%import {PACKAGE}.{n}.start -> {n}\n" for n in names())
    folder, _, file = path.replace("\\", "/").rpartition("/")
    name = file.removesuffix(".lark")
    if folder != PACKAGE or name not in names():
        raise FileNotFoundError(path)
    return path, source(name)

"""A compile worker that does what files in a folder tell it: `python odd_worker.py FOLDER ...`.

Its grammars are their sources, letter by letter, and `(` is refused: none of the front ends, whose
import takes most of a worker's start.  It writes a line for each compilation to `log`; while the
file `sleep` is there it sleeps first, while `hog` is there it takes all the memory that it gets,
and `grow` makes it keep some.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import ModuleType

from sgen.errors import GrammarError
from sgen.grammars.automata import Literal
from sgen.grammars.grammar import Grammar
from sgen.grammars.plan import Plan
from sgen.protocol import GrammarSpec

FOLDER = Path(sys.argv.pop(1))
kept: list[bytes] = []


def compile_grammar(spec: GrammarSpec) -> Grammar:
    with (FOLDER / "log").open("a") as log:
        log.write(f"{os.getpid()} {spec.source}\n")
    if (FOLDER / "sleep").exists():
        time.sleep(60)
    while (FOLDER / "hog").exists():
        kept.append(bytes(1 << 20))
    if (FOLDER / "grow").exists():
        kept.append(bytes(1 << 25))
    if spec.source == "(":
        raise GrammarError("an opening bracket", keyword="odd")
    return Grammar(Plan.of([Literal(spec.source.encode())], 0))


front_ends = ModuleType("sgen.grammars.compile")
vars(front_ends)["compile_grammar"] = compile_grammar
sys.modules["sgen.grammars.compile"] = front_ends

from sgen.grammars.compile_worker import main  # noqa: E402

main()

"""`sgen.gen("name")` and `sgen.select("name", options)` as parts of a text.

`s += "A: " + sgen.gen("a") + "\\n"` does what writing the text, `s.gen(name="a")` and the rest in
turn does; the values are then `s["a"]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from sgen.frontend import ir
from sgen.frontend.refs import Fragment, Generation
from sgen.frontend.sampling import Sampling


def gen(name: str | None = None, spec: Any = None, /, **params: Unpack[Sampling]) -> Fragment:
    """A generation at this place of the text; arguments as for `State.gen`."""
    return Fragment((Generation(lambda s: s.gen(spec, name=name, **params)),))


def select(name: str | None, options: Sequence[Any], /, *, by: ir.SelectBy = "tree") -> Fragment:
    """A select at this place of the text; arguments as for `State.select`."""
    return Fragment((Generation(lambda s: s.select(options, by=by, name=name)),))

"""The language: programs, their state and refs, typed outputs, IR, plan and executor.

Imports `sgen.grammars` at most; never torch, and never the runtime: engines are reached through
`sgen.protocol.Backend` alone.
"""

from __future__ import annotations

from sgen.frontend.branches import Branches
from sgen.frontend.compiled import Compiled
from sgen.frontend.defaults import current_backend, set_default_factory, use
from sgen.frontend.events import Event, Run, Span
from sgen.frontend.expressions import gen, select
from sgen.frontend.plan import Plan
from sgen.frontend.program import Program, program
from sgen.frontend.refs import Fragment, Later, Ref
from sgen.frontend.specs import Spec, choices, grammar, json_schema, regex, structural_tag
from sgen.frontend.state import State

__all__ = [
    "Branches",
    "Compiled",
    "Event",
    "Fragment",
    "Later",
    "Plan",
    "Program",
    "Ref",
    "Run",
    "Span",
    "Spec",
    "State",
    "choices",
    "current_backend",
    "gen",
    "grammar",
    "json_schema",
    "program",
    "regex",
    "select",
    "set_default_factory",
    "structural_tag",
    "use",
]

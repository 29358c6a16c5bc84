"""sgen: a structured-generation runtime with a programming interface.

The public names.  They are imported when they are first used, so that `import sgen` costs
little: only an engine needs torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgen.engine import Engine as Engine
    from sgen.errors import CancelledError as CancelledError
    from sgen.errors import CapacityError as CapacityError
    from sgen.errors import EngineClosedError as EngineClosedError
    from sgen.errors import GrammarError as GrammarError
    from sgen.errors import InvalidRequestError as InvalidRequestError
    from sgen.errors import ModelFileError as ModelFileError
    from sgen.errors import ModelNotFoundError as ModelNotFoundError
    from sgen.errors import OutputError as OutputError
    from sgen.errors import ProgramError as ProgramError
    from sgen.errors import SgenError as SgenError
    from sgen.errors import UnsupportedModelError as UnsupportedModelError
    from sgen.frontend.compiled import Compiled as Compiled
    from sgen.frontend.defaults import use as use
    from sgen.frontend.events import Event as Event
    from sgen.frontend.events import Run as Run
    from sgen.frontend.events import Span as Span
    from sgen.frontend.expressions import gen as gen
    from sgen.frontend.expressions import select as select
    from sgen.frontend.plan import Plan as Plan
    from sgen.frontend.program import Program as Program
    from sgen.frontend.program import program as program
    from sgen.frontend.refs import Later as Later
    from sgen.frontend.refs import Ref as Ref
    from sgen.frontend.specs import choices as choices
    from sgen.frontend.specs import grammar as grammar
    from sgen.frontend.specs import json_schema as json_schema
    from sgen.frontend.specs import regex as regex
    from sgen.frontend.specs import structural_tag as structural_tag
    from sgen.frontend.state import Branches as Branches
    from sgen.frontend.state import State as State
    from sgen.protocol import Usage as Usage
    from sgen.runtime.compute import Compute as Compute

__version__ = "0.1.0"

_HOMES = {
    "Engine": "sgen.engine",
    "Compute": "sgen.runtime.compute",
    "SgenError": "sgen.errors",
    "UnsupportedModelError": "sgen.errors",
    "ProgramError": "sgen.errors",
    "OutputError": "sgen.errors",
    "ModelNotFoundError": "sgen.errors",
    "ModelFileError": "sgen.errors",
    "InvalidRequestError": "sgen.errors",
    "GrammarError": "sgen.errors",
    "EngineClosedError": "sgen.errors",
    "CapacityError": "sgen.errors",
    "CancelledError": "sgen.errors",
    "Event": "sgen.frontend.events",
    "Run": "sgen.frontend.events",
    "Span": "sgen.frontend.events",
    "gen": "sgen.frontend.expressions",
    "select": "sgen.frontend.expressions",
    "Program": "sgen.frontend.program",
    "program": "sgen.frontend.program",
    "Ref": "sgen.frontend.refs",
    "choices": "sgen.frontend.specs",
    "grammar": "sgen.frontend.specs",
    "json_schema": "sgen.frontend.specs",
    "regex": "sgen.frontend.specs",
    "structural_tag": "sgen.frontend.specs",
    "Branches": "sgen.frontend.state",
    "State": "sgen.frontend.state",
    "Compiled": "sgen.frontend.compiled",
    "Later": "sgen.frontend.refs",
    "Plan": "sgen.frontend.plan",
    "Usage": "sgen.protocol",
    "use": "sgen.frontend.defaults",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'sgen' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    if home.startswith("sgen.frontend."):
        import_module("sgen.frontend.defaults").set_default_factory(_embedded)
    globals()[name] = value
    return value


def _embedded() -> Any:
    """The engine of programs that name none: the embedded model, loaded at first use."""
    return import_module("sgen.engine").Engine.load()


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

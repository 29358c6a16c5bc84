"""The rules and terminals of a Lark grammar with those that it imports, under their own names.

Imports, %override and %extend work as in lark: an imported name is the importer's, and what it
needs comes along under a longer name; imported terminals do not change with what %override does to
others; imported %ignore says nothing.  Grammars are imported from
the library of this package (`sgen.json`, or parts of one: `sgen.json.value`) and lark's `common`,
never from a path.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

from sgen.errors import GrammarError
from sgen.grammars import library
from sgen.grammars.lark_syntax import (
    Body,
    Definition,
    Ignore,
    Import,
    Name,
    Options,
    Series,
    Statement,
    Times,
    Use,
    failure,
    is_terminal,
    parse,
)
from sgen.grammars.rules import MAX_RULES

Rename = Callable[[str], str]


@dataclass(slots=True)
class Definitions:
    """By name; `ignored` are the bodies after %ignore; `own` are not imported."""

    by_name: dict[str, Definition] = field(default_factory=dict)
    ignored: list[Options] = field(default_factory=list)
    own: set[str] = field(default_factory=set)

    def near(self, name: str) -> str:
        """A hint at the name that may have been meant."""
        close = difflib.get_close_matches(name, self.by_name, 1)
        return f"did you mean `{close[0]}`?" if close else ""


def read(source: str) -> Definitions:
    """All definitions of a grammar.  GrammarError with the place of what is wrong."""
    found = _load(parse(source), lambda name: name, top=True)
    _check(found)
    return found


def names_in(body: Body) -> Iterator[Name]:
    """Every name that a body uses."""
    stack = [body]
    while stack:
        part = stack.pop()
        if isinstance(part, Name):
            yield part
        elif isinstance(part, Use):
            yield part.name
            stack += part.arguments[::-1]
        elif isinstance(part, Series | Options):
            stack += part.items[::-1]
        elif isinstance(part, Times):
            stack.append(part.item)


def _load(statements: Iterable[Statement], rename: Rename, *, top: bool) -> Definitions:
    found = Definitions()
    imports: dict[tuple[str, ...], tuple[Import, dict[str, str]]] = {}
    statements = list(statements)
    for statement in statements:
        if isinstance(statement, Import):
            for one in _resolved(statement):
                _, names = imports.setdefault(one.path, (one, {}))
                names.update(one.names)
    for statement, names in imports.values():
        _import(found, statement, names, rename)
    for statement in statements:
        if isinstance(statement, Definition):
            _define(found, statement, rename)
        elif isinstance(statement, Ignore) and top:
            found.ignored.append(statement.body)
    return found


def _resolved(statement: Import) -> list[Import]:
    """`%import sgen.json` is `%import sgen.json.start -> json`."""
    if statement.relative or statement.path != (library.PACKAGE,):
        return [statement]
    return [
        replace(statement, path=(library.PACKAGE, name), names=(("start", alias),))
        for name, alias in statement.names
    ]


@lru_cache(maxsize=32)
def _imported(path: tuple[str, ...]) -> tuple[Statement, ...] | None:
    """The statements of a grammar that may be imported."""
    name = ".".join(path)
    if path == ("common",):
        text = pkgutil.get_data("lark", "grammars/common.lark")
        assert text is not None, "lark comes with it"
        return tuple(parse(text.decode(), name))
    if len(path) == 2 and path[0] == library.PACKAGE and path[1] in library.names():
        return tuple(parse(library.source(path[1]), name))
    return None


def _import(found: Definitions, statement: Import, names: dict[str, str], rename: Rename) -> None:
    path = statement.path
    loaded = None if statement.relative else _imported(path)
    if loaded is None:
        near = difflib.get_close_matches(path[-1] if path else "", library.names(), 1)
        raise failure(
            f"there is no grammar `{'.'.join(path)}` to import",
            statement.place,
            keyword="%import",
            hint=f"did you mean `{library.PACKAGE}.{near[0]}`?" if near else
            f"`common` and `{library.PACKAGE}.NAME` can be imported; NAME is one of "
            + ", ".join(library.names()),
        )  # fmt: skip
    if len(set(names.values())) < len(names):
        raise failure("two names imported as one", statement.place, keyword="%import")
    prefix = "__".join(path)

    def renamed(name: str) -> str:
        if name in names:
            return rename(names[name])
        hidden = name.startswith("_")
        return rename(f"_{prefix}__{name[1:]}" if hidden else f"{prefix}__{name}")

    inner = _load(loaded, renamed, top=False)
    needed = [renamed(name) for name in names]
    for name, alias in names.items():
        if renamed(name) not in inner.by_name:
            raise failure(f"`{'.'.join(path)}` has no `{name}`", statement.place, keyword="%import")
        if is_terminal(name) != is_terminal(alias):
            raise failure(f"`{name}` cannot be called `{alias}`: terminals have capital letters, "
                          "rules have none", statement.place, keyword="%import")  # fmt: skip
    kept: dict[str, Definition] = {}
    while needed:
        name = needed.pop()
        if name in kept or name not in inner.by_name:
            continue
        kept[name] = inner.by_name[name]
        needed += [used.name for used in names_in(kept[name].body)]
    for name in kept:
        if name in found.by_name:
            raise failure(f"`{name}` is imported twice", statement.place, keyword="%import")
    found.by_name.update(kept)


def _define(found: Definitions, one: Definition, rename: Rename) -> None:
    name = rename(one.name.name)
    if one.name.name.startswith("__"):
        raise failure("names that begin with two underscores are reserved", one.name.place)
    if len(found.by_name) >= MAX_RULES:
        raise GrammarError(f"more than {MAX_RULES:,} rules and terminals", keyword="size")
    parameters = tuple(map(rename, one.parameters))
    body = _renamed(one.body, rename)
    assert isinstance(body, Options)
    known = found.by_name.get(name)
    if one.how == "define" and known is not None:
        raise failure(
            f"`{name}` is defined more than once",
            one.name.place,
            keyword="defined twice",
            hint="%override replaces a definition, %extend adds to one",
        )
    if one.how != "define" and known is None:
        raise failure(f"there is no `{name}` to {one.how}", one.name.place,
                      keyword=f"%{one.how}", hint=found.near(name))  # fmt: skip
    if one.how == "extend" and known is not None:
        if known.parameters != parameters:
            raise failure(f"`{name}` has other parameters", one.name.place, keyword="%extend")
        body = Options((body, *known.body.items), body.aliased or known.body.aliased)
    if one.how == "override" and name not in found.own and is_terminal(name):
        _keep_imported(found, name)
    found.by_name[name] = Definition(Name(name, one.name.place), parameters, body, "define")
    found.own.add(name)


def _keep_imported(found: Definitions, name: str) -> None:
    """Imported terminals go on using the imported definition, which another is to replace."""
    hidden = f"__IMPORTED_{name}"
    found.by_name[hidden] = found.by_name[name]
    for other, one in found.by_name.items():
        if other not in found.own and is_terminal(other):
            body = _renamed(one.body, lambda n: hidden if n == name else n)
            assert isinstance(body, Options)
            found.by_name[other] = replace(one, body=body)


def _renamed(body: Body, rename: Rename) -> Body:
    if isinstance(body, Name):
        return Name(rename(body.name), body.place)
    if isinstance(body, Use):
        arguments = tuple(_renamed(a, rename) for a in body.arguments)
        return Use(Name(rename(body.name.name), body.name.place), arguments)
    if isinstance(body, Series):
        return Series(tuple(_renamed(item, rename) for item in body.items))
    if isinstance(body, Options):
        return Options(tuple(_renamed(item, rename) for item in body.items), body.aliased)
    if isinstance(body, Times):
        return replace(body, item=_renamed(body.item, rename))
    return body


def _check(found: Definitions) -> None:
    """GrammarError for a name that is used but not defined, or the other way round."""
    for one in found.by_name.values():
        for i, parameter in enumerate(one.parameters):
            if parameter in found.by_name or parameter in one.parameters[:i]:
                raise failure(f"the parameter `{parameter}` is the name of something else too",
                              one.name.place, keyword="template")  # fmt: skip
        _check_names(found, one.body, one.parameters)
    for body in found.ignored:
        _check_names(found, body, ())
    if "start" not in found.by_name:
        raise GrammarError(
            "there is no rule `start`", keyword="undefined", hint=found.near("start")
        )
    if found.by_name["start"].parameters:
        raise failure("`start` cannot be a template", found.by_name["start"].name.place)
    used: set[str] = set()
    waiting = ["start"]
    while waiting:
        name = waiting.pop()
        if name not in used and name in found.by_name:
            used.add(name)
            waiting += [n.name for n in names_in(found.by_name[name].body)]
    for name in found.own - used:
        if not is_terminal(name):
            raise failure(f"the rule `{name}` is never used", found.by_name[name].name.place,
                          keyword="unused", hint="use it, or take it out")  # fmt: skip


def _check_names(found: Definitions, body: Body, parameters: tuple[str, ...]) -> None:
    for name in names_in(body):
        if name.name not in found.by_name and name.name not in parameters:
            kind = "terminal" if is_terminal(name.name) else "rule"
            raise failure(f"the {kind} `{name.name}` is not defined", name.place,
                          keyword="undefined", hint=found.near(name.name))  # fmt: skip

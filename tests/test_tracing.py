"""Where tracing ends: what needs a value first, or cannot be followed, runs step by step."""

from __future__ import annotations

import asyncio
import enum
import itertools
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sgen.errors import ProgramError
from sgen.frontend import State, ir, program
from sgen.frontend.fake import FakeBackend
from tests.programs import ALPHA, Report, answering


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    with answering(ALPHA) as fake:
        yield fake


class Mode(enum.Enum):
    FAST = "fast"


@dataclass
class Doc:
    title: str


def helper(x: object) -> bool:
    return isinstance(x, str)


async def bool_of_arg(s: State, q: Any) -> str:
    s += "yes" if q else "no"
    return await s.gen(name="a")


async def length_of_arg(s: State, q: Any) -> str:
    s += str(len(q))
    return await s.gen(name="a")


async def attribute_of_arg(s: State, q: Any) -> str:
    s += q.strip()
    return await s.gen(name="a")


async def class_of_arg(s: State, q: Any) -> str:
    s += "str" if helper(q) else "no str"
    return await s.gen(name="a")


async def type_of_arg(s: State, q: Any) -> str:
    s += str(type(q))
    return await s.gen(name="a")


async def iterates(s: State, q: Any) -> str:
    s += "-".join(f"{c}" for c in q)
    return await s.gen(name="a")


async def slices(s: State, q: Any) -> str:
    s += q[:2]
    return await s.gen(name="a")


async def searches(s: State, q: Any) -> str:
    s += "yes" if "x" in q else "no"
    return await s.gen(name="a")


async def formats(s: State, q: Any) -> str:
    s += f"{q:>10}"
    return await s.gen(name="a")


async def reprs(s: State, q: Any) -> str:
    s += f"{q!r}"
    return await s.gen(name="a")


async def table(s: State, q: Any) -> str:
    s += {"xyz": "found"}.get(q, "lost")
    return await s.gen(name="a")


async def matches(s: State, q: Any) -> str:
    match q:
        case "xyz":
            s += "found"
        case _:
            s += "lost"
    return await s.gen(name="a")


async def matches_shape(s: State, q: Any) -> str:
    match q:
        case [*_]:
            s += "list"
        case _:
            s += "no list"
    return await s.gen(name="a")


async def identity(s: State, q: Any) -> str:
    s += "none" if q is None else "some"
    return await s.gen(name="a")


async def changes_fstring(s: State, q: Any) -> str:
    s += f"<{q}>".upper()
    return await s.gen(name="a")


async def cuts_fstring(s: State, q: Any) -> str:
    s += (f"<{q}>" + "." * 30_000)[:20_000]
    return await s.gen(name="a")


async def measures_fstring(s: State, q: Any) -> str:
    s += "long" if len(f"<{q}>") > 10_000 else "short"
    return await s.gen(name="a")


async def value_decides(s: State, q: Any) -> str:
    s += q
    if await s.gen(name="a") == "Alpha":
        s += "!"
    return await s.gen(name="a")


async def value_is_read(s: State, q: Any) -> int:
    s += q
    report = await s.gen(Report, name="report")
    return report.level


async def value_is_counted_with(s: State, q: Any) -> int:
    s += q
    return 1 + await s.gen(int, name="n")


async def value_in_text(s: State, q: Any) -> str:
    s += q
    s += f"{await s.gen(Report, name='report')}"
    return await s.gen(name="a")


async def value_identity(s: State, q: Any) -> str:
    s += q
    s += "t" if await s.gen(bool) is True else "f"
    return await s.gen(name="a")


async def handles_errors(s: State, q: Any) -> str:
    s += q
    try:
        return await s.gen(name="a")
    except OSError:
        return "failed"


async def sleeps(s: State, q: Any) -> str:
    s += q
    await asyncio.sleep(0)
    return await s.gen(name="a")


async def gathers(s: State, q: Any) -> list[str]:
    s += q
    return list(await asyncio.gather(s.gen(name="a"), s.gen(name="n")))


async def reads_text(s: State, q: Any) -> str:
    s += "constant"
    return s.text


async def cancels(s: State, q: Any) -> str:
    s += q
    s.gen(name="n").cancel()
    return "x"


async def makes_object(s: State, q: Any) -> Doc:
    s += q
    return Doc(await s.gen(name="a"))


async def joins(s: State, q: Any) -> str:
    s += " | ".join([q, await s.gen(name="a")])
    return await s.gen(name="n")


async def fork_of_arg(s: State, q: Any) -> int:
    s += "x"
    async with s.fork(len(q) % 7 + 1) as bs:
        return len(bs)


async def parameter_of_arg(s: State, q: Any) -> str:
    return await s.gen(name="a", stop=q)


async def select_of_value(s: State, q: Any) -> str:
    s += q
    return await s.select([await s.gen(name="a"), "other"])


async def choice_of_ref(s: State, q: Any) -> str:
    a = s.gen(name="a")
    await a
    return await s.select([f"{a}", "other"])


def shorten(text: str) -> str:
    return text.strip()[:3]


def swallow(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except OSError:
        return None


def lone_strip(s: State, q: Any) -> None:
    s += str(q).strip()


def in_text(s: State, q: Any) -> None:
    if "xy" in f"<{q}":
        s += "!"


def equals(s: State, q: Any) -> None:
    s += "Y" if f"<{q}>" == "<xyz>" else "N"


def padded(s: State, q: Any) -> None:
    s += f"{q!s:>10}"


def percent(s: State, q: Any) -> None:
    s += "%-8s" % q  # noqa: UP031


def replaced(s: State, q: Any) -> None:
    s += f"{q}".replace("x", "0")


def found(s: State, q: Any) -> None:
    s += {"xyz": "A"}.get(str(q), "other")


def parted(s: State, q: Any) -> None:
    s += f"{q}".partition("y")[0]


def in_order(s: State, q: Any) -> None:
    s += " ".join(sorted([f"<{q}", "<b"]))


def of_value(s: State, q: Any) -> None:
    r = s.gen(name="a")
    if "Al" in f"{r.value}":
        s += "good"


def heads(s: State, q: Any) -> None:
    s += f"{q}"[:3]


def tails(s: State, q: Any) -> None:
    t = f"{q}"
    s += t[-3:]


def letter(s: State, q: Any) -> None:
    t = f"<{q}>"
    s += t[1]


def truth(s: State, q: Any) -> None:
    t = q + ""
    s += "x" if t else "empty"


def by_pattern(s: State, q: Any) -> None:
    s += re.sub("y", "0", f"<{q}>")


def by_helper(s: State, q: Any) -> None:
    s += shorten(f"<{q}>")


def helper_catches(s: State, q: Any) -> None:
    s += swallow(lambda: f"{q}")


def nested(s: State, q: Any) -> None:
    def same(text: str) -> bool:
        return text == "<xyz>"

    s += "Y" if same(f"<{q}>") else "N"


def keyed(s: State, q: Any) -> dict[str, int]:
    return {f"<{q}>": 1}


HARD = [
    lone_strip,
    in_text,
    equals,
    padded,
    percent,
    replaced,
    found,
    parted,
    in_order,
    of_value,
    heads,
    tails,
    letter,
    truth,
    by_pattern,
    by_helper,
    helper_catches,
    nested,
    keyed,
    bool_of_arg,
    length_of_arg,
    attribute_of_arg,
    class_of_arg,
    type_of_arg,
    iterates,
    slices,
    searches,
    formats,
    reprs,
    table,
    matches,
    matches_shape,
    identity,
    changes_fstring,
    cuts_fstring,
    measures_fstring,
    value_decides,
    value_is_read,
    value_is_counted_with,
    value_in_text,
    value_identity,
    handles_errors,
    sleeps,
    gathers,
    reads_text,
    makes_object,
    joins,
    fork_of_arg,
    parameter_of_arg,
    select_of_value,
    choice_of_ref,
]


@pytest.mark.parametrize("function", HARD, ids=lambda f: f.__name__)
def test_where_tracing_ends_the_program_runs_step_by_step(backend: FakeBackend, function) -> None:
    p = program(function)
    compiled = p.compile()
    assert not compiled.plan.complete
    assert compiled.plan.note in compiled.plan.explain()
    with pytest.raises(ProgramError, match="not known as a whole"):
        _ = compiled.ir
    for q in ("xyz", "  y " * 4000):
        own, other = p.run(q=q), compiled.run(q=q)
        assert (own.output, own.text, own.vars) == (other.output, other.text, other.vars)


def test_the_plan_is_known_up_to_the_decision(backend: FakeBackend) -> None:
    plan = program(value_decides).compile().plan
    assert [type(n) for n in plan.nodes] == [ir.Text, ir.Gen]
    assert "compares the value of 'a'" in plan.note


def test_arguments_that_tracing_could_not_have_meant_run_step_by_step(backend: FakeBackend) -> None:
    def is_none(x: object) -> bool:
        return x is None

    @program
    async def p(s: State, q: Any) -> str:
        s += "nothing" if is_none(q) else f"{q}"
        return await s.gen(name="a")

    @program
    async def concatenates(s: State, q: Any) -> str:
        s += "" + q
        return await s.gen(name="a")

    compiled = p.compile()
    assert "`is`" in compiled.plan.note
    assert compiled.run(q="x").text == "xAlpha"
    assert compiled.run(q=None).text == "nothingAlpha"
    assert compiled.run(q=3).text == "3Alpha"
    with pytest.raises(TypeError):
        concatenates.compile().run(q=3)
    with pytest.raises(ProgramError, match="must be a str"):
        program(sleeps).compile().run(q=3)


def test_chance_and_time_are_found_out(backend: FakeBackend) -> None:
    numbers = itertools.count()

    @program
    async def counts(s: State, q: str) -> str:
        s += f"{q} {next(numbers)}"
        return await s.gen(name="a")

    @program
    async def dice(s: State, q: str) -> str:
        s += q
        s += f"{random.random()}"
        return await s.gen(name="a")

    for p in (counts, dice):
        plan = p.compile().plan
        assert not plan.complete
        assert "differ" in plan.note


def test_an_error_of_the_program_is_met_when_it_runs(backend: FakeBackend) -> None:
    @program
    async def p(s: State, q: str) -> str:
        s.gen(temperature=-1)
        return q

    compiled = p.compile()
    assert "temperature" in compiled.plan.note
    with pytest.raises(ProgramError):
        _ = compiled.ir
    with pytest.raises(ValueError, match="temperature"):
        compiled.run(q="x")


def test_sub_programs_are_looked_into(backend: FakeBackend) -> None:
    sub = program(handles_errors)

    @program
    async def p(s: State, q: str) -> str:
        return await sub(s, q)

    assert "except" in p.compile().plan.note

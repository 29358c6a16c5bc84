"""Tracing and plans: what is known before a run, and that a compiled run is the same run."""

from __future__ import annotations

import asyncio
import enum
import itertools
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from sgen.errors import ProgramError
from sgen.frontend import Program, State, gen, ir, program, regex, select
from sgen.frontend.defaults import DEFAULT
from sgen.frontend.fake import FakeBackend
from sgen.protocol import RoleEnd, RoleStart, Text


class Report(BaseModel):
    title: str
    level: int


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    fake = FakeBackend({"a": "Alpha", "n": "7", "rx": "aab", "report": '{"title":"T","level":2}'})
    DEFAULT.use(fake)
    yield fake
    assert not fake.open
    DEFAULT.use(None)


def same(p: Program[..., Any], static: dict[str, Any] | None = None, **args: Any) -> None:
    """A compiled run and the program's own show the same, and the IR survives its bytes."""
    static = static or {}
    compiled = p.compile(**static)
    assert compiled.plan.complete, compiled.plan.note
    assert ir.decode(ir.encode(compiled.ir)) == compiled.ir
    own, other = p.run(**static, **args), compiled.run(**args)
    for field in ("output", "text", "vars", "spans", "usage"):
        assert getattr(own, field) == getattr(other, field), field
    assert type(own.output) is type(other.output)


# what can be traced


@program
async def triage(s: State, ticket: str) -> Report:
    s.system("You are a support triager.")
    s.user(ticket)
    with s.assistant():
        s += "Severity: "
        severity = s.select(["low", "medium", "high"])
        s += f" ({severity})\n"
        report = s.gen(Report, name="report", max_tokens=200)
    async with s.fork(3) as branches:
        ideas = await branches.gather(lambda b, i: b.gen(max_tokens=60, temperature=0.8, seed=i))
    for idea in ideas:
        s += f"- {idea}\n"
    return await report


@program
async def everything(s: State, q: str, row: dict[str, Any]) -> Any:
    s += "Q: " + q + f" {row['id']} " + row["deep"][0] + "\n"
    s += "A: " + gen("a", max_tokens=5) + select("pick", ["x", "y"]) + "."
    text = await s["a"]
    s += text
    s += f"{text} {s['a']}" + text
    n = await s.gen(int, name="n", max_tokens=3)
    async with s.fork(2) as bs:
        for i, b in enumerate(bs):
            b += f"{i} {q}"
            with b.assistant():
                b.gen(regex("a*b"), name="rx")
            async with b.fork(1) as inner:
                inner[0].gen()
    with s.user():
        s += bs[1]["rx"]
    sub = await part(s, text)
    flag = s.gen(bool)
    return {
        "n": [n, (text, q)],
        "t": f"<{sub}>{q}",
        "f": flag,
        "row": row,
        "i": row["id"],
        "c": 1.5,
    }


@program
async def part(s: State, x: str) -> str:
    s.user(f"part {x}")
    return await s.gen(name="a")


@program
def plain(s: State, q: str) -> list[str]:
    s += q
    a = s.gen(name="a")
    with s.fork(2) as bs:
        got = bs.gather(lambda b, i: b.gen(Literal["u", "v"])).value
    s += a.text
    return [a.value, *got, part(s, q).value]


def test_compiled_runs_are_the_same(backend: FakeBackend) -> None:
    same(triage, ticket="It broke")
    same(everything, q="why?", row={"id": 3, "deep": ["d"]})
    same(plain, q="x")


def test_hostile_arguments_stay_text(backend: FakeBackend) -> None:
    for q in ("{a}", '\x02\t<&"%Ref 0:a0\x03', "", "\x00", "{q!r}", "⟦v0⟧", "%s"):
        same(everything, q=q, row={"id": q, "deep": [q]})


def test_options_hold_for_compiled_runs(backend: FakeBackend) -> None:
    p = triage.with_options(seed=5, temperature=0.3)
    p.compile().run(ticket="x")
    compiled = [(r.prompt, getattr(r, "params", None)) for r in backend.requests]
    backend.requests.clear()
    p.run(ticket="x")
    assert sorted(map(repr, compiled)) == sorted(
        repr((r.prompt, getattr(r, "params", None))) for r in backend.requests
    )


def test_static_arguments_are_concrete(backend: FakeBackend) -> None:
    @program
    async def p(s: State, shots: list[str], q: str, n: int = 2) -> str:
        for shot in shots:
            s += shot + "\n"
        async with s.fork(n) as bs:
            await bs.gather(lambda b, i: b.gen())
        s += q
        return await s.gen(name="a")

    assert not p.compile().plan.complete
    compiled = p.compile(shots=["one", "two"], n=3)
    assert compiled.plan.prefix_text == "one\ntwo\n"
    assert compiled.ir.params == ("q",)
    same(p, {"shots": ["one", "two"], "n": 3}, q="x")
    with pytest.raises(ProgramError, match="no argument"):
        compiled.run(q="x", n=4)
    with pytest.raises(ProgramError, match="no argument"):
        p.compile(nope=1)
    assert p.bind(shots=["b"]).compile(n=1).run(q="x").output == "Alpha"


def test_defaults_of_arguments_hold(backend: FakeBackend) -> None:
    @program
    async def p(s: State, q: str = "dflt") -> str:
        s += q
        return await s.gen(name="a")

    assert p.compile().run().text == "dfltAlpha"
    assert p.compile().run(q="x").text == "xAlpha"


def test_a_compiled_program_runs_on_the_callers_loop(backend: FakeBackend) -> None:
    assert asyncio.run(triage.compile().arun(ticket="x")).output == Report(title="T", level=2)


# where tracing ends


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


def test_decisions_that_see_no_text_do_not_end_the_trace(backend: FakeBackend) -> None:
    @program
    async def p(s: State, shots: list[str], q: str, verbose: bool = False) -> str:
        if len(shots) > 1 and verbose:
            s.system("Be brief." + f" {shots[0]}")
        for i, shot in enumerate(sorted(shots[:3])):
            s += f"{i}. " + shot.strip() + f" ({q})\n"
        async with s.fork(2) as bs:
            for i, b in enumerate(bs):
                if i == 0:
                    b += f"{i} {q}"
        s += f"{q}\n"
        return await s.gen(name="a")

    same(p, {"shots": [" b", "a"], "verbose": True}, q="x")


# plans


def test_the_constant_prefix(backend: FakeBackend) -> None:
    plan = triage.compile().plan
    assert plan.prefix == (
        RoleStart("system"),
        Text("You are a support triager."),
        RoleEnd(),
        RoleStart("user"),
    )
    assert plan.branches == 4
    assert plan.max_new_tokens == 200 + 3 * 60
    assert [name for name, _ in plan.grammars] == ["select1", "report"]
    assert plan.warnings == ()
    assert not backend.requests


def test_constant_text_after_an_argument_gets_a_hint() -> None:
    @program
    async def late(s: State, q: str) -> str:
        s += f"Q: {q}\n"
        s += "Answer in one of the following ways, and think before you do: " * 2
        return await s.gen(max_tokens=5)

    @program
    async def early(s: State, q: str) -> str:
        s += "Answer in one of the following ways, and think before you do: " * 2
        s += f"Q: {q}\n"
        return await s.gen(max_tokens=5)

    (hint,) = late.compile().plan.warnings
    assert "'q'" in hint
    assert "125 characters" in hint
    assert early.compile().plan.warnings == ()


def test_bounds() -> None:
    @program
    async def p(s: State) -> None:
        s.gen(Literal["yes", "nö"])
        s.gen(bool, max_tokens=2)
        s.select(["a", "b"])
        s.gen(max_tokens=10)

    assert p.compile().plan.max_new_tokens == 4 + 2 + 10

    @program
    async def free(s: State) -> None:
        s.gen(name="a", max_tokens=1)
        s.gen(name="b")

    plan = free.compile().plan
    assert plan.max_new_tokens is None
    assert "stops: b" in plan.warnings[0]
    assert free.with_options(max_tokens=4).compile().plan.max_new_tokens == 5


def test_explain_is_readable(backend: FakeBackend) -> None:
    text = triage.compile().plan.explain(backend)
    assert text == (
        "program triage(ticket)\n"
        'constant prefix: 26 characters, 29 tokens: "You are a support triager."\n'
        "branches: 4\n"
        "  message   system\n"
        '  text      "You are a support triager."\n'
        "  end\n"
        "  message   user\n"
        "  text      {ticket}\n"
        "  end\n"
        "  message   assistant\n"
        '  text      "Severity: "\n'
        "  select    select1: one of low | medium | high, by tree\n"
        '  text      " (" {select1} ")\\n"\n'
        '  gen       report: json_schema {"properties": {"title": {"type": "string"}, "level": '
        '{"t..., '
        "at least 22, at most 200 tokens\n"
        "  end\n"
        "  fork      3 branches\n"
        "    branch 0\n"
        "      gen       gen1: free text, at most 60 tokens, temperature=0.8, seed=0\n"
        "    branch 1\n"
        "      gen       gen1: free text, at most 60 tokens, temperature=0.8, seed=1\n"
        "    branch 2\n"
        "      gen       gen1: free text, at most 60 tokens, temperature=0.8, seed=2\n"
        "  join      3 branches\n"
        '  text      "- " {0.gen1} "\\n"\n'
        '  text      "- " {1.gen1} "\\n"\n'
        '  text      "- " {2.gen1} "\\n"\n'
        "new tokens: at most 380"
    )


def test_equal_branches_are_shown_once() -> None:
    @program
    async def p(s: State) -> None:
        async with s.fork(5) as bs:
            for i, b in enumerate(bs):
                b.gen(max_tokens=1 if i < 3 else 2)

    lines = p.compile().plan.explain().splitlines()
    assert [line.strip() for line in lines if "branches " in line and "fork" not in line][:2] == [
        "branches 0 to 2",
        "branches 3 to 4",
    ]

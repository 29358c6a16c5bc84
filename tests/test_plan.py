"""Compiled programs and their plans: what is known before a run, and that it is the same run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from sgen.errors import ProgramError
from sgen.frontend import Program, State, gen, ir, program, regex, select
from sgen.frontend.fake import FakeBackend
from sgen.protocol import RoleEnd, RoleStart, Text
from tests.programs import ALPHA, Report, answering


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    with answering(ALPHA) as fake:
        yield fake


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

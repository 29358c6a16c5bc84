"""The IR: what is a program and what is not, its bytes, and running it from them alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import ProgramError
from sgen.frontend import ir
from sgen.frontend.fake import FakeBackend, prompt_text
from sgen.frontend.runs import run_ir
from sgen.protocol import GrammarSpec, SamplingParams

Node = ir.Node


def make(*nodes: Node, params: tuple[str, ...] = (), result: Any = None) -> ir.Program:
    result = ir.Constant(None) if result is None else result
    return ir.Program(name="p", params=params, nodes=nodes, result=result)


def text(branch: int, *pieces: ir.Piece | str) -> ir.Text:
    return ir.Text(branch, tuple(ir.Lit(p) if isinstance(p, str) else p for p in pieces))


def gen(branch: int, var: int, name: str = "v", **rest: Any) -> ir.Gen:
    return ir.Gen(branch=branch, var=var, name=name, **rest)


FULL = make(
    ir.RoleStart(0, "user"),
    text(0, "Q: ", ir.Arg("q", ("a", 0), text=True)),
    ir.RoleEnd(0),
    gen(0, 0, "x", params=SamplingParams(stop=("\n",), logit_bias={3: 1.5}, seed=2**63)),
    ir.Fork(0, (1, 2)),
    text(1, "one ", ir.Var(0)),
    gen(1, 1, "y", grammar=GrammarSpec("json_schema", '{"type": "integer"}'), value="json"),
    ir.Select(branch=2, var=2, name="z", options=("a", "b"), by="mean"),
    ir.Join(0, (1, 2)),
    text(0, ir.Var(1), ir.Var(2)),
    params=("q",),
    result=ir.DictOf(
        {
            "list": ir.ListOf((ir.ValueOf(0), ir.ValueOf(1)), fixed=True),
            "text": ir.TextOf((ir.Lit("<"), ir.Var(2), ir.Lit(">"))),
            "arg": ir.ArgOf("q", ("a",)),
            "none": ir.Constant(None),
        }
    ),
)


def test_bytes_are_the_program() -> None:
    data = ir.encode(FULL)
    assert ir.decode(data) == FULL
    assert ir.encode(ir.decode(data)) == data


def run(program: ir.Program, args: dict[str, Any], backend: FakeBackend) -> Any:
    return asyncio.run(run_ir(program, args, backend))


def test_it_runs_from_its_bytes_alone() -> None:
    backend = FakeBackend({"x": "X", "y": "41"}, choices={"z": "b"})
    done = run(ir.decode(ir.encode(FULL)), {"q": {"a": ["why?"]}}, backend)
    assert done.output == {"list": ("X", 41), "text": "<b>", "arg": ["why?"], "none": None}
    assert done.text == "user: Q: why?\nX41b"
    assert done.vars == {"x": "X", "0.y": 41, "1.z": "b"}
    assert sorted(prompt_text(r.prompt) for r in backend.requests) == [
        "Q: why?",
        "Q: why?X",
        "Q: why?Xone X",
    ]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({}, "'q' is missing"),
        ({"q": {}}, "no part"),
        ({"q": {"a": []}}, "no part"),
        ({"q": 3}, "no part"),
        ({"q": {"a": [3]}}, "must be text, not int"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_runs(
    args: dict[str, Any], words: str
) -> None:
    backend = FakeBackend()
    with pytest.raises(ProgramError, match=words):
        run(FULL, args, backend)
    assert not backend.requests


def test_an_argument_that_cannot_be_written_fails_the_run() -> None:
    class Bad:
        def __format__(self, spec: str) -> str:
            raise OSError("no text")

    program = make(gen(0, 0), text(0, ir.Arg("q")), gen(0, 1), params=("q",))
    with pytest.raises(OSError, match="no text"):
        run(program, {"q": Bad()}, FakeBackend())


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (make(text(0, ir.Var(0))), r"node 0 \(Text\).*read before"),
        (make(text(0, ir.Var(0)), gen(0, 0)), "read before"),
        (make(gen(0, 0), gen(0, 0)), r"node 1 .*bound twice"),
        (make(gen(1, 0)), "branch 1 does not exist"),
        (make(text(0, ir.Arg("q"))), "'q' is not an argument"),
        (make(ir.RoleEnd(0)), "no message"),
        (make(ir.RoleStart(0, "user"), ir.RoleStart(0, "user")), "open already"),
        (
            make(ir.RoleStart(0, "user"), ir.Fork(0, (1,)), ir.RoleEnd(1)),
            "no message of this branch",
        ),
        (
            make(ir.RoleStart(0, "user"), ir.Fork(0, (1,)), ir.RoleStart(1, "user")),
            "open already",
        ),
        (make(ir.Fork(0, (1, 1))), "forked twice"),
        (make(ir.Fork(0, (0,))), "forked twice"),
        (make(ir.Join(0, (1,))), "no child"),
        (make(ir.Fork(0, (1,)), ir.Fork(1, (2,)), ir.Join(0, (2,))), "no child"),
        (make(ir.Fork(0, (1,)), ir.Join(0, (1,)), ir.Join(0, (1,))), "joined twice"),
        (make(ir.Fork(0, (1,)), ir.Join(0, (1,)), text(1, "x")), "after its join"),
        (
            make(ir.Fork(0, (1,)), ir.Fork(1, (2,)), ir.Join(0, (1,)), gen(2, 0)),
            "after its join",
        ),
        (make(ir.Select(branch=0, var=0, name="s", options=())), "without options"),
        (make(ir.Select(branch=0, var=0, name="s", options=("a", "a"))), "same"),
        (make(*(ir.Fork(i, (i + 1,)) for i in range(80))), "node 64 .*deeper than 64"),
        (make(ir.Fork(0, tuple(range(1, 1100)))), "at most 1024"),
        (make(ir.Fork(0, (-1,))), "no number"),
        (make(gen(0, -1)), "no number"),
        (make(gen(0, 2**31)), "no number"),
        (make(gen(0, 0, "a:b\x00")), "cannot name"),
        (make(gen(0, 0, value="json")), "only a grammar"),
        (make(gen(0, 0, grammar=GrammarSpec("choices", "5"))), "JSON list"),
        (make(gen(0, 0, grammar=GrammarSpec("choices", "[" * 100_000))), "JSON list"),
        (make(gen(0, 0, grammar=GrammarSpec("choices", '["a", "a"]'))), "same"),
        (make(gen(0, 0, grammar=GrammarSpec("choices", '["a", ""]'))), "empty"),
        (
            make(
                gen(0, 0, grammar=GrammarSpec("regex", "a-b"), params=SamplingParams(stop=("-",)))
            ),
            "before the grammar",
        ),
        (make(*(text(0) for _ in range(100_001))), "more than 100000 nodes"),
        (make(params=("q", "q")), "same name"),
        (make(result=ir.ValueOf(3)), "result.*read before"),
        (make(result=ir.ListOf((ir.DictOf({"a": ir.ArgOf("q")}),))), "result.*'q'"),
        (make(result=ir.TextOf((ir.Var(1),))), "result.*read before"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(program: ir.Program, words: str) -> None:
    with pytest.raises(ProgramError, match=words):
        ir.validate(program)
    with pytest.raises(ProgramError, match=words):
        ir.decode(ir.encode(program))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"name":"\xff","params":[],"nodes":[]}',
        b"{}",
        b'{"name": "p", "params": [], "nodes": [{"type": "bomb"}]}',
        b'{"name": "p", "params": [], "nodes": [{"type": "text", "branch": 0}]}',
        b'{"name": "p", "params": [], "nodes": [{"type": "role_start", "branch": 0, "role": "x"}]}',
        b'{"name": "p", "params": [], "nodes": [{"type": "gen", "branch": 0, "var": 0, "name": "v",'
        b' "params": {"temperature": -1}}]}',
        b'{"name":"p","params":[],"nodes":[],"result":' + b'{"type":"list_of","items":[' * 5000,
        b'{"name":"p","params":[],"nodes":[],"result":'
        + b'{"type":"list_of","items":[' * 480
        + b'{"type":"value_of","var":0}'
        + b"]}" * 480
        + b"}",
    ],
)
def test_bytes_that_are_no_program_are_refused(data: bytes) -> None:
    with pytest.raises(ProgramError):
        ir.decode(data)


PIECES = st.one_of(
    st.builds(ir.Lit, st.text(max_size=5)),
    st.builds(ir.Var, st.integers(0, 5)),
    st.builds(ir.Arg, st.sampled_from(["q", "r"]), st.just(()), st.booleans()),
)
BRANCH = st.integers(0, 4)
NODES = st.one_of(
    st.builds(ir.Text, BRANCH, st.lists(PIECES, max_size=3).map(tuple)),
    st.builds(ir.RoleStart, BRANCH, st.sampled_from(["user", "assistant"])),
    st.builds(ir.RoleEnd, BRANCH),
    st.builds(gen, BRANCH, st.integers(0, 5), st.sampled_from(["a", "b"])),
    st.builds(
        ir.Select,
        branch=BRANCH,
        var=st.integers(0, 5),
        name=st.just("s"),
        options=st.just(("x", "y")),
    ),
    st.builds(ir.Fork, BRANCH, st.lists(BRANCH, max_size=2).map(tuple)),
    st.builds(ir.Join, BRANCH, st.lists(BRANCH, max_size=2).map(tuple)),
)


def sensible(nodes: list[Node]) -> ir.Program:
    """The longest valid program that takes these nodes in order and leaves out what cannot be."""
    kept: list[Node] = []
    for node in nodes:
        try:
            ir.validate(make(*kept, node, params=("q", "r")))
        except ProgramError:
            continue
        kept.append(node)
    return make(*kept, params=("q", "r"))


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.lists(NODES, max_size=14))
def test_every_valid_program_survives_its_bytes_and_runs_to_its_end(nodes: list[Node]) -> None:
    program = sensible(nodes)
    assert ir.decode(ir.encode(program)) == program
    backend = FakeBackend(default="abc")
    done = run(program, {"q": "Q", "r": "R"}, backend)
    bound = [n for n in program.nodes if isinstance(n, (ir.Gen, ir.Select))]
    assert len(backend.requests) == len(bound)
    assert not backend.open
    texts = [n for n in program.nodes if n.branch == 0 and not isinstance(n, (ir.Fork, ir.Join))]
    assert bool(done.text) == any(
        not isinstance(n, ir.Text) or any(not isinstance(p, ir.Lit) or p.text for p in n.pieces)
        for n in texts
    )


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(NODES, max_size=14), st.integers(0, 5))
def test_a_failing_request_fails_every_run_that_makes_it(nodes: list[Node], bad: int) -> None:
    program = sensible(nodes)
    gens = [n for n in program.nodes if isinstance(n, ir.Gen)]

    def answer(request: object) -> str:
        raise OSError("gone")

    backend = FakeBackend({"a": answer}, default="abc")
    if any(n.name == "a" for n in gens):
        with pytest.raises(OSError, match="gone"):
            run(program, {"q": "Q", "r": "R"}, backend)
    else:
        run(program, {"q": "Q", "r": "R"}, backend)
    assert not backend.open

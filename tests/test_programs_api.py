"""POST /v1/programs and /v1/grammars/check: what comes out, what is refused, what is let go."""

from __future__ import annotations

import json
import runpy
import sys
import time
from collections.abc import AsyncIterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec
import pytest
from served import ServedFake, on_socket
from starlette.testclient import TestClient

from sgen.errors import EngineClosedError, SgenError
from sgen.frontend import ir
from sgen.protocol import Chunk, GenerateRequest, GrammarSpec, SamplingParams, Usage
from sgen.server.app import create_app
from sgen.server.settings import Limits, Settings

Event = dict[str, Any]
LETTERS = GrammarSpec("regex", "[a-c]{4}")


def client(backend: ServedFake | None = None, **limits: int) -> TestClient:
    settings = Settings(limits=Limits(**limits))
    app = create_app(backend or ServedFake(), settings)
    return TestClient(app, raise_server_exceptions=False)


def gen(branch: int, var: int, name: str, **rest: Any) -> ir.Gen:
    return ir.Gen(branch=branch, var=var, name=name, **rest)


def one(node: ir.Gen | ir.Select | None = None, *before: ir.Node) -> ir.Program:
    """A program of one variable, its result."""
    nodes = (*before, node or gen(0, 0, "a"))
    return ir.Program(name="p", params=(), nodes=nodes, result=ir.ValueOf(0))


def tree() -> ir.Program:
    """Two ideas side by side, then a choice."""
    nodes: tuple[ir.Node, ...] = (
        ir.RoleStart(0, "user"),
        ir.Text(0, (ir.Arg("topic", text=True),)),
        ir.RoleEnd(0),
        ir.Fork(0, (1, 2)),
        gen(1, 0, "idea"),
        gen(2, 1, "idea"),
        ir.Join(0, (1, 2)),
        ir.Select(branch=0, var=2, name="best", options=("first", "second")),
    )
    result = ir.DictOf({"best": ir.ValueOf(2), "ideas": ir.ListOf((ir.ValueOf(0), ir.ValueOf(1)))})
    return ir.Program(name="tree", params=("topic",), nodes=nodes, result=result)


def body(program: ir.Program, stream: bool = False, **rest: Any) -> bytes:
    return msgspec.json.encode({"program": program, "stream": stream, **rest})


def events(text: str) -> list[Event]:
    """The events of a stream; each is named by its type."""
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def streamed(backend: ServedFake, program: ir.Program, **rest: Any) -> list[Event]:
    response = client(backend).post("/v1/programs", content=body(program, True, **rest))
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    return events(response.text)


def refused(data: bytes, backend: ServedFake | None = None, **limits: int) -> dict[str, Any]:
    backend = backend or ServedFake()
    response = client(backend, **limits).post("/v1/programs", content=data)
    assert response.status_code == 400, response.text
    assert not backend.requests
    error: dict[str, Any] = response.json()["error"]
    return error


def test_a_run_without_a_stream_answers_with_result_variables_and_usage() -> None:
    backend = ServedFake({"idea": ["red", "blue"]}, choices={"best": "second"})
    response = client(backend).post("/v1/programs", content=body(tree(), args={"topic": "paint"}))
    answer = response.json()
    assert response.status_code == 200
    assert answer["result"] == {"best": "second", "ideas": ["red", "blue"]}
    assert answer["vars"] == {"0.idea": "red", "1.idea": "blue", "best": "second"}
    assert answer["text"] == "user: paint\nsecond"
    assert answer["usage"]["completion_tokens"] == len("redblue")


def test_a_streams_events_draw_the_tree() -> None:
    backend = ServedFake({"idea": ["red", "blue"]}, choices={"best": "second"})
    found = streamed(backend, tree(), args={"topic": "paint"})
    kinds = [event["type"] for event in found]
    assert kinds[:4] == ["role", "text", "role", "fork"]
    assert kinds[-1] == "done"
    assert found[-1]["result"]["ideas"] == ["red", "blue"]
    assert found[3]["branches"] == [[0], [1]]
    deltas: dict[tuple[int, ...], str] = {}
    for event in found:
        if event["type"] == "var.delta" and event["name"] == "idea":
            path = tuple(event["branch"])
            deltas[path] = deltas.get(path, "") + event["delta"]
            assert event["tokens"] == ["sampled"] * len(event["delta"])
    assert deltas == {(0,): "red", (1,): "blue"}
    assert kinds.index("join") > max(i for i, e in enumerate(found) if e.get("name") == "idea")
    ends = {tuple(e["branch"]): e for e in found if e["type"] == "var.end"}
    assert ends[1,]["value"] == "blue"
    assert ends[1,]["usage"]["completion_tokens"] == 4


def test_requests_carry_the_runs_id_and_its_cache_salt() -> None:
    backend = ServedFake()
    headers = {"X-Request-Id": "run-7"}
    data = body(one(), cache_salt="s")
    assert client(backend).post("/v1/programs", content=data, headers=headers).status_code == 200
    assert [r.id for r in backend.requests] == ["run-7#1:a"]
    assert [r.cache_salt for r in backend.requests] == ["s"]


class Forcing(ServedFake):
    """Its chunks say that each second token was the only one allowed."""

    async def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        yield Chunk(text="ab", token_ids=(97, 98), forced=(1,))
        yield Chunk(finish_reason="stop", usage=Usage(5, 4, 2))


def test_tokens_say_how_they_came() -> None:
    found = streamed(Forcing(), one(gen(0, 0, "a", grammar=GrammarSpec("regex", "ab"))))
    assert [e["tokens"] for e in found if e["type"] == "var.delta"] == [["masked", "forced"]]
    assert [e["usage"]["cached_tokens"] for e in found if e["type"] == "var.end"] == [4]


def test_json_is_passed_on_as_it_was_written() -> None:
    number = "123456789012345678901234567890.50"
    grammar = GrammarSpec("json_schema", '{"type": "number"}', whitespace="any")
    backend = ServedFake({"a": f"\n{number}"})
    program = one(gen(0, 0, "a", grammar=grammar, value="json"))
    response = client(backend).post("/v1/programs", content=body(program))
    assert f'"result":\n{number}' in response.text
    streams = client(backend).post("/v1/programs", content=body(program, True)).text
    assert f'"value": {number}' in streams
    assert events(streams)[-1]["type"] == "done"


def test_a_failed_branch_is_an_event_and_so_is_the_runs_end() -> None:
    backend = ServedFake({"idea": ["red", SgenError("no ink")]})
    found = streamed(backend, tree(), args={"topic": "paint"})
    errors = [event for event in found if event["type"] == "error"]
    assert [(e["branch"], e["name"]) for e in errors] == [([1], "idea"), ([], None)]
    assert "no ink" in errors[0]["error"]["message"]
    assert found[-1] is errors[1]


def test_an_error_before_the_first_event_is_an_answer() -> None:
    backend = ServedFake({"a": EngineClosedError("the engine died")})
    response = client(backend).post("/v1/programs", content=body(one()))
    assert response.status_code == 503
    assert response.headers["retry-after"]


def test_output_that_was_cut_is_no_fault_of_the_server() -> None:
    params = SamplingParams(max_tokens=2, finish="truncate")
    program = one(gen(0, 0, "a", grammar=LETTERS, params=params))
    response = client().post("/v1/programs", content=body(program))
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "output_cut"


def test_what_is_no_program_is_refused() -> None:
    wrong = one(gen(3, 0, "a"))
    error = refused(body(wrong))
    assert error["code"] == "invalid_program"
    assert "node 0 (Gen)" in error["message"]
    place = refused(b'{"program": {"name": "p", "params": [], "nodes": [{"type": "jump"}]}}')
    assert place["param"] == "program.nodes[0].type"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({}, "'topic' is missing"),
        ({"topic": 3}, "must be text"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(args: dict[str, Any], text: str) -> None:
    data = json.dumps({"program": json.loads(ir.encode(tree())), "args": args}).encode()
    error = refused(data)
    assert error["param"] == "args"
    assert text in error["message"]


def test_a_grammars_error_names_node_and_place() -> None:
    schema = '{"type": "object", "properties": {"x": {"type": "string", "sparkle": 1}}}'
    grammar = GrammarSpec("json_schema", schema)
    error = refused(body(one(gen(0, 0, "a", grammar=grammar), ir.Text(0, (ir.Lit("x"),)))))
    assert error["param"] == "program.nodes[1].grammar/properties/x/sparkle"
    assert error["code"] == "invalid_grammar"


def test_too_few_tokens_for_a_grammar_are_refused() -> None:
    params = SamplingParams(max_tokens=3)
    error = refused(body(one(gen(0, 0, "a", grammar=LETTERS, params=params))))
    assert error["param"] == "program.nodes[0].params.max_tokens"
    assert "at least 4 tokens" in error["message"]


def many(branches: int) -> ir.Program:
    children = tuple(range(1, branches))
    params = SamplingParams(max_tokens=10)
    gens = tuple(gen(c, c, "a", params=params) for c in children)
    return ir.Program(name="many", params=(), nodes=(ir.Fork(0, children), *gens))


def grammars(count: int) -> ir.Program:
    params = SamplingParams(max_tokens=10)
    nodes = [
        gen(0, i, "a", grammar=GrammarSpec("choices", json.dumps([f"t{i}"])), params=params)
        for i in range(count)
    ]
    return ir.Program(name="grammars", params=(), nodes=tuple(nodes))


def select(options: int) -> ir.Program:
    texts = tuple(f"o{i}" for i in range(options))
    return one(ir.Select(branch=0, var=0, name="s", options=texts))


@pytest.mark.parametrize(
    ("fits", "exceeds", "limits"),
    [
        (many(5), many(6), {"program_nodes": 5}),
        (many(5), many(6), {"program_branches": 5}),
        (grammars(3), grammars(4), {"program_grammars": 3}),
        (many(501), many(502), {"program_tokens": 5000, "program_branches": 600}),
        (select(4), select(5), {"enum_entries": 4}),
    ],
)
def test_limits(fits: ir.Program, exceeds: ir.Program, limits: dict[str, int]) -> None:
    limited = client(**limits)
    assert limited.post("/v1/programs", content=body(fits)).status_code == 200
    assert refused(body(exceeds), **limits)["code"] == "program_too_large"


def test_a_short_program_cannot_write_a_long_text() -> None:
    pieces = (ir.Arg("x"),) * 4
    program = ir.Program(name="bomb", params=("x",), nodes=(ir.Text(0, pieces),))
    limited = client(program_characters=1000)
    fits = limited.post("/v1/programs", content=body(program, args={"x": "y" * 250}))
    assert fits.status_code == 200
    exceeds = limited.post("/v1/programs", content=body(program, args={"x": "y" * 251}))
    assert exceeds.status_code == 400
    assert "more than 1,000 characters" in exceeds.json()["error"]["message"]


def test_what_forks_hand_on_counts_as_written() -> None:
    def forks(count: int) -> ir.Program:
        text = ir.Text(0, (ir.Lit("y" * 200),))
        nodes = tuple(ir.Fork(0, (child,)) for child in range(1, count + 1))
        return ir.Program(name="forks", params=(), nodes=(text, *nodes))

    limited = client(program_characters=1000)
    assert limited.post("/v1/programs", content=body(forks(4))).status_code == 200
    assert limited.post("/v1/programs", content=body(forks(5))).status_code == 400


def test_the_example_runs_its_program_on_a_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(Path(__file__).parent.parent / "examples" / "remote_program.py")
    with on_socket(create_app(ServedFake(choices={"severity": "high"}), Settings())) as url:
        monkeypatch.setattr(sys, "argv", [path, "--url", url])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(path, run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 0
    assert lines[0].startswith("root: severity = 'high'")
    assert "root: fork of 3" in lines
    assert lines[-1].startswith("result: {")


def test_a_client_that_goes_takes_all_branches_with_it() -> None:
    backend = ServedFake(hold=["idea"])
    with on_socket(create_app(backend, Settings())) as url:
        connection = HTTPConnection(url.removeprefix("http://"), timeout=10)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/programs", body(tree(), True, args={"topic": "x"}), headers)
        response = connection.getresponse()
        while b'"delta":"ok"' not in response.readline():
            pass
        assert len(backend.open) == 2
        connection.sock.close()
        response.close()
        deadline = time.monotonic() + 10
        while backend.open and time.monotonic() < deadline:
            time.sleep(0.01)
    assert not backend.open
    assert backend.cancelled == ["idea", "idea"]


def test_a_run_is_cancelled_by_its_id() -> None:
    backend = ServedFake(hold=["a"])
    app = create_app(backend, Settings())
    with on_socket(app) as url:
        connection = HTTPConnection(url.removeprefix("http://"), timeout=10)
        headers = {"Content-Type": "application/json", "X-Request-Id": "mine"}
        connection.request("POST", "/v1/programs", body(one(), True), headers)
        response = connection.getresponse()
        other = HTTPConnection(url.removeprefix("http://"), timeout=10)
        other.request("DELETE", "/v1/requests/mine")
        assert other.getresponse().status == 200
        last = events(response.read().decode())[-1]
    assert last["type"] == "error"
    assert last["error"]["code"] == "cancelled"
    assert not backend.open


def check(kind: str, source: str, **rest: Any) -> dict[str, Any]:
    response = client().post("/v1/grammars/check", json={"kind": kind, "source": source, **rest})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_a_grammar_that_is_right_tells_its_least_tokens() -> None:
    assert check("regex", "[a-c]{4,9}") == {"ok": True, "min_tokens": 4, "error": None}


def test_a_refused_grammar_tells_where() -> None:
    schema = '{\n  "type": "object",\n  "properties": {"x": {"sparkle": 1}}\n}'
    error = check("json_schema", schema)["error"]
    assert (error["keyword"], error["pointer"]) == ("sparkle", "/properties/x/sparkle")
    assert (error["line"], error["column"]) == (3, 24)
    assert check("regex", "ab(c")["error"]["line"] == 1
    broken = check("json_schema", '{"type":\n "object",}')["error"]
    assert broken["line"] == 2


@pytest.mark.parametrize(
    ("kind", "fits", "exceeds", "limits"),
    [
        ("regex", "aaaa", "aaaaa", {"pattern_bytes": 4}),
        ("choices", '["a"]', '["a","b"]', {"enum_entries": 1}),
        ("choices", '["a"]', '["ab"]', {"schema_bytes": 5}),
        ("json_schema", '{"enum": [1]}', '{"enum": [1, 2]}', {"enum_entries": 1}),
        ("json_schema", '{"items": {}}', '{"items": {"items": {}}}', {"schema_depth": 2}),
    ],
)
def test_limits_of_grammars(kind: str, fits: str, exceeds: str, limits: dict[str, int]) -> None:
    limited = client(**limits)
    for source, status in ((fits, 200), (exceeds, 400)):
        data = {"kind": kind, "source": source}
        assert limited.post("/v1/grammars/check", json=data).status_code == status
    grammar = GrammarSpec(kind, exceeds)  # type: ignore[arg-type]  # one of the kinds
    assert refused(body(one(gen(0, 0, "a", grammar=grammar))), **limits)["param"].startswith(
        "program.nodes[0].grammar"
    )


@pytest.mark.parametrize("source", ['"abc', '{"type"', "[1,", "", "3"])
def test_broken_sources_are_refused_as_answers(source: str) -> None:
    for kind in ("json_schema", "choices", "structural_tag"):
        assert not check(kind, source)["ok"]

"""`python -m benchmarks.cpu`: the client of our engine, the table and chart, and peers' servers."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from benchmarks import cpu, cpu_load, cpu_peers, cpu_report
from benchmarks.cpu_load import Row, SgenClient
from sgen.engine import Engine
from sgen.errors import EngineClosedError, GrammarError, InvalidRequestError, SgenError
from sgen.protocol import Chunk, GenerateRequest, Usage

# --- the client of our engine ----------------------------------------------------------------


class Failing:
    """A backend that gives so many chunks, without text, and then an error or an end."""

    def __init__(self, chunks: int, error: SgenError | None = None) -> None:
        self.chunks = chunks
        self.error = error
        self.seen: list[GenerateRequest] = []

    async def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        self.seen.append(request)
        for _ in range(self.chunks):
            yield Chunk()
        if self.error:
            raise self.error
        yield Chunk(finish_reason="error", usage=Usage(100, 60, 4))


@pytest.mark.parametrize(
    ("backend", "status"),
    [
        (Failing(0, InvalidRequestError("no")), 400),
        (Failing(0, GrammarError("no")), 400),
        (Failing(0, EngineClosedError("no")), 500),
        (Failing(2, InvalidRequestError("no")), 500),
        (Failing(2), 500),
    ],
)
def test_only_what_was_refused_at_once_is_a_refusal(backend: Any, status: int) -> None:
    reply = asyncio.run(SgenClient(backend, Reply).complete("a", 7))
    assert reply.status == status
    assert reply.error


class Finishing(Failing):
    """Gives one text, and ends as it should."""

    async def extend(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        self.seen.append(request)
        yield Chunk(text="a")
        yield Chunk(finish_reason="length", usage=Usage(100, 60, 4))


class Reply:
    """load.py's, as far as the client fills it."""

    status: int = 0
    error: str | None = None
    text: str = ""
    finish: str | None = None
    latency: float = 0.0
    stamps: Sequence[float] = ()
    usage: dict[str, Any]


def test_the_client_does_what_a_server_does(engine: Engine) -> None:
    client = SgenClient(engine, Reply)
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
              "additionalProperties": False, "vendor": "unknown"}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "out", "schema": schema}}

    async def ask() -> list[Any]:
        return [
            await client.complete("One two three", 5),
            await client.complete("One two three", 5),
            await client.chat("Is it?", 20, response_format=form),
            await client.chat([{"role": "user", "content": "Hi"}], 20,
                              response_format={"json_schema": {"schema": {"type": "strange"}}}),
        ]  # fmt: skip

    first, again, typed, refused = asyncio.run(ask())
    assert (first.status, first.finish, first.usage["completion_tokens"]) == (200, "length", 5)
    assert first.text == again.text
    assert 0 < first.stamps[0] <= first.latency
    assert set(json.loads(typed.text)) == {"ok"}
    assert typed.finish == "stop"
    assert refused.status == 400
    assert GrammarError.__name__ in refused.error


def test_the_client_asks_for_what_the_workload_says() -> None:
    backend: Any = Finishing(0)
    client = SgenClient(backend, Reply)
    got = asyncio.run(client.complete("a", 7))
    assert got.usage["prompt_tokens_details"] == {"cached_tokens": 60}
    asyncio.run(client.chat("b", 9))
    fixed, free = (request.params for request in backend.seen)
    assert (fixed.max_tokens, fixed.ignore_eos, fixed.temperature) == (7, True, 0)
    assert (free.max_tokens, free.ignore_eos, free.finish) == (9, False, "valid")
    assert [r.id for r in backend.seen] == ["1", "2"]


# --- the report ------------------------------------------------------------------------------


def row(
    workload: str, score: float, *, n: int = 4, setting: str = "as is", failed_runs: int = 0,
    when: str = "2026-01-01T10:00", **more: float | None,
) -> Row:  # fmt: skip
    return Row(
        workload=workload, n=n, runs=5, failed_runs=failed_runs, score=score, low=score, high=score,
        unit="ms" if workload == "ttft" else "tok/s", load_before=0.1, setting=setting, when=when,
        context=100.0, more=more,
    )  # fmt: skip


def compared(**rows: list[Row]) -> cpu_report.Report:
    """Of these rows, else of some in which two settings of a peer did differently well."""
    return cpu_report.Report(
        version="1", when="2026-01-01", model="tiny", processor="chip", cores=2, compute="{}",
        seed="1", bandwidth=1e6, bandwidth_one=1e6, matrix_bytes=4000, kv_bytes=10,
        rows=rows or {
            "sgen": [row("single", 100), row("ttft", 20), row("tree", 50, n=8)],
            "llamacpp": [row("single", 25, setting="slow"), row("single", 40, setting="good"),
                         row("ttft", 30, setting="slow"), row("ttft", 10, setting="good"),
                         row("tree", 5), row("single", 80, n=2)],
        },
    )  # fmt: skip


def test_ratios_are_to_the_better_setting() -> None:
    found = compared()
    assert found.ratio("llamacpp", "single") == 2.5
    assert found.ratio("llamacpp", "ttft") == 0.5, "of times the shorter is better"
    assert found.ratio("llamacpp", "tree") is None, "different n"
    assert found.ratio("vllm", "single") is None
    assert found.share("sgen") == pytest.approx(100 * (4000 + 10 * 100) / 1e6)
    assert found.share("llamacpp") == pytest.approx(40 * 4000 / 1e6)
    assert found.share("vllm") is None, "it reads other weights"


def test_the_table_says_which_goals_are_met() -> None:
    lines = cpu_report.table(compared()).splitlines()
    assert "2.50x | 2x | yes" in lines[2]
    assert "good" in lines[2]
    assert "| — | 12x | — |" in next(line for line in lines if "tree" in line)
    assert "0.50x | 1x | no" in lines[-1]
    assert "| tree of thought | 8 |" in "\n".join(lines), "as many as load.py has"
    kept = msgspec.json.decode(msgspec.json.encode(compared()), type=cpu_report.Report)
    assert kept == compared()
    groups = cpu_report.chart(kept).groups
    assert [(g.label, g.bars[0].value, g.bars[0].goal) for g in groups] == [
        ("one stream", 2.5, 2.0),
        ("first token, warm", 0.5, 1.0),
    ]


@pytest.mark.parametrize(
    ("ours", "met"),
    [
        (row("json", 90, valid=1.0, refused=0.0), "yes"),
        (row("json", 90, valid=1.0, valid_worst=1.0, refused=0.0, refused_worst=0.0), "yes"),
        (row("json", 70, valid=1.0, refused=0.0), "no"),
        (row("json", 90, valid=0.9375, refused=0.0), "no: 93.8% valid"),
        (row("json", 90, valid=1.0, valid_worst=0.5), "no: 50.0% valid"),
        (row("json", 90, valid=1.0, refused=0.0, refused_worst=0.25), "no: 25.0% refused"),
        (row("json", 90, valid=1.0, failed_runs=2), "no: 2 of 5 runs failed"),
        (row("json", 90), "no: validity unknown"),
        (row("json1", 90, overhead=-0.2), "yes"),
        (row("json1", 90, overhead=0.0), "yes"),
        (row("json1", 90, overhead=0.002), "no: 0.998x of unconstrained"),
        (row("json1", 90, overhead=None), "no: unconstrained speed unknown"),
    ],
)
def test_speed_alone_does_not_meet_a_goal(ours: Row, met: str) -> None:
    report = compared(sgen=[ours], llamacpp=[row(ours.workload, 10)])
    assert cpu_report.table(report).splitlines()[2].endswith(f" | {met} |")
    facts = [f for f in cpu_report.facts(report) if f.startswith(f"sgen, {ours.workload}: ")]
    is_true = ours.score < 90 or met == "yes"
    assert all(f.endswith(": met)" if is_true else "not met)") for f in facts)


def test_what_failed_is_marked() -> None:
    rows = [row("chat", 60, failed_runs=4), row("single", 60, errors=0.0)]
    peer = [row("chat", 10, setting="16 slots", errors=3.0), row("single", 10, errors=0.0)]
    report = compared(sgen=rows, llamacpp=peer)
    lines = cpu_report.table(report).splitlines()
    assert [line.count("†") for line in lines] == [0, 0, 0, 2]
    marks = [f for f in cpu_report.facts(report) if f.startswith("†")]
    assert marks == [
        "† sgen (as is), chat, n=4: 4 of 5 runs failed",
        "† llama.cpp (16 slots), chat, n=4: requests that failed in the runs that count: 3",
    ]
    chart = cpu_report.chart(report)
    assert [g.bars[0].text.endswith("†") for g in chart.groups] == [False, True]
    assert set(marks) <= set(chart.notes)
    assert "Runs that a median is of: sgen 1 or 5, llama.cpp 5." in chart.notes


def test_the_table_says_where_fewer_items_were_run() -> None:
    report = compared(sgen=[row("json", 9, n=16)], vllm=[row("json", 3, n=16)])
    assert "JSON, 8 at once | 16 (32) |" in cpu_report.table(report)
    assert any("json 16 (32)" in note for note in cpu_report.chart(report).notes)


def test_it_says_how_peers_were_run() -> None:
    peer = [row("single", 9, setting="1 slot"), row("chat", 9, setting="4 slots"),
            row("tree", 9, setting="1 slot"), row("chat", 8, setting="16 slots")]  # fmt: skip
    report = compared(sgen=[row("chat", 30)], llamacpp=peer)
    says = "llama.cpp: single, tree: 1 slot; chat: the better of 4 slots and 16 slots."
    assert says in cpu_report.facts(report)
    assert says in cpu_report.chart(report).notes


def test_rows_of_another_day_say_so() -> None:
    late = row("single", 5, when="2025-12-24T10:00")
    report = compared(sgen=[row("single", 30)], llamacpp=[late], vllm=[row("single", 5)])
    assert "(as is, n=4, 2025-12-24) | 6.00x" in cpu_report.table(report)
    assert cpu_report.table(report).count("2025") == 1
    notes = [note for note in cpu_report.chart(report).notes if "measured on" in note]
    assert notes == ["llama.cpp was measured on 2025-12-24."]


@pytest.mark.parametrize("changed", ["model", "processor", "cores"])
def test_peers_of_another_machine_are_not_taken(changed: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_bytes(msgspec.json.encode(compared()))
    ours = compared(sgen=[row("single", 30)])
    cpu.take_peers(ours, kept)
    assert ours.rows["llamacpp"] == compared().rows["llamacpp"]
    assert [r.score for r in ours.rows["sgen"]] == [30]
    assert "memory read 0.0 GB/s in the earliest run" in "\n".join(cpu_report.facts(ours))
    other = msgspec.structs.replace(ours, **{changed: 3 if changed == "cores" else "other"})
    with pytest.raises(SystemExit, match=changed):
        cpu.take_peers(other, kept)


def test_an_old_file_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = msgspec.to_builtins(compared())
    del old["computed"], old["peers_bandwidth"]
    kept, chart = tmp_path / "old.json", tmp_path / "old.svg"
    kept.write_bytes(msgspec.json.encode(old))
    cpu.show(msgspec.json.decode(kept.read_bytes(), type=cpu_report.Report), chart)
    assert "asked for {}" in capsys.readouterr().out
    assert "llama.cpp: " in chart.read_text()
    new = msgspec.structs.replace(compared(), computed="native chip")
    assert "sgen: native chip" in cpu_report.facts(new)
    assert "sgen: native chip." in cpu_report.chart(new).notes


# --- runs and servers ------------------------------------------------------------------------


def test_a_row_has_the_worst_of_its_runs() -> None:
    async def once(client: Any, data: Any, name: str, n: int, rep: int, args: Any) -> Any:
        if rep == 2:
            return {"status": "failed", "reason": "it broke"}
        return {"status": "ok", "score": 1.0, "unit": "tok/s", "n": 4, "prompt_tokens": 40,
                "output_tokens": 8, "errors": rep, "valid": 1 - rep / 4,
                "refused": rep / 8}  # fmt: skip

    def merge(runs: Any) -> Any:
        assert [r["status"] for r in runs] == ["ok", "ok", "failed", "ok"]
        return {**runs[0], "runs": 4, "failed_runs": 1, "score_min": 1.0, "score_max": 1.0}

    load: Any = SimpleNamespace(once=once, merge=merge)
    made = asyncio.run(cpu_load.run(load, None, None, "json", 4, 4, "7", "here"))
    assert made.more["errors"] == 0 + 1 + 3
    assert (made.more["valid"], made.more["valid_worst"]) == (1.0, 0.25)
    assert (made.more["refused"], made.more["refused_worst"]) == (0.0, 0.375)


def test_a_server_that_does_not_start_is_noted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def server(peer: str, setting: cpu_peers.Setting, *rest: Any) -> Iterator[str]:
        started.append(setting.name)
        if setting.name == "1 slot":
            raise RuntimeError("the server did not start")
        yield "url"

    def run(name: str, client: Any, workloads: Any, repeat: int, how: str) -> None:
        measured.append((how, workloads))

    started: list[str] = []
    measured: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(cpu_peers, "server", server)
    args = argparse.Namespace(
        peer={}, only=["single", "chat"], repeat=1, peer_repeat=None, shared=Path(), log=Path(),
        out=None,
    )  # fmt: skip
    session = cpu.Session.__new__(cpu.Session)  # without ../shared
    session.args, session.report = args, compared()
    session.load = SimpleNamespace(Client=lambda given: None)
    session.run = run  # type: ignore[method-assign]  # a stand-in
    cpu.measure_peer(session, "llamacpp", Path("m"))
    assert started == ["1 slot", "4 slots", "16 slots"]
    assert measured == [("4 slots", ["chat"]), ("16 slots", ["chat"])]
    assert session.report.failures == {"llamacpp": ["1 slot: the server did not start"]}
    assert "did not start" in capsys.readouterr().err


def test_a_failed_workload_has_no_row() -> None:
    async def once(client: Any, data: Any, name: str, n: int, rep: int, args: Any) -> Any:
        seeds.append(args.seed)
        return {"status": "unsupported", "reason": "400"}

    seeds: list[str] = []
    load: Any = SimpleNamespace(once=once, merge=lambda runs: runs[0])
    with pytest.raises(RuntimeError, match="json: unsupported, 400"):
        asyncio.run(cpu_load.run(load, None, None, "json", 4, 3, "7", "here"))
    assert len(set(seeds)) == 3, "a seed for each run"


def test_a_server_ends_with_what_it_started(tmp_path: Path) -> None:
    """The processes of a server are one group, as `server` starts them."""
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '99']).pid, flush=True)"
    shell = f'{sys.executable} -c "{code}"; sleep 99'
    process = subprocess.Popen(
        ["bash", "-c", shell], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    os.kill(child, 0)
    cpu_peers._end(process)
    assert process.returncode == -signal.SIGTERM
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child lives")
    process.stdout.close()


def test_a_peer_needs_to_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_VENV", "/somewhere")
    monkeypatch.delenv("VLLM_MODEL", raising=False)
    assert cpu_peers.missing("vllm") == ["VLLM_MODEL"]
    measured = {w for s in cpu_peers.SETTINGS["llamacpp"] for w in s.workloads}
    assert measured == set(cpu_load.SIZES) == set(cpu_report.GOALS)

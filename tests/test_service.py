"""The compile service: limits of time and memory, what is kept, and what survives what."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sgen.errors import EngineClosedError, GrammarError
from sgen.grammars.compile import compile_grammar
from sgen.grammars.service import CompileLimits, CompileService
from sgen.protocol import GrammarSpec

NAMES = GrammarSpec("regex", "(ab|cd)+x")
OTHER = GrammarSpec("choices", '["yes","no"]')


WORD = GrammarSpec("regex", "word")


def spec_of(number: int) -> GrammarSpec:
    return GrammarSpec("regex", f"number {number}")


@pytest.fixture(scope="module")
def service() -> Iterator[CompileService]:
    """One for all tests that do it no harm."""
    with CompileService() as service:
        yield service


class Odd:
    """A service whose workers are odd_worker.py, and the folder that tells them what to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        worker = Path(__file__).with_name("odd_worker.py")
        self.command = (sys.executable, "-P", str(worker), str(folder))
        self.services: list[CompileService] = []

    def service(self, **limits: Any) -> CompileService:
        service = CompileService(CompileLimits(**limits), command=self.command)
        self.services.append(service)
        return service

    def tell(self, name: str, yes: bool = True) -> None:
        if yes:
            (self.folder / name).touch()
        else:
            (self.folder / name).unlink()

    def log(self) -> list[tuple[int, str]]:
        """(process, source) of each compilation."""
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(pid), source) for pid, _, source in (x.partition(" ") for x in lines)]


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Odd]:
    odd = Odd(tmp_path)
    yield odd
    for service in odd.services:
        service.close()


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# -- what comes back -----------------------------------------------------------------------------


def test_a_grammar_is_the_one_that_is_compiled_here(service: CompileService) -> None:
    for spec, good, bad in ((NAMES, b"abcdx", b"abc"), (OTHER, b"yes", b"maybe")):
        grammar, here = service.compile(spec), compile_grammar(spec)
        assert grammar is not service.compile(spec)
        assert grammar.matches(good)
        assert not grammar.matches(bad)
        assert grammar.plan.pack() == here.plan.pack()
        assert grammar.digest == here.digest
        assert tuple(grammar.notes) == tuple(here.notes)


@pytest.mark.parametrize(
    "spec",
    [
        GrammarSpec("regex", "a(b"),
        GrammarSpec("choices", "{"),
        GrammarSpec("json_schema", '{"properties":{"a":{"type":"spoon"}}}'),
        GrammarSpec("json_schema", '{"type":"string","pattern":"(a)\\\\1"}'),
        GrammarSpec("json_schema", "{"),
    ],
)
def test_a_refusal_is_the_one_that_is_said_here(service: CompileService, spec: GrammarSpec) -> None:
    with pytest.raises(GrammarError) as here:
        compile_grammar(spec)
    with pytest.raises(GrammarError) as there:
        service.compile(spec)
    for part in ("message", "keyword", "pointer", "position", "hint"):
        assert getattr(there.value, part) == getattr(here.value, part)


def test_what_is_no_spec_is_refused(service: CompileService) -> None:
    for spec in (GrammarSpec("yaml", "a"), GrammarSpec("regex", 7)):  # type: ignore[arg-type]  # wrong on purpose
        with pytest.raises(GrammarError) as caught:
            service.compile(spec)
        assert caught.value.keyword == "spec"


def test_half_a_surrogate_pair(service: CompileService) -> None:
    with pytest.raises(GrammarError, match="surrogate"):
        service.compile(GrammarSpec("regex", "a\ud800"))


# -- hostile grammars ----------------------------------------------------------------------------

DEEP = 100_000
REFUSED: dict[str, GrammarSpec] = {
    "brackets": GrammarSpec("json_schema", "[" * DEEP),
    "schemas": GrammarSpec("json_schema", '{"items":' * DEEP + "{}" + "}" * DEEP),
    "groups": GrammarSpec("regex", "(" * DEEP + "a" + ")" * DEEP),
    "repeats": GrammarSpec("regex", "(a{1,1000}){1,1000}"),
    "stars": GrammarSpec("regex", "(" * 500 + "a" + ")*" * 500),
    "minItems": GrammarSpec("json_schema", json.dumps({"type": "array", "minItems": 2**64})),
    "cycle": GrammarSpec(
        "json_schema", '{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},'
        '"$ref":"#/$defs/a"}'
    ),
    "endless": GrammarSpec(
        "json_schema", '{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}'
    ),
    "choices": GrammarSpec("choices", json.dumps([str(i) for i in range(DEEP)])),
    "choices brackets": GrammarSpec("choices", "[" * DEEP),
    "root": GrammarSpec("gbnf", "root ::= root"),
    "gbnf groups": GrammarSpec("gbnf", "root ::= " + "(" * DEEP + '"a"' + ")" * DEEP),
    "lark groups": GrammarSpec("lark", "start: " + "(" * DEEP + '"a"' + ")" * DEEP),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_grammars_are_refused_soon(service: CompileService, name: str) -> None:
    start = time.monotonic()
    with pytest.raises(GrammarError) as caught:
        service.compile(REFUSED[name])
    assert time.monotonic() - start < 6.0
    assert caught.value.keyword not in ("internal", "crash"), caught.value
    assert service.compile(OTHER).matches(b"no")


def one_of(depth: int) -> dict[str, object]:
    inner = {"type": "string"} if depth == 0 else one_of(depth - 1)
    return {"oneOf": [inner, {"type": "array", "items": inner}, {"type": "integer"}]}


EITHER: dict[str, GrammarSpec] = {
    "enum": GrammarSpec("json_schema", json.dumps({"enum": [f"v{i}" for i in range(DEEP)]})),
    "oneOf": GrammarSpec("json_schema", json.dumps(one_of(12))),
    "maxItems": GrammarSpec("json_schema", json.dumps({"type": "array", "maxItems": 2**64})),
    "backtracking": GrammarSpec("regex", "(a+)+$"),
    "overlaps": GrammarSpec("regex", "(a|aa)*b{500}"),
    "squares": GrammarSpec("regex", "(a*)*" * 30 + "b"),
    "subsets": GrammarSpec("json_schema", '{"type":"string","maxLength":40,'
                           '"pattern":"^(a|b)*a(a|b){20}$"}'),
}  # fmt: skip


@pytest.mark.parametrize("name", EITHER)
def test_hard_grammars_are_compiled_or_refused_soon(service: CompileService, name: str) -> None:
    start, keyword = time.monotonic(), ""
    try:
        service.compile(EITHER[name])
    except GrammarError as error:
        keyword = error.keyword
    assert time.monotonic() - start < 6.0
    assert keyword not in ("internal", "crash")
    assert service.compile(OTHER).matches(b"no")


# -- limits --------------------------------------------------------------------------------------


def test_a_time_out_is_not_remembered(odd: Odd) -> None:
    service = odd.service(seconds=0.7)
    odd.tell("sleep")
    start = time.monotonic()
    with pytest.raises(GrammarError) as caught:
        service.compile(WORD)
    assert time.monotonic() - start > 0.7
    assert caught.value.keyword == "time"
    assert "0.7 s" in caught.value.message
    ((slow, _),) = odd.log()
    assert not is_running(slow)
    odd.tell("sleep", False)
    assert service.compile(WORD).matches(b"word")
    assert len(odd.log()) == 2


def test_memory_is_limited(odd: Odd) -> None:
    service = odd.service(megabytes=64, seconds=10.0)
    odd.tell("hog")
    with pytest.raises(GrammarError) as caught:
        service.compile(WORD)
    assert caught.value.keyword == "memory"
    odd.tell("hog", False)
    assert service.compile(WORD).matches(b"word")
    (first, _), (second, _) = odd.log()
    assert first != second, "what had no memory left is not asked again"


def test_a_worker_that_has_grown_is_replaced(odd: Odd) -> None:
    service = odd.service(megabytes=200)
    for i in range(2):
        service.compile(spec_of(i))
    odd.tell("grow")
    for i in range(2, 6):
        service.compile(spec_of(i))
    pids = [pid for pid, _ in odd.log()]
    assert pids[0] == pids[1] == pids[2]
    assert len(set(pids)) > 1


def test_a_worker_that_is_killed_over_a_grammar(odd: Odd) -> None:
    service = odd.service(workers=1)
    assert service.compile(spec_of(0)).matches(b"number 0")
    odd.tell("sleep")
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(service.compile, WORD)
        wait_for(lambda: len(odd.log()) == 2)
        odd.tell("sleep", False)
        os.kill(odd.log()[1][0], signal.SIGKILL)
        with pytest.raises(GrammarError) as caught:
            failing.result(10)
    assert caught.value.keyword == "crash"
    assert service.compile(WORD).matches(b"word"), "nothing was remembered"


def test_a_worker_that_died_between_grammars_goes_unnoticed(odd: Odd) -> None:
    service = odd.service()
    service.compile(spec_of(0))
    pid = odd.log()[0][0]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")
    assert service.compile(spec_of(1)).matches(b"number 1")


# -- what is kept --------------------------------------------------------------------------------


def test_outcomes_are_kept(odd: Odd) -> None:
    service = odd.service()
    for _ in range(3):
        service.compile(WORD)
        with pytest.raises(GrammarError):
            service.compile(GrammarSpec("regex", "("))
    assert [source for _, source in odd.log()] == [WORD.source, "("]


def test_the_latest_used_are_kept_within_a_budget(odd: Odd) -> None:
    service = odd.service(cache_bytes=20_000)
    service.compile(WORD)
    for i in range(60):
        service.compile(spec_of(i))
        service.compile(WORD)
        assert service.num_bytes <= 20_000
    sources = [source for _, source in odd.log()]
    assert sources.count(WORD.source) == 1
    service.compile(spec_of(0))
    assert len(odd.log()) == len(sources) + 1


def test_many_callers_share_one_compilation(odd: Odd) -> None:
    service = odd.service(seconds=5.0)
    gate = threading.Barrier(12)

    def ask(number: int) -> bool:
        gate.wait()
        return service.compile(spec_of(number % 3)).matches(f"number {number % 3}".encode())

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, range(12)))
    assert sorted(source for _, source in odd.log()) == [spec_of(i).source for i in range(3)]
    assert len({pid for pid, _ in odd.log()}) <= 2


def test_many_callers_share_one_time_out(odd: Odd) -> None:
    service = odd.service(seconds=0.3)
    odd.tell("sleep")
    gate = threading.Barrier(6)

    def ask(number: int) -> str:
        gate.wait()
        try:
            service.compile(WORD)
        except GrammarError as error:
            return error.keyword
        return ""

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(ask, range(6))) == {"time"}
    assert len(odd.log()) == 1


# -- where no process can be started -------------------------------------------------------------


@pytest.mark.parametrize("command", [("/nowhere/python",), ("/bin/true",), ("/bin/echo",)])
def test_without_processes_there_is_one_warning(command: tuple[str, ...]) -> None:
    with CompileService(command=command) as service:
        with pytest.warns(RuntimeWarning, match="without limits of time and memory"):
            assert service.compile(NAMES).matches(b"abx")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert service.compile(OTHER).matches(b"yes")
            with pytest.raises(GrammarError) as caught:
                service.compile(REFUSED["repeats"])
        assert caught.value.keyword == "quantifier"


def test_in_a_frozen_application_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with CompileService() as service, pytest.warns(RuntimeWarning, match="this system"):
        assert service.compile(NAMES).matches(b"abx")


# -- the end -------------------------------------------------------------------------------------


def test_close_ends_workers_and_whoever_waits(odd: Odd) -> None:
    service = odd.service(workers=1, seconds=30.0)
    odd.tell("sleep")
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(service.compile, spec_of(i)) for i in range(2)]
        wait_for(odd.log)
        service.close()
        for one in waiting:
            with pytest.raises(EngineClosedError):
                one.result(10)
    assert not is_running(odd.log()[0][0])
    with pytest.raises(EngineClosedError):
        service.compile(WORD)
    service.close()


def test_nothing_is_left_over(odd: Odd) -> None:
    """Not after time-outs and refusals either: files, threads and processes are as before."""

    def held() -> tuple[int, int, set[str]]:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        files = len(os.listdir("/proc/self/fd"))
        return files, threading.active_count(), {*children.read_text().split()}

    before = held()
    for _ in range(2):
        service = odd.service(seconds=0.7)
        service.compile(WORD)
        with pytest.raises(GrammarError):
            service.compile(GrammarSpec("regex", "("))
        odd.tell("sleep")
        with pytest.raises(GrammarError):
            service.compile(OTHER)
        odd.tell("sleep", False)
        service.close()
    assert held() == before


def test_a_service_that_nobody_closes_ends_its_workers(odd: Odd) -> None:
    service = CompileService(command=odd.command)
    service.compile(WORD)
    pid = odd.log()[0][0]
    del service
    wait_for(lambda: not is_running(pid))


def test_a_fork_cannot_use_it(service: CompileService) -> None:
    service.compile(OTHER)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            service.compile(OTHER)
        except EngineClosedError:
            service.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert service.compile(spec_of(99)).matches(b"number 99"), "the parent's worker is alive"


PARENT = """
import os, signal, sys
from sgen.grammars.service import CompileService
from sgen.protocol import GrammarSpec
service = CompileService(command=sys.argv[1:])
service.compile(GrammarSpec("regex", "a"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_when_their_parent_is_killed(odd: Odd) -> None:
    subprocess.run([sys.executable, "-c", PARENT, *odd.command], timeout=60)
    ((pid, _),) = odd.log()
    wait_for(lambda: not is_running(pid))


IMPORTS = """
import sys
import sgen.grammars.compile_worker
heavy = ("torch", "transformers", "tokenizers", "pydantic", "sgen.runtime", "sgen.frontend")
sys.exit(", ".join(name for name in heavy if name in sys.modules) or 0)
"""


def test_a_worker_imports_neither_torch_nor_the_runtime() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 0, done.stderr

"""Programs on a backend that answers from a script: text, refs, branches, and every way to run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from sgen.errors import CancelledError, InvalidRequestError, OutputError, ProgramError, SgenError
from sgen.frontend import Event, Ref, Run, State, gen, program, regex, select
from sgen.frontend.bridge import Job, Pool
from sgen.frontend.defaults import DEFAULT, DefaultEngine
from sgen.frontend.fake import FakeBackend, prompt_text
from sgen.protocol import (
    GenerateRequest,
    OptionScore,
    RoleEnd,
    RoleStart,
    ScoreRequest,
    Scores,
    Text,
    Tokens,
    Usage,
)


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    fake = FakeBackend({"name": "Ada", "city": "London", "long": "0123456789" * 3})
    DEFAULT.use(fake)
    yield fake
    assert not fake.open, "a request was left open"
    DEFAULT.use(None)


def prompts(fake: FakeBackend) -> list[str]:
    return [prompt_text(r.prompt) for r in fake.requests]


# text and refs


def test_refs_in_every_kind_of_text(backend: FakeBackend) -> None:
    @program
    async def p(s: State, q: str) -> str:
        s += f"Q: {q}\n"
        name = s.gen(name="name")
        s += f" is {name!s} and {name}"
        s += name
        s += "[" + name + "]"
        city = s.gen(name="city")
        return f"{await name} of {city}"

    run = p.run(q="who?")
    assert run.text == "Q: who?\nAda is Ada and AdaAda[Ada]London"
    assert run.output == "Ada of London"
    assert run.vars == {"name": "Ada", "city": "London"}
    assert prompts(backend) == ["Q: who?\n", "Q: who?\nAda is Ada and AdaAda[Ada]"]


def test_generated_tokens_are_kept_and_neighbouring_texts_are_one(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> None:
        s += "a"
        s += "b"
        s.gen(name="name")
        s += "c"
        s.select(["x", "y"])
        s += "d"
        s.gen(name="city")

    p.run()
    last = backend.requests[-1]
    assert last.prompt == (Text("ab"), Tokens(tuple(map(ord, "Ada")), "Ada"), Text("cxd"))


def test_an_output_ended_by_a_stop_text_is_kept_as_text() -> None:
    fake = FakeBackend({"a": "one\ntwo"})

    @program
    async def p(s: State) -> str:
        a = s.gen(name="a", stop="\n")
        s.gen(name="b")
        return await a

    assert p.with_options(engine=fake).run().output == "one"
    assert fake.requests[-1].prompt == (Text("one"),)


def test_expressions_bind_names_in_the_order_of_the_text(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> str:
        s += "N: " + gen("name", max_tokens=9) + " C: " + gen("city") + "; "
        s += select("pick", ["l", "r"])
        return f"{await s['name']}/{await s['city']}/{await s['pick']}"

    run = p.run()
    assert run.output == "Ada/London/l"
    assert run.text == "N: Ada C: London; l"
    first = backend.requests[0]
    assert isinstance(first, GenerateRequest)
    assert first.params.max_tokens == 9


def test_an_expression_in_an_fstring_is_refused(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> None:
        s += f"N: {gen('name')}"

    with pytest.raises(ProgramError, match=r"f-string[\s\S]*\+"):
        p.run()


def test_hostile_text_is_plain_text(backend: FakeBackend) -> None:
    """Text that looks like the mark of a ref is left alone; a mark of another run is refused."""
    seen: list[str] = []

    @program
    async def p(s: State, q: str) -> str:
        ref = s.gen(name="name")
        seen.append(str(ref))
        s += f"{q}|{ref}"
        return await ref

    p.run(q="x")
    mark = seen[0]
    assert len(mark) > 1000
    for foreign in (mark, mark[:1], mark[-1:], mark[5:9]):
        with pytest.raises(ProgramError, match="another run"):
            p.run(q=f"x{foreign}y")
    hostile = '\x02\t<&"%Ref 0:v0\x03{ref}%s'
    run = p.run(q=hostile)
    assert run.text == f"Ada{hostile}|Ada"


@pytest.mark.parametrize(
    "change",
    [str.upper, str.lower, lambda t: t[:40], lambda t: t[:1500], lambda t: " ".join(t.split())],
)
def test_text_that_was_changed_around_a_ref_is_refused(backend: FakeBackend, change) -> None:
    @program
    async def p(s: State) -> None:
        ref = s.gen(name="name")
        s += change(f"Name: {ref}. " + "x" * 3000)

    with pytest.raises(ProgramError, match="changed"):
        p.run()


def test_the_repr_of_a_ref_is_for_people_only(backend: FakeBackend) -> None:
    @program
    async def p(s: State, wait: bool) -> str:
        a, b = s.gen(name="name"), s.gen(name="b")
        if wait:
            await a
        shown = f"Ideas: {[a, b]}"
        assert shown.startswith("Ideas: [<Ref 'name': ")
        s += shown
        return await a

    for wait in (False, True):
        with pytest.raises(ProgramError, match="add them one by one"):
            p.run(wait)

    @program
    async def keyed(s: State) -> dict[str, int]:
        return {f"{s.gen()}": 1}

    with pytest.raises(ProgramError, match="a key of the result"):
        keyed.run()


def test_stops_cannot_cut_constrained_output(backend: FakeBackend) -> None:
    backend.answers["n"] = "123-4567"

    @program
    async def stops(s: State, params: dict[str, Any]) -> str:
        return await s.gen(regex(r"\d{3}-\d{4}"), name="n", **params)

    for params in ({"stop": "-"}, {"stop_token_ids": [3]}):
        with pytest.raises(InvalidRequestError, match="truncate") as caught:
            stops.run(params)
        assert caught.value.param in params
    with pytest.raises(OutputError, match="the stop '-'") as cut:
        stops.run({"stop": "-", "finish": "truncate"})
    assert cut.value.text == "123"
    assert stops.run({"stop": "x", "finish": "truncate"}).output == "123-4567"
    assert stops.run({"stop_token_ids": [3], "finish": "truncate"}).output == "123-4567"
    backend.answers["n"] = "123"
    with pytest.raises(OutputError, match="stop token"):
        stops.run({"stop_token_ids": [3], "finish": "truncate"})


def test_idle_threads_of_the_pool_end() -> None:
    pool = Pool(4, idle_seconds=0.02)
    threads: set[threading.Thread] = set()
    for _ in range(2):
        jobs = [Job(lambda: threads.add(threading.current_thread())) for _ in range(8)]
        for job in jobs:
            pool.submit(job)
        for job in jobs:
            job.future.result(timeout=5)
        for thread in threads:
            thread.join(timeout=5)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    "use",
    [
        bool,
        len,
        int,
        float,
        list,
        lambda r: r == "Ada",
        lambda r: "Ada" in r,
        lambda r: r in ["Ada"],
        lambda r: r < "B",
        lambda r: r[0],
        lambda r: f"{r:>10}",
        lambda r: {1: 2}[r] if r else 0,
    ],
)
@pytest.mark.parametrize("awaited", [False, True])
def test_a_ref_in_python_logic_is_an_error(backend: FakeBackend, use, awaited: bool) -> None:
    @program
    async def p(s: State) -> None:
        ref = s.gen(name="name")
        if awaited:
            await ref
        use(ref)

    with pytest.raises(ProgramError, match="'name'"):
        p.run()


def test_refs_can_be_collected_and_compared_with_each_other(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> list[str]:
        a, b = s.gen(name="name"), s.gen(name="city")
        assert a != b
        assert [a, b].index(b) == 1
        return [await r for r in {a: 1, b: 2}]

    assert p.run().output == ["Ada", "London"]


def test_value_in_an_async_program_says_to_await(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> str:
        ref = s.gen(name="name")
        with pytest.raises(ProgramError, match="await"):
            _ = ref.value
        with pytest.raises(ProgramError, match="await"):
            _ = ref.finish_reason
        await ref
        return ref.value + ref.text + ref.finish_reason

    assert p.run().output == "AdaAdastop"


def test_partials_are_pieces_of_the_text(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> list[str]:
        return [piece async for piece in s.gen(name="long").partials()]

    pieces = p.run().output
    assert len(pieces) == 10
    assert "".join(pieces) == "0123456789" * 3


def test_returned_refs_become_values_wherever_they_stand(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> object:
        name = s.gen(name="name")
        return {"a": [name, (s.gen(name="city"), 1)], "b": f"<{name}>", "c": None}

    assert p.run().output == {"a": ["Ada", ("London", 1)], "b": "<Ada>", "c": None}


def test_select_keeps_the_values_of_its_options(backend: FakeBackend) -> None:
    backend.choices["n"] = "20"

    @program
    async def p(s: State) -> int:
        ref = s.select([3, 20], name="n", by="mean")
        n = await ref
        assert ref.scores == {3: pytest.approx(-1.0), 20: pytest.approx(-0.1)}
        return n + 1

    assert p.run().output == 21
    assert isinstance(backend.requests[0], ScoreRequest)


@pytest.mark.parametrize("by", ["tree", "sum", "mean"])
def test_select_takes_the_first_of_equals(by) -> None:
    class Even(FakeBackend):
        async def score(self, request):
            scores = await super().score(request)
            return Scores(tuple(OptionScore(0.5, (-1.0,)) for _ in scores.options), Usage(7))

    @program
    async def p(s: State) -> str:
        return await s.select(["b", "a"], by=by)

    run = p.with_options(engine=Even()).run()
    assert run.output == "b"
    assert run.usage == Usage(7), "what a select took is part of what the run took"


# messages


def test_messages_become_parts_of_the_prompt(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> None:
        s.system("be brief")
        with s.user():
            s += "hi"
        with s.assistant():
            s += "N: "
            s.gen(name="name")

    run = p.run()
    assert backend.requests[0].prompt == (
        RoleStart("system"),
        Text("be brief"),
        RoleEnd(),
        RoleStart("user"),
        Text("hi"),
        RoleEnd(),
        RoleStart("assistant"),
        Text("N: "),
    )
    assert run.text == "system: be brief\nuser: hi\nassistant: N: Ada\n"
    assert [s.kind for s in run.spans].count("role") == 6


def test_message_misuse(backend: FakeBackend) -> None:
    @program
    async def nested(s: State) -> None:
        with s.user():
            s.assistant("x")

    @program
    async def forgotten(s: State) -> None:
        s.assistant()
        s.gen()

    @program
    async def forgotten_last(s: State) -> None:
        s.assistant()

    @program
    async def both(s: State) -> None:
        with s.assistant("x"):
            pass

    @program
    async def forked(s: State) -> None:
        with s.assistant():
            async with s.fork(1) as bs:
                bs[0].user("x")

    for bad, words in [
        (nested, "inside the user message"),
        (forgotten, "with s.assistant"),
        (forgotten_last, "with s.assistant"),
        (both, "whole message"),
        (forked, "inside the assistant message"),
    ]:
        with pytest.raises(ProgramError, match=words):
            bad.run()
    assert not backend.requests


def test_a_message_is_closed_when_an_error_leaves_it(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> str:
        try:
            with s.user():
                s += "x"
                raise KeyError
        except KeyError:
            s.user("y")
        return await s.gen()

    assert p.run().text == "user: x\nuser: y\nok"


# parameters


def test_parameters_reach_the_request(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> None:
        s.gen(max_tokens=5, temperature=0.5, stop=["a", "b"], seed=3, top_p=None, logit_bias={1: 2})
        s.gen()

    p.with_options(temperature=0.9, max_tokens=7).run()
    first, second = (r.params for r in backend.requests if isinstance(r, GenerateRequest))
    assert (first.max_tokens, first.temperature, first.seed) == (5, 0.5, 3)
    assert (first.stop, first.top_p, first.logit_bias) == (("a", "b"), 1.0, {1: 2.0})
    assert (second.max_tokens, second.temperature, second.seed) == (7, 0.9, None)


def test_no_bound_unless_one_is_given(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> str:
        return await s.gen()

    p.run()
    request = backend.requests[0]
    assert isinstance(request, GenerateRequest)
    assert request.params.max_tokens is None


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"temprature": 1}, ProgramError, "temperature"),
        ({"temperature": -1}, InvalidRequestError, "temperature must be"),
        ({"temperature": "hot"}, InvalidRequestError, "temperature: Expected `float`"),
        ({"max_tokens": 0}, InvalidRequestError, "max_tokens"),
        ({"max_tokens": 2.5}, InvalidRequestError, "max_tokens"),
        ({"max_tokens": True}, InvalidRequestError, "max_tokens"),
        ({"stop": [""]}, InvalidRequestError, "stop"),
        ({"stop": [1]}, InvalidRequestError, "stop"),
        ({"finish": "maybe"}, InvalidRequestError, "finish"),
        ({"name": "a.b"}, ProgramError, "name a variable"),
        ({"name": ""}, ProgramError, "name a variable"),
    ],
)
def test_a_wrong_parameter_is_refused_where_it_stands(
    backend: FakeBackend, params, error, words: str
) -> None:
    @program
    async def p(s: State) -> None:
        try:
            s.gen(**params)
        except SgenError as e:
            raise type(e)(f"at the call: {e}") from e

    with pytest.raises(error, match=rf"at the call: [\s\S]*{words}"):
        p.run()
    assert not backend.requests


def test_wrong_arguments_of_state_methods(backend: FakeBackend) -> None:
    @program
    async def p(s: State, what: int) -> None:
        ref = s.gen(name="name")
        match what:
            case 0:
                s += 5  # type: ignore[arg-type]
            case 1:
                s.gen("name")  # type: ignore[call-overload]
            case 2:
                s.select("abc")
            case 3:
                s.select([])
            case 4:
                s.select(["a", "a"])
            case 5:
                s.select([ref, "a"])
            case 6:
                s.select([f"{ref}", "a"])
            case 7:
                s.gen(regex(f"a{ref}"))
            case 8:
                s.gen(stop=f"{ref}")
            case 9:
                s.fork(0)
            case 10:
                _ = s["nobody"]
            case 11:
                s.select(["a"], by="best")  # type: ignore[arg-type]
            case 12:
                s.gen(name=f"{ref}")
            case 13:
                s.fork(True)

    for what in range(14):
        with pytest.raises(ProgramError):
            p.run(what=what)
    assert p.run(what=99).vars == {"name": "Ada"}


def test_a_seed_gives_each_generation_its_own_and_repeats(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> None:
        s.gen()
        async with s.fork(2) as bs:
            await bs.gather(lambda b, i: b.gen())

    def seeds() -> set[tuple[str, int | None]]:
        start = len(backend.requests)
        p.with_options(seed=7).run()
        fresh = [r for r in backend.requests[start:] if isinstance(r, GenerateRequest)]
        return {(prompt_text(r.prompt) + r.id[-4:], r.params.seed) for r in fresh}

    first = seeds()
    assert len({seed for _, seed in first}) == 3
    assert {seed for _, seed in seeds()} == {seed for _, seed in first}
    start = len(backend.requests)
    p.with_options(seed=8).run()
    other = {r.params.seed for r in backend.requests[start:] if isinstance(r, GenerateRequest)}
    assert not other & {seed for _, seed in first}


# branches


def test_branches_share_the_prefix_and_run_side_by_side(backend: FakeBackend) -> None:
    backend.delay = 0.02

    @program
    async def p(s: State) -> list[str]:
        s += "prefix "
        async with s.fork(8) as branches:
            assert len(branches) == 8

            async def go(b: State, i: int) -> str:
                b += f"{i}: "
                return await b.gen(name="name") + str(i)

            return await branches.gather(go)

    start = time.perf_counter()
    run = p.run()
    assert time.perf_counter() - start < 8 * 0.04
    assert run.output == [f"Ada{i}" for i in range(8)]
    assert sorted(prompts(backend)) == [f"prefix {i}: " for i in range(8)]
    assert backend.most_open == 8
    assert run.text == "prefix "
    assert run.vars["3.name"] == "Ada"
    assert [s.text for s in run.spans if s.branch == (5,)] == ["5: ", "Ada"]


def test_a_branch_starts_with_what_was_there_at_the_fork(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> str:
        name = s.gen(name="name")
        with s.assistant():
            bs = s.fork(2)
            s += " root only"
        bs[0] += "zero "
        inner = bs[1].fork(1)[0]
        inner += f" {name}"
        city = inner.gen(name="city")
        await bs.join()
        s += f" {city} {bs[0]['name']}"
        return await s.gen(name="end")

    run = p.run()
    assert run.text == "Adaassistant:  root only\n London Adaok"
    by_name = {r.id.rsplit(":", 1)[-1]: r for r in backend.requests}
    assert by_name["city"].prompt[1:] == (RoleStart("assistant"), Text(" Ada"))
    assert run.vars["1.0.city"] == "London"


def test_join_ends_the_branches(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> None:
        async with s.fork(1) as bs:
            bs[0].gen()
        bs[0].gen()

    with pytest.raises(ProgramError, match="joined"):
        p.run()


def test_sync_with_in_an_async_program_is_refused(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> None:
        with s.fork(1):
            pass

    with pytest.raises(ProgramError, match="async with"):
        p.run()


def test_gather_takes_awaitables_only(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> None:
        async with s.fork(1) as bs:
            await bs.gather(lambda b, i: i)  # type: ignore[arg-type, return-value]

    with pytest.raises(ProgramError, match="must return a Ref"):
        p.run()


# errors and cancelling


def test_a_backend_failure_fails_the_run_and_names_the_variable(backend: FakeBackend) -> None:
    error = OSError("the model is gone")
    backend.answers["bad"] = error

    @program
    async def nobody_waits(s: State) -> str:
        s.gen(name="bad")
        return "done"

    @program
    async def awaited(s: State) -> str:
        async with s.fork(2) as bs:
            ref = bs[1].gen(name="bad")
            bs[0].gen(name="hold")
            return await ref

    backend.hold = frozenset({"hold"})
    for p in (nobody_waits, awaited):
        with pytest.raises(OSError, match="gone") as caught:
            p.run()
        assert any("bad" in note for note in caught.value.__notes__)
    assert "hold" in backend.cancelled


def test_an_error_that_the_program_handles_does_not_fail_the_run(backend: FakeBackend) -> None:
    backend.answers["bad"] = OSError("gone")

    @program
    async def p(s: State) -> str:
        s += "q "
        async with s.fork(1) as bs:
            ref = bs[0].gen(name="bad")
            later = bs[0].gen(name="after")
            with pytest.raises(OSError, match="gone"):
                await ref
            with pytest.raises(OSError, match="gone"):
                await later
        return await s.gen(name="name")

    run = p.run()
    assert run.output == "Ada"
    assert run.vars == {"name": "Ada"}


def test_an_error_in_a_branch_does_not_touch_other_programs(backend: FakeBackend) -> None:
    backend.delay = 0.005
    backend.answers["x"] = lambda r: "fine" if "good" in prompt_text(r.prompt) else str(1 / 0)

    @program
    async def p(s: State, q: str) -> str:
        s += q
        async with s.fork(3) as bs:
            return (await bs.gather(lambda b, i: b.gen(name="x")))[0]

    async def both() -> list[Run[str] | BaseException]:
        return await asyncio.gather(
            p.arun(q="good"), p.arun(q="bad"), p.arun(q="good"), return_exceptions=True
        )

    a, b, c = asyncio.run(both())
    assert isinstance(a, Run)
    assert a.output == "fine"
    assert isinstance(b, ZeroDivisionError)
    assert isinstance(c, Run)


def test_cut_output_is_an_output_error_that_holds_the_text(backend: FakeBackend) -> None:
    backend.answers["n"] = '[1, 2, 3, "x"]'

    @program
    async def cut(s: State) -> list[int]:
        ref = s.gen(list[int], name="n", max_tokens=4, finish="truncate")
        try:
            return await ref
        except OutputError as error:
            s += f" {error.message}"
            assert ref.text == "[1, "
            s += " again: "
            return [len(await s.gen(name="name"))]

    assert cut.run().text == ("[1,  the output was cut at max_tokens=4: '[1, ' again: Ada")

    @program
    async def wrong(s: State) -> list[int]:
        return await s.gen(list[int], name="n")

    with pytest.raises(OutputError, match="does not fit"):
        wrong.run()


def test_free_text_may_be_cut(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> tuple[str, str]:
        ref = s.gen(name="long", max_tokens=4)
        return await ref, ref.finish_reason

    assert p.run().output == ("0123", "length")


def test_losers_are_cancelled(backend: FakeBackend) -> None:
    backend.hold = frozenset({"slow"})

    @program
    async def p(s: State) -> str:
        async with s.fork(3) as bs:
            refs: list[Ref[str]] = [b.gen(name="slow" if i else "name") for i, b in enumerate(bs)]
            queued = bs[1].gen(name="queued")
            winner = await refs[0]
            for loser in refs[1:]:
                loser.cancel()
            with pytest.raises(CancelledError):
                await refs[1]
            with pytest.raises(CancelledError):
                await queued
        return winner

    run = p.run()
    assert run.output == "Ada"
    assert backend.cancelled == ["slow", "slow"]
    assert list(run.vars) == ["0.name"]


def test_cancel_before_it_starts_sends_no_request(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> str:
        s.gen(name="city")
        ref = s.gen(name="name")
        ref.cancel()
        ref.cancel()
        return await s["city"]

    assert p.run().output == "London"
    assert [r.id.rsplit(":", 1)[-1] for r in backend.requests] == ["city"]


@pytest.mark.parametrize("how", ["exception", "timeout", "cancel"])
def test_leaving_a_fork_cancels_all_its_requests(backend: FakeBackend, how: str) -> None:
    backend.hold = frozenset({"slow"})

    @program
    async def p(s: State) -> str:
        try:
            async with s.fork(4) as bs:
                refs = [b.gen(name="slow") for b in bs]
                await asyncio.sleep(0.01)
                if how == "exception":
                    raise KeyError
                async with asyncio.timeout(0.01):
                    await refs[0]
        except (KeyError, TimeoutError):
            await asyncio.sleep(0.01)
            assert not backend.open
            return await s.gen(name="name")
        return ""

    if how == "cancel":

        async def main() -> None:
            async with asyncio.timeout(0.015):
                await p.arun()

        with pytest.raises(TimeoutError):
            asyncio.run(main())
    else:
        assert p.run().output == "Ada"
    assert backend.cancelled == ["slow"] * 4


@pytest.mark.parametrize("sync", [False, True])
def test_cancelling_the_task_ends_the_run(backend: FakeBackend, sync: bool) -> None:
    backend.hold = frozenset({"slow"})
    ended = threading.Event()

    @program
    async def waits(s: State) -> str:
        s.gen(name="slow")
        return await s.gen(name="name")

    @program
    def blocks(s: State) -> str:
        try:
            s.gen(name="slow")
            return s.gen(name="name").value
        finally:
            ended.set()

    async def main() -> None:
        task = asyncio.create_task((blocks if sync else waits).arun())
        await asyncio.sleep(0.05)
        assert len(backend.open) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not backend.open

    asyncio.run(main())
    assert backend.cancelled == ["slow"]
    if sync:
        assert ended.wait(5)


def test_an_error_of_the_program_cancels_its_requests(backend: FakeBackend) -> None:
    backend.hold = frozenset({"slow"})

    @program
    async def p(s: State) -> None:
        s.gen(name="slow")
        await asyncio.sleep(0.01)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        p.run()
    assert backend.cancelled == ["slow"]


def test_a_state_is_dead_after_its_run(backend: FakeBackend) -> None:
    states: list[State] = []

    @program
    async def p(s: State) -> str:
        states.append(s)
        ref = s.gen(name="name")
        return await ref

    p.run()
    with pytest.raises(ProgramError, match="over"):
        states[0].gen()
    assert states[0]["name"].value == "Ada"


# programs written with plain def


def test_a_plain_def_program_reads_values_in_the_middle(backend: FakeBackend) -> None:
    @program
    def p(s: State, n: int) -> str:
        s += "a "
        name = s.gen(name="name")
        if name.value == "Ada":
            s += f"yes {name.text} "
        with s.fork(n) as bs:
            cities = bs.gather(lambda b, i: b.gen(name="city")).value
        assert s.text == "a Adayes Ada "
        return "/".join(cities)

    run = p.run(n=3)
    assert run.output == "London/London/London"
    assert run.text == "a Adayes Ada "
    assert asyncio.run(p.arun(n=2)).output == "London/London"


def test_branches_need_no_threads(backend: FakeBackend) -> None:
    backend.delay = 0.01

    @program
    def p(s: State) -> int:
        with s.fork(50) as bs:
            for b in bs:
                b.gen(name="name")
            return threading.active_count()

    before = threading.active_count()
    assert p.run().output <= before + 1
    assert backend.most_open == 50


def test_an_error_in_a_plain_def_program(backend: FakeBackend) -> None:
    backend.answers["bad"] = OSError("gone")
    backend.hold = frozenset({"slow"})

    @program
    def p(s: State) -> str:
        with s.fork(2) as bs:
            bs[0].gen(name="slow")
            return bs[1].gen(name="bad").value

    with pytest.raises(OSError, match="gone"):
        p.run()
    assert backend.cancelled == ["slow"]

    @program
    def stops(s: State) -> str:
        return next(iter([]))

    with pytest.raises((RuntimeError, StopIteration)):
        stops.run()


# programs in programs


@program
async def ask(s: State, q: str) -> str:
    s.user(q)
    with s.assistant():
        return await s.gen(name="name")


@program
def ask_plainly(s: State, q: str) -> str:
    s.user(q)
    with s.assistant():
        return s.gen(name="name").value


@pytest.mark.parametrize("part", [ask, ask_plainly])
def test_a_program_inside_another_writes_to_its_state(backend: FakeBackend, part) -> None:
    @program
    async def outer(s: State) -> str:
        s.system("x")
        return await part(s, "who?") + await part(s, q="again?")

    @program
    def outer_plain(s: State) -> str:
        s.system("x")
        return part(s, "who?").value + part(s, q="again?").value

    expected = "system: x\nuser: who?\nassistant: Ada\nuser: again?\nassistant: Ada\n"
    for p in (outer, outer_plain):
        run = p.run()
        assert run.output == "AdaAda"
        assert run.text == expected


def test_run_inside_an_async_program_says_to_await(backend: FakeBackend) -> None:
    @program
    async def outer(s: State) -> str:
        with pytest.raises(ProgramError, match="arun"):
            ask.run(q="x")
        return (await ask.arun(q="y")).output

    assert outer.run().output == "Ada"


def test_runs_nest_in_plain_programs(backend: FakeBackend) -> None:
    @program
    def inner(s: State, depth: int) -> int:
        s.gen(name="name").value.upper()
        return 1 + inner.run(depth=depth - 1).output if depth else 0

    assert inner.run(depth=5).output == 5


def test_many_plain_programs_that_wait_for_each_other(backend: FakeBackend) -> None:
    """More than the pool has threads, each waiting for others that need threads too."""

    @program
    def leaf(s: State) -> str:
        return s.gen(name="name").value

    @program
    async def middle(s: State) -> str:
        return (await leaf.arun()).output

    @program
    def top(s: State) -> str:
        return middle.run().output

    async def main() -> list[Run[str]]:
        return await asyncio.gather(*(top.arun() for _ in range(300)))

    assert {run.output for run in asyncio.run(main())} == {"Ada"}


# map


def test_map_keeps_order_and_concurrency(backend: FakeBackend) -> None:
    backend.delay = 0.001
    backend.answers["x"] = lambda r: "y" * (1 + int(prompt_text(r.prompt)) * 7 % 11)
    active = 0
    most = 0

    @program
    async def p(s: State, n: int) -> int:
        nonlocal active, most
        active += 1
        most = max(most, active)
        s += str(n)
        text = await s.gen(name="x")
        await asyncio.sleep(0.001 * (n % 5))
        active -= 1
        return len(text)

    runs = list(p.map(({"n": i} for i in range(200)), concurrency=16))
    assert [r.output for r in runs] == [1 + i * 7 % 11 for i in range(200)]
    assert most == 16
    assert backend.most_open <= 16


def test_map_takes_rows_as_needed(backend: FakeBackend) -> None:
    taken = 0

    def rows() -> Iterator[dict[str, str]]:
        nonlocal taken
        while True:
            taken += 1
            yield {"q": str(taken)}

    runs = ask.map(rows(), concurrency=3)
    assert next(runs).text == "user: 1\nassistant: Ada\n"
    assert taken <= 3 * 4 + 1
    runs.close()  # type: ignore[attr-defined]
    assert not backend.open


def test_map_of_plain_programs_and_of_runs(backend: FakeBackend) -> None:
    first = ask_plainly.map([{"q": str(i)} for i in range(20)], concurrency=4)
    second = ask.map(({"q": run.output + "!"} for run in first), concurrency=3)
    assert [r.text for r in second] == ["user: Ada!\nassistant: Ada\n"] * 20


def test_map_raises_at_the_row_that_failed_and_cancels_the_rest(backend: FakeBackend) -> None:
    backend.answers["name"] = lambda r: "Ada" if "2" not in prompt_text(r.prompt) else str(1 / 0)
    backend.delay = 0.002
    rows = [{"q": str(i)} for i in range(6)]
    runs = ask.map(rows, concurrency=2)
    assert [next(runs).output, next(runs).output] == ["Ada", "Ada"]
    with pytest.raises(ZeroDivisionError) as caught:
        next(runs)
    assert "row 2" in caught.value.__notes__[-1]
    assert not backend.open

    every = list(ask.map([*rows, {"nope": 1}], return_exceptions=True))
    assert [type(r) for r in every[1:4]] == [Run, ZeroDivisionError, Run]
    assert isinstance(every[-1], ProgramError)


def test_map_refuses_a_concurrency_of_none(backend: FakeBackend) -> None:
    for bad in (0, -1, True, 1.5):
        with pytest.raises(ProgramError, match="concurrency"):
            ask.map([], concurrency=bad)  # type: ignore[arg-type]
    assert list(ask.map([])) == []


def test_map_shows_progress(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    list(ask.map([{"q": "a"}, {"q": "b"}], progress=True))
    assert "2/2 rows" in capsys.readouterr().err


# streams


def test_events_put_together_are_the_text(backend: FakeBackend) -> None:
    @program
    async def p(s: State) -> str:
        s.user("hi")
        with s.assistant():
            s += "N: "
            name = s.gen(name="name")
            s += "; "
            s.select(["a", "b"])
        async with s.fork(2) as bs:
            await bs.gather(lambda b, i: b.gen(name="long"))
        return await name

    events = list(p.stream())
    run = events[-1].value
    assert isinstance(run, Run)
    assert "".join(e.delta for e in events if e.branch == ()) == run.text
    for branch in [(0,), (1,)]:
        assert "".join(e.delta for e in events if e.branch == branch) == "0123456789" * 3
    kinds = [e.kind for e in events]
    assert kinds[-1] == "done"
    assert kinds.count("var.start") == kinds.count("var.end") == 4
    assert kinds.index("fork") < kinds.index("join")
    ends = {(e.branch, e.name): e.value for e in events if e.kind == "var.end"}
    assert ends[(), "name"] == "Ada"


def test_an_error_is_an_event_and_then_raised(backend: FakeBackend) -> None:
    backend.answers["bad"] = OSError("gone")

    @program
    async def p(s: State) -> None:
        await s.gen(name="bad")

    events: list[Event] = []
    with pytest.raises(OSError, match="gone"):  # noqa: PT012  (it comes after some events)
        for event in p.stream():
            events.append(event)
    assert [(e.kind, e.name) for e in events] == [
        ("var.start", "bad"),
        ("error", "bad"),
        ("error", None),
    ]


def test_leaving_a_stream_cancels_the_run(backend: FakeBackend) -> None:
    backend.hold = frozenset({"slow"})

    @program
    async def p(s: State) -> str:
        return await s.gen(name="slow")

    for event in p.stream():
        if event.kind == "var.delta":
            break
    else:
        pytest.fail("no delta came")
    for _ in range(100):
        if not backend.open:
            break
        time.sleep(0.01)
    assert backend.cancelled == ["slow"]

    async def main() -> None:
        async with aclosing(p.astream()) as events:
            async for event in events:
                if event.kind == "var.delta":
                    return

    asyncio.run(main())
    assert backend.cancelled == ["slow", "slow"]


def test_a_stream_of_a_plain_program(backend: FakeBackend) -> None:
    events = list(ask_plainly.stream(q="x"))
    assert "".join(e.delta for e in events) == "user: x\nassistant: Ada\n"


# programs themselves


def test_variants_leave_the_program_as_it_was(backend: FakeBackend) -> None:
    bound = ask.bind(q="bound")
    assert bound.run().text == "user: bound\nassistant: Ada\n"
    assert "q" in ask.signature.parameters
    assert not bound.signature.parameters
    other = FakeBackend({"name": "Bob"})
    assert ask.with_options(engine=other).run(q="x").output == "Bob"
    assert ask.run(q="x").output == "Ada"
    with pytest.raises(ProgramError, match="no argument 'nope'"):
        ask.bind(nope=1)
    with pytest.raises(InvalidRequestError, match="temperature"):
        ask.with_options(temperature=-1)


def test_wrong_arguments_of_a_program(backend: FakeBackend) -> None:
    with pytest.raises(ProgramError, match=r"ask: missing.*'q'[\s\S]*q: "):
        ask.run()  # type: ignore[call-arg]
    with pytest.raises(ProgramError, match="no argument"):
        ask.run(q="x", z=1)  # type: ignore[call-arg]


def test_exits_are_the_callers(backend: FakeBackend) -> None:
    """`sys.exit()` in a program ends its caller, not the loop that all programs run on."""

    @program
    async def leaves(s: State) -> None:
        s.gen(name="name")
        sys.exit(3)

    @program
    async def leaves_in_a_branch(s: State) -> None:
        async def leave(b: State, i: int) -> None:
            sys.exit(3)

        async with s.fork(2) as bs:
            await bs.gather(leave)

    @program
    def leaves_plainly(s: State) -> None:
        s.gen(name="name")
        sys.exit(3)

    for p in (leaves, leaves_in_a_branch, leaves_plainly):
        with pytest.raises(SystemExit):
            p.run()
        assert ask.run(q="x").output == "Ada"
    with pytest.raises(ProgramError, match="ended by"):
        next(leaves_plainly.map([{}]))
    assert ask_plainly.run(q="x").output == "Ada"


@pytest.mark.parametrize("left", ["stream", "plain stream", "map"])
def test_the_interpreter_can_exit_while_programs_run(left: str) -> None:
    code = f"""
from sgen.frontend import program
from sgen.frontend.fake import FakeBackend
fake = FakeBackend(hold=("x",))
async def waits(s): return await s.gen(name="x")
def blocks(s): return s.gen(name="x").value
p = program(blocks if {left!r} == "plain stream" else waits).with_options(engine=fake)
if {left!r} == "map":
    import threading
    rows = p.map([{{}}] * 3)
    threading.Thread(target=lambda: next(rows, None), daemon=True).start()
    while not fake.open: pass
else:
    events = p.stream()
    while next(events).kind != "var.delta": pass
"""
    subprocess.run([sys.executable, "-c", code], timeout=30, check=True, capture_output=True)


def test_functions_that_wrap_async_ones_are_programs(backend: FakeBackend) -> None:
    async def inner(s: State) -> str:
        return await s.gen(name="name")

    @program
    def p(s: State) -> Any:
        return inner(s)

    assert p.run().output == "Ada"
    assert p.compile().run().output == "Ada"
    assert p.compile().plan.complete


def test_what_no_program_can_be_made_of() -> None:
    def star(s: State, *rest: str) -> None: ...
    def bare() -> None: ...
    def yields(s: State) -> Iterator[int]:
        yield 1

    for bad in (star, bare, yields, len):
        with pytest.raises(ProgramError):
            program(bad)  # type: ignore[arg-type]


def test_without_an_engine_the_factory_makes_one_once() -> None:
    made: list[FakeBackend] = []

    def factory() -> FakeBackend:
        made.append(FakeBackend())
        return made[-1]

    holder = DefaultEngine()
    with pytest.raises(ProgramError, match=r"sgen\.use"):
        holder.current()
    holder.set_factory(factory)
    assert holder.current() is asyncio.run(holder.get())
    assert len(made) == 1


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, even where the tests were started with it ignored, as
    shells start what they run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_cancels_the_run_that_is_waited_for(backend: FakeBackend) -> None:
    backend.hold = frozenset({"slow"})

    @program
    async def waits(s: State) -> str:
        return await s.gen(name="slow")

    @program
    def blocks(s: State) -> str:
        return s.gen(name="slow").value

    for p in (waits, blocks):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            p.run()
        assert not backend.open
    assert backend.cancelled == ["slow", "slow"]


def test_the_pool_is_bounded_and_uses_its_threads_again() -> None:
    pool = Pool(2)
    lock = threading.Lock()
    names: set[str] = set()
    active = most = 0

    def work() -> None:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
            names.add(threading.current_thread().name + str(threading.get_ident()))
        time.sleep(0.002)
        with lock:
            active -= 1

    async def in_this_pool() -> None:
        for _ in range(3):
            jobs = [Job(work) for _ in range(7)]
            for job in jobs:
                pool.submit(job)
            await asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))

    asyncio.run(in_this_pool())
    assert most == 2
    assert len(names) == 2


def test_beginners_mistakes_say_what_to_do(backend: FakeBackend) -> None:
    @program
    async def p(s: State, q: str, how: str = "") -> object:
        ref = s.gen(name="name")
        match how:
            case "plus":
                return ref + 1
            case "attribute":
                return ref.city
        return await ref

    for how in ("plus", "attribute"):
        with pytest.raises(ProgramError, match="await it"):
            p.run(q="x", how=how)
    with pytest.raises(ProgramError, match="no argument 'question'"):
        p.run(question="x")
    with pytest.raises(ProgramError, match="a row is a dict"):
        list(p.map(["a"]))
    with pytest.raises(ProgramError, match=r"p\.run\(\.\.\.\) runs it"):
        p("x")

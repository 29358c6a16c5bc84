"""What reaches the backend: messages and the parameters of each generation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sgen.errors import InvalidRequestError, OutputError, ProgramError, SgenError
from sgen.frontend import State, program, regex
from sgen.frontend.fake import FakeBackend, prompt_text
from sgen.protocol import GenerateRequest, RoleEnd, RoleStart, Text
from tests.programs import ADA, answering


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    with answering(ADA) as fake:
        yield fake


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
                s += 5  # type: ignore[arg-type]  # wrong on purpose
            case 1:
                s.gen("name")  # type: ignore[call-overload]  # wrong on purpose
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
                s.select(["a"], by="best")  # type: ignore[arg-type]  # wrong on purpose
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

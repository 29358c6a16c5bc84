"""What a program writes: text, refs inside it, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sgen.errors import ProgramError
from sgen.frontend import State, gen, program, select
from sgen.frontend.fake import FakeBackend
from sgen.protocol import GenerateRequest, OptionScore, ScoreRequest, Scores, Text, Tokens, Usage
from tests.programs import ADA, answering, prompts


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    with answering(ADA) as fake:
        yield fake


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

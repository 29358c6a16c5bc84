"""The engine behind `Backend` on the real model: texts, grammars, choices, cancels, leaks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

import sgen
from sgen.callback_engine import CallbackEngine, Maskers
from sgen.errors import (
    CancelledError,
    CapacityError,
    EngineClosedError,
    GrammarError,
    InvalidRequestError,
    ModelFileError,
    ModelNotFoundError,
)
from sgen.grammars.masks import Masker
from sgen.grammars.service import CompileService
from sgen.protocol import (
    Chunk,
    GenerateRequest,
    GrammarSpec,
    PromptPart,
    RoleEnd,
    RoleStart,
    SamplingParams,
    ScoreRequest,
    Text,
)
from sgen.runtime.loader import load_model
from sgen.runtime.stats import EngineStats
from tests.vocabularies import small

SCHEMA = GrammarSpec(
    "json_schema",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 12},
                "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
                "age": {"type": "integer", "minimum": 0, "maximum": 120},
            },
            "required": ["name", "tags", "age"],
            "additionalProperties": False,
        }
    ),
)


class Size(Enum):
    small = "s"
    large = "l"


class Item(msgspec.Struct):
    name: str
    size: Literal[1, 2]


def asked(text: str) -> tuple[PromptPart, ...]:
    return (RoleStart("user"), Text(text), RoleEnd(), RoleStart("assistant"))


async def collect(engine: sgen.Engine, request: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in engine.extend(request)]


def texts(chunks: list[Chunk]) -> str:
    return "".join(c.text for c in chunks)


def settled(engine: sgen.Engine) -> EngineStats:
    """Statistics once nothing runs: what is not free belongs to the tree."""
    deadline = time.monotonic() + 20
    while (stats := engine.stats()).num_running + stats.num_waiting:
        assert time.monotonic() < deadline, "requests are left running"
        time.sleep(0.01)
    assert stats.free_pages + stats.tree_pages == stats.num_pages
    return stats


def test_one_answer(engine: sgen.Engine) -> None:
    params = SamplingParams(max_tokens=12)
    request = GenerateRequest(id="one", prompt=asked("Say hello to the world."), params=params)
    chunks = asyncio.run(collect(engine, request))
    assert texts(chunks).startswith("Hello")
    assert chunks[-1].finish_reason in ("stop", "length")
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens == engine.count_tokens(request.prompt)
    settled(engine)


def test_every_budget_from_the_minimum_on_gives_valid_json(engine: sgen.Engine) -> None:
    least = engine.check_grammar(SCHEMA)

    async def all_budgets() -> list[list[Chunk]]:
        return await asyncio.gather(
            *(
                collect(
                    engine,
                    GenerateRequest(
                        id=f"budget-{n}",
                        prompt=asked("Describe a cat as JSON."),
                        params=SamplingParams(max_tokens=n, temperature=1.5, seed=n),
                        grammar=SCHEMA,
                    ),
                )
                for n in (least, least + 1, least + 3, least + 8, 2 * least)
            )
        )

    for chunks in asyncio.run(all_budgets()):
        value = json.loads(texts(chunks))
        assert list(value) == ["name", "tags", "age"]
        assert len(value["name"]) <= 12
        assert set(value["tags"]) <= {"a", "b"}
        assert 0 <= value["age"] <= 120
        assert chunks[-1].finish_reason == "stop"
    request = GenerateRequest(
        id="small", prompt=asked("x"), params=SamplingParams(max_tokens=least - 1), grammar=SCHEMA
    )
    with pytest.raises(InvalidRequestError, match=str(least)):
        asyncio.run(collect(engine, request))


def test_a_number_ends_where_the_model_ends_it(engine: sgen.Engine) -> None:
    prompt = (
        Text(
            "Q: How much is 2 + 2?\nA: 4\nQ: How much is 5 + 7?\nA: 12\nQ: How much is 3 + 4?\nA: "
        ),
    )
    integer = GrammarSpec("json_schema", '{"type": "integer"}')
    chunks = asyncio.run(
        collect(
            engine,
            GenerateRequest(
                id="number", prompt=prompt, params=SamplingParams(max_tokens=12), grammar=integer
            ),
        )
    )
    assert len(texts(chunks)) <= 2, "no digits are added because no line's end is allowed"


def test_choice_probabilities(engine: sgen.Engine) -> None:
    request = ScoreRequest(
        id="choice",
        prompt=(Text("The capital of France is the city of"),),
        options=(" Paris", " Berlin", " Paris Hilton"),
    )
    scores = asyncio.run(engine.score(request))
    likely = [o.tree for o in scores.options]
    assert sum(likely) == pytest.approx(1.0, abs=1e-4)
    assert likely[0] > 0.5
    assert all(x <= 0 for o in scores.options for x in o.logprobs)
    assert scores.usage.prompt_tokens > 0
    settled(engine)


def test_cancel_frees_within_a_step(engine: sgen.Engine) -> None:
    async def start_and_leave() -> int:
        request = GenerateRequest(id="long", prompt=asked("Tell me a long story."))
        stream = engine.extend(request)
        await anext(aiter(stream))
        before = engine.stats().counters.decoded_tokens
        await stream.aclose()  # type: ignore[attr-defined]
        return before

    before = asyncio.run(start_and_leave())
    assert settled(engine).counters.decoded_tokens - before <= 2


def test_a_late_end_of_an_old_request_leaves_the_new_one_of_its_name_alone(
    engine: sgen.Engine,
) -> None:
    params = SamplingParams(max_tokens=6, ignore_eos=True)
    request = GenerateRequest(id="same", prompt=(Text("Once upon a time"),), params=params)

    async def two() -> list[Chunk]:
        old = engine.extend(request)
        await anext(aiter(old))
        engine.cancel("same")
        while engine.stats().num_running + engine.stats().num_waiting:
            await asyncio.sleep(0.001)
        new = engine.extend(request)
        first = await anext(aiter(new))
        await old.aclose()  # type: ignore[attr-defined]
        return [first, *[chunk async for chunk in new]]

    assert asyncio.run(two())[-1].finish_reason == "length"
    settled(engine)


def test_a_score_whose_id_is_in_use_harms_nobody_and_an_id_cancels_it(engine: sgen.Engine) -> None:
    options = tuple(f" number {i}" for i in range(8))
    request = ScoreRequest(id="s", prompt=(Text("word " * 80),), options=options)

    async def running(task: asyncio.Task[Any]) -> None:
        while not (stats := engine.stats()).num_running + stats.num_waiting:
            assert not task.done()
            await asyncio.sleep(0.001)

    async def main() -> None:
        first = asyncio.create_task(engine.score(request))
        await running(first)
        with pytest.raises(InvalidRequestError, match="in use"):
            await engine.score(request)
        assert len((await first).options) == len(options)
        again = asyncio.create_task(
            engine.score(msgspec.structs.replace(request, cache_salt="another"))
        )
        await running(again)
        engine.cancel("s")
        with pytest.raises(CancelledError):
            await again

    asyncio.run(main())
    settled(engine)


def test_a_closed_event_loop_cancels_its_requests(
    engine: sgen.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    params = SamplingParams(max_tokens=2000, ignore_eos=True)
    request = GenerateRequest(id="left", prompt=(Text("Once upon a time"),), params=params)
    stream = engine.extend(request)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(anext(aiter(stream)))
    before = engine.stats().counters.decoded_tokens
    loop.close()
    assert settled(engine).counters.decoded_tokens - before < 100
    assert not caplog.records
    del stream


def test_a_prompt_of_one_token_may_merge_with_an_option(engine: sgen.Engine) -> None:
    prompt, options = (Text("wh"),), ("at", "ere", "zzz")
    scores = asyncio.run(engine.score(ScoreRequest(id="m", prompt=prompt, options=options)))
    assert sum(o.tree for o in scores.options) == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(InvalidRequestError, match="empty"):
        asyncio.run(engine.score(ScoreRequest(id="m", prompt=prompt, options=("a", ""))))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"prompt": (Text(""),)}, InvalidRequestError, "empty|no token"),
        ({"prompt": (Text("word " * 9000),)}, CapacityError, "8192|context"),
        ({"prompt": (RoleStart("user"), RoleEnd()) * 8193}, CapacityError, "8,193 messages"),
        ({"prompt": (RoleEnd(),)}, InvalidRequestError, "role"),
        ({"grammar": GrammarSpec("lark", "start: b")}, GrammarError, "not defined"),
        ({"grammar": GrammarSpec("regex", "(a")}, GrammarError, "character"),
        ({"grammar": GrammarSpec("json_schema", '{"$ref": "http://a/b"}')}, GrammarError, "ref"),
    ],
)
def test_bad_requests_are_refused_and_nothing_leaks(
    engine: sgen.Engine, change: dict[str, Any], error: type[Exception], says: str
) -> None:
    fields: dict[str, Any] = {"id": "bad", "prompt": (Text("x"),), **change}
    with pytest.raises(error, match=says):
        asyncio.run(collect(engine, GenerateRequest(**fields)))
    settled(engine)


def test_shared_prefix_is_computed_once(engine: sgen.Engine) -> None:
    shots = "".join(f"Q: What is {a} plus {b}?\nA: {a + b}\n" for a in range(5) for b in range(6))

    @sgen.program
    async def add(s: sgen.State, a: int) -> str:
        s += shots
        s += f"Q: What is {a} plus {a}?\nA: "
        return await s.gen(max_tokens=3)

    before = settled(engine).counters
    runs = list(add.with_options(engine=engine).map([{"a": a} for a in range(16)]))
    after = settled(engine).counters
    prefix = engine.count_tokens((Text(shots),))
    prefilled = after.prefilled_tokens - before.prefilled_tokens
    rows = sum(r.usage.prompt_tokens - prefix for r in runs)
    assert prefilled <= prefix + rows + 16 * 16, "at most a partial page more for each row"


@pytest.mark.slow
def test_64_rows_behind_eight_shots_of_gsm8k(engine: sgen.Engine, shared: Path) -> None:
    shots = [json.loads(x) for x in (shared / "data/gsm8k_fewshot.jsonl").read_text().splitlines()]
    prefix = "".join(f"Q: {x['question']}\nA: {x['answer']}\n\n" for x in shots[:8])
    rows = [json.loads(x) for x in (shared / "data/gsm8k_dev.jsonl").read_text().splitlines()]

    @sgen.program
    async def solve(s: sgen.State, question: str) -> str:
        s += prefix
        s += f"Q: {question}\nA:"
        return await s.gen(max_tokens=4)

    before = settled(engine).counters
    inputs = [{"question": r["question"]} for r in rows[:64]]
    runs = list(solve.with_options(engine=engine).map(inputs, concurrency=64))
    after = settled(engine).counters
    shared_tokens = engine.count_tokens((Text(prefix),))
    assert shared_tokens > 900
    own = sum(r.usage.prompt_tokens - shared_tokens for r in runs)
    assert after.preemptions == before.preemptions
    prefilled = after.prefilled_tokens - before.prefilled_tokens
    assert prefilled <= shared_tokens + own + 64 * 16, "the prefix was computed more than once"


@pytest.mark.slow
def test_a_pool_for_two_and_a_half_requests_serves_forty(smollm2_path: Path) -> None:
    prompts = [f"Item {i} of the list is" for i in range(40)]

    def run(cache_tokens: int) -> tuple[list[str], EngineStats]:
        async def every(engine: sgen.Engine) -> list[list[Chunk]]:
            params = SamplingParams(max_tokens=24, ignore_eos=True, temperature=0.7, seed=5)
            return await asyncio.gather(
                *(
                    collect(engine, GenerateRequest(id=p, prompt=(Text(p),), params=params))
                    for p in prompts
                )
            )

        with sgen.Engine.load(smollm2_path, cache_tokens=cache_tokens) as engine:
            return [texts(c) for c in asyncio.run(every(engine))], settled(engine)

    roomy, _ = run(4096)
    tight, stats = run(5 * 16)  # a request needs two pages of 16
    assert tight == roomy
    assert stats.num_pages == 5


def test_grammar_is_enforced_for_every_dsl_type(engine: sgen.Engine) -> None:
    @sgen.program
    async def typed(s: sgen.State) -> tuple[Any, ...]:
        s += "An apple, as data: "
        kinds: list[Callable[[], sgen.Ref[Any]]] = [
            lambda: s.gen(Size),
            lambda: s.gen(Literal["red", "green"]),
            lambda: s.gen(bool),
            lambda: s.gen(list[int], max_tokens=12),
            lambda: s.gen(Item, max_tokens=40),
            lambda: s.gen(sgen.regex(r"[a-f]{3}-\d{2}")),
        ]
        values = []
        for kind in kinds:
            values.append(await kind())
            s += "\n"
        return tuple(values)

    size, colour, flag, numbers, item, code = typed.with_options(engine=engine).run().output
    assert isinstance(size, Size)
    assert colour in ("red", "green")
    assert isinstance(flag, bool)
    assert all(isinstance(n, int) for n in numbers)
    assert isinstance(item, Item)
    assert code[3] == "-"


def test_a_closed_engine_says_so(smollm2_path: Path) -> None:
    engine = sgen.Engine.load(smollm2_path, cache_tokens=64)
    request = GenerateRequest(id="x", prompt=(Text("x"),), params=SamplingParams(max_tokens=100))
    with pytest.raises(CapacityError):
        asyncio.run(collect(engine, request))
    assert engine.check_grammar(GrammarSpec("regex", "a+")) == 1
    workers = engine._engine.compile_service._workers
    assert workers is not None
    (worker,) = workers._all
    assert worker.alive
    engine.close()
    engine.close()
    assert not worker.alive
    with pytest.raises(EngineClosedError):
        engine.check_grammar(GrammarSpec("regex", "b+"))
    short = GenerateRequest(id="y", prompt=(Text("x"),), params=SamplingParams(max_tokens=4))
    with pytest.raises(EngineClosedError):
        asyncio.run(collect(engine, short))


def test_models_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        sgen.Engine.load("nowhere")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 64)
    with pytest.raises(ModelFileError, match=r"broken\.gguf"):
        sgen.Engine.load(broken)


# -- compiled grammars that are kept -------------------------------------------------------------


def test_grammars_are_kept_within_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest used; one that has outgrown itself is left to those who have it."""
    outgrown: set[Masker] = set()
    monkeypatch.setattr(Masker, "num_bytes", property(lambda masker: 1_000), raising=False)
    monkeypatch.setattr(Masker, "outgrown", property(lambda masker: masker in outgrown))
    with CompileService() as service:
        maskers = Maskers(service, small(), 3_500)
        specs = [GrammarSpec("regex", f"a{{{i + 1}}}") for i in range(4)]
        found = [maskers.get(spec) for spec in specs[:3]]
        assert [maskers.get(spec) for spec in specs[:3]] == found
        maskers.get(specs[0])
        maskers.get(specs[3])
        assert maskers.get(specs[0]) is found[0]
        assert maskers.get(specs[1]) is not found[1], "it was the one used longest ago"
        outgrown.add(found[0])
        fresh = maskers.get(specs[0])
        assert fresh is not found[0]
        assert fresh.grammar is not found[0].grammar
        assert maskers.get(specs[0]) is fresh
        with ThreadPoolExecutor(8) as pool:
            spec = GrammarSpec("regex", "b+")
            assert len({*pool.map(maskers.get, [spec] * 16)}) == 1


def test_an_engine_may_take_unknown_keywords_for_annotations(
    engine: sgen.Engine, smollm2_path: Path
) -> None:
    schema = GrammarSpec("json_schema", '{"type":"integer","self":{"vendor":"x"}}')
    with pytest.raises(GrammarError, match="self"):
        engine.check_grammar(schema)
    loaded = load_model(smollm2_path)
    lenient = CallbackEngine(
        loaded, deliver=lambda: None, cache_tokens=256, unknown_keywords="note"
    )
    try:
        assert lenient.check_grammar(schema) == 1
        assert lenient.knows(schema)
    finally:
        lenient.close()


def test_a_chat_of_more_messages_than_the_context_has_tokens_is_refused_before_it_is_rendered(
    engine: sgen.Engine,
) -> None:
    message: list[PromptPart] = [RoleStart("user"), Text("x"), RoleEnd()]
    with pytest.raises(CapacityError, match="messages"):
        engine.count_tokens(message * (engine.info.context_length + 1))

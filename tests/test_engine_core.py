"""The engine core on a model that hashes what it reads: the same text, however it was computed."""

from __future__ import annotations

import pytest
import torch
from core_bench import GREEDY, PROMPTS, RANDOM, Bench, Score
from fakes import (
    VOCAB_SIZE,
    VOCABULARY,
    DigitsMatcher,
    HashModel,
    encode,
)

from sgen.errors import (
    CapacityError,
    InvalidRequestError,
)
from sgen.kernels import sampling as kernel
from sgen.protocol import SamplingParams, Usage
from sgen.runtime.scheduler import Limits


@pytest.fixture
def without_native_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "library", lambda: None)


# -- promise 2: the same text ------------------------------------------------------------------


@pytest.mark.parametrize("params", [GREEDY, RANDOM], ids=["greedy", "seeded"])
@pytest.mark.parametrize(
    ("num_pages", "limits"),
    [
        (200, Limits(max_running=1)),  # one after the other, with cache hits
        (200, Limits()),  # all together
        (200, Limits(max_running=20, max_batch_tokens=27, prefill_chunk=7)),
        (22, Limits(max_running=20, max_batch_tokens=64, prefill_chunk=16)),  # preemption
    ],
    ids=["alone", "together", "chunks", "tiny-pool"],
)
def test_text_is_that_of_a_solo_run(params: SamplingParams, num_pages: int, limits: Limits) -> None:
    bench = Bench(num_pages, limits)
    sinks = [bench.submit(p, params) for p in PROMPTS]
    bench.run()
    for prompt, sink in zip(PROMPTS, sinks, strict=True):
        assert sink.tokens == bench.expected(prompt, params)
    if num_pages == 22:
        assert bench.core.stats().counters.preemptions > 0
    bench.assert_idle()


@pytest.mark.usefixtures("without_native_sampler")
def test_text_is_the_same_without_the_sampler_in_c() -> None:
    bench = Bench(200)
    sinks = [bench.submit(p, RANDOM) for p in PROMPTS[:6]]
    bench.run()
    for prompt, sink in zip(PROMPTS, sinks, strict=False):
        assert sink.tokens == bench.expected(prompt, RANDOM)


def test_a_cache_hit_changes_nothing_and_is_counted() -> None:
    bench = Bench()
    first = bench.submit(PROMPTS[3])
    bench.run()
    again = bench.submit(PROMPTS[3])
    bench.run()
    assert again.tokens == first.tokens == bench.expected(PROMPTS[3])
    length = len(encode(PROMPTS[3]))
    assert first.usage == Usage(length, 0, first.usage.completion_tokens)
    assert again.usage.cached_tokens == length - 1


def test_penalties_and_logprobs_survive_preemption() -> None:
    params = SamplingParams(
        max_tokens=40,
        temperature=0.7,
        seed=3,
        repetition_penalty=1.3,
        frequency_penalty=0.5,
        ignore_eos=True,
        logprobs=2,
    )
    bench = Bench(9, Limits(max_running=4))
    prompts = ["the first prompt is this", "the second prompt is that", "a third"]
    sinks = [bench.submit(p, params) for p in prompts]
    bench.run()
    assert bench.core.stats().counters.preemptions > 0
    for prompt, sink in zip(prompts, sinks, strict=True):
        assert sink.tokens == bench.expected(prompt, params)
        history = encode(prompt)
        for item in (lp for c in sink.chunks for lp in c.logprobs):
            raw = torch.log_softmax(bench.model.logits(history), 0)
            assert item.logprob == pytest.approx(float(raw[item.token]), abs=1e-4)
            history.append(item.token)
        assert history[len(encode(prompt)) :] == sink.tokens


def test_forty_requests_in_a_pool_for_two_and_a_half() -> None:
    """Each needs 4 pages at its end; the pool has 10."""
    bench = Bench(10, Limits(max_running=40))
    params = SamplingParams(max_tokens=24, temperature=0.8, seed=1, ignore_eos=True)
    prompts = [f"request {i:2d} has a prompt of 36 bytes" for i in range(40)]
    assert {-(-(len(p) + 24) // 16) for p in prompts} == {4}
    sinks = [bench.submit(p, params) for p in prompts]
    bench.run()
    for prompt, sink in zip(prompts, sinks, strict=True):
        assert sink.tokens == bench.expected(prompt, params)
        assert sink.finish == "length"
    bench.assert_idle()


def test_a_common_prefix_of_64_requests_is_computed_once() -> None:
    bench = Bench(600, Limits(prefill_chunk=100))
    prefix = "Question: how many? Answer: some. " * 30
    prompts = [f"{prefix}No. {i}: and now?" for i in range(64)]
    sinks = [bench.submit(p, SamplingParams(max_tokens=4)) for p in prompts]
    bench.run()
    counters = bench.core.stats().counters
    own = sum(len(p) - len(prefix) for p in prompts)
    assert counters.prompt_tokens == 64 * len(prefix) + own
    # The prefix once; of its last, partial page each may compute its own.
    assert counters.prefilled_tokens <= len(prefix) + 63 * (len(prefix) % 16) + own
    assert counters.cached_tokens >= 63 * (len(prefix) // 16 * 16)
    assert counters.preemptions == 0
    assert [s.tokens for s in sinks[:3]] == [
        bench.expected(p, SamplingParams(max_tokens=4)) for p in prompts[:3]
    ]


def test_without_a_seed_the_engine_draws_one() -> None:
    bench = Bench()
    params = SamplingParams(max_tokens=30, temperature=2.0, ignore_eos=True)
    sinks = [bench.submit("x", params) for _ in range(4)]
    bench.run()
    assert len({tuple(s.tokens) for s in sinks}) > 1


# -- ends --------------------------------------------------------------------------------------


def test_a_stop_string_ends_a_request() -> None:
    bench = Bench()
    tokens = bench.expected("stop here", SamplingParams(max_tokens=24, ignore_eos=True))
    text = b"".join(VOCABULARY.token_bytes[t] for t in tokens).decode("utf-8", "replace")
    stop = text[6:9]
    params = SamplingParams(max_tokens=24, ignore_eos=True, stop=(stop,))
    sink = bench.submit("stop here", params)
    bench.run()
    assert sink.text == text[: text.index(stop)]
    assert sink.chunks[-1].stop == stop
    assert sink.finish == "stop"


def test_constrained_output_is_never_cut() -> None:
    for max_tokens in (3, 4, 9, 50):
        bench = Bench()
        sinks = [
            bench.submit(
                f"digits {i}",
                SamplingParams(max_tokens=max_tokens, temperature=1.0, seed=i),
                matcher=DigitsMatcher(3, 8),
            )
            for i in range(5)
        ]
        bench.run()
        for sink in sinks:
            assert sink.finish == "stop"
            assert sink.text.isdigit()
            assert 3 <= len(sink.text) <= min(8, max_tokens)


def test_a_grammar_that_cannot_close_in_time_is_refused_with_the_minimum() -> None:
    bench = Bench()
    with pytest.raises(InvalidRequestError, match="takes 5 tokens, but max_tokens is 4"):
        bench.submit("x", SamplingParams(max_tokens=4), matcher=DigitsMatcher(5, 8))
    sink = bench.submit(
        "x", SamplingParams(max_tokens=4, finish="truncate"), matcher=DigitsMatcher(5, 8)
    )
    bench.run()
    assert (sink.finish, len(sink.text)) == ("length", 4)


def test_max_tokens_none_goes_to_the_end_of_context_or_pool() -> None:
    params = SamplingParams(ignore_eos=True)
    bench = Bench(4, model=HashModel(context_length=500))
    sink = bench.submit("x" * 20, params)
    bench.run()
    assert (sink.finish, sink.usage.completion_tokens) == ("length", 44)
    bench = Bench(40, model=HashModel(context_length=50))
    sink = bench.submit("x" * 20, params)
    bench.run()
    assert sink.usage.completion_tokens == 30


# -- the door ----------------------------------------------------------------------------------


def test_what_can_never_fit_is_refused_at_once() -> None:
    bench = Bench(4, model=HashModel(context_length=100))
    with pytest.raises(CapacityError, match=r"need 5 pages of 16 tokens.*has 4") as e:
        bench.submit("x" * 60, SamplingParams(max_tokens=5))
    assert "at most 4" in e.value.hint
    with pytest.raises(CapacityError, match="model's context is 100"):
        bench.submit("x" * 60, SamplingParams(max_tokens=41))
    with pytest.raises(CapacityError, match="shorten the prompt"):
        bench.submit("x" * 64, SamplingParams())
    bench.submit("x" * 60, SamplingParams(max_tokens=4))
    bench.run()
    bench.assert_idle()


@pytest.mark.parametrize(
    ("tokens", "params", "message"),
    [
        ([], GREEDY, "no tokens"),
        ([1, VOCAB_SIZE], GREEDY, f"token {VOCAB_SIZE} is outside"),
        ([1, -1], GREEDY, "token -1 is outside"),
        ([1], SamplingParams(max_tokens=1, logit_bias={9999: 1.0}), "logit_bias names token 9999"),
        ([1], SamplingParams(max_tokens=1, stop_token_ids=(-3,)), "stop_token_ids names token -3"),
    ],
)
def test_invalid_requests_are_refused(
    tokens: list[int], params: SamplingParams, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Bench().submit(tokens, params)


def test_an_id_in_use_is_refused_and_free_again_afterwards() -> None:
    bench = Bench()
    bench.submit("a", request_id="same")
    with pytest.raises(InvalidRequestError, match="in use"):
        bench.submit("b", request_id="same")
    bench.run()
    sink = bench.submit("b", request_id="same")
    bench.run()
    assert sink.tokens == bench.expected("b")


# -- scoring -----------------------------------------------------------------------------------


@pytest.mark.parametrize("score_from", [0, 15, 16, 47, 63])
@pytest.mark.parametrize("warm", [False, True])
def test_scoring_gives_each_row_once_and_right(score_from: int, warm: bool) -> None:
    bench = Bench(limits=Limits(prefill_chunk=20, max_score_rows=6))
    tokens = encode("a text of sixty-four bytes, that is four pages of sixteen each..")
    assert len(tokens) == 64
    if warm:
        bench.submit(tokens)
        bench.run()
    score = Score(bench, tokens, score_from)
    bench.run()
    assert list(score.rows) == list(range(score_from, 64))
    for position, row in score.rows.items():
        assert torch.equal(row, bench.model.logits(tokens[: position + 1]))
    assert score.usage == [Usage(64, score_from if warm else 0, 0)]
    assert bench.model.max_logit_rows <= 7
    bench.assert_idle()


def test_scoring_among_generations_in_a_tiny_pool() -> None:
    bench = Bench(8, Limits(max_running=8, max_batch_tokens=24, prefill_chunk=9, max_score_rows=3))
    params = SamplingParams(max_tokens=40, temperature=0.9, seed=5, ignore_eos=True)
    prompts = [f"some prompt, number {i}" for i in range(8)]
    tokens = [encode(f"{'score this text ' * 5}{i}") for i in range(6)]
    sinks, scores = [], []
    for i, p in enumerate(prompts):
        sinks.append(bench.submit(p, params))
        if i < 6:
            scores.append(Score(bench, tokens[i], 50 + i, f"s{i}"))
    bench.run()
    for p, sink in zip(prompts, sinks, strict=True):
        assert sink.tokens == bench.expected(p, params)
    for i, score in enumerate(scores):
        assert list(score.rows) == list(range(50 + i, len(tokens[i])))
        for position, row in score.rows.items():
            assert torch.equal(row, bench.model.logits(tokens[i][: position + 1]))
    assert bench.core.stats().counters.preemptions > 0
    bench.assert_idle()


def test_a_preempted_scoring_request_goes_on_where_it_was() -> None:
    bench = Bench(7, Limits(max_score_rows=1))
    bench.submit("x" * 30, SamplingParams(max_tokens=60, ignore_eos=True))
    bench.core.step()
    tokens = encode("some words that are to be scored, sixty bytes of them, or so.")
    score = Score(bench, tokens, 4)
    while bench.core.stats().counters.preemptions == 0:
        assert len(score.rows) < len(tokens) - 4, "it was not preempted in time"
        bench.core.step()
    assert score.rows
    bench.run()
    assert list(score.rows) == list(range(4, len(tokens)))  # and none came twice
    bench.assert_idle()


def test_scoring_refuses_and_cancels() -> None:
    bench = Bench(4)
    with pytest.raises(InvalidRequestError, match="score_from is 3"):
        Score(bench, [1, 2, 3], 3)
    with pytest.raises(CapacityError):
        Score(bench, [1] * 65, 3)
    score = Score(bench, [1] * 30, 3)
    bench.core.cancel("s")
    bench.run()
    assert "cancelled" in str(score.errors[0])
    assert score.usage == []
    bench.assert_idle()

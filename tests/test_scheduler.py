"""The scheduler: budgets, admission, leaders and followers, preemption; no model is needed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from sgen.errors import InvalidRequestError
from sgen.runtime.batch import PAGE_SIZE
from sgen.runtime.pages import PagePool
from sgen.runtime.plan import build_batch
from sgen.runtime.radix import RadixCache
from sgen.runtime.request import Request, State
from sgen.runtime.scheduler import Extension, Limits, Scheduler


class Driver:
    """Steps a scheduler as the engine does; every generated token is 1."""

    def __init__(self, num_pages: int, limits: Limits | None = None) -> None:
        self.pool = PagePool(num_pages)
        self.cache = RadixCache(self.pool)
        self.copies: list[tuple[int, int]] = []
        self.scheduler = Scheduler(
            self.pool, self.cache, limits or Limits(), lambda s, t: self.copies.append((s, t))
        )
        self.left: dict[str, int] = {}  # tokens that a request still generates
        self.order: list[str] = []  # ids as they end

    def add(
        self,
        request_id: str,
        tokens: Sequence[int],
        generate: int = 1,
        salt: str = "",
        score_from: int | None = None,
    ) -> Request:
        request = Request(request_id, tokens, salt=salt, score_from=score_from)
        self.left[request_id] = generate
        self.scheduler.add(request)
        return request

    def step(self) -> dict[str, int]:
        """One step; the tokens planned for each request."""
        plan = self.scheduler.schedule()
        planned = {e.request.id: e.num_tokens for e in plan}
        for extension in plan:
            request = extension.request
            positions = extension.logit_positions
            self.scheduler.commit(extension)
            if request.scores:
                if positions:
                    request.score_from = positions.stop
                if request.num_remaining == 0:
                    self.end(request)
            elif positions:
                self.left[request.id] -= 1
                if self.left[request.id] == 0:
                    self.end(request)
                else:
                    request.append(1)
        self.scheduler.check_integrity()
        return planned

    def run_until_preemption(self) -> dict[str, int]:
        """The plan of the step in which the first request was preempted."""
        for _ in range(500):
            planned = self.step()
            if self.scheduler.counters.preemptions:
                return planned
        raise AssertionError("nothing was preempted")

    def end(self, request: Request) -> None:
        self.scheduler.finish(request)
        self.order.append(request.id)

    def run(self, max_steps: int = 2000) -> int:
        for steps in range(max_steps):
            if not self.step():
                return steps
        raise AssertionError("it does not come to an end")


def distinct(start: int, count: int) -> list[int]:
    return list(range(start, start + count))


def test_decodes_come_first_and_chunks_share_what_is_left() -> None:
    d = Driver(100, Limits(max_running=4, max_batch_tokens=20, prefill_chunk=12))
    d.add("a", distinct(0, 5), generate=50)
    assert d.step() == {"a": 5}
    d.add("b", distinct(100, 40), generate=50)
    d.add("c", distinct(200, 40), generate=50)
    assert d.step() == {"a": 1, "b": 12, "c": 7}
    assert d.step() == {"a": 1, "b": 12, "c": 7}
    assert d.step() == {"a": 1, "b": 12, "c": 7}
    assert d.step() == {"a": 1, "b": 4, "c": 12}
    assert d.step() == {"a": 1, "b": 1, "c": 7}
    assert d.step() == {"a": 1, "b": 1, "c": 1}


def test_a_step_never_holds_more_than_its_limits() -> None:
    limits = Limits(max_running=5, max_batch_tokens=9, prefill_chunk=4)
    d = Driver(200, limits)
    for i in range(12):
        d.add(str(i), distinct(100 * i, 20 + i), generate=6)
    while planned := d.step():
        assert sum(planned.values()) <= 9
        assert max(planned.values()) <= 4
        assert len(planned) <= 5
    assert sorted(d.order, key=int) == [str(i) for i in range(12)]


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="prefill_chunk must be at least 1"):
        Limits(prefill_chunk=0)
    with pytest.raises(InvalidRequestError, match="room for a token of each of max_running = 9"):
        Limits(max_running=9, max_batch_tokens=8)


def test_longer_cached_prefixes_are_admitted_first_but_waiting_counts() -> None:
    d = Driver(100, Limits(max_running=1))
    warm = distinct(0, 64)
    d.add("warm", warm)
    d.run()
    d.add("block", distinct(500, 8), generate=3)
    d.step()
    d.add("cold", distinct(900, 20))
    d.add("hot", [*warm, 7])
    d.run()
    assert d.order == ["warm", "block", "hot", "cold"]
    # A stream of requests with a cached prefix does not starve one without.
    d.add("cold2", distinct(2000, 20))
    for i in range(40):
        d.add(f"hot{i}", [*warm, 100 + i])
        d.step()
        if "cold2" in d.order:
            break
    assert "cold2" in d.order


def test_followers_wait_until_the_leader_has_computed_the_prefix() -> None:
    d = Driver(100, Limits(prefill_chunk=32))
    prefix = distinct(0, 70)
    for i in range(8):
        d.add(str(i), [*prefix, 1000 + i, *distinct(2000, 20)], generate=3)
    assert d.step() == {"0": 32}
    assert d.step() == {"0": 32}
    # Four pages are in the tree; six tokens of the fifth are not worth another step's wait.
    assert d.step() == {str(i): 27 for i in range(8)}
    d.run()
    counters = d.scheduler.counters
    assert counters.cached_tokens == 7 * 64
    assert counters.prefilled_tokens == 64 + 8 * 27
    assert counters.prompt_tokens == 8 * 91 == counters.cached_tokens + counters.prefilled_tokens


def test_late_followers_share_to_the_token() -> None:
    d = Driver(100)
    prefix = distinct(0, 70)
    d.add("leader", [*prefix, *distinct(2000, 20)], generate=9)
    d.step()
    for i in range(3):
        d.add(str(i), [*prefix, 1000 + i])
    assert d.step() == {"leader": 1, "0": 1, "1": 1, "2": 1}
    assert d.scheduler.counters.cached_tokens == 3 * 70
    assert len({source for source, _ in d.copies}) == 1


def test_identical_prompts_compute_a_single_token_each() -> None:
    for length in (15, 16, 17, 31, 32, 33):
        d = Driver(100)
        for i in range(5):
            d.add(str(i), distinct(0, length))
        d.run()
        computed = d.scheduler.counters.prefilled_tokens
        assert computed == (length + 4 if length >= PAGE_SIZE else 5 * length)


def test_a_follower_whose_leader_is_cancelled_takes_over() -> None:
    d = Driver(100, Limits(prefill_chunk=16))
    leader = d.add("leader", distinct(0, 64))
    d.add("follower", [*distinct(0, 60), 9, 9, 9, 9])
    assert d.step() == {"leader": 16}
    d.scheduler.finish(leader)
    assert d.step() == {"follower": 16}
    d.run()
    assert d.scheduler.counters.cached_tokens == 16


def test_other_salts_do_not_wait_and_do_not_share() -> None:
    d = Driver(100)
    d.add("a", distinct(0, 64), salt="a")
    d.add("b", distinct(0, 64), salt="b")
    assert d.step() == {"a": 64, "b": 64}
    d.add("c", distinct(0, 64), salt="c")
    d.run()
    assert d.scheduler.counters.cached_tokens == 0


def test_a_fork_shares_pages_and_copies_only_the_partial_last_one() -> None:
    d = Driver(100)
    d.add("parent", distinct(0, 37), generate=4)
    d.run()
    assert d.copies == []
    prefix = [*distinct(0, 37), 1, 1, 1]
    for i in range(3):
        d.add(f"child{i}", [*prefix, 50 + i], generate=4)
    d.step()
    # The parent's 40 tokens have KV (its last sampled one was never computed, so 39 + this one).
    assert d.scheduler.counters.cached_tokens == 3 * 40
    assert len(d.copies) == 3
    assert len({source for source, _ in d.copies}) == 1
    d.run()


def test_preemption_takes_the_youngest_and_its_return_is_cheap() -> None:
    d = Driver(8, Limits(max_running=4))
    a = d.add("a", distinct(0, 48), generate=60)  # 7 pages at the end
    d.add("b", distinct(100, 48), generate=20)
    planned = d.run_until_preemption()
    assert planned == {"a": 1}
    assert a.state is State.RUNNING
    d.run()
    assert d.order == ["a", "b"]
    assert d.pool.num_free + d.cache.num_pages == 8


def test_a_preempted_request_keeps_its_tokens_and_its_place() -> None:
    d = Driver(6, Limits(max_running=4))
    d.add("a", distinct(0, 16), generate=60)
    b = d.add("b", distinct(100, 16), generate=60)
    d.step()
    c = d.add("c", distinct(200, 40), generate=2)  # does not fit beside the two
    d.run_until_preemption()
    assert b.state is State.WAITING
    assert len(b.tokens) == 16 + 60 - d.left["b"]
    assert (b.num_computed, len(b.pages)) == (0, 0)
    assert b.arrival < c.arrival
    d.run()
    assert d.order == ["a", "b", "c"]


def test_a_large_request_is_not_overtaken_for_ever() -> None:
    d = Driver(10, Limits(max_running=8))
    for i in range(4):
        d.add(f"s{i}", distinct(100 * i, 16), generate=10 + i)
    d.step()
    d.add("large", distinct(5000, 140), generate=2)
    for i in range(20):
        d.add(f"t{i}", distinct(6000 + 100 * i, 16), generate=10)
        d.step()
    d.run()
    assert d.order.index("large") < 8


def test_the_whole_pool_for_one_request() -> None:
    d = Driver(4)
    d.add("a", distinct(0, 60), generate=4)
    d.run()
    d.add("b", distinct(0, 60), generate=4)  # its copied page's owner has to make room for it
    d.run()
    assert d.order == ["a", "b"]
    assert d.scheduler.counters.cached_tokens == 59


@pytest.mark.parametrize("pages", [5, 6, 9, 20])
def test_a_small_pool_comes_to_an_end(pages: int) -> None:
    d = Driver(pages, Limits(max_running=16, max_batch_tokens=32, prefill_chunk=8))
    for i in range(30):
        d.add(str(i), [*distinct(0, 20 * (i % 3)), *distinct(1000 + 50 * i, 1 + i)], generate=10)
    d.run()
    assert len(d.order) == 30


def test_scoring_computes_every_row_asked_for_once() -> None:
    d = Driver(100, Limits(max_score_rows=5, prefill_chunk=64))
    d.add("warm", distinct(0, 64))
    d.run()
    request = d.add("score", distinct(0, 64), score_from=40)
    seen: list[int] = []
    while True:
        plan = d.scheduler.schedule()
        if not plan:
            break
        (extension,) = plan
        seen += extension.logit_positions
        assert len(extension.logit_positions) <= 5
        request.score_from = max(40, extension.logit_positions.stop)
        d.scheduler.commit(extension)
        if request.num_remaining == 0:
            d.scheduler.finish(request)
    assert seen == list(range(40, 64))
    assert request.num_cached == 40  # the cache holds more, but these rows need logits
    d.scheduler.check_integrity()


def test_the_batch_has_the_layout_that_models_rely_on() -> None:
    a, b = Request("a", distinct(0, 20)), Request("b", distinct(100, 5), score_from=3)
    a.pages.extend([7, 2])
    b.pages.extend([4])
    a.num_computed, b.num_computed = 14, 2
    batch = build_batch([Extension(a, 4), Extension(b, 3)])
    assert batch.tokens.tolist() == [14, 15, 16, 17, 102, 103, 104]
    assert batch.positions.tolist() == [14, 15, 16, 17, 2, 3, 4]
    assert batch.slots.tolist() == [126, 127, 32, 33, 66, 67, 68]
    assert batch.cu_seqlens_q.tolist() == [0, 4, 7]
    assert batch.page_table.tolist() == [[7, 2], [4, 0]]
    assert batch.seq_lens.tolist() == [18, 5]
    assert batch.logit_rows.tolist() == [5, 6]  # a is not at its last token yet
    assert batch.page_table.dtype == batch.seq_lens.dtype == torch.int32

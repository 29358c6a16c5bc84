"""Which requests are extended in the next step, by how many tokens, and on which pages.

- Running requests come first, oldest first; those with one token left (decodes) always get it.
- What is left of the token budget goes to chunks of prompts, then to new requests.
- New requests are admitted by the longest cached prefix; waiting counts too, so nobody starves.
- A request whose next page is about to be computed by a running one waits for it.
- When pages run out the youngest running request goes back to waiting.  Its finished pages stay
  in the tree, so its return is cheap, and the oldest always gets on: there is no deadlock.
- Finished pages enter the tree as soon as they are computed.
"""

from __future__ import annotations

from array import array
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from sgen.errors import InvalidRequestError
from sgen.runtime.batch import PAGE_SIZE
from sgen.runtime.pages import PagePool, pages_for
from sgen.runtime.radix import Node, RadixCache
from sgen.runtime.request import Request, State
from sgen.runtime.stats import Counters

AGE_TOKENS = 8
"""A step of waiting is worth this many tokens of cached prefix."""

WINDOW = 256
"""How many of the oldest waiting requests are compared for admission."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a step may hold."""

    max_running: int = 64
    max_batch_tokens: int = 2048  # rows of a step, all requests together
    prefill_chunk: int = 512  # rows of a step, one request
    max_score_rows: int = 64  # logits rows of a step that scoring requests ask for

    def __post_init__(self) -> None:
        for name in ("max_running", "max_batch_tokens", "prefill_chunk", "max_score_rows"):
            if getattr(self, name) < 1:
                raise InvalidRequestError(f"{name} must be at least 1", param=name)
        if self.max_batch_tokens < self.max_running:
            raise InvalidRequestError(
                f"max_batch_tokens is {self.max_batch_tokens}, but a step must have room for a "
                f"token of each of max_running = {self.max_running} requests",
                param="max_batch_tokens",
            )


class Extension:
    """Compute the next `num_tokens` tokens of `request`.

    `logit_positions`: those of the request's whose logits this step must give.
    """

    __slots__ = ("logit_positions", "num_tokens", "request")

    def __init__(self, request: Request, num_tokens: int) -> None:
        self.request = request
        self.num_tokens = num_tokens
        start, first = request.num_computed, request.first_logit
        self.logit_positions = range(start if start > first else first, start + num_tokens)


@dataclass(slots=True)
class _Budget:
    """What a step has left."""

    tokens: int
    decodes: int  # tokens set aside for decodes that are not planned yet
    score_rows: int


class Scheduler:
    """Owns the requests and their pages.  Not thread-safe: the step loop's alone.

    `add` and `finish` are a pair around a request's life.  Between `schedule` and the `commit` of
    each planned extension no other method but `finish` is called.  `copy_page(source, target)`
    copies a page's KV at once.
    """

    def __init__(
        self,
        pool: PagePool,
        cache: RadixCache,
        limits: Limits,
        copy_page: Callable[[int, int], None],
    ) -> None:
        self._pool = pool
        self._cache = cache
        self._limits = limits
        self._copy_page = copy_page
        self._waiting: list[Request] = []  # both lists are sorted by arrival
        self._running: list[Request] = []
        self._arrivals = count()
        self._step = 0
        self.counters = Counters()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def add(self, request: Request) -> None:
        """Queue a request whose pages all fit into an empty pool (the caller has checked)."""
        request.arrival = next(self._arrivals)
        request.queued_at = self._step
        request.root = request.match = self._cache.open(request.salt)
        self._waiting.append(request)

    def finish(self, request: Request) -> None:
        """End a request in whatever state: its computed pages go to the tree, the rest is freed."""
        if request.state is State.RUNNING:
            self._release(request)
            self._running.remove(request)
        elif request.state is State.WAITING:
            self._waiting.remove(request)
        assert request.root is not None
        self._cache.close(request.root)
        request.root = request.match = None
        request.state = State.FINISHED

    def schedule(self) -> list[Extension]:
        """Plan a step; empty only when there is nothing to do.  Admits and preempts."""
        self._step += 1
        limits = self._limits
        running = self._running.copy()
        decoding = [request.num_remaining == 1 for request in running]
        budget = _Budget(limits.max_batch_tokens, sum(decoding), limits.max_score_rows)
        plan: list[Extension] = []
        preemptions = self.counters.preemptions
        for request, decodes in zip(running, decoding, strict=True):
            budget.decodes -= decodes
            if request.state is State.RUNNING:  # else an older one has just taken its pages
                self._extend(request, budget, plan)
        if self.counters.preemptions == preemptions:
            self._admit(budget, plan)
        assert plan or not (self._running or self._waiting), "no request can go on"
        return plan

    def commit(self, extension: Extension) -> None:
        """The step has computed this extension: count it, and hand full pages to the tree."""
        request, num_tokens = extension.request, extension.num_tokens
        assert request.state is State.RUNNING
        assert request.node is not None
        decoding = request.num_remaining == 1 and len(request.tokens) > request.num_prompt
        self.counters.prefilled_tokens += num_tokens - decoding
        request.num_computed += num_tokens
        node = request.node
        while (node.depth + 1) * PAGE_SIZE <= request.num_computed:
            depth = node.depth
            node = self._cache.insert(node, request.keys[depth], request.pages[depth])
            request.pages[depth] = node.page
        request.node = node

    def check_integrity(self) -> None:
        """Assert the invariants of pages, tree and requests."""
        for request in self._running:
            assert request.node is not None
            assert request.node.alive
            assert request.node.refs > 0
            assert 0 <= request.num_computed <= len(request.tokens)
            assert request.node.depth == request.num_computed // PAGE_SIZE
            assert request.node.path == request.pages[: request.node.depth].tolist()
        assert not any(r.pages for r in self._waiting), "a waiting request holds pages"
        self._cache.check_integrity([p for r in self._running for p in r.private_pages])

    def _extend(self, request: Request, budget: _Budget, plan: list[Extension]) -> None:
        """Plan the next tokens of a running request, as many as the budget and the pages allow."""
        room = budget.tokens - budget.decodes
        computed = request.num_computed
        num_tokens = min(request.num_remaining, self._limits.prefill_chunk, room)
        if request.scores:
            unscored = max(0, request.first_logit - computed)
            num_tokens = min(num_tokens, unscored + budget.score_rows)
        if num_tokens <= 0:
            return
        if computed + num_tokens > len(request.pages) * PAGE_SIZE:
            missing = pages_for(computed + num_tokens) - len(request.pages)
            if not self._grow(request, missing):
                return
        extension = Extension(request, num_tokens)
        budget.tokens -= num_tokens
        if request.scores:
            budget.score_rows -= len(extension.logit_positions)
        plan.append(extension)

    def _grow(self, request: Request, missing: int) -> bool:
        """Give a running request the pages that it lacks.

        Preempts the youngest until there is room; False if that was the request itself.
        """
        while self._num_available < missing:
            self._preempt(self._running[-1])
            if request.state is not State.RUNNING:
                return False
        request.pages.extend(self._allocate(missing))
        return True

    def _admit(self, budget: _Budget, plan: list[Extension]) -> None:
        if not self._waiting or len(self._running) >= self._limits.max_running:
            return
        coming = {page for r in self._running if (page := _next_page(r)) is not None}
        for request in self._ranked():
            if len(self._running) >= self._limits.max_running or budget.tokens <= 0:
                return
            if request.scores and budget.score_rows <= 0:
                continue
            node = self._rematch(request)
            if self._follows(request, node, coming):
                continue
            if not self._fits(request, node):
                return  # nobody overtakes, or a large request would wait for ever
            self._start(request, node)
            page = _next_page(request)
            if page is not None:
                coming.add(page)
            self._extend(request, budget, plan)

    def _ranked(self) -> list[Request]:
        """The oldest waiting requests, by cached prefix and time waited."""

        def worth(request: Request) -> tuple[int, int]:
            cached = self._rematch(request).depth * PAGE_SIZE
            waited = (self._step - request.queued_at) * AGE_TOKENS
            return -(cached + waited), request.arrival

        return sorted(self._waiting[:WINDOW], key=worth)

    def _rematch(self, request: Request) -> Node:
        """Where the request's tokens end in the tree, at most before its first logits."""
        assert request.match is not None
        assert request.root is not None
        start = request.match if request.match.alive else request.root
        request.match = self._cache.match(start, request.keys, request.first_logit // PAGE_SIZE)
        return request.match

    @staticmethod
    def _follows(request: Request, node: Node, coming: set[tuple[Node, bytes]]) -> bool:
        """Is the request's next page one that a running request will compute?"""
        if node.depth >= len(request.keys):
            return False
        key = request.keys[node.depth]
        return key not in node.children and (node, key) in coming

    @property
    def _num_available(self) -> int:
        return self._pool.num_free + self._cache.num_evictable

    def _fits(self, request: Request, node: Node) -> bool:
        """Are there pages for all its tokens, and one more for each that runs already?"""
        missing = pages_for(len(request.tokens)) - node.depth
        at: Node | None = node
        while at is not None and at.refs == 0 and at.parent is not None:
            missing += 1  # it stops being evictable
            at = at.parent
        return missing + len(self._running) <= self._num_available

    def _allocate(self, num_pages: int) -> list[int]:
        short = num_pages - self._pool.num_free
        if short > 0:
            self._cache.evict(short)
        return self._pool.allocate(num_pages)

    def _start(self, request: Request, node: Node) -> None:
        """Admit a request: hold its cached prefix, and give it pages for all its tokens.

        Where the cached tokens end inside a page, that page is copied.  Its owner may be evicted
        to make room, even for the copy itself: contents last until the step writes.
        """
        self._cache.lock(node)
        limit = min(request.first_logit, (node.depth + 1) * PAGE_SIZE)
        cached = node.depth * PAGE_SIZE
        source, alike = self._cache.closest(node, request.tail(cached, limit))
        request.pages = array("i", node.path)
        request.pages.extend(self._allocate(pages_for(len(request.tokens)) - node.depth))
        if source is not None:
            target = request.pages[node.depth]
            if source.page != target:
                self._copy_page(source.page, target)
            cached += alike
        request.node = node
        request.num_computed = cached
        request.state = State.RUNNING
        self._waiting.remove(request)
        insort(self._running, request, key=lambda r: r.arrival)
        self.counters.cached_tokens += cached
        if request.num_cached is None:
            request.num_cached = cached
            self.counters.prompt_tokens += request.num_prompt

    def _preempt(self, request: Request) -> None:
        """Send a running request back to waiting; it keeps its tokens and its place in line."""
        self._running.remove(request)
        request.match = request.node
        self._release(request)
        request.num_computed = 0
        request.state = State.WAITING
        insort(self._waiting, request, key=lambda r: r.arrival)
        self.counters.preemptions += 1

    def _release(self, request: Request) -> None:
        """Part a running request from its pages: a partial last one goes to the tree as well."""
        node = request.node
        assert node is not None
        pages = request.pages[node.depth :]
        computed = node.depth * PAGE_SIZE
        if request.num_computed > computed:
            tail = request.tail(computed, request.num_computed)
            self._cache.insert_tail(node, tail, pages.pop(0))
        self._pool.release(pages)
        self._cache.unlock(node)
        request.node = None
        request.pages = array("i")


def _next_page(request: Request) -> tuple[Node, bytes] | None:
    """The next full page that a running request will compute, as its place in the tree."""
    node = request.node
    assert node is not None
    if node.depth >= len(request.keys):
        return None
    return node, request.keys[node.depth]

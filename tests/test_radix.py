"""The prefix cache: matching, holding, evicting; and its invariants under random use."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sgen.runtime.batch import PAGE_SIZE
from sgen.runtime.pages import PagePool
from sgen.runtime.radix import Node, RadixCache, common_tokens, page_key


def keys_of(tokens: list[int]) -> list[bytes]:
    full = len(tokens) // PAGE_SIZE
    return [page_key(tokens[i * PAGE_SIZE : (i + 1) * PAGE_SIZE]) for i in range(full)]


def store(cache: RadixCache, pool: PagePool, tokens: list[int], salt: str = "") -> list[int]:
    """Insert `tokens` as a request that computed all of them and ended; its pages."""
    root = cache.open(salt)
    node = root
    cache.lock(node)
    for key in keys_of(tokens):
        node = cache.insert(node, key, pool.allocate(1)[0])
    rest = tokens[node.depth * PAGE_SIZE :]
    if rest:
        cache.insert_tail(node, page_key(rest), pool.allocate(1)[0])
    path = node.path
    cache.unlock(node)
    cache.close(root)
    return path


def find(cache: RadixCache, tokens: list[int], salt: str = "") -> Node:
    root = cache.open(salt)
    node = cache.match(root, keys_of(tokens), len(tokens) // PAGE_SIZE)
    cache.close(root)
    return node


def test_common_tokens_counts_whole_tokens() -> None:
    a = list(range(1000, 1016))
    for n in range(17):
        b = [*a[:n], *[x + 256 for x in a[n:]]]  # differs in the second byte of a token
        assert common_tokens(page_key(a), page_key(b)) == n
        assert common_tokens(page_key(a[:n]), page_key(a)) == n
        for m in range(n):
            assert common_tokens(page_key(b[:m]), page_key(a)) == m


def test_match_finds_full_pages_only_up_to_the_limit() -> None:
    pool = PagePool(8)
    cache = RadixCache(pool)
    tokens = list(range(50))
    pages = store(cache, pool, tokens)
    root = cache.open("")
    assert cache.match(root, keys_of(tokens), 3).path == pages[:3]
    assert cache.match(root, keys_of(tokens), 2).path == pages[:2]
    assert cache.match(root, keys_of(tokens), 0) is root
    other = [*tokens[:20], 99, *tokens[21:]]
    node = cache.match(root, keys_of(other), 3)
    assert node.path == pages[:1]
    source, alike = cache.closest(node, page_key(other[16:32]))
    assert source is not None
    assert (source.page, alike) == (pages[1], 4)
    cache.close(root)
    cache.check_integrity()


def test_match_goes_on_from_where_it_ended() -> None:
    pool = PagePool(8)
    cache = RadixCache(pool)
    tokens = list(range(48))
    store(cache, pool, tokens[:16])
    root = cache.open("")
    first = cache.match(root, keys_of(tokens), 3)
    store(cache, pool, tokens)
    assert first.depth == 1
    assert cache.match(first, keys_of(tokens), 3).depth == 3
    cache.close(root)


def test_salts_share_nothing_and_empty_roots_are_forgotten() -> None:
    pool = PagePool(8)
    cache = RadixCache(pool)
    store(cache, pool, list(range(32)), salt="a")
    assert find(cache, list(range(32)), "a").depth == 2
    assert find(cache, list(range(32)), "b").depth == 0
    assert len(cache._roots) == 1
    cache.evict(2)
    assert len(cache._roots) == 0
    assert pool.num_free == 8
    cache.check_integrity()


def test_inserting_a_page_twice_keeps_the_first() -> None:
    pool = PagePool(8)
    cache = RadixCache(pool)
    first = store(cache, pool, list(range(40)))
    again = store(cache, pool, list(range(40)))
    assert again == first
    assert pool.num_free == 8 - 3  # the duplicate tail was released as well
    store(cache, pool, list(range(36)))  # its tail is the beginning of the one that is there
    assert pool.num_free == 8 - 3
    store(cache, pool, list(range(44)))  # longer than the one that is there
    assert pool.num_free == 8 - 4
    cache.check_integrity()


def test_eviction_takes_the_longest_unused_leaves_first_and_never_held_ones() -> None:
    pool = PagePool(8)
    cache = RadixCache(pool)
    old = list(range(32))
    held = [*range(16), *range(100, 116)]
    new = list(range(200, 232))
    for tokens in (old, held, new):
        store(cache, pool, tokens)
    node = find(cache, held)
    cache.lock(node)
    assert cache.num_evictable == 3
    assert cache.evict(1) == 1
    assert find(cache, old).depth == 1
    assert find(cache, new).depth == 2
    assert cache.evict(10) == 2
    assert find(cache, held) is node
    assert cache.evict(10) == 0
    cache.unlock(node)
    cache.check_integrity()
    assert cache.evict(10) == 2
    assert pool.num_free == 8
    assert not node.alive


def test_matching_again_makes_a_prefix_recent() -> None:
    pool = PagePool(8)
    cache = RadixCache(pool)
    a, b = list(range(16)), list(range(100, 116))
    store(cache, pool, a)
    store(cache, pool, b)
    node = find(cache, a)
    cache.lock(node)
    cache.unlock(node)
    cache.evict(1)
    assert find(cache, a).depth == 1
    assert find(cache, b).depth == 0


def test_the_queue_of_leaves_stays_bounded() -> None:
    pool = PagePool(4)
    cache = RadixCache(pool)
    for _ in range(5000):
        store(cache, pool, list(range(32)))
    assert len(cache._queue) <= 2 * 4 + 65
    assert cache.evict(4) == 2


def test_integrity_check_sees_a_lost_and_a_stolen_page() -> None:
    pool = PagePool(4)
    cache = RadixCache(pool)
    pages = store(cache, pool, list(range(16)))
    lost = pool.allocate(1)
    with pytest.raises(AssertionError, match="total"):
        cache.check_integrity()
    cache.check_integrity(lost)
    with pytest.raises(AssertionError, match="two owners"):
        cache.check_integrity(pages)


@dataclass
class Holder:
    tokens: list[int]
    root: Node
    node: Node
    private: list[int]


class CacheMachine(RuleBasedStateMachine):
    """Requests come, grow, fork, end and are cancelled over a small pool."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(12)
        self.cache = RadixCache(self.pool)
        self.holders: list[Holder] = []

    def take(self, count: int) -> list[int] | None:
        short = count - self.pool.num_free
        if short > self.cache.num_evictable:
            return None
        if short > 0:
            assert self.cache.evict(short) == short, "num_evictable promised too much"
        return self.pool.allocate(count)

    @rule(
        run=st.lists(st.integers(0, 1), min_size=1, max_size=4),
        rest=st.integers(0, 15),
        salt=st.sampled_from(["", "x"]),
    )
    def begin(self, run: list[int], rest: int, salt: str) -> None:
        tokens = [t for t in run for _ in range(PAGE_SIZE)] + [7] * rest
        root = self.cache.open(salt)
        node = self.cache.match(root, keys_of(tokens), len(tokens) // PAGE_SIZE)
        self.cache.lock(node)
        private = self.take(-(-len(tokens) // PAGE_SIZE) - node.depth)
        if private is None:
            self.cache.unlock(node)
            self.cache.close(root)
            return
        self.holders.append(Holder(tokens, root, node, private))

    @rule(index=st.integers(0, 20))
    def compute_a_page(self, index: int) -> None:
        if not self.holders:
            return
        h = self.holders[index % len(self.holders)]
        keys = keys_of(h.tokens)
        if h.node.depth < len(keys):
            h.node = self.cache.insert(h.node, keys[h.node.depth], h.private.pop(0))

    @rule(index=st.integers(0, 20), whole=st.booleans())
    def end(self, index: int, whole: bool) -> None:
        if not self.holders:
            return
        h = self.holders.pop(index % len(self.holders))
        rest = h.tokens[len(h.tokens) // PAGE_SIZE * PAGE_SIZE :]
        if whole and rest and h.node.depth == len(h.tokens) // PAGE_SIZE:
            self.cache.insert_tail(h.node, page_key(rest), h.private.pop(0))
        self.pool.release(h.private)
        self.cache.unlock(h.node)
        self.cache.close(h.root)

    @rule(index=st.integers(0, 20))
    def fork(self, index: int) -> None:
        if not self.holders:
            return
        h = self.holders[index % len(self.holders)]
        salt = next(k for k, root in self.cache._roots.items() if root is h.root)
        self.cache.open(salt.decode())
        self.cache.lock(h.node)
        private = self.take(len(h.private))
        if private is None:
            self.cache.unlock(h.node)
            self.cache.close(h.root)
        else:
            self.holders.append(Holder(list(h.tokens), h.root, h.node, private))

    @rule(count=st.integers(1, 5))
    def evict(self, count: int) -> None:
        possible = self.cache.num_evictable
        assert self.cache.evict(count) == min(count, possible)

    @invariant()
    def every_page_has_one_owner(self) -> None:
        self.cache.check_integrity([p for h in self.holders for p in h.private])
        for h in self.holders:
            assert h.node.alive
            assert keys_of(h.tokens)[: h.node.depth] == path_keys(h.node)

    def teardown(self) -> None:
        while self.holders:
            self.end(0, True)
        self.cache.evict(100)
        assert self.pool.num_free == self.pool.num_pages
        assert not self.cache._roots


def path_keys(node: Node) -> list[bytes]:
    keys = []
    while node.parent is not None:
        keys.append(node.key)
        node = node.parent
    return keys[::-1]


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(
    max_examples=60, stateful_step_count=40, derandomize=True, deadline=None
)

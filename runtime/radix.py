"""The prefix cache: a tree over token ids whose edges are pages.

A node is one page of KV.  Its key is the page's token ids as int32 bytes; full pages may have
children, a partial last page is always a leaf.  Each salt has a root of its own.  Because an edge
is a whole page, no node is ever split, a match goes on from the node where it last ended, and the
question "who is about to compute this page" has a key: (node, next page's tokens).

Who holds a node holds its whole path, so refs(parent) >= refs(child), and a node without
references can be evicted together with everything below it.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice

from sgen.runtime.batch import PAGE_SIZE
from sgen.runtime.pages import PagePool

TOKEN_BYTES = 4
PAGE_BYTES = PAGE_SIZE * TOKEN_BYTES
CLOSEST_WIDTH = 64
"""How many of a node's newest children are looked through for a page to copy."""


def page_key(tokens: Sequence[int]) -> bytes:
    """The key of a page that holds `tokens` (at most PAGE_SIZE of them): int32 bytes."""
    return array("i", tokens).tobytes()


def common_tokens(a: bytes, b: bytes) -> int:
    """Length, in tokens, of the longest common prefix of two page keys."""
    size = min(len(a), len(b))
    a, b = a[:size], b[:size]
    if a == b:
        return size // TOKEN_BYTES
    start, step = 0, PAGE_BYTES // 2
    while step >= TOKEN_BYTES:  # bisection: the first difference is at or after `start`
        if a[start : start + step] == b[start : start + step]:
            start += step
        step //= 2
    return start // TOKEN_BYTES


class Node:
    """A page in the tree.  A root has no page, depth 0, and its salt as the key."""

    __slots__ = ("alive", "children", "depth", "key", "last_used", "page", "parent", "refs")

    def __init__(self, key: bytes, page: int, parent: Node | None) -> None:
        self.key = key
        self.page = page
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1  # pages from the root to here
        self.children: dict[bytes, Node] = {}
        self.refs = 0
        self.last_used = 0
        self.alive = True  # false once evicted

    @property
    def path(self) -> list[int]:
        """The pages from the root to here, in order."""
        pages = [0] * self.depth
        node = self
        while node.parent is not None:
            pages[node.depth - 1] = node.page
            node = node.parent
        return pages

    @property
    def idle(self) -> bool:
        """A leaf that nobody holds: it may be evicted."""
        return self.refs == 0 and not self.children and self.parent is not None and self.alive


class RadixCache:
    """Owns the pages in the tree; takes them from requests and gives them back to the pool.

    Eviction is least recently used first, over the idle leaves.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._roots: dict[bytes, Node] = {}
        self._num_pages = 0
        self._num_evictable = 0
        self._clock = 0
        # (last use, tie-break, leaf).  Entries are not removed when they stop being true, they
        # are passed over.  A lease would be one more field in front.
        self._queue: list[tuple[int, int, Node]] = []
        self._tickets = count()
        self.evictions = 0

    @property
    def num_pages(self) -> int:
        """Pages that the tree owns."""
        return self._num_pages

    @property
    def num_evictable(self) -> int:
        """Pages that `evict` could free now: those of nodes that nobody holds."""
        return self._num_evictable

    def open(self, salt: str) -> Node:
        """The root of a salt, held until `close`."""
        key = salt.encode("utf-8", "surrogatepass")
        root = self._roots.get(key)
        if root is None:
            root = self._roots[key] = Node(key, -1, None)
        root.refs += 1
        return root

    def close(self, root: Node) -> None:
        """Undo one `open`."""
        assert root.parent is None
        assert root.refs > 0
        root.refs -= 1
        self._drop_empty(root)

    def match(self, node: Node, keys: Sequence[bytes], max_pages: int) -> Node:
        """Go down from `node` along `keys` (the whole request's, one a page from its start).

        Returns the deepest node at most `max_pages` from the root; holds nothing.
        """
        depth = node.depth
        while depth < max_pages and (child := node.children.get(keys[depth])) is not None:
            node = child
            depth += 1
        return node

    def closest(self, node: Node, key: bytes) -> tuple[Node | None, int]:
        """The child of `node` whose page begins most like `key`, and how many tokens alike.

        This is the page to copy when a match ends inside a page.
        """
        best, best_len = None, 0
        for child in islice(reversed(node.children.values()), CLOSEST_WIDTH):
            length = common_tokens(child.key, key)
            if length > best_len:
                best, best_len = child, length
        return best, best_len

    def lock(self, node: Node) -> None:
        """Hold `node` and its path: none of them is evicted until `unlock`."""
        self._clock += 1
        at: Node | None = node
        while at is not None:
            if at.refs == 0 and at.parent is not None:
                self._num_evictable -= 1
            at.refs += 1
            at.last_used = self._clock
            at = at.parent

    def unlock(self, node: Node) -> None:
        """Undo one `lock` of `node`, or of the nodes that `insert` has since moved it to."""
        self._clock += 1
        at: Node | None = node
        while at is not None:
            assert at.refs > 0
            at.refs -= 1
            if at.refs == 0 and at.parent is not None:
                self._num_evictable += 1
            at.last_used = self._clock
            at = at.parent
        self._offer(node)

    def insert(self, node: Node, key: bytes, page: int) -> Node:
        """Give the tree a full page that continues `node`, and move the caller's hold onto it.

        Where the tree has that page already, the given one is released; the caller goes on with
        the returned node's page, which holds the same keys and values.
        """
        assert len(key) == PAGE_BYTES
        assert node.refs > 0
        child = node.children.get(key)
        if child is not None:
            self._pool.release((page,))
            if child.refs == 0:
                self._num_evictable -= 1
        else:
            child = node.children[key] = Node(key, page, node)
            self._num_pages += 1
        child.refs += 1
        child.last_used = self._clock
        return child

    def insert_tail(self, node: Node, key: bytes, page: int) -> None:
        """Give the tree a partial last page (1 to PAGE_SIZE - 1 tokens); held by nobody.

        It is released instead where a page that begins with the same tokens is there.
        """
        assert 0 < len(key) < PAGE_BYTES
        assert node.refs > 0
        if self.closest(node, key)[1] * TOKEN_BYTES == len(key):
            self._pool.release((page,))
            return
        child = node.children[key] = Node(key, page, node)
        child.last_used = self._clock
        self._num_pages += 1
        self._num_evictable += 1
        self._offer(child)

    def evict(self, num_pages: int) -> int:
        """Free up to `num_pages` pages, the longest unused first; how many were freed."""
        freed = 0
        while freed < num_pages and self._queue:
            stamp, _, node = heapq.heappop(self._queue)
            if not node.idle or node.last_used != stamp:
                continue
            parent = node.parent
            assert parent is not None
            del parent.children[node.key]
            node.alive = False
            self._pool.release((node.page,))
            freed += 1
            self._offer(parent)
            self._drop_empty(parent)
        self._num_pages -= freed
        self._num_evictable -= freed
        self.evictions += freed
        return freed

    def _offer(self, node: Node) -> None:
        """Queue a node for eviction if it is an idle leaf; keep the queue within a bound."""
        if not node.idle:
            return
        heapq.heappush(self._queue, (node.last_used, next(self._tickets), node))
        if len(self._queue) > 2 * self._num_pages + 64:
            self._queue = [e for e in self._queue if e[2].idle and e[2].last_used == e[0]]
            heapq.heapify(self._queue)

    def _drop_empty(self, node: Node) -> None:
        """Forget a root that is empty and not open: salts may be as many as users."""
        if node.parent is None and node.refs == 0 and not node.children:
            node.alive = False
            del self._roots[node.key]

    def _nodes(self) -> Iterator[Node]:
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def check_integrity(self, private: Iterable[int] = ()) -> None:
        """Assert every invariant of tree and pool; `private` are the running requests' own pages.

        Walks the whole tree: for tests, and for an idle engine in debug mode.
        """
        owned: list[int] = []
        evictable = 0
        queued = {id(e[2]) for e in self._queue if e[2].last_used == e[0]}
        for node in self._nodes():
            assert node.alive
            refs = sum(child.refs for child in node.children.values())
            assert node.refs >= refs, "a path is held less often than what hangs on it"
            if node.parent is None:
                assert self._roots[node.key] is node
                assert node.refs > 0 or node.children, "an empty root was kept"
                continue
            assert node.parent.children[node.key] is node
            assert node.depth == node.parent.depth + 1
            assert 0 < len(node.key) <= PAGE_BYTES
            assert len(node.key) % TOKEN_BYTES == 0
            assert len(node.key) == PAGE_BYTES or not node.children, "a partial page is a leaf"
            assert not node.idle or id(node) in queued, "an idle leaf would never be evicted"
            evictable += node.refs == 0
            owned.append(node.page)
        private = list(private)
        pages = [*self._pool.free_pages, *owned, *private]
        assert len(pages) == len(set(pages)), "a page has two owners"
        assert len(owned) == self._num_pages
        assert evictable == self._num_evictable
        total = self._pool.num_free + len(owned) + len(private)
        assert total == self._pool.num_pages, "free + tree + private is not the total"

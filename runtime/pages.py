"""The pages of the KV cache: who may write where.

A page holds the keys and values of `PAGE_SIZE` tokens.  Every page is free, or owned by exactly
one node of the radix tree, or private to one running request.
"""

from __future__ import annotations

from collections.abc import Iterable

from sgen.runtime.batch import PAGE_SIZE


def pages_for(num_tokens: int) -> int:
    """Pages that hold `num_tokens` tokens; the last one may be partial."""
    return -(-num_tokens // PAGE_SIZE)


class PagePool:
    """The free list.  `allocate` and `release` are a pair: what one gives, the other takes back.

    Releasing a page leaves its contents alone until somebody writes to it again.
    """

    def __init__(self, num_pages: int) -> None:
        assert num_pages >= 1
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._is_free = bytearray(b"\1" * num_pages)

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def free_pages(self) -> frozenset[int]:
        return frozenset(self._free)

    def allocate(self, count: int) -> list[int]:
        """Take `count` pages; the caller has made sure that so many are free."""
        assert 0 <= count <= len(self._free), "more pages asked for than are free"
        if count == 0:
            return []
        taken = self._free[-count:]
        del self._free[-count:]
        for page in taken:
            self._is_free[page] = 0
        return taken

    def release(self, pages: Iterable[int]) -> None:
        """Give pages back."""
        for page in pages:
            assert not self._is_free[page], f"page {page} was released twice"
            self._is_free[page] = 1
            self._free.append(page)

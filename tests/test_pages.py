"""The page pool: what is taken is not free, what is given back is."""

from __future__ import annotations

import pytest

from sgen.runtime.pages import PagePool, pages_for


def test_pages_for_rounds_up() -> None:
    assert [pages_for(n) for n in (0, 1, 15, 16, 17, 32, 33)] == [0, 1, 1, 1, 2, 2, 3]


def test_allocated_pages_are_distinct_and_not_free() -> None:
    pool = PagePool(5)
    a, b = pool.allocate(2), pool.allocate(3)
    assert sorted(a + b) == [0, 1, 2, 3, 4]
    assert pool.num_free == 0
    pool.release(a)
    assert pool.free_pages == frozenset(a)
    assert sorted(pool.allocate(2)) == sorted(a)


def test_allocating_nothing_takes_nothing() -> None:
    pool = PagePool(2)
    assert pool.allocate(0) == []
    assert pool.num_free == 2


def test_double_release_and_overdraft_are_our_errors() -> None:
    pool = PagePool(2)
    pages = pool.allocate(1)
    pool.release(pages)
    with pytest.raises(AssertionError, match="twice"):
        pool.release(pages)
    with pytest.raises(AssertionError, match="more pages"):
        pool.allocate(3)

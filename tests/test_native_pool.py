"""The thread pool of the decoder: every task of every run once, whoever is slow."""

from __future__ import annotations

import ctypes
import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from sgen.kernels import isa

TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int)

LIBRARY = isa.load(isa.chosen() or "portable")

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="there is no C compiler")


class Pool:
    """A pool that runs Python functions of (index, thread)."""

    def __init__(self, threads: int) -> None:
        assert LIBRARY is not None
        self._free = LIBRARY.free
        self._free.pool_new.restype = ctypes.c_void_p
        self._pool = ctypes.c_void_p(self._free.pool_new(threads))

    def run(self, count: int, function: Callable[[int, int], None]) -> None:
        task = TASK(lambda context, index, thread: function(index, thread))
        self._free.pool_run(self._pool, ctypes.c_int64(count), task, None)

    def close(self) -> None:
        self._free.pool_free(self._pool)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_task_once(threads: int) -> None:
    pool = Pool(threads)
    rng = random.Random(threads)
    for _ in range(400):
        count = rng.choice([0, 1, 2, 3, 7, 40])
        done: list[tuple[int, int]] = []
        pool.run(count, lambda index, thread: done.append((index, thread)))  # noqa: B023 (run ends here)
        assert Counter(index for index, _ in done) == Counter(range(count))
        assert all(0 <= thread < threads for _, thread in done)
        if rng.random() < 0.02:
            time.sleep(0.002)  # long enough for the workers to fall asleep
    pool.close()


def test_a_slow_task_is_waited_for_and_the_others_go_on() -> None:
    pool = Pool(2)
    finished: list[int] = []

    def task(index: int, thread: int) -> None:
        if index == 0:
            time.sleep(0.05)
        finished.append(index)

    pool.run(20, task)
    assert sorted(finished) == list(range(20))
    assert finished[-1] == 0, "the other thread did the rest meanwhile"
    pool.close()


def test_both_threads_work() -> None:
    pool = Pool(2)
    meeting = threading.Barrier(2, timeout=10)

    def meet(index: int, thread: int) -> None:
        meeting.wait()

    pool.run(2, meet)
    assert not meeting.broken, "two tasks ran at the same time"
    pool.close()

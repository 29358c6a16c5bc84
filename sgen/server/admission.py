"""Who may use the engine now, who waits, and who is sent away.

Places go round in the order of asking.  A place that is taken is given back exactly once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque

from sgen.server.errors import APIError

_LONGEST_WAIT = 60  # seconds that a client is told to wait


class Admission:
    """`places` requests use the engine, `queue` more wait."""

    def __init__(self, places: int, queue: int) -> None:
        self._places = places
        self._queue = queue
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean_seconds = 1.0  # that a place was held, the latest weighing most
        self.draining = False

    @property
    def taken(self) -> int:
        return self._taken

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Would one more be sent away?"""
        return self._taken >= self._places and len(self._waiting) >= self._queue

    async def take(self) -> Place:
        """A place, now or when it is one's turn; APIError 429 if too many wait already, 503 if
        the server is about to stop."""
        if self.draining:
            raise stopping()
        if self._taken < self._places:
            self._taken += 1
            return Place(self)
        if len(self._waiting) >= self._queue:
            raise APIError(
                429,
                f"{self._taken} requests are running and {len(self._waiting)} are waiting",
                code="queue_full",
                retry_after=self._retry_after(),
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()  # the place came as its taker went
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise
        return Place(self)

    def drain(self) -> None:
        """Take in nobody any more; those that wait are told so."""
        self.draining = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(stopping())

    def give_back(self, seconds: float) -> None:
        """A place that was held for so long is free again."""
        self._mean_seconds += 0.1 * (seconds - self._mean_seconds)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1

    def _retry_after(self) -> int:
        rounds = 1 + len(self._waiting) / self._places
        return max(1, min(_LONGEST_WAIT, math.ceil(self._mean_seconds * rounds)))


class Place:
    """A place that was taken."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._since = time.monotonic()
        self._held = True

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        if self._held:
            self._held = False
            self._admission.give_back(time.monotonic() - self._since)


def stopping() -> APIError:
    """What those are told who come, wait or run when the server stops."""
    return APIError(503, "the server is shutting down", code="shutting_down", retry_after=10)

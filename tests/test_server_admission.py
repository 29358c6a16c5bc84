"""Places in the engine: their order, their number, and that none is lost."""

from __future__ import annotations

import asyncio

import pytest

from sgen.server.admission import Admission
from sgen.server.errors import APIError


def test_places_go_round_in_the_order_of_asking() -> None:
    async def scenario() -> list[int]:
        admission = Admission(1, 3)
        order: list[int] = []

        async def one(number: int) -> None:
            place = await admission.take()
            order.append(number)
            await asyncio.sleep(0)
            place.release()
            place.release()  # a second time does nothing

        await asyncio.gather(*(one(i) for i in range(4)))
        assert (admission.taken, admission.waiting) == (0, 0)
        return order

    assert asyncio.run(scenario()) == [0, 1, 2, 3]


def test_one_more_than_may_wait_is_sent_away() -> None:
    async def scenario() -> None:
        admission = Admission(1, 1)
        place = await admission.take()
        assert not admission.full
        waiter = asyncio.ensure_future(admission.take())
        await asyncio.sleep(0)
        assert admission.full
        with pytest.raises(APIError) as refused:
            await admission.take()
        assert refused.value.status == 429
        assert 1 <= (refused.value.retry_after or 0) <= 60
        place.release()
        (await waiter).release()
        assert admission.taken == 0

    asyncio.run(scenario())


def test_a_place_that_comes_as_its_taker_goes_is_passed_on() -> None:
    async def scenario() -> None:
        admission = Admission(1, 2)
        place = await admission.take()
        first = asyncio.ensure_future(admission.take())
        second = asyncio.ensure_future(admission.take())
        await asyncio.sleep(0)
        place.release()  # to the first, which is cancelled before it can run
        first.cancel()
        (await second).release()
        assert first.cancelled()
        assert (admission.taken, admission.waiting) == (0, 0)

    asyncio.run(scenario())


def test_those_who_wait_are_told_of_the_end() -> None:
    async def scenario() -> None:
        admission = Admission(1, 1)
        place = await admission.take()
        waiter = asyncio.ensure_future(admission.take())
        await asyncio.sleep(0)
        admission.drain()
        for late in (waiter, asyncio.ensure_future(admission.take())):
            with pytest.raises(APIError, match="shutting down"):
                await late
        place.release()
        assert admission.taken == 0

    asyncio.run(scenario())

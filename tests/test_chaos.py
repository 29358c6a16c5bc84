"""Abuse in small: malformed requests are refused, a killed engine comes back, nothing is kept.

`python -m benchmarks.chaos` is the same at length, with times.
"""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import chaos
from benchmarks.malformed import is_error
from benchmarks.served import Served


def _missed(lines: list[chaos.Line]) -> list[chaos.Line]:
    return [line for line in lines if not line.met]


def test_malformed_requests_are_refused(served: Served) -> None:
    assert _missed(asyncio.run(chaos.malformed(served))) == []


def test_nothing_is_kept_of_clients_that_leave(served: Served) -> None:
    """Pages, file descriptors and threads; times and memory are the benchmark's."""

    async def run() -> tuple[chaos.Held, chaos.Held]:
        await chaos.rush(served, 1.0, 12, 0)
        before = await chaos.idle(served)
        await chaos.rush(served, 1.5, 12, 1)
        return before, await chaos.idle(served)

    before, after = asyncio.run(run())
    assert after.pages == 0
    assert after.descriptors <= before.descriptors
    assert after.threads <= before.threads


@pytest.mark.slow
def test_a_killed_engine_comes_back(served: Served) -> None:
    assert _missed(asyncio.run(chaos.kill(served))) == []


def test_what_counts_as_an_error() -> None:
    assert is_error(b'{"error": {"message": "no", "type": "t", "param": null, "code": null}}')
    assert is_error(b'{"type": "error", "error": {"type": "t", "message": "no"}}')
    assert not is_error(b'{"error": "no"}')
    assert not is_error(b"Internal Server Error")


def test_the_table_names_what_was_missed() -> None:
    table = chaos.show([chaos.Line("a", "1", "1", True), chaos.Line("b", "1", "2", False)])
    assert [line.endswith("MISSED") for line in table.splitlines()] == [False, False, True]

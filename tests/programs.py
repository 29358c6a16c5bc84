"""What the tests of programs share: a backend that answers from a script, and two programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pydantic import BaseModel

from sgen.frontend import State, program
from sgen.frontend.defaults import DEFAULT
from sgen.frontend.fake import FakeBackend, prompt_text

ADA = {"name": "Ada", "city": "London", "long": "0123456789" * 3}
ALPHA = {"a": "Alpha", "n": "7", "rx": "aab", "report": '{"title":"T","level":2}'}


class Report(BaseModel):
    title: str
    level: int


@contextmanager
def answering(answers: Mapping[str, str]) -> Iterator[FakeBackend]:
    """The default backend meanwhile; nothing may be left open afterwards."""
    fake = FakeBackend(dict(answers))
    DEFAULT.use(fake)
    yield fake
    assert not fake.open, "a request was left open"
    DEFAULT.use(None)


def prompts(fake: FakeBackend) -> list[str]:
    return [prompt_text(r.prompt) for r in fake.requests]


@program
async def ask(s: State, q: str) -> str:
    s.user(q)
    with s.assistant():
        return await s.gen(name="name")


@program
def ask_plainly(s: State, q: str) -> str:
    s.user(q)
    with s.assistant():
        return s.gen(name="name").value

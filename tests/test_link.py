"""Frames and messages between the two processes, and that nothing else is taken for one."""

from __future__ import annotations

import pytest

from sgen import errors
from sgen.errors import GrammarError, ModelFileError, SgenError
from sgen.protocol import Chunk, GenerateRequest, SamplingParams, Text
from sgen.server import link
from sgen.server.link import (
    Cancel,
    Chunks,
    Detokenize,
    Extend,
    Failed,
    Frames,
    LinkError,
    Tokenize,
    command_of,
    error_of,
    failure_of,
    frame,
    news_of,
)

REQUEST = GenerateRequest(id="a", prompt=(Text("hé"),), params=SamplingParams(max_tokens=3))
NEWS = Chunks([(1, Chunk(text="x", token_ids=(7,))), (2, Chunk(finish_reason="stop"))])


def test_messages_come_out_as_they_went_in_however_they_are_cut() -> None:
    data = frame(Extend(1, REQUEST)) + frame(Cancel("a")) + frame(Detokenize(2, (1, 2)))
    for size in (1, 3, 4, 5, len(data)):
        frames = Frames()
        bodies = [b for i in range(0, len(data), size) for b in frames.feed(data[i : i + size])]
        found = [command_of(body) for body in bodies]
        assert found == [Extend(1, REQUEST), Cancel("a"), Detokenize(2, (1, 2))]


def test_news_keep_their_order_and_types() -> None:
    (body,) = Frames().feed(frame(NEWS))
    assert news_of(body) == NEWS


def test_a_frame_may_be_as_large_as_the_bound_and_no_larger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = len(frame(Cancel("abc"))) - 4
    monkeypatch.setattr(link, "FRAME_BYTES", body)
    (whole,) = Frames().feed(frame(Cancel("abc")))
    assert command_of(whole) == Cancel("abc")
    with pytest.raises(LinkError, match="too large"):
        frame(Cancel("abcd"))
    with pytest.raises(LinkError, match="too large"):  # by its length alone: nothing is collected
        next(Frames().feed((body + 1).to_bytes(4, "little")))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"hello",
        bytes(frame(Cancel("a"))[4:-1]),
        bytes(frame(Cancel("a"))[4:]) + b"\0",
        bytes(frame(NEWS)[4:]),
        b"\x82\xa4type\xa6cancel\xaarequest_id\x05",
    ],
)
def test_what_is_no_command_is_refused(body: bytes) -> None:
    with pytest.raises(LinkError):
        command_of(body)


def test_parameters_are_checked_where_they_arrive() -> None:
    body = bytes(frame(Extend(1, REQUEST))[4:]).replace(
        b"\xaamax_tokens\x03", b"\xaamax_tokens\x00"
    )
    with pytest.raises(LinkError, match="max_tokens"):
        command_of(body)


@pytest.mark.parametrize("bad", [Tokenize(1, (Text("\ud800"),)), Detokenize(1, (1 << 70,))])
def test_what_cannot_be_sent_says_so(bad: Tokenize | Detokenize) -> None:
    with pytest.raises(LinkError, match="cannot be sent"):
        frame(bad)


@pytest.mark.parametrize(
    "error",
    [
        GrammarError("bad", keyword="minimum", pointer="/a/0", hint="mend it"),
        GrammarError("bad", position=3),
        ModelFileError("broken", path="/m", where="offset 3", hint="pull it again"),
        *(kind("what", hint="do") for kind in vars(errors).values()
          if isinstance(kind, type) and issubclass(kind, SgenError)),
    ],
)  # fmt: skip
def test_errors_arrive_as_they_were_raised(error: SgenError) -> None:
    (body,) = Frames().feed(frame(Failed(1, failure_of(error))))
    news = news_of(body)
    assert isinstance(news, Failed)
    found = error_of(news.failure)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)


def test_an_error_of_a_class_of_its_own_arrives_as_the_nearest_that_is_known() -> None:
    class OddError(GrammarError):
        pass

    failure = failure_of(OddError("odd", keyword="k"))
    assert failure.kind == "GrammarError"
    failure.details["usage"] = "unknown attributes are left out"
    assert not hasattr(error_of(failure), "usage")


def test_a_chunk_costs_few_bytes() -> None:
    chunks = Chunks([(1000 + i, Chunk(text=" hello", token_ids=(1234,))) for i in range(16)])
    assert len(frame(chunks)) < 16 * 120

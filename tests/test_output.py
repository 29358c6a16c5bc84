"""Output: whole characters, stop strings, ends, and token ids that spell the text."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import EOS, VOCABULARY, DigitsMatcher, encode
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sgen.errors import SgenError
from sgen.grammars.vocabulary import Vocabulary
from sgen.protocol import Chunk, SamplingParams
from sgen.runtime.output import OutputStream, Speller, StopStrings
from sgen.runtime.sampling import Sampled

SPELLER = Speller(VOCABULARY)
ABC = VOCABULARY.token_bytes.index(b"abc")
NIHON = VOCABULARY.token_bytes.index("日本".encode())


def stream_of(params: SamplingParams, matcher: DigitsMatcher | None = None) -> OutputStream:
    return OutputStream(SPELLER, params, params.max_tokens or 1000, matcher)


def feed(stream: OutputStream, tokens: list[int]) -> list[Chunk]:
    """Chunks of the tokens, up to the end of the output."""
    chunks = []
    for token in tokens:
        chunk = stream.push(Sampled(token))
        if chunk is not None:
            chunks.append(chunk)
        if stream.finish_reason is not None:
            break
    return chunks


def text_of(chunks: list[Chunk]) -> str:
    return "".join(c.text for c in chunks)


def ids_of(chunks: list[Chunk]) -> list[int]:
    return [t for c in chunks for t in c.token_ids]


def spelled(tokens: list[int]) -> bytes:
    return b"".join(VOCABULARY.token_bytes[t] for t in tokens)


# -- stop strings ---------------------------------------------------------------------------


def run_stops(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, str | None, list[str]]:
    """The text shown, the stop that matched, and what was shown after each piece."""
    finder = StopStrings(stops)
    shown: list[str] = []
    for piece in pieces:
        text, stop = finder.push(piece)
        shown.append(text)
        if stop is not None:
            return "".join(shown), stop, shown
    shown.append(finder.flush())
    return "".join(shown), None, shown


def test_a_stop_string_over_pieces_holds_back_only_what_may_be_its_beginning() -> None:
    assert run_stops(("END",), ["one E", "N", "D two"]) == ("one ", "END", ["one ", "", ""])
    assert run_stops(("END",), ["one E", "Nd"]) == ("one ENd", None, ["one ", "ENd", ""])
    assert run_stops(("END",), ["aE", "E", "END"])[2] == ["a", "E", "E"]
    assert run_stops(("aab",), ["aaa", "b"]) == ("a", "aab", ["a", ""])
    assert run_stops(("END",), ["one EN"]) == ("one EN", None, ["one ", "EN"])


def test_the_stop_that_is_complete_first_wins_whatever_the_pieces() -> None:
    for pieces in (["xabcd"], ["xab", "cd"], list("xabcd")):
        assert run_stops(("abc", "b"), pieces)[:2] == ("xa", "b")
        assert run_stops(("bc", "abc"), pieces)[:2] == ("x", "abc")


def plain_stop(stops: tuple[str, ...], text: str) -> tuple[str, str | None]:
    """The definition, character by character."""
    for end in range(1, len(text) + 1):
        found = [s for s in stops if text[:end].endswith(s)]
        if found:
            stop = max(found, key=len)
            return text[: end - len(stop)], stop
    return text, None


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3).map(tuple),
    pieces=st.lists(st.text("ab", max_size=4), max_size=8),
)
def test_stops_do_not_depend_on_the_pieces(stops: tuple[str, ...], pieces: list[str]) -> None:
    text, stop, shown = run_stops(stops, pieces)
    assert (text, stop) == plain_stop(stops, "".join(pieces))
    seen, sent = "", ""
    for piece, out in zip(pieces, shown, strict=False):
        seen, sent = seen + piece, sent + out
        if stop is not None and plain_stop(stops, seen)[1] is not None:
            break
        held = seen[len(sent) :]
        longest = max((k for s in stops for k in range(len(s)) if seen.endswith(s[:k])), default=0)
        assert len(held) == longest, "held back too much or too little"


# -- characters -----------------------------------------------------------------------------


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.sampled_from([*range(256), 257, ABC, NIHON]), max_size=20))
def test_chunks_decode_like_the_whole(tokens: list[int]) -> None:
    stream = stream_of(SamplingParams())
    chunks = [*feed(stream, tokens), stream.end("length")]
    assert text_of(chunks) == spelled(tokens).decode("utf-8", "replace")
    assert ids_of(chunks) == tokens


def test_no_half_characters() -> None:
    stream = stream_of(SamplingParams())
    chunks = feed(stream, encode("a😀é"))
    assert [c.text for c in chunks] == ["a", "😀", "é"]
    assert [len(c.token_ids) for c in chunks] == [1, 4, 2]


def test_a_sequence_cut_short_becomes_a_replacement_character() -> None:
    stream = stream_of(SamplingParams(max_tokens=3))
    chunks = feed(stream, encode("a😀"))
    assert text_of(chunks) == "a\ufffd"
    assert chunks[-1].finish_reason == "length"
    assert ids_of(chunks) == encode("a😀")[:3]


# -- ids spell the text ---------------------------------------------------------------------


def test_a_stop_inside_a_token_leaves_ids_that_spell_the_text() -> None:
    stream = stream_of(SamplingParams(stop=("c",)))
    chunks = feed(stream, [*encode("x"), ABC])
    assert text_of(chunks) == "xab"
    assert spelled(ids_of(chunks)) == b"xab"
    assert chunks[-1].stop == "c"
    stream = stream_of(SamplingParams(stop=("本",)))
    chunks = feed(stream, [NIHON])
    assert spelled(ids_of(chunks)).decode() == text_of(chunks) == "日"


def test_a_stop_after_half_a_character_drops_the_half() -> None:
    half = encode("é")
    token = Vocabulary([b"a" + bytes(half[:1]), bytes(half[1:]), b"a"], eos_ids=[])
    stream = OutputStream(Speller(token), SamplingParams(stop=("é",)), 100)
    chunks = feed(stream, [0, 1])
    assert text_of(chunks) == "a"
    assert ids_of(chunks) == [2]


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    stops=st.lists(st.text("abcé日", min_size=1, max_size=3), min_size=1, max_size=2).map(tuple),
    tokens=st.lists(st.sampled_from([*b"abc", 0xC3, 0xA9, 257, ABC, NIHON]), max_size=12),
)
def test_ids_always_spell_valid_text(stops: tuple[str, ...], tokens: list[int]) -> None:
    stream = stream_of(SamplingParams(stop=stops))
    chunks = feed(stream, tokens)
    if stream.finish_reason is None:
        chunks.append(stream.end("length"))
    whole = spelled(tokens).decode("utf-8", "replace")
    assert text_of(chunks) == plain_stop(stops, whole)[0]
    if "\ufffd" not in whole:
        assert spelled(ids_of(chunks)).decode() == text_of(chunks)


def test_spelling_without_the_bytes_for_it_is_refused() -> None:
    speller = Speller(Vocabulary([b"ab", b"abc", b"c"], eos_ids=[]))
    assert speller.spell(b"abcc") == (1, 2)
    assert speller.spell(b"abb") is None
    assert speller.spell(b"") == ()


# -- ends -----------------------------------------------------------------------------------


def test_eos_ends_and_is_not_part_of_the_output() -> None:
    stream = stream_of(SamplingParams())
    chunks = feed(stream, [*encode("hi"), EOS])
    assert ids_of(chunks) == encode("hi")
    assert stream.finish_reason == "stop"
    assert stream.num_tokens == 3
    stream = stream_of(SamplingParams(ignore_eos=True))
    chunks = feed(stream, [*encode("hi"), EOS, *encode("!")])
    assert text_of(chunks) == "hi!"
    assert stream.finish_reason is None


def test_stop_tokens_end_and_are_left_out() -> None:
    stream = stream_of(SamplingParams(stop_token_ids=(ord("!"),)))
    chunks = feed(stream, encode("hi!x"))
    assert text_of(chunks) == "hi"
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].stop is None


def test_eos_flushes_what_a_stop_string_held_back() -> None:
    stream = stream_of(SamplingParams(stop=("END",)))
    assert text_of(feed(stream, [*encode("xEN"), EOS])) == "xEN"


def test_max_tokens_is_length_unless_constrained_text_is_complete() -> None:
    stream = stream_of(SamplingParams(max_tokens=2))
    assert feed(stream, encode("abc"))[-1].finish_reason == "length"
    stream = stream_of(SamplingParams(max_tokens=2), DigitsMatcher(1, 5))
    assert feed(stream, encode("123"))[-1].finish_reason == "stop"
    stream = stream_of(SamplingParams(max_tokens=2, finish="truncate"), DigitsMatcher(3, 5))
    assert feed(stream, encode("123"))[-1].finish_reason == "length"


def test_a_finished_grammar_ends_the_output_by_itself() -> None:
    stream = stream_of(SamplingParams(), DigitsMatcher(2, 2))
    chunks = feed(stream, encode("123"))
    assert text_of(chunks) == "12"
    assert chunks[-1].finish_reason == "stop"


def test_eos_ends_constrained_output_even_if_it_is_to_be_ignored() -> None:
    stream = stream_of(SamplingParams(ignore_eos=True), DigitsMatcher(1, 9))
    chunks = feed(stream, [*encode("1"), EOS])
    assert chunks[-1].finish_reason == "stop"
    assert ids_of(chunks) == encode("1")


def test_the_matcher_is_told_what_remains() -> None:
    matcher = DigitsMatcher(1, 5)
    stream = stream_of(SamplingParams(max_tokens=5), matcher)
    stream.allowed()
    feed(stream, encode("12"))
    stream.allowed()
    assert matcher.asked == [5, 3]
    matcher = DigitsMatcher(1, 5)
    stream_of(SamplingParams(max_tokens=5, finish="truncate"), matcher).allowed()
    assert matcher.asked == [None]
    assert stream_of(SamplingParams()).allowed() is None


def test_a_matcher_that_contradicts_its_mask_is_an_error() -> None:
    with pytest.raises(SgenError, match="cannot accept"):
        stream_of(SamplingParams(), DigitsMatcher(1, 5)).push(Sampled(ord("x")))


def test_logprobs_come_with_their_tokens() -> None:
    stream = stream_of(SamplingParams(logprobs=1, stop=("zz",)))
    first = stream.push(Sampled(ord("a"), -0.5, ((ord("a"), -0.5),)))
    assert first is not None
    assert [(t.token, t.text, t.logprob) for t in first.logprobs] == [(97, "a", -0.5)]
    assert stream.push(Sampled(ord("z"), -1.0)) is None
    last = stream.end("length")
    assert [t.token for t in last.logprobs] == list(last.token_ids) == [ord("z")]


def test_a_token_beyond_the_vocabulary_adds_nothing() -> None:
    stream = stream_of(SamplingParams())
    assert text_of(feed(stream, [5000, *encode("a")])) == "a"


def test_a_special_token_shows_its_name_where_a_grammar_asked_for_it() -> None:
    """As `[TOOL_CALLS]` begins calls: the text of an output is one that the grammar has."""
    words = Vocabulary([*VOCABULARY.token_bytes], [EOS], {257: "[CALL]"})
    shown = OutputStream(Speller(words), SamplingParams(), 8, _AnyMatcher())
    assert text_of(feed(shown, [ord("a"), 257])) == "a[CALL]"
    hidden = OutputStream(Speller(words), SamplingParams(), 8)
    assert text_of(feed(hidden, [ord("a"), 257])) == "a"


class _AnyMatcher(DigitsMatcher):
    """Takes every token, and never ends."""

    def __init__(self) -> None:
        super().__init__(0, 8)

    def accept(self, token: int) -> bool:
        return True

    def is_accepting(self) -> bool:
        return False

    def is_finished(self) -> bool:
        return False


def test_a_complete_text_ends_where_the_model_leaves_the_grammar() -> None:
    stream = OutputStream(SPELLER, SamplingParams(), 8, DigitsMatcher(2, 6))
    assert stream.allowed() is not None, "the first token is always the grammar's"
    stream.push(Sampled(ord("1")))
    assert stream.allowed() is not None, "incomplete: one digit of two"
    stream.push(Sampled(ord("2")))
    assert stream.allowed() is None, "complete: the model may choose anything"
    chunk = stream.push(Sampled(ord("\n")))
    assert chunk is not None
    assert (chunk.finish_reason, chunk.text) == ("stop", "")
    assert stream.num_tokens == 3, "the token that left was sampled, and counts as EOS does"


def test_a_complete_text_goes_on_while_the_model_stays_in_the_grammar() -> None:
    stream = OutputStream(SPELLER, SamplingParams(), 8, DigitsMatcher(1, 3))
    shown = ""
    for digit in "123":
        stream.allowed()
        chunk = stream.push(Sampled(ord(digit)))
        shown += chunk.text if chunk is not None else ""
    assert (shown, stream.finish_reason) == ("123", "stop")


class _QuotedMatcher(_AnyMatcher):
    """A quote, then anything."""

    def allowed(self, remaining: int | None = None) -> NDArray[np.uint32]:
        bits = np.zeros(-(-self.vocab_size // 32) * 32, dtype=np.uint8)
        bits[ord('"') if self.seen == 0 else slice(0, 300)] = 1
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def accept(self, token: int) -> bool:
        self.seen += 1
        return True


def test_chunks_tell_which_tokens_were_the_only_ones_allowed() -> None:
    stream = OutputStream(SPELLER, SamplingParams(), 8, _QuotedMatcher())
    forced = []
    for token in (ord('"'), ABC, ord('"')):
        stream.allowed()
        chunk = stream.push(Sampled(token))
        assert chunk is not None
        forced.append(chunk.forced)
    assert forced == [(0,), (), ()]


def test_leaving_is_not_possible_before_the_first_token() -> None:
    stream = OutputStream(SPELLER, SamplingParams(), 8, DigitsMatcher(0, 3))
    mask = stream.allowed()
    assert mask is not None
    assert not mask[ord("\n") // 32] >> (ord("\n") % 32) & 1

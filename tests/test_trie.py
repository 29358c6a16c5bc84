"""The token trie: every text where its bytes lead."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.grammars.trie import Trie

TEXTS = st.one_of(st.binary(max_size=4), st.text("ab", max_size=5).map(str.encode))


def spelled(trie: Trie) -> list[bytes]:
    """The bytes on the way to each node."""
    texts = [b""] * len(trie)
    for node in range(len(trie)):
        for child in range(trie.first[node], trie.first[node + 1]):
            texts[child] = texts[node] + bytes([trie.byte[child]])
    return texts


@settings(max_examples=100, derandomize=True, deadline=None)
@given(texts=st.dictionaries(st.integers(0, 99), TEXTS))
def test_every_text_has_its_node(texts: dict[int, bytes]) -> None:
    trie = Trie.of(texts)
    assert trie.holds(100)
    found = spelled(trie)
    assert len(set(found)) == len(trie)
    assert set(found) == {t[:i] for t in texts.values() for i in range(len(t) + 1)} | {b""}
    depths = [len(text) for text in found]
    assert depths == sorted(depths)
    for depth in range(len(trie.levels) - 1):
        assert set(depths[trie.levels[depth] : trie.levels[depth + 1]]) == {depth}
        level = found[trie.levels[depth] : trie.levels[depth + 1]]
        assert level == sorted(level)
    for node, text in enumerate(found):
        items = trie.items[trie.ends[node] : trie.ends[node + 1]].tolist()
        assert items == sorted(i for i, t in texts.items() if t == text)


def test_arrays_that_do_not_fit() -> None:
    trie = Trie.of({0: b"ab", 7: b"b"})
    assert trie.holds(8)
    assert not trie.holds(7)

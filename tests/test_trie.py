"""The token trie: every token where its bytes lead."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.grammars.trie import TokenTrie


def spelled(trie: TokenTrie) -> list[bytes]:
    """The bytes on the way to each node."""
    texts = [b""]
    inner = [b""] if trie.levels[0].inner.size else []
    for above, level in zip(trie.levels, trie.levels[1:], strict=False):
        parents = [inner[p] for p in level.parent.tolist()]
        here = [p + bytes([b]) for p, b in zip(parents, level.byte.tolist(), strict=True)]
        for i, text in enumerate(inner):  # the same family, told from above
            children = here[above.children[i] : above.children[i + 1]]
            assert children
            assert all(child[:-1] == text for child in children)
        assert level.start == len(texts)
        texts += here
        inner = [here[i] for i in level.inner.tolist()]
    assert inner == []
    return texts


@settings(max_examples=100, derandomize=True, deadline=None)
@given(tokens=st.lists(st.one_of(st.binary(max_size=4), st.text("ab", max_size=5).map(str.encode))))
def test_every_token_has_its_node(tokens: list[bytes]) -> None:
    trie = TokenTrie(tokens)
    texts = spelled(trie)
    assert len(texts) == len(trie) == len(set(texts))
    assert [texts[n] for n in trie.node_of.tolist()] == tokens
    prefixes = {t[:i] for t in tokens for i in range(len(t) + 1)} | {b""}
    assert set(texts) == prefixes

"""Buckets and padding of decode graphs; a capture that just computes again stands for CUDA's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from sgen.runtime.batch import PAGE_SIZE, Batch
from sgen.runtime.weights import load_weights, open_source, read_config
from tests.batches import batch_of
from tests.builders import tiny_hf_config, tiny_hf_tensors, write_hf_folder

if TYPE_CHECKING:
    from sgen.runtime.models.triton import TritonDecoder

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (the extra `gpu`)"
)


def computing_again(
    compute: Callable[[], torch.Tensor],
) -> tuple[Callable[[], None], torch.Tensor]:
    result = compute()

    def replay() -> None:
        result.copy_(compute())

    return replay, result


def models(
    folder: Path, window: int | None = None, deterministic: bool = False
) -> tuple[TritonDecoder, TritonDecoder]:
    """The same model, with graphs and without."""
    from sgen.runtime.models.triton import TritonDecoder

    kind = "mistral" if window else "llama"
    config = tiny_hf_config(
        kind, head_dim=16, sliding_window=window, max_position_embeddings=2048, num_hidden_layers=1
    )
    with open_source(write_hf_folder(folder, config, tiny_hf_tensors(config))) as source:
        read = read_config(source)
        weights = load_weights(source, read)
    with_graphs, without = (
        TritonDecoder(
            read,
            weights,
            device="cpu",
            dtype=torch.float32,
            deterministic=deterministic,
            capture=capture,
        )
        for capture in (computing_again, None)
    )
    return with_graphs, without


def decode(lengths: Sequence[int], first_pages: Sequence[int] | None = None) -> Batch:
    requests = [[(7 * b + i) % 48 for i in range(n)] for b, n in enumerate(lengths)]
    return batch_of(requests, computed=[n - 1 for n in lengths], first_pages=first_pages)


def test_buckets() -> None:
    from sgen.runtime.models.graphs import bucket

    assert [bucket(n) for n in (1, 2, 3, 4, 5, 9, 64, 65)] == [1, 2, 4, 4, 8, 16, 64, 128]


@pytest.mark.parametrize(("window", "deterministic"), [(None, False), (20, False), (None, True)])
def test_replays_equal_launches(window: int | None, deterministic: bool, tmp_path: Path) -> None:
    graphs, launches = models(tmp_path, window, deterministic)
    caches = [graphs.allocate(60), launches.allocate(60)]
    for x in (caches[0].keys, caches[0].values):
        x.normal_(generator=torch.Generator().manual_seed(1))
    caches[1].keys.copy_(caches[0].keys)
    caches[1].values.copy_(caches[0].values)
    # Three in a bucket of four, longer and shorter; then over the end of a split.
    for lengths in ([5, 40, 17], [200, 3, 33], [100, 7], [300, 4, 5], [513], [600]):
        batch = decode(lengths)
        got, want = (m.forward(batch, c) for m, c in zip((graphs, launches), caches, strict=True))
        assert got.shape == want.shape == (len(lengths), 48)
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)
    assert caches[0].graphs is not None
    assert caches[0].graphs.captured == [(4, 1), (2, 1), (4, 2), (1, 4)]
    assert caches[1].graphs is None
    for a, b in ((caches[0].keys, caches[1].keys), (caches[0].values, caches[1].values)):
        torch.testing.assert_close(a[:, :60], b[:, :60], atol=1e-5, rtol=1e-5)
        assert not torch.equal(a[:, 60], b[:, 60]), "padding went elsewhere"


def test_what_padding_writes_reaches_nobody(tmp_path: Path) -> None:
    graphs, _ = models(tmp_path)
    cache = graphs.allocate(6)
    before = cache.keys.clone()
    logits = graphs.forward(decode([18, 2, 1], [0, 2, 4]), cache)
    cache.keys[:, cache.scratch_page] = torch.nan
    cache.values[:, cache.scratch_page] = torch.nan
    again = graphs.forward(decode([18, 2, 1], [0, 2, 4]), cache)
    assert torch.isfinite(logits).all()
    assert torch.equal(again, logits)
    changed = (cache.keys[0, :-1] != before[0, :-1]).flatten(2).any(-1).nonzero().tolist()
    assert changed == [[1, 1], [2, 1], [4, 0]]
    assert cache.scratch_page == 6 == cache.num_pages
    assert cache.keys.shape[1:3] == (7, PAGE_SIZE)


def test_steps_that_graphs_are_not_for(tmp_path: Path) -> None:
    graphs, _ = models(tmp_path)
    cache = graphs.allocate(8)
    assert cache.graphs is not None
    assert cache.graphs.takes(decode([3, 4]))
    assert not cache.graphs.takes(batch_of([[1, 2], [3]]))
    assert not cache.graphs.takes(batch_of([[1, 2, 3], [4, 5]], computed=[2, 0]))
    graphs.forward(batch_of([[1, 2], [3]]), cache)
    assert cache.graphs.captured == []


def test_logits_of_the_rows_that_are_asked_for(tmp_path: Path) -> None:
    graphs, launches = models(tmp_path)
    batch = decode([5, 6, 7])
    fewer = Batch(
        batch.tokens, batch.positions, batch.slots, batch.cu_seqlens_q, batch.page_table,
        batch.seq_lens, torch.tensor([2]),
    )  # fmt: skip
    got = graphs.forward(fewer, graphs.allocate(4))
    want = launches.forward(fewer, launches.allocate(4))
    assert got.shape == (1, 48)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)

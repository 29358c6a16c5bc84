"""The decoder on a device against the torch decoder, on a CPU under Triton's interpreter."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from fakes import VOCAB_SIZE, VOCABULARY, Sink

from sgen.errors import UnsupportedModelError
from sgen.protocol import SamplingParams
from sgen.runtime.batch import PAGE_SIZE
from sgen.runtime.compute import Compute
from sgen.runtime.config import ModelConfig
from sgen.runtime.engine import EngineCore
from sgen.runtime.loader import load_model
from sgen.runtime.models.decoder import Decoder
from sgen.runtime.scheduler import Limits
from sgen.runtime.weights import Weights, load_weights, open_source, read_config
from tests.batches import batch_of
from tests.builders import GGUFBuilder, tiny_gguf, tiny_hf_config, tiny_hf_tensors, write_hf_folder

if TYPE_CHECKING:
    from sgen.runtime.models.triton import TritonDecoder

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (the extra `gpu`)"
)

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama-biases": ("llama", {"attention_bias": True, "tie_word_embeddings": False}),
    "mistral-window": ("mistral", {"sliding_window": 9}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
}


def load(path: Path) -> tuple[ModelConfig, Weights]:
    with open_source(path) as source:
        config = read_config(source)
        return config, load_weights(source, config)


def family(name: str, folder: Path, **more: Any) -> tuple[ModelConfig, Weights]:
    kind, changes = FAMILIES[name]
    config = tiny_hf_config(kind, head_dim=16, **changes, **more)
    tensors = tiny_hf_tensors(config)
    for weight, tensor in tensors.items():  # so that no row of attention is all of one key
        tensors[weight] = tensor * 0.3 if tensor.ndim == 2 else tensor
    if config.get("attention_bias"):
        generator = torch.Generator().manual_seed(1)
        for weight, tensor in list(tensors.items()):
            if "self_attn" in weight:
                bias = torch.randn(len(tensor), generator=generator)
                tensors[weight.replace("weight", "bias")] = bias
    return load(write_hf_folder(folder, config, tensors))


def on_device(
    config: ModelConfig, weights: Weights, dtype: torch.dtype = torch.float32, **options: Any
) -> TritonDecoder:
    from sgen.runtime.models.triton import TritonDecoder

    return TritonDecoder(config, weights, device="cpu", dtype=dtype, **options)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_logits_of_prefill_and_mixed_steps(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    config, weights = family(name, tmp_path)
    want, got = Decoder(config, weights), on_device(config, weights, dtype)
    caches: list[Any] = [want.allocate(8), got.allocate(8)]
    # The two go on in pages that are apart, one by a token, and a third begins.
    steps = [
        batch_of([range(20), range(5, 38)], first_pages=[0, 2]),
        batch_of([range(21), range(5, 46), [7]], computed=[20, 33, 0], first_pages=[0, 2, 5]),
    ]
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for batch in steps:
        a, b = want.forward(batch, caches[0]), got.forward(batch, caches[1])
        assert b.dtype == torch.float32
        assert a.abs().max() > 10 * tolerance
        torch.testing.assert_close(b, a, atol=tolerance * float(a.abs().max()), rtol=0)


@pytest.mark.parametrize("kind", ["F16", "Q4_0", "Q4_1", "Q8_0", "IQ4_NL", "Q4_K", "Q6_K"])
def test_stored_forms(kind: str, tmp_path: Path) -> None:
    config, weights = load(tiny_gguf("qwen2", kind=kind).write(tmp_path / "m.gguf"))
    want, got = Decoder(config, weights), on_device(config, weights)
    batch = batch_of([[3, 1, 4, 1, 5, 9, 2, 6]])
    a, b = want.forward(batch, want.allocate(1)), got.forward(batch, got.allocate(1))
    torch.testing.assert_close(b, a, atol=1e-5 * float(a.abs().max()), rtol=0)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_quantized_keys_and_values(kind: Any, tmp_path: Path) -> None:
    config, weights = family("qwen3", tmp_path)
    want = Decoder(config, weights, kv_cache_dtype=kind)
    got = on_device(config, weights, kv_cache_dtype=kind)
    assert got.kv_bytes_per_token == want.kv_bytes_per_token
    plain = on_device(config, weights)
    batch = batch_of([range(40)])
    a, b = want.forward(batch, want.allocate(3)), got.forward(batch, got.allocate(3))
    assert not torch.equal(b, plain.forward(batch, plain.allocate(3)))
    torch.testing.assert_close(b, a, atol=1e-4 * float(a.abs().max()), rtol=0)


@pytest.mark.parametrize("name", ["qwen3", "mistral-window"])
def test_the_company_changes_no_bit(name: str, tmp_path: Path) -> None:
    config, weights = family(name, tmp_path)
    model = on_device(config, weights, deterministic=True)
    assert "deterministic" in model.description
    requests = [[*range(18)], [5], [*range(10, 13)]]
    together = model.forward(batch_of(requests), model.allocate(5))
    alone = [model.forward(batch_of([r]), model.allocate(2)) for r in requests]
    assert torch.equal(together, torch.cat(alone))
    backwards = model.forward(batch_of(requests[::-1]), model.allocate(5))
    assert torch.equal(backwards[-18:], alone[0])


@pytest.mark.parametrize("kind", [None, "fp8"])
def test_copied_pages_hold_the_same_keys_and_values(kind: Any, tmp_path: Path) -> None:
    config, weights = family("llama", tmp_path)
    model = on_device(config, weights, kv_cache_dtype=kind)
    cache = model.allocate(8)
    tokens = list(range(40))
    want = model.forward(batch_of([tokens]), cache)[-1]
    again = batch_of([tokens], computed=[39], first_pages=[4])
    before = model.forward(again, cache)[-1]
    assert not torch.equal(before, want)
    for page in range(3):
        cache.copy_page(page, page + 4)
    torch.testing.assert_close(model.forward(again, cache)[-1], want, atol=1e-5, rtol=1e-5)


def test_a_cache_is_as_large_as_it_says(tmp_path: Path) -> None:
    config, weights = family("llama", tmp_path)
    model = on_device(config, weights, torch.float16, kv_cache_dtype="int8")
    cache = model.allocate(3)
    assert cache.scales is not None
    tensors = [cache.keys, cache.values, *cache.scales]
    with_scratch = sum(x.nbytes for x in tensors)
    assert with_scratch == model.kv_bytes_per_token * 4 * PAGE_SIZE


@pytest.mark.parametrize("graphs", [False, True])
def test_an_engine_generates_the_same_as_on_the_torch_path(graphs: bool, tmp_path: Path) -> None:
    """Prompts with a common prefix, a copied page, requests that begin while others decode."""
    config, weights = family("qwen3", tmp_path, vocab_size=VOCAB_SIZE)
    outputs = []
    captured: list[int] = []

    def capture(compute: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        result = compute()
        captured.append(len(result))

        def replay() -> None:
            result.copy_(compute())

        return replay, result

    on = on_device(config, weights, capture=capture if graphs else None)
    models: list[Decoder | TritonDecoder] = [Decoder(config, weights), on]
    for model in models:
        core = EngineCore(model, VOCABULARY, 12, limits=Limits(max_running=3), debug=True)
        sinks = [Sink() for _ in range(4)]
        for i, sink in enumerate(sinks):
            prompt = [*range(24), 30 + i, *range(i)]
            params = SamplingParams(max_tokens=4 + i, ignore_eos=True)
            core.submit(
                prompt, params, request_id=f"{i}", on_chunk=sink.on_chunk, on_error=sink.on_error
            )
        while core.has_work:
            core.step()
        assert not any(sink.errors for sink in sinks)
        outputs.append([[t for c in sink.chunks for t in c.token_ids] for sink in sinks])
    assert [len(tokens) for tokens in outputs[0]] == [4, 5, 6, 7]
    assert outputs[0] == outputs[1]
    assert sorted(captured) == ([1, 2, 4] if graphs else [])


def with_merges(builder: GGUFBuilder) -> GGUFBuilder:
    """What a tokenizer is not made without."""
    builder.set("tokenizer.ggml.merges", [])
    return builder


def test_loading_for_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sgen.runtime.models.triton import TritonDecoder

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    path = with_merges(tiny_gguf(kind="Q8_0")).write(tmp_path / "m.gguf")
    model = load_model(path, compute=Compute("triton", kv_cache_dtype="fp8", deterministic=True))
    assert isinstance(model.model, TritonDecoder)
    assert "KV fp8, deterministic" in model.model.description
    small = with_merges(tiny_gguf(head_dim=8)).write(tmp_path / "small.gguf")
    with pytest.raises(UnsupportedModelError, match="heads of 8 dimensions"):
        load_model(small, compute=Compute("triton"))

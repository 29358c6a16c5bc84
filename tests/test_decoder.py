"""Both decoders against transformers: small random models of every family, saved as folders.

Their weights are floats, which the native decoder computes in fp32 as well.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sgen.runtime import packed
from sgen.runtime.batch import Batch
from sgen.runtime.compute import Compute, ComputePath, KVCacheDtype
from sgen.runtime.models.decoder import Decoder
from sgen.runtime.models.native import NativeDecoder
from sgen.runtime.packed import packed_weights
from sgen.runtime.weights import load_weights, open_source, read_config
from tests.batches import batch_of

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 2048,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama-mqa-untied-biases": (
        "Llama",
        {
            "num_key_value_heads": 1,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "rope_parameters": LLAMA3,
        },
    ),
    "mistral-window": ("Mistral", {"sliding_window": 24, "head_dim": 32}),
    "qwen2-yarn": ("Qwen2", {"rope_parameters": YARN}),
    "qwen3": ("Qwen3", {"head_dim": 32, "num_key_value_heads": 4}),
}


def reference(family: str) -> transformers.PreTrainedModel:
    name, change = FAMILIES[family]
    torch.manual_seed(1)
    config = getattr(transformers, f"{name}Config")(**(SIZES | change))
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():  # biases start at 0, norms at 1: make every tensor matter
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1) * 0.7)
    return model


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed weights of these models are not for the user's cache; the compiled code is."""
    monkeypatch.setattr(packed, "cache_folder", lambda: tmp_path / "cache")


def ours(
    folder: Path, path: ComputePath, kind: KVCacheDtype = "fp32", threads: int = 2
) -> Decoder | NativeDecoder:
    with open_source(folder) as source:
        config = read_config(source)
        if path == "torch":
            return Decoder(config, load_weights(source, config), kv_cache_dtype=kind)
        library = Compute().library()
        if library is None:
            pytest.skip("there is no native code on this machine")
        weights = packed_weights(source, config)
        return NativeDecoder(
            library, config, weights, isa="any", threads=threads, kv_cache_dtype=kind
        )


each_path = pytest.mark.parametrize("path", ["torch", "native"])


@each_path
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_equal_transformers(
    family: str, dtype: torch.dtype, path: ComputePath, tmp_path: Path
) -> None:
    stored = reference(family).to(dtype)
    stored.save_pretrained(tmp_path, max_shard_size="60KB" if dtype == torch.float32 else "5GB")
    # Read back, since casting a model to bf16 also rounds its rotary frequencies.
    theirs = type(stored).from_pretrained(tmp_path, dtype=torch.float32)
    assert dtype != torch.float32 or (tmp_path / "model.safetensors.index.json").exists()
    model = ours(tmp_path, path)
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(0, 320, (n,), generator=generator).tolist() for n in (1, 16, 47, 130)]
    got = model.forward(batch_of(prompts), model.allocate(40))
    with torch.inference_mode():
        want = [theirs(torch.tensor([p])).logits[0] for p in prompts]
    torch.testing.assert_close(got, torch.cat(want), atol=2e-4, rtol=1e-4)


@each_path
def test_chunks_and_neighbours_change_no_bit(path: ComputePath, tmp_path: Path) -> None:
    reference("mistral-window").save_pretrained(tmp_path)
    model = ours(tmp_path, path)
    tokens = torch.randint(0, 320, (301,), generator=torch.Generator().manual_seed(3)).tolist()
    whole = model.forward(batch_of([tokens]), model.allocate(20)).clone()
    for size in (1, 7, 64):
        cache = model.allocate(20)
        parts: list[Batch] = [
            batch_of([tokens[: min(start + size, 301)]], computed=[start])
            for start in range(0, 301, size)
        ]
        got = torch.cat([model.forward(b, cache).clone() for b in parts])
        assert torch.equal(got, whole), size
    crowd = model.forward(batch_of([tokens[:5], tokens, tokens[100:190]]), model.allocate(40))
    assert torch.equal(crowd[5:306], whole)


@each_path
def test_two_threads_with_caches_of_their_own(path: ComputePath, tmp_path: Path) -> None:
    """As two engines on one loaded model."""
    reference("llama").save_pretrained(tmp_path)
    model = ours(tmp_path, path)
    prompts = [list(range(i, i + 40)) for i in (0, 100)]
    want = [model.forward(batch_of([p]), model.allocate(4)).clone() for p in prompts]
    wrong: list[int] = []

    def run(i: int) -> None:
        cache = model.allocate(4)
        for _ in range(20):
            got = model.forward(batch_of([prompts[i]]), cache)
            if not torch.equal(got, want[i]):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(("kind", "bound"), [("int8", 0.02), ("fp8", 0.06)])
def test_quantized_keys_and_values_change_little(
    kind: KVCacheDtype, bound: float, tmp_path: Path
) -> None:
    """Relative to the spread of the logits; and a request's bits do not depend on its company."""
    reference("llama").save_pretrained(tmp_path)
    exact, model = ours(tmp_path, "torch"), ours(tmp_path, "torch", kind)
    tokens = torch.randint(0, 320, (200,), generator=torch.Generator().manual_seed(4)).tolist()
    want = exact.forward(batch_of([tokens]), exact.allocate(13))
    got = model.forward(batch_of([tokens]), model.allocate(13))
    error = float((got - want).std() / want.std())
    assert 0 < error < bound
    crowd = model.forward(batch_of([tokens[:9], tokens]), model.allocate(20))
    assert torch.equal(crowd[9:], got)
    assert model.kv_bytes_per_token < exact.kv_bytes_per_token / 3


@pytest.mark.parametrize(
    ("path", "kind"), [("torch", "fp32"), ("torch", "int8"), ("torch", "fp8"), ("native", "bf16")]
)
def test_copied_pages_hold_the_same_keys_and_values(
    path: ComputePath, kind: KVCacheDtype, tmp_path: Path
) -> None:
    reference("qwen3").save_pretrained(tmp_path)
    model = ours(tmp_path, path, kind)
    tokens = list(range(40))
    cache = model.allocate(8)
    want = model.forward(batch_of([tokens]), cache)[-1].clone()
    for page in range(3):
        cache.copy_page(page, page + 4)
    again = batch_of([tokens], computed=[39], first_pages=[4])
    assert torch.equal(model.forward(again, cache)[-1], want)

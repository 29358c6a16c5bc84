"""Loading: the same weights as transformers loads, under the same names; nothing left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import (
    GGUFBuilder,
    Stored,
    random_blocks,
    tiny_gguf,
    tiny_hf_config,
    tiny_hf_tensors,
    write_hf_folder,
)
from torch import Tensor
from transformers import AutoModelForCausalLM

from sgen.errors import ModelFileError, UnsupportedModelError
from sgen.runtime.config import ModelConfig, RopeConfig
from sgen.runtime.config_hf import config_from_hf
from sgen.runtime.gguf import GGUFFile
from sgen.runtime.quant import QuantTensor
from sgen.runtime.weights import (
    Weights,
    half_split_order,
    load_weights,
    open_source,
    read_config,
)


def load(path: Path) -> Weights:
    with open_source(path) as source:
        return load_weights(source, read_config(source))


def dense(weight: QuantTensor | Tensor) -> Tensor:
    return weight.dequantize() if isinstance(weight, QuantTensor) else weight


def assert_same(weights: Weights, state: dict[str, Tensor], *, tied: bool) -> None:
    """Every tensor of transformers' model is there, equal bit for bit, and no other."""
    names = set(state) - {"lm_head.weight"} if tied else set(state)
    assert set(weights) == names
    for name in names:
        ours = dense(weights[name])
        assert ours.dtype == torch.float32
        assert torch.equal(ours, state[name].float()), name


def transformers_state(path: Path) -> dict[str, Tensor]:
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    state: dict[str, Tensor] = model.state_dict()
    return state


def first_layers(path: Path, layers: int, target: Path) -> Path:
    """The first layers of a llama, without the vocabulary: transformers reads slowly."""
    builder = GGUFBuilder()
    with GGUFFile.open(path) as file:
        for key, value in file.metadata.items():
            if not key.startswith(("tokenizer.", "general.languages")):
                builder.set(key, value)
        for info in file.tensors.values():
            block = info.name.split(".")[1]
            if not block.isdigit() or int(block) < layers:
                raw = file.data(info.name).tobytes()
                builder.tensors.append((info.name, Stored(info.shape, info.ggml_type.name, raw)))
    builder.set("llama.block_count", layers)
    return builder.write(target)


def test_layers_of_smollm2_equal_transformers(smollm2_path: Path, tmp_path: Path) -> None:
    path = first_layers(smollm2_path, 3, tmp_path / "smollm2.gguf")
    weights = load(path)
    assert_same(weights, transformers_state(path), tied=True)
    whole = load(smollm2_path)
    assert len(whole) == 2 + 9 * 30
    for name, weight in weights.items():
        assert torch.equal(dense(weight), dense(whole[name]))


@pytest.mark.slow
def test_smollm2_equals_transformers(smollm2_path: Path) -> None:
    assert_same(load(smollm2_path), transformers_state(smollm2_path), tied=True)


@pytest.mark.slow
def test_qwen_equals_transformers(qwen_path: Path) -> None:
    assert_same(load(qwen_path), transformers_state(qwen_path), tied=False)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("kind", "tied"), [("Q5_1", True), ("Q6_K", False), ("BF16", False)])
def test_tiny_gguf_equals_transformers(
    architecture: str, kind: str, tied: bool, tmp_path: Path
) -> None:
    """Permuted queries and keys, biases, QK-norms, tied and separate heads."""
    head_dim = 128 if architecture == "qwen3" else 0  # transformers takes this for granted
    builder = tiny_gguf(architecture, kind=kind, tied=tied, head_dim=head_dim)
    builder.set("general.name", "tiny")
    path = builder.write(tmp_path / "tiny.gguf")
    assert_same(load(path), transformers_state(path), tied=tied)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize(("shards", "tied"), [(1, True), (3, False)])
def test_folder_equals_transformers(
    model_type: str, shards: int, tied: bool, tmp_path: Path
) -> None:
    config = tiny_hf_config(model_type, tie_word_embeddings=tied)
    tensors = tiny_hf_tensors(config)
    write_hf_folder(tmp_path, config, tensors, shards=shards)
    weights = load(tmp_path)
    assert_same(weights, tensors, tied=tied)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert_same(weights, model.state_dict(), tied=tied)


def test_attention_bias_folder(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_bias=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path)
    weights = load(tmp_path)
    assert "model.layers.0.self_attn.o_proj.bias" in weights
    assert_same(weights, model.state_dict(), tied=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_as_stored(dtype: torch.dtype, tmp_path: Path) -> None:
    config = tiny_hf_config()
    tensors = {k: v.to(dtype) for k, v in tiny_hf_tensors(config).items()}
    weights = load(write_hf_folder(tmp_path, config, tensors))
    embedding, norm = weights["model.embed_tokens.weight"], weights["model.norm.weight"]
    assert isinstance(embedding, QuantTensor)
    assert isinstance(norm, Tensor)
    assert embedding.kind == dtype
    assert embedding.nbytes == 48 * 32 * 2
    assert norm.dtype == torch.float32
    assert_same(weights, tensors, tied=True)


def test_tensors_outlive_their_file(tmp_path: Path) -> None:
    path = tiny_gguf().write(tmp_path / "model.gguf")
    with GGUFFile.open(path) as file:
        weights = load_weights(file, read_config(file))
        before = {name: dense(w).clone() for name, w in weights.items()}
    path.unlink()
    for name, weight in weights.items():
        assert torch.equal(dense(weight), before[name])


@pytest.mark.parametrize("kind", ["Q4_1", "F16"])
def test_rows_of_a_quantized_matrix(kind: str, tmp_path: Path) -> None:
    embedding = load(tiny_gguf(kind=kind).write(tmp_path / "m.gguf"))["model.embed_tokens.weight"]
    assert isinstance(embedding, QuantTensor)
    assert embedding.shape == (40, 64)
    rows = torch.tensor([3, 39, 3, 0])
    assert torch.equal(embedding.dequantize_rows(rows), embedding.dequantize()[rows])
    folder = write_hf_folder(tmp_path / "hf", tiny_hf_config(), tiny_hf_tensors(tiny_hf_config()))
    plain = load(folder)["model.embed_tokens.weight"]
    assert isinstance(plain, QuantTensor)
    assert torch.equal(plain.dequantize_rows(rows), plain.dequantize()[rows])


def rotate(x: Tensor, pairs: Tensor, angle: float) -> Tensor:
    """Turn each pair of dimensions [n, 2] of x by angle / (pair + 1)."""
    out = x.clone()
    for i, (a, b) in enumerate(pairs.tolist()):
        c, s = np.cos(angle / (i + 1)), np.sin(angle / (i + 1))
        out[a], out[b] = x[a] * c - x[b] * s, x[b] * c + x[a] * s
    return out


@pytest.mark.parametrize("rotary", [8, 6])
def test_half_split_order_keeps_attention_scores(rotary: int) -> None:
    """Neighbouring pairs in the file's order and half-split ones in ours: the same q . k."""
    config = ModelConfig(
        architecture="llama", vocab_size=1, hidden_size=16, num_layers=1, num_heads=2,
        num_kv_heads=1, head_dim=8, intermediate_size=1, norm_eps=1e-5, context_length=1,
        tie_embeddings=True, qkv_bias=False, o_bias=False, qk_norm=False, sliding_window=None,
        rope=RopeConfig(theta=1e4, rotary_dim=rotary),
    )  # fmt: skip
    order = torch.from_numpy(half_split_order(16, config))
    assert sorted(order.tolist()) == list(range(16))
    q, k = torch.randn(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    neighbours = torch.arange(rotary).reshape(-1, 2)
    halves = torch.arange(rotary).reshape(2, -1).T
    for head in (slice(0, 8), slice(8, 16)):
        theirs = rotate(q[head], neighbours, 0.7) @ rotate(k[head], neighbours, 1.9)
        ours = rotate(q[order][head], halves, 0.7) @ rotate(k[order][head], halves, 1.9)
        torch.testing.assert_close(ours, theirs)


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with GGUFFile.open(tiny_gguf().write(tmp_path / "model.gguf")) as file:
        load_weights(file, read_config(file), lambda done, total: seen.append((done, total)))
        total = sum(t.nbytes for t in file.tensors.values())
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("name", "tensor", "word"),
    [
        ("blk.1.ffn_up.weight", None, "is missing; expected the shape [64, 64]"),
        ("output_norm.weight", None, "is missing; expected the shape [64]"),
        (
            "blk.0.attn_k.weight",
            random_blocks("Q4_0", (64, 64), RNG),
            "has the shape [64, 64], not [32, 64]",
        ),
        ("blk.0.attn_norm.weight", random_blocks("F32", (1, 64), RNG), "not [64]"),
        ("blk.0.attn_norm.weight", random_blocks("Q8_0", (64,), RNG), "is Q8_0, not one of F32"),
    ],
)
def test_wrong_tensors(name: str, tensor: Stored | None, word: str, tmp_path: Path) -> None:
    builder = tiny_gguf()
    if tensor is None:
        builder.drop(name)
    else:
        builder.put(name, tensor)
    with pytest.raises(ModelFileError) as caught:
        load(builder.write(tmp_path / "model.gguf"))
    assert word in str(caught.value)
    assert caught.value.where == f"tensor {name}"


@pytest.mark.parametrize(
    "name", ["blk.0.ffn_up.bias", "blk.2.attn_norm.weight", "blk.0.attn_output.scale", "x"]
)
def test_a_tensor_that_would_be_left_out(name: str, tmp_path: Path) -> None:
    builder = tiny_gguf()
    builder.tensors.append((name, random_blocks("F32", (64,), RNG)))
    with pytest.raises(UnsupportedModelError, match="leave out the tensor") as caught:
        load(builder.write(tmp_path / "model.gguf"))
    assert name in str(caught.value)


def test_a_bias_in_one_projection_only(tmp_path: Path) -> None:
    builder = tiny_gguf()
    builder.tensors.append(("blk.0.attn_q.bias", random_blocks("F32", (64,), RNG)))
    with pytest.raises(ModelFileError, match=r"attn_k\.bias"):
        load(builder.write(tmp_path / "model.gguf"))


def test_biases_of_a_llama_are_permuted_with_their_rows(tmp_path: Path) -> None:
    builder: GGUFBuilder = tiny_gguf()
    for i in range(2):
        for letter, size in (("q", 64), ("k", 32), ("v", 32)):
            values = np.arange(size, dtype=np.float32)
            name = f"blk.{i}.attn_{letter}.bias"
            builder.tensors.append((name, Stored((size,), "F32", values.tobytes())))
    weights = load(builder.write(tmp_path / "model.gguf"))
    bias = weights["model.layers.0.self_attn.k_proj.bias"]
    assert isinstance(bias, Tensor)
    head = [0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15]
    assert bias.tolist() == head + [16 + i for i in head]
    bias = weights["model.layers.0.self_attn.v_proj.bias"]
    assert isinstance(bias, Tensor)
    assert bias.tolist() == list(range(32))


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"model.norm.weight": None}, ModelFileError, "tensor model.norm.weight"),
        ({"model.norm.weight": torch.ones(33)}, ModelFileError, "has the shape [33], not [32]"),
        (
            {"model.layers.0.mlp.up_proj.bias": torch.ones(64)},
            UnsupportedModelError,
            "leave out the tensor model.layers.0.mlp.up_proj.bias",
        ),
        ({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, None, ""),
        ({"lm_head.weight": torch.ones(48, 32)}, None, ""),  # tied: never read
    ],
)
def test_wrong_and_extra_tensors_of_a_folder(
    change: dict[str, Any], error: type[Exception] | None, word: str, tmp_path: Path
) -> None:
    config = tiny_hf_config()
    tensors = {k: v for k, v in (tiny_hf_tensors(config) | change).items() if v is not None}
    write_hf_folder(tmp_path, config, tensors)
    if error is None:
        assert not set(change) & set(load(tmp_path))
        return
    with pytest.raises(error) as caught:
        load(tmp_path)
    assert word in str(caught.value)


def test_a_folder_must_fit_its_config(tmp_path: Path) -> None:
    config = tiny_hf_config()
    write_hf_folder(tmp_path, config | {"num_hidden_layers": 4096}, tiny_hf_tensors(config))
    with pytest.raises(ModelFileError, match=r"model\.layers\.2\.input_layernorm\.weight"):
        load(tmp_path)
    assert config_from_hf(config).num_layers == 2

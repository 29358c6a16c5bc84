"""Configs read from GGUF metadata and from config.json; what is refused is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import GGUFBuilder, Stored, tiny_gguf, tiny_hf_config
from transformers import AutoConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from sgen.errors import ModelFileError, UnsupportedModelError
from sgen.runtime.config import ModelConfig, RopeConfig
from sgen.runtime.config_gguf import config_from_gguf
from sgen.runtime.config_hf import config_from_hf
from sgen.runtime.gguf import GGUFFile


def read(tmp_path: Path, builder: GGUFBuilder) -> ModelConfig:
    with GGUFFile.open(builder.write(tmp_path / "model.gguf")) as file:
        return config_from_gguf(file)


# --- GGUF --------------------------------------------------------------------------------------


def test_smollm2(smollm2_path: Path) -> None:
    with GGUFFile.open(smollm2_path) as file:
        config = config_from_gguf(file)
    assert config == ModelConfig(
        architecture="llama",
        vocab_size=49152,
        hidden_size=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        intermediate_size=1536,
        norm_eps=float(np.float32(1e-5)),
        context_length=8192,
        tie_embeddings=True,
        qkv_bias=False,
        o_bias=False,
        qk_norm=False,
        sliding_window=None,
        rope=RopeConfig(theta=100000.0, rotary_dim=64),
    )


@pytest.mark.slow
def test_qwen(qwen_path: Path) -> None:
    with GGUFFile.open(qwen_path) as file:
        config = config_from_gguf(file)
    assert config.architecture == "qwen2"
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (14, 2, 64)
    assert config.qkv_bias
    assert not config.o_bias
    assert not config.tie_embeddings
    assert config.rope == RopeConfig(theta=1000000.0, rotary_dim=64)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_architectures(architecture: str, tmp_path: Path) -> None:
    config = read(tmp_path, tiny_gguf(architecture, tied=False))
    assert config.architecture == architecture
    assert config.vocab_size == 40
    assert config.qkv_bias == (architecture == "qwen2")
    assert config.qk_norm == (architecture == "qwen3")
    assert not config.tie_embeddings


def test_optional_keys(tmp_path: Path) -> None:
    builder = tiny_gguf()
    builder.set("llama.attention.key_length", 32)
    builder.set("llama.attention.value_length", 32)
    builder.set("llama.rope.dimension_count", 16)
    builder.set("llama.attention.sliding_window", 64)
    builder.set("llama.attention.head_count_kv", np.array([2, 2], np.uint32))
    builder.set("llama.feed_forward_length", np.array([64, 64], np.int32))
    builder.set("llama.expert_count", 0)
    builder.drop("llama.rope.freq_base")
    config = read(tmp_path, builder)
    assert config.head_dim == 32
    assert config.num_kv_heads == 2
    assert config.intermediate_size == 64
    assert config.sliding_window == 64
    assert config.rope == RopeConfig(theta=10000.0, rotary_dim=16)
    builder.set("llama.attention.sliding_window", 128)  # the whole context
    assert read(tmp_path, builder).sliding_window is None


def test_rope_scaling(tmp_path: Path) -> None:
    builder = tiny_gguf()
    builder.set("llama.rope.scaling.factor", 4.0)  # linear is llama.cpp's default
    assert read(tmp_path, builder).rope == RopeConfig(
        theta=10000.0, rotary_dim=16, kind="linear", factor=4.0
    )
    builder.set("llama.rope.scaling.type", "yarn")
    builder.set("llama.rope.scaling.original_context_length", 32)
    rope = read(tmp_path, builder).rope
    assert (rope.kind, rope.factor, rope.original_context) == ("yarn", 4.0, 32)
    assert rope.attention_factor == pytest.approx(1.1386294)
    assert (rope.beta_fast, rope.beta_slow) == (32.0, 1.0)
    builder.set("llama.rope.scaling.type", "none")
    assert read(tmp_path, builder).rope.kind == "none"


def test_rope_frequency_factors(tmp_path: Path) -> None:
    builder = tiny_gguf()
    factors = np.array([1, 1, 2, 4, 8, 8, 8, 8], np.float32)
    builder.tensors.append(("rope_freqs.weight", Stored((8,), "F32", factors.tobytes())))
    assert read(tmp_path, builder).rope.freq_factors == (1, 1, 2, 4, 8, 8, 8, 8)
    builder.put("rope_freqs.weight", Stored((4,), "F32", factors[:4].tobytes()))
    with pytest.raises(
        ModelFileError, match=r"rope_freqs\.weight is F32 \[4\], expected F32 \[8\]"
    ):
        read(tmp_path, builder)
    factors[3] = np.nan
    builder.put("rope_freqs.weight", Stored((8,), "F32", factors.tobytes()))
    with pytest.raises(ModelFileError, match="positive and finite"):
        read(tmp_path, builder)


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("llama.block_count", None, "is missing"),
        ("llama.block_count", 0, "between 1 and 4096, is 0"),
        ("llama.block_count", 3, "the file has no layer 2"),
        ("llama.block_count", "two", "must be an integer, is 'two'"),
        ("llama.block_count", True, "must be an integer"),
        ("llama.block_count", np.int64(-1), "is -1"),
        ("llama.context_length", None, "is missing"),
        ("llama.context_length", np.uint64(1 << 63), "between"),
        ("llama.embedding_length", np.float32(64), "must be an integer"),
        ("llama.attention.head_count", 0, "is 0"),
        ("llama.attention.head_count_kv", 3, "no divisor of 4 heads"),
        ("llama.attention.head_count_kv", np.array([2, 2, 2]), "or 2 of them"),
        ("llama.attention.head_count_kv", np.array([2.0, 2.0]), "or 2 of them"),
        ("llama.attention.head_count_kv", np.array([0, 0]), "is 0"),
        ("llama.attention.layer_norm_rms_epsilon", None, "is missing"),
        ("llama.attention.layer_norm_rms_epsilon", float("nan"), "is nan"),
        ("llama.attention.layer_norm_rms_epsilon", -1e-5, "between"),
        ("llama.rope.freq_base", float("inf"), "is inf"),
        ("llama.rope.dimension_count", 15, "even"),
        ("llama.rope.dimension_count", 32, "at most 16"),
        ("llama.vocab_size", 41, "40 rows"),
        ("tokenizer.ggml.tokens", ["x"] * 41, "41 tokens, but 40 rows"),
        ("general.architecture", None, "is missing"),
        ("general.architecture", 7, "must be a string"),
    ],
)
def test_impossible_values(key: str, value: Any, word: str, tmp_path: Path) -> None:
    builder = tiny_gguf()
    builder.drop(key)
    if value is not None:
        builder.set(key, value)
    with pytest.raises(ModelFileError) as caught:
        read(tmp_path, builder)
    assert word in str(caught.value)
    assert "key " in caught.value.where


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("general.architecture", "gemma2", "'gemma2'"),
        ("general.type", "adapter", "'adapter'"),
        ("split.count", 3, "parts"),
        ("llama.expert_count", 8, "llama.expert_count = 8"),
        ("llama.attention.scale", 0.1, "llama.attention.scale = 0.1"),
        ("llama.attn_logit_softcapping", 50.0, "attn_logit_softcapping = 50.0"),
        ("llama.attention.causal", False, "attention.causal = False"),
        ("llama.something.new", [1, 2], "llama.something.new"),
        ("llama.rope.scaling.type", "longrope", "'longrope'"),
        ("llama.rope.scaling.yarn_ext_factor", 0.5, "yarn_ext_factor"),
        ("llama.attention.value_length", 8, "unequal"),
        ("llama.attention.head_count_kv", np.array([2, 4]), "differs between layers"),
    ],
)
def test_unsupported_keys(key: str, value: Any, word: str, tmp_path: Path) -> None:
    builder = tiny_gguf()
    builder.set(key, value)
    with pytest.raises(UnsupportedModelError) as caught:
        read(tmp_path, builder)
    assert word in str(caught.value)


# --- Hugging Face ------------------------------------------------------------------------------


def as_dict(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return values


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
def test_defaults_are_those_of_transformers(kind: type) -> None:
    """A config with nothing but its type and sizes means the same to both."""
    sizes = {
        "vocab_size": 100,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 8192,
        "architectures": [kind.__name__.replace("Config", "ForCausalLM")],
    }
    if kind is MistralConfig:
        sizes["num_key_value_heads"] = 2
    theirs = kind(**sizes)
    if kind in (Qwen2Config, Qwen3Config):
        sizes["num_key_value_heads"] = theirs.num_key_value_heads = 4
    short = config_from_hf({"model_type": theirs.model_type, **sizes})
    assert short == config_from_hf(as_dict(theirs))
    assert short.head_dim == getattr(theirs, "head_dim", 64)
    assert short.num_kv_heads == theirs.num_key_value_heads
    assert short.norm_eps == theirs.rms_norm_eps
    assert short.tie_embeddings == theirs.tie_word_embeddings
    assert short.rope.theta == theirs.rope_parameters["rope_theta"]
    assert short.qkv_bias == (kind is Qwen2Config)
    assert short.sliding_window == (4096 if kind is MistralConfig else None)


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        {
            "rope_type": "yarn",
            "factor": 8,
            "attention_factor": 1.5,
            "beta_fast": 16,
            "beta_slow": 2,
        },
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ],
)
def test_rope_spellings_mean_the_same(scaling: dict[str, Any]) -> None:
    """Old spelling, old spelling with `type`, new spelling, and what transformers makes of it."""
    old = tiny_hf_config(rope_scaling=scaling, rope_theta=5000.0)
    older = json.loads(json.dumps(old).replace("rope_type", "type"))
    new = tiny_hf_config(rope_theta=None, rope_parameters=scaling | {"rope_theta": 5000.0})
    config = config_from_hf(old)
    assert config == config_from_hf(older) == config_from_hf(new)
    assert config.rope.kind == scaling["rope_type"]
    assert config.rope.factor == scaling["factor"]
    theirs = AutoConfig.for_model(**json.loads(json.dumps(new)))
    assert config_from_hf(as_dict(theirs)) == config
    if scaling["rope_type"] in ("yarn", "llama3"):
        original = theirs.rope_parameters["original_max_position_embeddings"]
        assert config.rope.original_context == original


def test_yarn_attention_factor_is_that_of_transformers() -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    values = tiny_hf_config(rope_parameters=scaling | {"rope_theta": 1e4}, rope_theta=None)
    _, factor = ROPE_INIT_FUNCTIONS["yarn"](
        AutoConfig.for_model(**json.loads(json.dumps(values))), torch.device("cpu")
    )
    assert config_from_hf(values).rope.attention_factor == factor


def test_yarn_extends_the_context() -> None:
    """Qwen2.5's model cards add this to a config of 32,768 positions, and mean 131,072."""
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    values = tiny_hf_config("qwen2", max_position_embeddings=32768, rope_scaling=scaling)
    assert config_from_hf(values).context_length == 131072
    values["max_position_embeddings"] = 131072
    assert config_from_hf(values).context_length == 131072


@pytest.mark.parametrize(
    ("model_type", "changes", "window"),
    [
        ("llama", {"sliding_window": 16}, None),  # a Llama has none, whatever is written
        ("mistral", {}, None),  # 4,096, and that is more than the context of 128
        ("mistral", {"sliding_window": 32}, 32),
        ("mistral", {"sliding_window": 128}, None),
        ("qwen2", {"sliding_window": 32}, None),
        ("qwen2", {"sliding_window": 32, "use_sliding_window": False}, None),
        ("qwen2", {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 0}, 32),
        ("qwen3", {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 2}, None),
        ("qwen3", {"layer_types": ["full_attention"] * 2}, None),
    ],
)
def test_sliding_windows(model_type: str, changes: dict[str, Any], window: int | None) -> None:
    assert config_from_hf(tiny_hf_config(model_type, **changes)).sliding_window == window


def test_attention_bias() -> None:
    config = config_from_hf(tiny_hf_config("llama", attention_bias=True))
    assert config.qkv_bias
    assert config.o_bias
    config = config_from_hf(tiny_hf_config("qwen2", attention_bias=True))  # it does not read it
    assert config.qkv_bias
    assert not config.o_bias


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model_type": None}, "key model_type"),
        ({"model_type": ["llama"]}, "must be a string"),
        ({"hidden_size": None}, "key hidden_size"),
        ({"hidden_size": "32"}, "must be an integer"),
        ({"hidden_size": 1 << 70}, "a huge integer"),
        ({"num_attention_heads": 0}, "is 0"),
        ({"num_key_value_heads": 3}, "no divisor"),
        ({"num_hidden_layers": 10**9}, "4096"),
        ({"head_dim": 7}, "even"),
        ({"rms_norm_eps": float("nan")}, "nan"),
        ({"rope_theta": 0.0}, "rope_theta"),
        ({"rope_theta": "1e4"}, "must be a number"),
        ({"max_position_embeddings": 1 << 40}, "max_position_embeddings"),
        ({"tie_word_embeddings": 1}, "true or false"),
        ({"rope_scaling": [1]}, "must be an object"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling.factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        (
            {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 2.0,
                    "low_freq_factor": 4,
                    "high_freq_factor": 4,
                }
            },
            "must exceed",
        ),
    ],
)
def test_impossible_configs(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        config_from_hf(tiny_hf_config(**changes), "folder/config.json")
    assert word in str(caught.value)
    assert caught.value.path == "folder/config.json"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model_type": "mixtral"}, "'mixtral'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"hidden_act": "gelu"}, "hidden_act = gelu"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"is_causal": False}, "is_causal = False"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "3 bits"),
        ({"quantization_config": {"quant_method": "awq", "version": "gemv"}}, "gemm"),
        ({"quantization_config": {"quant_method": "quip"}}, "quantized by quip"),
        ({"quantization_config": 4}, "no object"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}}, "mscale"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": False}}, "truncate"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention"),
    ],
)
def test_unsupported_configs(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        config_from_hf(tiny_hf_config(**changes))
    assert word in str(caught.value)


def test_layers_of_different_attention_are_refused() -> None:
    kinds = ["full_attention", "sliding_attention"]
    for changes in ({"layer_types": kinds}, {"max_window_layers": 1}):
        values = tiny_hf_config("qwen3", use_sliding_window=True, sliding_window=32, **changes)
        with pytest.raises(UnsupportedModelError, match="layer_types"):
            config_from_hf(values)
    with pytest.raises(ModelFileError, match="layer_types"):
        config_from_hf(tiny_hf_config("qwen3", layer_types=kinds[:1]))

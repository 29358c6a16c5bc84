"""Rotary frequencies of every variant, equal to those of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from sgen.runtime.config_hf import config_from_hf
from sgen.runtime.models.rope import Rope

SCALINGS: list[dict[str, object]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 4.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096},
    {
        "rope_type": "yarn",
        "factor": 16.0,
        "original_max_position_embeddings": 2048,
        "beta_fast": 20.0,
        "beta_slow": 2.0,
        "attention_factor": 0.7,
    },
]


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s["rope_type"])
def test_tables_equal_transformers(scaling: dict[str, object]) -> None:
    sizes = {
        "vocab_size": 64,
        "hidden_size": 512,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    }
    parameters = {"rope_theta": 500000.0, **scaling}
    theirs = LlamaRotaryEmbedding(LlamaConfig(**sizes, rope_parameters=parameters))
    ours = Rope(
        config_from_hf({"model_type": "llama", **sizes, "rope_parameters": parameters}).rope
    )
    positions = torch.tensor([0, 1, 17, 4095, 30000])
    want_cos, want_sin = theirs(torch.zeros(1), positions[None])
    cos, sin = ours(positions)
    torch.testing.assert_close(cos, want_cos[0, :, :64], atol=2e-6, rtol=0)
    torch.testing.assert_close(sin, want_sin[0, :, :64], atol=2e-6, rtol=0)

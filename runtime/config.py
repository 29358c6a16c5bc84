"""What a decoder is, apart from its weights: sizes, biases, norms, rotary embedding.

A `ModelConfig` is whole and consistent: sizes are positive and fit together, and whatever the
source said that sgen does not run was refused when it was read (`config_gguf`, `config_hf`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NoReturn

import msgspec

from sgen.errors import ModelFileError

Architecture = Literal["llama", "mistral", "qwen2", "qwen3"]
RopeKind = Literal["none", "linear", "llama3", "yarn"]

MAX_LAYERS = 4096
MAX_CONTEXT = 1 << 24
MAX_SIZE = 1 << 24  # of a vocabulary or a hidden dimension


class RopeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Rotary position embedding of the first `rotary_dim` dimensions of each head.

    Pairs are half-split: dimension i turns with i + rotary_dim / 2, whatever the file's order
    was (loading permutes).  Base frequency i is theta ** (-2 i / rotary_dim); `freq_factors`
    (rotary_dim / 2 of them, from a GGUF's `rope_freqs.weight`) divide the base frequencies.
    Scaling: linear (arXiv 2306.15595), llama3 (Llama 3.1), yarn (arXiv 2309.00071).
    """

    theta: float
    rotary_dim: int
    kind: RopeKind = "none"
    factor: float = 1.0  # of linear, llama3 and yarn
    original_context: int = 0  # tokens, before llama3 or yarn scaling
    low_freq_factor: float = 1.0  # of llama3
    high_freq_factor: float = 4.0  # of llama3
    attention_factor: float = 1.0  # multiplies sine and cosine; yarn's, with its default filled in
    beta_fast: float = 32.0  # of yarn, in turns over the original context
    beta_slow: float = 1.0
    freq_factors: tuple[float, ...] | None = None


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder of the Llama family: RMSNorm, GQA with RoPE, SwiGLU.

    With a sliding window of W a token attends to the last W tokens, itself among them.
    """

    architecture: Architecture
    vocab_size: int  # rows of the embedding
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int  # divides num_heads
    head_dim: int
    intermediate_size: int
    norm_eps: float
    context_length: int  # tokens
    tie_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    qk_norm: bool  # RMSNorm of each head's query and key, before RoPE
    sliding_window: int | None  # None: full attention in all layers
    rope: RopeConfig


def yarn_attention_factor(factor: float) -> float:
    """The default scale of sine and cosine under YaRN (arXiv 2309.00071, equation 22)."""
    return 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0


class Fields:
    """Typed and bounded reads from a file's keys; errors name the file and the key.

    A key that is absent, or null in JSON, has its default; without a default it is an error.
    """

    def __init__(self, values: Mapping[str, object], path: str, prefix: str = "") -> None:
        self.values = values
        self.path = path
        self.prefix = prefix

    def fail(self, key: str, message: str) -> NoReturn:
        raise ModelFileError(message, path=self.path, where=f"key {self.prefix}{key}")

    def get(self, key: str) -> object:
        return self.values.get(self.prefix + key)

    def has(self, key: str) -> bool:
        return self.get(key) is not None

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self.get(key)
        if value is None:
            value = default
        if value is None:
            self.fail(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(key, f"must be an integer, is {_shorten(value)}")
        if not low <= value <= high:
            self.fail(key, f"must be between {low} and {high}, is {_shorten(value)}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = self.get(key)
        if value is None:
            value = default
        if value is None:
            self.fail(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(key, f"must be a number, is {_shorten(value)}")
        if not low <= value <= high:  # false for a NaN
            self.fail(key, f"must be between {low:g} and {high:g}, is {_shorten(value)}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(key, f"must be true or false, is {_shorten(value)}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.get(key)
        if value is None:
            value = default
        if value is None:
            self.fail(key, "is missing")
        if not isinstance(value, str):
            self.fail(key, f"must be a string, is {_shorten(value)}")
        return value


def _shorten(value: object) -> str:
    """A value for a message, whatever its size."""
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a huge integer"
    if isinstance(value, str | int | float):
        return repr(value[:80] if isinstance(value, str) else value)
    return f"of type {type(value).__name__}"

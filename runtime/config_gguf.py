"""The decoder that a GGUF file describes, read from its metadata and its tensor table.

A key under the architecture's name that is not known here is refused, since it may change the
maths.  Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's
`gguf-py/gguf/constants.py`.
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from sgen.errors import UnsupportedModelError
from sgen.runtime.config import (
    MAX_CONTEXT,
    MAX_LAYERS,
    MAX_SIZE,
    Architecture,
    Fields,
    ModelConfig,
    RopeConfig,
    yarn_attention_factor,
)
from sgen.runtime.ggml import dequantize
from sgen.runtime.gguf import GGUFFile

_ARCHITECTURES: dict[str, Architecture] = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}

_READ = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
}
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "rope.scale_linear": (1.0,),
    "rope.scaling.finetuned": (True, False),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (1.0,),
    "tensor_data_layout": ("Meta AI original pth",),
}
"""Keys that change nothing while they have one of these values."""


def config_from_gguf(file: GGUFFile) -> ModelConfig:
    """ModelFileError names a key that is missing, ill-typed or impossible; UnsupportedModelError
    an architecture or a feature that sgen does not run."""
    path = str(file.path)
    general = Fields(file.metadata, path, "general.")
    name = general.text("architecture")
    if general.text("type", "model") != "model":
        raise UnsupportedModelError(f"{path}: holds no model but a {general.text('type')[:40]!r}")
    if name not in _ARCHITECTURES:
        raise UnsupportedModelError(
            f"{path}: the architecture {name[:40]!r} does not run here",
            hint=f"architectures of GGUF files that run: {', '.join(_ARCHITECTURES)}",
        )
    if Fields(file.metadata, path, "split.").integer("count", 0, 1 << 16, 0) > 1:
        raise UnsupportedModelError(
            f"{path}: is one of several parts", hint="join them with llama-gguf-split --merge"
        )
    fields = Fields(file.metadata, path, f"{name}.")
    _refuse_unknown(fields)
    return _read(file, fields, _ARCHITECTURES[name])


def _refuse_unknown(fields: Fields) -> None:
    for full in fields.values:
        if not full.startswith(fields.prefix):
            continue
        key = full.removeprefix(fields.prefix)
        value = fields.get(key)
        scalar = isinstance(value, bool | int | float | str)
        if key not in _READ and not (scalar and value in _NEUTRAL.get(key, ())):
            shown = f" = {str(value)[:40]}" if scalar else ""
            raise UnsupportedModelError(
                f"{fields.path}: {full[:80]}{shown} may change the model in a way unknown here"
            )


def _read(file: GGUFFile, fields: Fields, architecture: Architecture) -> ModelConfig:
    layers = fields.integer("block_count", 1, MAX_LAYERS)
    if f"blk.{layers - 1}.attn_norm.weight" not in file.tensors:
        fields.fail("block_count", f"is {layers}, but the file has no layer {layers - 1}")
    hidden = fields.integer("embedding_length", 1, MAX_SIZE)
    heads = _uniform(fields, "attention.head_count", layers)
    kv_heads = _uniform(fields, "attention.head_count_kv", layers, heads)
    if heads % kv_heads:
        fields.fail("attention.head_count_kv", f"is {kv_heads}, no divisor of {heads} heads")
    head_dim = fields.integer("attention.key_length", 1, MAX_SIZE, hidden // heads)
    if fields.integer("attention.value_length", 1, MAX_SIZE, head_dim) != head_dim:
        raise UnsupportedModelError(f"{fields.path}: values and keys of unequal length")
    context = fields.integer("context_length", 1, MAX_CONTEXT)
    window = fields.integer("attention.sliding_window", 0, MAX_CONTEXT, 0)
    return ModelConfig(
        architecture=architecture,
        vocab_size=_vocab_size(file, fields),
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=_uniform(fields, "feed_forward_length", layers),
        norm_eps=fields.number("attention.layer_norm_rms_epsilon", 1e-12, 1.0),
        context_length=context,
        tie_embeddings="output.weight" not in file.tensors,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        o_bias="blk.0.attn_output.bias" in file.tensors,
        qk_norm=architecture == "qwen3",
        sliding_window=window if 0 < window < context else None,
        rope=_rope(file, fields, head_dim, context),
    )


def _uniform(fields: Fields, key: str, layers: int, default: int | None = None) -> int:
    """A size that may be given once or for each layer, as long as all layers agree."""
    value = fields.get(key)
    if not isinstance(value, np.ndarray):
        return fields.integer(key, 1, MAX_SIZE, default)
    if value.dtype.kind not in "iu" or value.size != layers:
        fields.fail(key, f"must be an integer, or {layers} of them")
    if np.any(value != value[0]):
        raise UnsupportedModelError(f"{fields.path}: {fields.prefix}{key} differs between layers")
    return Fields({key: int(value[0])}, fields.path).integer(key, 1, MAX_SIZE)


def _vocab_size(file: GGUFFile, fields: Fields) -> int:
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        fields.fail("vocab_size", "the tensor token_embd.weight is missing")
    rows = embedding.shape[0]
    if fields.integer("vocab_size", 1, MAX_SIZE, rows) != rows:
        fields.fail("vocab_size", f"is not the {rows} rows of token_embd.weight")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) > rows:
        fields.fail("vocab_size", f"{len(tokens)} tokens, but {rows} rows of token_embd.weight")
    return rows


def _rope(file: GGUFFile, fields: Fields, head_dim: int, context: int) -> RopeConfig:
    rotary = fields.integer("rope.dimension_count", 2, MAX_SIZE, head_dim)
    if rotary > head_dim or rotary % 2:
        fields.fail("rope.dimension_count", f"is {rotary}; must be even, at most {head_dim}")
    plain = RopeConfig(
        theta=fields.number("rope.freq_base", 1.01, 1e12, 10000.0),
        rotary_dim=rotary,
        freq_factors=_freq_factors(file, fields, rotary),
    )
    kind = fields.text("rope.scaling.type", "linear")  # llama.cpp's default
    if kind not in ("none", "linear", "yarn"):
        raise UnsupportedModelError(f"{fields.path}: RoPE scaling {kind[:40]!r} does not run here")
    # llama.cpp takes a factor of 0, and one of 1, for no scaling.
    factor = fields.number("rope.scaling.factor", 0.0, 1e6, 1.0) or 1.0
    if kind == "none" or factor == 1.0:
        return plain
    original = fields.integer("rope.scaling.original_context_length", 1, MAX_CONTEXT, context)
    if kind == "linear":
        return replace(plain, kind="linear", factor=factor)
    return replace(
        plain,
        kind="yarn",
        factor=factor,
        original_context=original,
        attention_factor=yarn_attention_factor(factor),
        beta_fast=fields.number("rope.scaling.yarn_beta_fast", 1e-6, 1e6, 32.0),
        beta_slow=fields.number("rope.scaling.yarn_beta_slow", 1e-6, 1e6, 1.0),
    )


def _freq_factors(file: GGUFFile, fields: Fields, rotary: int) -> tuple[float, ...] | None:
    info = file.tensors.get("rope_freqs.weight")
    if info is None:
        return None
    where = f"{fields.path}: tensor rope_freqs.weight"
    if info.shape != (rotary // 2,) or info.ggml_type.name not in ("F32", "F16", "BF16"):
        found = f"{info.ggml_type.name} {list(info.shape)}"
        fields.fail("rope.dimension_count", f"{where} is {found}, expected F32 [{rotary // 2}]")
    factors = dequantize(file.data(info.name), info.ggml_type)
    if not np.all((factors > 0) & (factors < np.inf)):
        fields.fail("rope.dimension_count", f"{where} must be positive and finite")
    return tuple(float(f) for f in factors)

"""The decoder that a Hugging Face `config.json` describes, with transformers' defaults.

`model_type` decides what the model is, as it does in transformers; keys that its class does not
read are ignored.  Both spellings of RoPE scaling are read: `rope_scaling` beside `rope_theta`,
and `rope_parameters` (transformers 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from sgen.errors import UnsupportedModelError
from sgen.runtime.checkpoint import quantization
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

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu", "swish"),
    "is_causal": (True,),
    "mlp_bias": (False,),
    "rope_interleaved": (False,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "partial_rotary_factor": (1, 1.0),
}
"""Keys that change the maths unless they are absent or have one of these values."""

_ROPE_READ = {
    "rope_theta",
    "rope_type",
    "type",
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "finetuned",
}
_ROPE_NEUTRAL: dict[str, tuple[object, ...]] = {
    "partial_rotary_factor": (1, 1.0),
    "truncate": (True,),
}


def config_from_hf(values: Mapping[str, object], path: str = "config.json") -> ModelConfig:
    """ModelFileError names a key that is missing, ill-typed or impossible; UnsupportedModelError
    a model type or a feature that sgen does not run."""
    fields = Fields(values, path)
    kind = fields.text("model_type")
    if kind not in get_args(Architecture):
        raise UnsupportedModelError(
            f"{path}: the model type {kind[:40]!r} does not run here",
            hint=f"model types that run: {', '.join(_CLASSES)}",
        )
    architecture: Architecture = next(a for a in get_args(Architecture) if a == kind)
    _refuse(fields, _NEUTRAL)
    _refuse_class(fields, _CLASSES[kind])
    quantization(values, path)  # which refuses what does not run
    return _read(fields, architecture)


def _refuse(fields: Fields, neutral: Mapping[str, tuple[object, ...]]) -> None:
    for key, harmless in neutral.items():
        value = fields.get(key)
        scalar = isinstance(value, bool | int | float | str)
        if value is not None and not (scalar and value in harmless):
            raise UnsupportedModelError(
                f"{fields.path}: {fields.prefix}{key} = {str(value)[:40]} does not run here"
            )


def _refuse_class(fields: Fields, expected: str) -> None:
    names = fields.get("architectures")
    if names is not None and names != [expected]:
        raise UnsupportedModelError(
            f"{fields.path}: architectures is {str(names)[:80]}, only {expected} runs here"
        )


def _read(fields: Fields, architecture: Architecture) -> ModelConfig:
    layers = fields.integer("num_hidden_layers", 1, MAX_LAYERS)
    hidden = fields.integer("hidden_size", 1, MAX_SIZE)
    heads = fields.integer("num_attention_heads", 1, MAX_SIZE)
    kv_heads = fields.integer("num_key_value_heads", 1, MAX_SIZE, heads)
    if heads % kv_heads:
        fields.fail("num_key_value_heads", f"is {kv_heads}, no divisor of {heads} heads")
    default = 128 if architecture == "qwen3" else hidden // heads
    head_dim = fields.integer("head_dim", 2, MAX_SIZE, default)
    if head_dim % 2:
        fields.fail("head_dim", f"is {head_dim}; RoPE needs an even one")
    bias = architecture in ("llama", "qwen3") and fields.flag("attention_bias", False)
    positions = fields.integer("max_position_embeddings", 1, MAX_CONTEXT)
    rope = _rope(fields, head_dim, positions)
    return ModelConfig(
        architecture=architecture,
        vocab_size=fields.integer("vocab_size", 1, MAX_SIZE),
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=fields.integer("intermediate_size", 1, MAX_SIZE),
        norm_eps=fields.number("rms_norm_eps", 1e-12, 1.0, 1e-6),
        context_length=max(positions, _yarn_context(rope)),
        tie_embeddings=fields.flag("tie_word_embeddings", False),
        qkv_bias=bias or architecture == "qwen2",
        o_bias=bias,
        qk_norm=architecture == "qwen3",
        sliding_window=_sliding_window(fields, architecture, layers, positions),
        rope=rope,
    )


def _sliding_window(
    fields: Fields, architecture: Architecture, layers: int, context: int
) -> int | None:
    """The window of all layers; windows in some layers only are refused."""
    if architecture == "llama":
        return None
    first = 0  # the first layer with a window
    if architecture == "mistral":
        # Mistral 7B v0.1 counted on the default; later ones write null.
        absent = "sliding_window" not in fields.values
        window = 4096 if absent else fields.integer("sliding_window", 0, MAX_CONTEXT, 0)
    else:
        window = fields.integer("sliding_window", 0, MAX_CONTEXT, 4096)
        first = fields.integer("max_window_layers", 0, MAX_SIZE, 28)
        if not fields.flag("use_sliding_window", False):
            window = 0
    types = fields.get("layer_types")
    if types is None:
        types = ["sliding_attention" if window and i >= first else "full_attention"
                 for i in range(layers)]  # fmt: skip
    if not isinstance(types, list) or len(types) != layers:
        fields.fail("layer_types", f"must be a list of {layers} names")
    if types == ["full_attention"] * layers:
        return None
    if types != ["sliding_attention"] * layers:
        raise UnsupportedModelError(
            f"{fields.path}: layer_types: layers of different attention do not run here"
        )
    if not window:
        fields.fail("sliding_window", "is missing, but layer_types asks for one")
    return window if window < context else None


def _rope(fields: Fields, head_dim: int, positions: int) -> RopeConfig:
    key = "rope_scaling" if fields.get("rope_scaling") else "rope_parameters"
    found = fields.get(key)
    if found is not None and not isinstance(found, dict):
        fields.fail(key, "must be an object")
    scaling = Fields({f"{key}.{k}": v for k, v in (found or {}).items()}, fields.path, f"{key}.")
    for full in scaling.values:
        name = full.removeprefix(scaling.prefix)
        if name not in _ROPE_READ and name not in _ROPE_NEUTRAL:
            raise UnsupportedModelError(f"{fields.path}: {full[:80]} does not run here")
    _refuse(scaling, _ROPE_NEUTRAL)
    theta = scaling.number("rope_theta", 1.01, 1e12, fields.number("rope_theta", 1.01, 1e12, 1e4))
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    if kind == "default":
        return RopeConfig(theta=theta, rotary_dim=head_dim)
    if kind not in ("linear", "llama3", "yarn"):
        raise UnsupportedModelError(f"{fields.path}: RoPE scaling {kind[:40]!r} does not run here")
    factor = scaling.number("factor", 1.0, 1e6)
    if kind == "linear":
        return RopeConfig(theta=theta, rotary_dim=head_dim, kind="linear", factor=factor)
    original = scaling.integer("original_max_position_embeddings", 1, MAX_CONTEXT, positions)
    original = fields.integer("original_max_position_embeddings", 1, MAX_CONTEXT, original)
    if kind == "yarn":
        return _yarn(scaling, theta, head_dim, factor, original)
    low = scaling.number("low_freq_factor", 1e-6, 1e6)
    high = scaling.number("high_freq_factor", 1e-6, 1e6)
    if not low < high:
        scaling.fail("high_freq_factor", f"is {high:g}, must exceed low_freq_factor, {low:g}")
    return RopeConfig(
        theta=theta,
        rotary_dim=head_dim,
        kind="llama3",
        factor=factor,
        original_context=original,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn_context(rope: RopeConfig) -> int:
    """Tokens that YaRN reaches, 0 without it.

    Qwen2.5's model cards say to add YaRN and leave `max_position_embeddings` as it was.
    """
    reach = round(rope.factor * rope.original_context) if rope.kind == "yarn" else 0
    return min(reach, MAX_CONTEXT)


def _yarn(scaling: Fields, theta: float, head_dim: int, factor: float, original: int) -> RopeConfig:
    return RopeConfig(
        theta=theta,
        rotary_dim=head_dim,
        kind="yarn",
        factor=factor,
        original_context=original,
        attention_factor=scaling.number(
            "attention_factor", 1e-6, 1e6, yarn_attention_factor(factor)
        ),
        beta_fast=scaling.number("beta_fast", 1e-6, 1e6, 32.0),
        beta_slow=scaling.number("beta_slow", 1e-6, 1e6, 1.0),
    )

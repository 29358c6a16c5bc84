"""Writers of small model files for tests: GGUF (well-formed or not), safetensors folders."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from sgen.runtime.ggml import GGML_TYPES

TYPE_NUMBERS = {kind.name: number for number, kind in GGML_TYPES.items()}

_NUMBER_CODES = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6}
_NUMBER_CODES |= {"u8": 10, "i8": 11, "f8": 12}
_BOOL, _STRING, _ARRAY = 7, 8, 9


def gguf_string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(value: Any) -> bytes:
    """A type number and a value: int as uint32, float as float32, numpy types as they are."""
    if isinstance(value, bool):
        return struct.pack("<IB", _BOOL, value)
    if isinstance(value, str | bytes):
        return struct.pack("<I", _STRING) + gguf_string(value)
    if isinstance(value, list):
        parts = [gguf_value(v) for v in value]
        kind = parts[0][:4] if parts else struct.pack("<I", _STRING)
        body = b"".join(p[4:] for p in parts)
        return struct.pack("<I", _ARRAY) + kind + struct.pack("<Q", len(value)) + body
    if isinstance(value, np.ndarray):
        code = _BOOL if value.dtype == np.bool_ else _NUMBER_CODES[value.dtype.str[1:]]
        return struct.pack("<IIQ", _ARRAY, code, value.size) + value.tobytes()
    number = _python_number(value) if type(value) in (int, float) else value
    return struct.pack("<I", _NUMBER_CODES[number.dtype.str[1:]]) + number.tobytes()


def _python_number(value: float) -> np.generic:
    return np.float32(value) if type(value) is float else np.uint32(value)


@dataclass(frozen=True)
class Stored:
    """A tensor to write: shape as torch has it, `offset` None for the next free place."""

    shape: tuple[int, ...]
    kind: str
    raw: bytes
    offset: int | None = None


@dataclass
class GGUFBuilder:
    """Collects a GGUF file.  Keys and tensors may repeat; counts may be made to lie."""

    metadata: list[tuple[str | bytes, Any]] = field(default_factory=list)
    tensors: list[tuple[str, Stored]] = field(default_factory=list)
    version: int = 3
    alignment: int = 32

    def build(self) -> bytes:
        header = [b"GGUF", struct.pack("<IQQ", self.version, len(self.tensors), len(self.metadata))]
        header += [gguf_string(key) + gguf_value(value) for key, value in self.metadata]
        data = bytearray()
        for name, tensor in self.tensors:
            data += bytes(-len(data) % self.alignment)
            offset = len(data) if tensor.offset is None else tensor.offset
            data += tensor.raw
            number = TYPE_NUMBERS[tensor.kind]
            header.append(gguf_string(name) + struct.pack("<I", len(tensor.shape)))
            header.append(struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape)))
            header.append(struct.pack("<IQ", number, offset))
        start = b"".join(header)
        return start + bytes(-len(start) % self.alignment) + data

    def write(self, path: Path) -> Path:
        path.write_bytes(self.build())
        return path

    def set(self, key: str, value: Any) -> None:
        """Replace a key's value, or add the key."""
        self.metadata = [(k, v) for k, v in self.metadata if k != key] + [(key, value)]

    def drop(self, name: str) -> None:
        """Remove a key or a tensor."""
        self.metadata = [(k, v) for k, v in self.metadata if k != name]
        self.tensors = [(k, v) for k, v in self.tensors if k != name]

    def put(self, name: str, tensor: Stored) -> None:
        """Replace a tensor in its place, or add it at the end."""
        if name in dict(self.tensors):
            self.tensors = [(k, tensor if k == name else v) for k, v in self.tensors]
        else:
            self.tensors.append((name, tensor))


def random_blocks(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Stored:
    """A tensor of random bytes whose scales are small and finite."""
    ggml_type = GGML_TYPES[TYPE_NUMBERS[kind]]
    blocks = int(np.prod(shape)) // ggml_type.block_size
    raw = rng.integers(0, 256, (blocks, ggml_type.block_bytes), np.uint8).view(ggml_type.layout)
    for scale in ("d", "m", "dmin"):
        if scale in (ggml_type.layout.names or ()):
            raw[scale] = rng.normal(0, 0.02, raw.shape)
    if "e" in (ggml_type.layout.names or ()):  # an exponent: so small that fp16 has it
        raw["e"] = rng.integers(115, 125, raw.shape)
    if kind in ("F32", "F16"):
        raw["x"] = rng.normal(0, 0.05, raw.shape)
    if kind == "BF16":
        plain = rng.normal(0, 0.05, raw.shape).astype(np.float32)
        raw["x"] = plain.view(np.uint32) >> 16
    return Stored(shape, kind, raw.tobytes())


TINY_TOKENS = [f"t{i}" for i in range(40)]


def tiny_gguf(
    architecture: str = "llama",
    *,
    kind: str = "Q4_0",
    layers: int = 2,
    tied: bool = True,
    head_dim: int = 0,
    seed: int = 0,
) -> GGUFBuilder:
    """A decoder of hidden size 64, 4 heads of 16, 2 KV heads; K-quants get a hidden size of 256."""
    rng = np.random.default_rng(seed)
    hidden = 256 if kind.endswith("_K") else 64
    head_dim = head_dim or hidden // 4
    wide, vocabulary = hidden, len(TINY_TOKENS)
    sizes = {
        "block_count": layers,
        "context_length": 128,
        "embedding_length": hidden,
        "feed_forward_length": wide,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
    }
    if head_dim * 4 != hidden:
        sizes |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    builder = GGUFBuilder([("general.architecture", architecture)])
    builder.metadata += [(f"{architecture}.{k}", v) for k, v in sizes.items()]
    builder.metadata += [
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.tokens", TINY_TOKENS),
        ("tokenizer.ggml.token_type", np.ones(vocabulary, np.int32)),
        ("tokenizer.ggml.add_bos_token", False),
    ]

    def add(name: str, shape: tuple[int, ...]) -> None:
        stored = "F32" if len(shape) == 1 else kind
        builder.tensors.append((name, random_blocks(stored, shape, rng)))

    add("token_embd.weight", (vocabulary, hidden))
    for i in range(layers):
        add(f"blk.{i}.attn_norm.weight", (hidden,))
        for letter, rows in (("q", 4 * head_dim), ("k", 2 * head_dim), ("v", 2 * head_dim)):
            add(f"blk.{i}.attn_{letter}.weight", (rows, hidden))
            if architecture == "qwen2":
                add(f"blk.{i}.attn_{letter}.bias", (rows,))
            if architecture == "qwen3" and letter in "qk":
                add(f"blk.{i}.attn_{letter}_norm.weight", (head_dim,))
        add(f"blk.{i}.attn_output.weight", (hidden, 4 * head_dim))
        add(f"blk.{i}.ffn_norm.weight", (hidden,))
        add(f"blk.{i}.ffn_gate.weight", (wide, hidden))
        add(f"blk.{i}.ffn_up.weight", (wide, hidden))
        add(f"blk.{i}.ffn_down.weight", (hidden, wide))
    add("output_norm.weight", (hidden,))
    if not tied:
        add("output.weight", (vocabulary, hidden))
    return builder


def tiny_hf_config(model_type: str = "llama", **changes: Any) -> dict[str, Any]:
    """A `config.json` of hidden size 32, 2 layers, 4 heads of 8, 2 KV heads; None drops a key."""
    values: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": 48,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    return {k: v for k, v in (values | changes).items() if v is not None}


def tiny_hf_tensors(config: Mapping[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """The fp32 tensors of a llama, mistral, qwen2 or qwen3 of such a config."""
    generator = torch.Generator().manual_seed(seed)
    hidden, wide, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q_size = config["num_attention_heads"] * head_dim
    kv_size = config["num_key_value_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        for letter, rows in (("q", q_size), ("k", kv_size), ("v", kv_size)):
            shapes[f"{layer}.self_attn.{letter}_proj.weight"] = (rows, hidden)
            if config["model_type"] == "qwen2":
                shapes[f"{layer}.self_attn.{letter}_proj.bias"] = (rows,)
            if config["model_type"] == "qwen3" and letter in "qk":
                shapes[f"{layer}.self_attn.{letter}_norm.weight"] = (head_dim,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (hidden, q_size)
        shapes[f"{layer}.mlp.gate_proj.weight"] = (wide, hidden)
        shapes[f"{layer}.mlp.up_proj.weight"] = (wide, hidden)
        shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, wide)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write_hf_folder(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    *,
    shards: int = 1,
) -> Path:
    """A Hugging Face folder of that config and those weights, in one file or in shards."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors")
        return folder
    weight_map: dict[str, str] = {}
    for i in range(shards):
        name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        mine = every(tensors.items(), shards, i)
        save_file(mine, folder / name)
        weight_map |= dict.fromkeys(mine, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def every(
    items: Iterable[tuple[str, torch.Tensor]], step: int, first: int
) -> dict[str, torch.Tensor]:
    """Each step-th item, from `first` on."""
    return {k: v for i, (k, v) in enumerate(items) if i % step == first}

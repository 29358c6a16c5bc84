"""Loading: a model file's tensors under their canonical names, checked against the config.

Canonical names are those of Hugging Face's Llama.  What comes out is all that the decoder needs
and nothing else: each tensor was there with the shape that the config asks for, and a tensor that
the decoder would not use was refused, since leaving it out would change the maths.

GGUF files of the llama architecture hold the rows of the query and key projections in an order
that makes RoPE's pairs neighbours.  The rows are put back here, in their stored form, so that
the decoder knows one order only (llama.cpp's `convert_hf_to_gguf.py`, `LlamaModel.permute`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sgen.errors import ModelFileError, UnsupportedModelError
from sgen.runtime.checkpoint import StoredMatrix, stored_matrix
from sgen.runtime.config import ModelConfig
from sgen.runtime.config_gguf import config_from_gguf
from sgen.runtime.config_hf import config_from_hf
from sgen.runtime.folder import DTYPES, HFFolder
from sgen.runtime.ggml import dequantize
from sgen.runtime.gguf import GGUFFile
from sgen.runtime.quant import QuantTensor

Source: TypeAlias = GGUFFile | HFFolder
Weights: TypeAlias = dict[str, QuantTensor | Tensor]
"""Matrices as they are stored, vectors (norms and biases) as fp32 tensors, by canonical name.
With tied embeddings there is no `lm_head.weight`."""
Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

_PAGE = 4096  # bytes of a page of memory, or a divisor of them
_PLAIN = ("F32", "F16", "BF16")
_HARMLESS = re.compile(
    r"rope_freqs\.weight|(model\.layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"
    r"|model\.layers\.\d+\.self_attn\.[kv]_(scale|zero_point)"  # for a KV cache that is not ours
)


@dataclass(frozen=True, slots=True)
class Expected:
    """A tensor [N, K] or [n] that the config asks for; RoPE turns the outputs of `rotated` rows."""

    name: str
    gguf_name: str
    shape: tuple[int, ...]
    rotated: bool = False


def open_source(path: Path) -> Source:
    """A GGUF file or a Hugging Face folder, by what the path is."""
    return HFFolder.open(path) if path.is_dir() else GGUFFile.open(path)


def read_config(source: Source) -> ModelConfig:
    """Errors as `config_from_gguf` and `config_from_hf` have them."""
    if isinstance(source, GGUFFile):
        return config_from_gguf(source)
    return config_from_hf(source.config, str(source.path / "config.json"))


def load_weights(
    source: Source, config: ModelConfig, progress: Progress = lambda done, total: None
) -> Weights:
    """All weights of the decoder.  `progress(bytes done, bytes in all)` tells of reading them.

    Matrices stay in the file's map, except for rows that had to be permuted; every page of the
    map is touched once, so that what is slow about a cold disk happens here.  ModelFileError: a
    tensor is missing or has another shape or type than the config asks for; UnsupportedModelError:
    there is a tensor that the decoder would leave out.
    """
    expected = checked_weights(source, config)
    total = sum(stored_bytes(source, e) for e in expected)
    weights: Weights = {}
    done = 0
    progress(done, total)
    for entry in expected:
        weights[entry.name] = load_weight(source, config, entry)
        done += stored_bytes(source, entry)
        progress(done, total)
    return weights


def load_weight(source: Source, config: ModelConfig, entry: Expected) -> QuantTensor | Tensor:
    """One of `checked_weights`, as `load_weights` gives it."""
    load = _matrix if len(entry.shape) == 2 else _vector
    return load(source, config, entry)


def _expected(config: ModelConfig) -> Iterator[Expected]:
    """Lazily, so that a file's claim of many layers costs nothing before it is found false."""
    vocabulary = (config.vocab_size, config.hidden_size)
    yield Expected("model.embed_tokens.weight", "token_embd.weight", vocabulary)
    for i in range(config.num_layers):
        for entry in _layer(config):
            name, gguf_name = f"model.layers.{i}.{entry.name}", f"blk.{i}.{entry.gguf_name}"
            yield replace(entry, name=name, gguf_name=gguf_name)
    yield Expected("model.norm.weight", "output_norm.weight", (config.hidden_size,))
    if not config.tie_embeddings:
        yield Expected("lm_head.weight", "output.weight", vocabulary)


def _layer(config: ModelConfig) -> Iterator[Expected]:
    """The tensors of any one layer, by their names within it."""
    hidden, wide = config.hidden_size, config.intermediate_size
    q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    yield Expected("input_layernorm.weight", "attn_norm.weight", (hidden,))
    for letter, size, rotated in (("q", q_size, True), ("k", kv_size, True), ("v", kv_size, False)):
        name, gguf_name = f"self_attn.{letter}_proj", f"attn_{letter}"
        yield Expected(f"{name}.weight", f"{gguf_name}.weight", (size, hidden), rotated)
        if config.qkv_bias:
            yield Expected(f"{name}.bias", f"{gguf_name}.bias", (size,), rotated)
    if config.qk_norm:
        for letter in "qk":
            name, gguf_name = f"self_attn.{letter}_norm.weight", f"attn_{letter}_norm.weight"
            yield Expected(name, gguf_name, (config.head_dim,))
    yield Expected("self_attn.o_proj.weight", "attn_output.weight", (hidden, q_size))
    if config.o_bias:
        yield Expected("self_attn.o_proj.bias", "attn_output.bias", (hidden,))
    yield Expected("post_attention_layernorm.weight", "ffn_norm.weight", (hidden,))
    yield Expected("mlp.gate_proj.weight", "ffn_gate.weight", (wide, hidden))
    yield Expected("mlp.up_proj.weight", "ffn_up.weight", (wide, hidden))
    yield Expected("mlp.down_proj.weight", "ffn_down.weight", (hidden, wide))


def checked_weights(source: Source, config: ModelConfig) -> list[Expected]:
    """What the config asks for, once all of it is known to be there, and nothing more.

    Errors as `load_weights` has them; nothing but the headers is read.
    """
    expected: list[Expected] = []
    known: set[str] = set()
    for entry in _expected(config):
        name = stored_name(source, entry)
        expected.append(entry)
        quantized = _quantized(source, entry)
        if quantized is not None:
            known.update(quantized.names)
            continue
        tensor = source.tensors.get(name)
        if tensor is None:
            _fail(source, name, f"is missing; expected the shape {list(entry.shape)}")
        if tensor.shape != entry.shape:
            _fail(source, name, f"has the shape {list(tensor.shape)}, not {list(entry.shape)}")
        is_plain = len(entry.shape) == 1 or isinstance(source, HFFolder)
        if is_plain and _type_name(source, name) not in _PLAIN:
            _fail(source, name, f"is {_type_name(source, name)}, not one of {', '.join(_PLAIN)}")
        known.add(name)
    if config.tie_embeddings:
        known.add("lm_head.weight")  # a copy of the embedding, which some files have
    for name in source.tensors:
        if name not in known and not _HARMLESS.fullmatch(name):
            raise UnsupportedModelError(
                f"{source.path}: the decoder would leave out the tensor {name[:80]}"
            )
    return expected


def _quantized(source: Source, entry: Expected) -> StoredMatrix | None:
    """How a folder stores a matrix that its checkpoint has quantized."""
    if len(entry.shape) != 2 or isinstance(source, GGUFFile):
        return None
    return stored_matrix(source, entry.name, (entry.shape[0], entry.shape[1]))


def _fail(source: Source, name: str, message: str) -> NoReturn:
    raise ModelFileError(message, path=str(source.path), where=f"tensor {name}")


def stored_name(source: Source, entry: Expected) -> str:
    """What the file calls it."""
    return entry.gguf_name if isinstance(source, GGUFFile) else entry.name


def _type_name(source: Source, name: str) -> str:
    if isinstance(source, GGUFFile):
        return source.tensors[name].ggml_type.name
    return source.tensors[name].dtype


def stored_bytes(source: Source, entry: Expected) -> int:
    """Its size in the file."""
    if isinstance(source, GGUFFile):
        return source.tensors[entry.gguf_name].nbytes
    quantized = _quantized(source, entry)
    names = (entry.name,) if quantized is None else quantized.names
    tensors = (source.tensors[name] for name in names)
    return sum(math.prod(t.shape) * DTYPES[t.dtype].itemsize for t in tensors)


def _matrix(source: Source, config: ModelConfig, entry: Expected) -> QuantTensor:
    rows, columns = entry.shape
    if isinstance(source, HFFolder):
        quantized = _quantized(source, entry)
        if quantized is not None:
            return QuantTensor((rows, columns), quantized.load())
        tensor = source.tensor(entry.name)
        _touch(tensor.view(torch.uint8).reshape(-1).numpy())
        return QuantTensor((rows, columns), tensor, tensor.dtype)
    raw = source.data(entry.gguf_name)
    _touch(raw)
    data = raw.reshape(rows, -1)
    if entry.rotated and config.architecture == "llama":
        data = data[half_split_order(rows, config)]
    return QuantTensor((rows, columns), data, source.tensors[entry.gguf_name].ggml_type)


def _vector(source: Source, config: ModelConfig, entry: Expected) -> Tensor:
    if isinstance(source, HFFolder):
        return source.tensor(entry.name).to(torch.float32, copy=True)
    info = source.tensors[entry.gguf_name]
    values = dequantize(source.data(entry.gguf_name), info.ggml_type)
    if entry.rotated and config.architecture == "llama":
        values = values[half_split_order(values.size, config)]
    return torch.from_numpy(values)


def half_split_order(rows: int, config: ModelConfig) -> npt.NDArray[np.int64]:
    """Where each of `rows` rows lies in a file whose RoPE pairs are neighbours, int64 [rows].

    In each head of the result, the first partners of all pairs come first, then the second ones,
    then the dimensions that RoPE leaves alone.
    """
    head_dim, rotary = config.head_dim, config.rope.rotary_dim
    pairs = np.arange(rotary).reshape(-1, 2).T.reshape(-1)
    one_head = np.concatenate([pairs, np.arange(rotary, head_dim)])
    heads = np.arange(0, rows, head_dim)[:, None]
    order: npt.NDArray[np.int64] = heads + one_head
    return order.reshape(-1)


def _touch(raw: npt.NDArray[np.uint8]) -> None:
    """Read one byte of each page, which brings the page in from the disk."""
    np.bitwise_or.reduce(raw[::_PAGE])

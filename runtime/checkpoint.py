"""Quantized safetensors checkpoints: which tensors hold a matrix, and in which format.

The config's `quantization_config` names the method; whether a matrix is quantized, and how, is
read off its tensors, so that layers which the method left alone need no list of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sgen.errors import UnsupportedModelError
from sgen.runtime.checkpoint_bnb import has_4_bits, load_4_bits
from sgen.runtime.checkpoint_int import Bits, load_awq, load_gptq, load_packed
from sgen.runtime.checkpoint_module import Load, Module
from sgen.runtime.checkpoint_scaled import VALUES, Input, load_llm_int8, load_scaled
from sgen.runtime.folder import HFFolder

METHODS = ("gptq", "awq", "compressed-tensors", "bitsandbytes", "fp8")
"""Values of `quant_method` that run."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """What the config says that the tensors do not."""

    method: str
    bits: Bits = 4
    checkpoint_format: str = "gptq"
    block: tuple[int, int] | None = None  # of fp8: rows and columns
    activations: Input = "none"


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A quantized matrix in a folder: its tensors' names, and how to read it."""

    names: tuple[str, ...]
    load: Load


def quantization(config: Mapping[str, object], path: str) -> Quantization | None:
    """Of a `config.json`; UnsupportedModelError for a method or an option that does not run."""
    for key in ("quantization_config", "compression_config"):
        said = config.get(key)
        if said is None:
            continue
        if not isinstance(said, dict):
            raise UnsupportedModelError(f"{path}: {key} is no object")
        return _read(said, f"{path}: {key}")
    return None


def _read(said: Mapping[str, object], where: str) -> Quantization:
    method = said.get("quant_method", "an unnamed method")
    if method == "gptq":
        bits = said.get("bits")
        if bits not in (4, 8):
            raise UnsupportedModelError(
                f"{where}: GPTQ weights of {str(bits)[:20]} bits do not run here, 4 and 8 do"
            )
        return Quantization("gptq", 4 if bits == 4 else 8, str(said.get("checkpoint_format")))
    if method == "awq":
        version = str(said.get("version", "gemm")).lower()
        if said.get("bits", said.get("w_bit", 4)) != 4 or version != "gemm":
            raise UnsupportedModelError(f"{where}: of AWQ only 4 bits of version gemm run here")
        return Quantization("awq")
    if method == "compressed-tensors":
        return _compressed(said, where)
    if method == "bitsandbytes":
        return Quantization("bitsandbytes")
    if method == "fp8":
        block = said.get("weight_block_size")
        static = said.get("activation_scheme") == "static"
        return Quantization("fp8", block=_pair(block), activations="tensor" if static else "row")
    raise UnsupportedModelError(
        f"{where}: weights quantized by {str(method)[:40]} do not run here",
        hint=f"methods that run: {', '.join(METHODS)}; or take the model unquantized, or as GGUF",
    )


def _compressed(said: Mapping[str, object], where: str) -> Quantization:
    sparse = said.get("sparsity_config")
    if isinstance(sparse, dict) and sparse.get("format", "dense") != "dense":
        raise UnsupportedModelError(f"{where}: sparse weights do not run here")
    groups = said.get("config_groups")
    block = None
    activations: Input = "none"
    for group in groups.values() if isinstance(groups, dict) else ():
        if not isinstance(group, dict):
            continue
        weights, inputs = group.get("weights"), group.get("input_activations")
        if isinstance(weights, dict):
            block = block or _pair(weights.get("block_structure"))
        if isinstance(inputs, dict):
            activations = "row" if inputs.get("dynamic") else "tensor"
    return Quantization("compressed-tensors", block=block, activations=activations)


def _pair(value: object) -> tuple[int, int] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    rows, columns = value
    if not isinstance(rows, int) or not isinstance(columns, int) or min(rows, columns) < 1:
        return None
    return rows, columns


def stored_matrix(folder: HFFolder, name: str, shape: tuple[int, int]) -> StoredMatrix | None:
    """The quantized matrix that stands for the tensor `name`; None where it is plain, or absent.

    Only headers are read.  ModelFileError names a tensor that is missing, or has another shape or
    type than its format asks for.
    """
    said = quantization(folder.config, str(folder.path / "config.json"))
    if said is None or not name.endswith(".weight"):
        return None
    module = Module(folder, name.removesuffix(".weight"), shape)
    load = _load(module, said)
    return None if load is None else StoredMatrix(tuple(module.names), load)


def _load(module: Module, said: Quantization) -> Load | None:
    has_values = module.dtype("weight") in VALUES
    if said.method == "gptq" and module.has("qweight"):
        return load_gptq(module, said.bits, said.checkpoint_format)
    if said.method == "awq" and module.has("qweight"):
        return load_awq(module)
    if said.method == "compressed-tensors" and module.has("weight_packed"):
        return load_packed(module)
    if said.method in ("compressed-tensors", "fp8") and has_values:
        return load_scaled(module, said.block, said.activations)
    if said.method == "bitsandbytes" and has_4_bits(module):
        return load_4_bits(module)
    if said.method == "bitsandbytes" and has_values:
        return load_llm_int8(module)
    return None

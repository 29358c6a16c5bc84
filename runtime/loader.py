"""From a path to a model that is ready to run: config, tokenizer, weights, in this order.

On a GPU, weights are put there.  Where the native code can be had, they come packed from the saved
cache (packed.py) if this model was loaded before; else the torch decoder has them dequantized.

What is cheap to check comes first, so that an unsupported model is refused before any weight is
read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch

from sgen.errors import UnsupportedModelError
from sgen.kernels import isa
from sgen.runtime import memory
from sgen.runtime.compute import Compute
from sgen.runtime.config import ModelConfig
from sgen.runtime.gguf import GGUFFile
from sgen.runtime.models.decoder import Decoder
from sgen.runtime.models.native import NativeDecoder, runs
from sgen.runtime.packed import packed_weights
from sgen.runtime.tokenizer import Tokenizer, tokenizer_from_folder, tokenizer_from_gguf
from sgen.runtime.weights import Source, load_weights, open_source, read_config

if TYPE_CHECKING:
    from sgen.runtime.models.triton import TritonDecoder

AnyDecoder: TypeAlias = "Decoder | NativeDecoder | TritonDecoder"

Progress = Callable[[str, int, int], None]
"""Called with the name of the stage, what is done of it, and all of it."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    name: str
    model: AnyDecoder
    tokenizer: Tokenizer


def load_model(
    path: Path,
    progress: Progress = lambda stage, done, total: None,
    *,
    compute: Compute | None = None,
) -> LoadedModel:
    """Read a GGUF file or a Hugging Face folder.

    ModelFileError where the file is broken, UnsupportedModelError where sgen cannot run it,
    InvalidRequestError where `compute` asks for what this machine has not.
    """
    model, tokenizer = _parts(path, progress, compute or Compute())
    memory.give_back()  # building SmolLM2's tokenizer leaves 30 MB
    return LoadedModel(path.stem if path.suffix == ".gguf" else path.name, model, tokenizer)


def _parts(path: Path, progress: Progress, compute: Compute) -> tuple[AnyDecoder, Tokenizer]:
    source = open_source(path)
    with source:
        config = read_config(source)
        tokenizer = _tokenizer(source, config.vocab_size)
        return _model(source, config, progress, compute), tokenizer


def _model(source: Source, config: ModelConfig, progress: Progress, compute: Compute) -> AnyDecoder:
    device = compute.device()
    if device is not None:
        return _on_device(device, source, config, progress, compute)
    library = compute.library()
    if library is not None and not runs(config):
        compute.without_native(f"{source.path} has heads of {config.head_dim} dimensions")
        library = None
    if library is None:
        return _torch(source, config, progress, compute)
    packed = packed_weights(source, config, lambda n, of: progress("reading", n, of))
    return NativeDecoder(
        library,
        config,
        packed,
        isa=isa.chosen() or "",
        threads=compute.num_threads(),
        kv_cache_dtype=compute.kv_dtype("native"),
    )


def _torch(source: Source, config: ModelConfig, progress: Progress, compute: Compute) -> Decoder:
    torch.set_num_threads(compute.num_threads())
    weights = load_weights(source, config, lambda n, of: progress("reading", n, of))
    return Decoder(
        config,
        weights,
        kv_cache_dtype=compute.kv_dtype("torch"),
        progress=lambda n, of: progress("dequantizing", n, of),
    )


def _on_device(
    device: str, source: Source, config: ModelConfig, progress: Progress, compute: Compute
) -> TritonDecoder:
    from sgen.runtime.models import triton  # it comes with the package triton, which may be absent

    if not triton.runs(config):
        raise UnsupportedModelError(
            f"{source.path} has heads of {config.head_dim} dimensions, which the triton path has "
            "not: choose the torch path"
        )
    weights = load_weights(source, config, lambda n, of: progress("reading", n, of))
    return triton.TritonDecoder.on(
        device,
        config,
        weights,
        kv_cache_dtype=compute.kv_dtype("triton") if device == "cuda" else compute.kv_cache_dtype,
        deterministic=compute.deterministic,
        progress=lambda n, of: progress("dequantizing", n, of),
    )


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer alone; errors as `load_model` has them."""
    with open_source(path) as source:
        return _tokenizer(source, read_config(source).vocab_size)


def _tokenizer(source: Source, vocab_size: int) -> Tokenizer:
    if isinstance(source, GGUFFile):
        return tokenizer_from_gguf(source.metadata, vocab_size, str(source.path))
    return tokenizer_from_folder(source.path, vocab_size)

"""From a path to a model that is ready to run: config, tokenizer, weights, in this order.

What is cheap to check comes first, so that an unsupported model is refused before any weight is
read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sgen.runtime.gguf import GGUFFile
from sgen.runtime.models.decoder import Decoder
from sgen.runtime.tokenizer import Tokenizer, tokenizer_from_folder, tokenizer_from_gguf
from sgen.runtime.weights import Source, load_weights, open_source, read_config

Progress = Callable[[str, int, int], None]
"""Called with the name of the stage, what is done of it, and all of it."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    name: str
    model: Decoder
    tokenizer: Tokenizer


def load_model(path: Path, progress: Progress = lambda stage, done, total: None) -> LoadedModel:
    """Read a GGUF file or a Hugging Face folder.

    ModelFileError where the file is broken, UnsupportedModelError where sgen cannot run it.
    """
    source = open_source(path)
    with source:
        config = read_config(source)
        tokenizer = _tokenizer(source, config.vocab_size)
        weights = load_weights(source, config, lambda n, of: progress("reading", n, of))
        model = Decoder(config, weights, progress=lambda n, of: progress("dequantizing", n, of))
    return LoadedModel(path.stem if path.suffix == ".gguf" else path.name, model, tokenizer)


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer alone; errors as `load_model` has them."""
    with open_source(path) as source:
        return _tokenizer(source, read_config(source).vocab_size)


def _tokenizer(source: Source, vocab_size: int) -> Tokenizer:
    if isinstance(source, GGUFFile):
        return tokenizer_from_gguf(source.metadata, vocab_size, str(source.path))
    return tokenizer_from_folder(source.path, vocab_size)

"""Ten thousand broken model files: each is refused with a typed error, or is sound after all.

Every mutation goes the whole way: open, config, weights, one matrix dequantized.  Nothing but a
ModelFileError or an UnsupportedModelError may come out, and no claim may allocate memory.
"""

from __future__ import annotations

import json
import random
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import (
    GGUFBuilder,
    Stored,
    tiny_gguf,
    tiny_hf_config,
    tiny_hf_tensors,
    write_hf_folder,
)

from sgen.errors import ModelFileError, UnsupportedModelError
from sgen.runtime.quant import QuantTensor
from sgen.runtime.tokenizer import tokenizer_from_gguf
from sgen.runtime.weights import load_weights, open_source, read_config

EXTREMES = [0, 1, 2, 255, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
HOSTILE: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**40, 0.0, -1.0, 1e-300, 1e300, float("nan"),
    float("inf"), "", "x", "llama", "qwen3", "yarn", "\0", [], ["a"], [1, 2], [[[]]],
]  # fmt: skip


def drive(path: Path) -> str:
    """Load the model; what came of it."""
    try:
        with open_source(path) as source:
            weights = load_weights(source, read_config(source))
            matrix = weights["model.layers.0.self_attn.q_proj.weight"]
            assert isinstance(matrix, QuantTensor)
            assert matrix.dequantize().dtype == torch.float32
    except (ModelFileError, UnsupportedModelError) as error:
        message = str(error)
        outcome = type(error).__name__
    else:
        return "sound"
    assert len(message) < 2000
    return outcome


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Whoever asks for 256 MB more than there is now gets a MemoryError, or is aborted."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    size = int(statm.read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + (256 << 20), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def mutate_bytes(raw: bytes, header: int, rng: random.Random) -> bytes:
    """Truncate, flip bits, write extreme numbers, delete or repeat; mostly in the header."""
    changed = bytearray(raw)
    kind = rng.randrange(6)
    if kind == 0:
        return raw[: rng.randrange(len(raw) if rng.random() < 0.5 else header)]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(header if rng.random() < 0.95 else len(changed))
        if kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[at] = rng.randrange(256)
        elif kind == 3:
            changed[at : at + 8] = rng.choice(EXTREMES).to_bytes(8, "little")
        elif kind == 4:
            changed[at : at + 4] = (rng.choice(EXTREMES) % 2**32).to_bytes(4, "little")
        else:
            length = rng.randrange(1, 64)
            changed[at : at + length * rng.randrange(2)] = changed[at : at + length] * 2
    return bytes(changed)


def outcomes(
    path: Path, target: Path, count: int, make: Callable[[random.Random], bytes], seed: int
) -> Counter[str]:
    rng, seen = random.Random(seed), Counter[str]()
    for _ in range(count):
        target.write_bytes(make(rng))
        seen[drive(path)] += 1
    return seen


@pytest.mark.parametrize(("architecture", "kind"), [("llama", "Q4_0"), ("qwen3", "F16")])
def test_gguf_bytes(architecture: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    raw = tiny_gguf(architecture, kind=kind, tied=False).build()
    path.write_bytes(raw)
    assert drive(path) == "sound"
    header = raw.index(b"output.weight") + 60
    seen = outcomes(path, path, 2000, lambda rng: mutate_bytes(raw, header, rng), seed=1)
    assert seen["ModelFileError"] > 1500
    assert seen["UnsupportedModelError"] > 10
    assert seen["sound"] > 10


SOUND = [tiny_gguf(a, kind="Q8_0", layers=1) for a in ("llama", "qwen2", "qwen3")]


def hostile_gguf(rng: random.Random) -> bytes:
    """Keys with values of other types, repeated and dropped keys and tensors, wild tensors."""
    sound = rng.choice(SOUND)
    builder = GGUFBuilder(list(sound.metadata), list(sound.tensors))
    for _ in range(rng.choice((1, 1, 2))):
        key, value = rng.choice(builder.metadata)
        name, stored = rng.choice(builder.tensors)
        match rng.randrange(6):
            case 0:
                builder.set(str(key), gguf_hostile(rng))
            case 1:
                builder.metadata.append((key, value))
            case 2:
                builder.drop(rng.choice((str(key), name)))
            case 3:
                builder.tensors.append((name, stored))
            case 4:
                builder.put(name, wild(stored, rng))
            case _:
                builder.put(name + rng.choice(("", "2", ".bias")), wild(stored, rng))
    return builder.build()


def gguf_hostile(rng: random.Random) -> Any:
    value = rng.choice(HOSTILE)
    if value is None or (isinstance(value, int) and not 0 <= value < 2**32):
        return np.uint64(rng.choice(EXTREMES))
    if value == [1, 2]:
        return np.array([rng.choice(EXTREMES) for _ in range(rng.randrange(4))], np.uint64)
    return np.float64(value) if isinstance(value, float) else value


def wild(stored: Stored, rng: random.Random) -> Stored:
    """The tensor with another shape, type or offset."""
    shape = tuple(rng.choice((1, 2, 32, 64, *EXTREMES)) for _ in range(rng.randrange(1, 6)))
    kind = rng.choice(("F32", "F16", "Q4_0", "Q8_0", "Q6_K"))
    choices = (
        Stored(shape, stored.kind, stored.raw),
        Stored(stored.shape, kind, stored.raw),
        Stored(stored.shape, stored.kind, stored.raw, rng.choice((0, 32, 33, *EXTREMES))),
        Stored(stored.shape[::-1], stored.kind, stored.raw),
        Stored(stored.shape, stored.kind, stored.raw[: rng.randrange(len(stored.raw))]),
    )
    return rng.choice(choices)


def test_gguf_values(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    seen = outcomes(path, path, 1500, hostile_gguf, seed=2)
    assert seen["ModelFileError"] > 750
    assert seen["UnsupportedModelError"] > 20
    assert seen["sound"] > 50


def test_deep_nesting(tmp_path: Path) -> None:
    """Arrays in arrays, far deeper than Python's stack."""
    builder: GGUFBuilder = tiny_gguf(layers=1)
    array = (9).to_bytes(4, "little") + (1).to_bytes(8, "little")
    raw = builder.build()
    key = raw.index(b"tokenizer.ggml.model") + 20
    path = tmp_path / "model.gguf"
    for depth in (5, 100, 100_000):
        path.write_bytes(raw[:key] + array[:4] + array * depth + raw[key:])
        assert drive(path) == "ModelFileError"


def test_safetensors_bytes(tmp_path: Path) -> None:
    config = tiny_hf_config(num_hidden_layers=1)
    folder = write_hf_folder(tmp_path, config, tiny_hf_tensors(config))
    assert drive(folder) == "sound"
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    seen = outcomes(folder, path, 2000, lambda rng: mutate_bytes(raw, header, rng), seed=3)
    assert seen["ModelFileError"] > 1500
    assert seen["sound"] > 10


def hostile_header(raw: bytes, rng: random.Random) -> bytes:
    """A safetensors header that is JSON, but says other things of its tensors."""
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(header))
        field = rng.choice(("dtype", "shape", "data_offsets", "new"))
        numbers = [rng.choice((-1, 1, 32, *EXTREMES)) for _ in range(rng.randrange(4))]
        types = ("F32", "F16", "BF16", "I8", "F64", "BOOL", "F4", "F8_E4M3", "C64", "I32", "U32")
        value = rng.choice((numbers, rng.choice(types), rng.choice(HOSTILE)))
        match rng.randrange(4):
            case 0:
                header[name] = value
            case 1:
                header[rng.choice(("x", "__metadata__", name + ".bias"))] = header[name]
            case 2:
                header.pop(name)
                header = header or {"x": value}
            case _ if isinstance(header[name], dict):
                header[name][field] = value
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + raw[8 + size :]


def test_safetensors_values(tmp_path: Path) -> None:
    config = tiny_hf_config(num_hidden_layers=1)
    folder = write_hf_folder(tmp_path, config, tiny_hf_tensors(config))
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    seen = outcomes(folder, path, 1500, lambda rng: hostile_header(raw, rng), seed=4)
    assert seen["ModelFileError"] > 1000
    assert seen["UnsupportedModelError"] > 0
    assert seen["sound"] > 2


def hostile_config(values: dict[str, Any], rng: random.Random) -> bytes:
    changed = dict(values)
    extra = ("rope_scaling", "rope_parameters", "layer_types", "sliding_window", "architectures",
             "quantization_config", "use_sliding_window", "attention_bias")  # fmt: skip
    for _ in range(rng.choice((1, 1, 2))):
        key = rng.choice((*values, *extra))
        value = rng.choice(HOSTILE)
        if rng.random() < 0.3:
            names = ("rope_type", "type", "factor", "rope_theta", "low_freq_factor", "beta_fast",
                     "original_max_position_embeddings", "attention_factor", "x")  # fmt: skip
            kinds = ("linear", "llama3", "yarn", "default")
            value = {rng.choice(names): rng.choice((*HOSTILE, *kinds, 4.0)) for _ in range(4)}
            value["rope_type"] = rng.choice((*kinds, value))
            key = rng.choice(("rope_scaling", "rope_parameters"))
        changed[key] = value
    try:
        text = json.dumps(changed)
    except ValueError:  # a value that holds itself
        text = '{"a": ' * rng.randrange(5000)
    return text.encode()


def test_config_values(tmp_path: Path) -> None:
    values = tiny_hf_config("qwen3", num_hidden_layers=1)
    folder = write_hf_folder(tmp_path, values, tiny_hf_tensors(values))
    path = folder / "config.json"
    seen = outcomes(folder, path, 1500, lambda rng: hostile_config(values, rng), seed=5)
    assert seen["ModelFileError"] > 500
    assert seen["UnsupportedModelError"] > 50
    assert seen["sound"] > 50


TOKENIZER_KEYS = (
    "model", "tokens", "token_type", "scores", "merges", "pre", "bos_token_id", "eos_token_id",
    "eot_token_id", "unknown_token_id", "padding_token_id", "add_bos_token", "add_space_prefix",
)  # fmt: skip


def test_gguf_tokenizers() -> None:
    """Metadata of other types, lengths and values: a typed error, or a tokenizer that works."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "a", "b", "ab"]
    rng, seen = random.Random(6), Counter[str]()
    for _ in range(600):
        metadata: dict[str, Any] = {
            "tokenizer.ggml.model": rng.choice(("gpt2", "llama")),
            "tokenizer.ggml.tokens": list(tokens),
            "tokenizer.ggml.token_type": np.array([2, 3, 3, *[6] * 256, 1, 1, 1], np.int32),
            "tokenizer.ggml.scores": np.zeros(len(tokens), np.float32),
            "tokenizer.ggml.merges": ["a b"],
            "tokenizer.ggml.eos_token_id": 2,
        }
        for _ in range(rng.choice((1, 1, 2))):
            key = f"tokenizer.ggml.{rng.choice(TOKENIZER_KEYS)}"
            value = rng.choice((*HOSTILE, np.array(rng.choices((0, 1, -7, 2**40), k=262))))
            if isinstance(metadata.get(key), list | np.ndarray) and rng.random() < 0.5:
                value = list(metadata[key])
                value[rng.randrange(len(value))] = rng.choice((*HOSTILE, "x" * 600, "a", "\ud800"))
            metadata[key] = value
        try:
            tokenizer = tokenizer_from_gguf(metadata, 262, "x.gguf")
        except (ModelFileError, UnsupportedModelError) as error:
            seen[type(error).__name__ if len(str(error)) < 2000 else "long"] += 1
        else:
            tokenizer.encode("ab <s>")
            seen["sound"] += 1
    assert seen["long"] == 0
    assert seen["ModelFileError"] > 200
    assert seen["UnsupportedModelError"] > 5
    assert seen["sound"] > 50

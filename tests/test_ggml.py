"""Dequantization equals the `gguf` package's, bit for bit."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from builders import random_blocks

from sgen.runtime.ggml import GGML_TYPES, UNSUPPORTED_TYPES, GGMLType, dequantize
from sgen.runtime.gguf import GGUFFile

NUMBERS = sorted(GGML_TYPES)
SCALED = [n for n in NUMBERS if "d" in (GGML_TYPES[n].layout.names or ())]


def named(number: int) -> str:
    return GGML_TYPES[number].name


def reference(raw: np.ndarray, number: int) -> np.ndarray:
    with np.errstate(all="ignore"):
        values: np.ndarray = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(number))
    return values


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    """All bits; of a NaN only that it is one, since its payload depends on the processor."""
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    nans = np.isnan(theirs)
    np.testing.assert_array_equal(np.isnan(ours), nans)
    np.testing.assert_array_equal(ours.view(np.uint32)[~nans], theirs.view(np.uint32)[~nans])


@pytest.mark.parametrize("number", NUMBERS, ids=named)
def test_types_are_those_of_the_format(number: int) -> None:
    kind, reference_type = GGML_TYPES[number], gguf.GGMLQuantizationType(number)
    assert kind.name == reference_type.name
    assert (kind.block_size, kind.block_bytes) == gguf.GGML_QUANT_SIZES[reference_type]


def test_unsupported_types_have_their_names() -> None:
    assert not UNSUPPORTED_TYPES.keys() & GGML_TYPES.keys()
    for number, name in UNSUPPORTED_TYPES.items():
        assert gguf.GGMLQuantizationType(number).name == name


@pytest.mark.parametrize("number", NUMBERS, ids=named)
@pytest.mark.parametrize("seed", range(3))
def test_random_bytes(number: int, seed: int) -> None:
    """Any bytes: scales are then denormal, infinite and NaN too."""
    kind = GGML_TYPES[number]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (37, 5 * kind.block_bytes), np.uint8)
    assert_same_bits(dequantize(raw, kind), reference(raw, number))


@pytest.mark.parametrize("number", NUMBERS, ids=named)
def test_ordinary_scales(number: int) -> None:
    kind = GGML_TYPES[number]
    shape = (64, 4 * kind.block_size)
    stored = random_blocks(kind.name, shape, np.random.default_rng(7))
    raw = np.frombuffer(stored.raw, np.uint8).reshape(64, -1)
    values = dequantize(raw, kind)
    assert np.isfinite(values).all()
    assert len(np.unique(values)) > 3
    assert_same_bits(values, reference(raw, number))


@pytest.mark.parametrize("number", SCALED, ids=named)
@pytest.mark.parametrize("scale", [0x0000, 0x8000, 0x0001, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E01])
def test_odd_scales(number: int, scale: int) -> None:
    """Zeros of both signs, the smallest and largest half, infinities, a NaN, with all bytes."""
    kind = GGML_TYPES[number]
    bytes_ = np.arange(64 * kind.block_bytes, dtype=np.uint8)
    blocks = bytes_.view(kind.layout).copy()
    for field in {"d", "m", "dmin"} & set(kind.layout.names or ()):
        blocks[field] = np.uint16(scale).view(np.float16)
    raw = blocks.view(np.uint8).reshape(8, -1)
    assert_same_bits(dequantize(raw, kind), reference(raw, number))


def rows_one_by_one(raw: np.ndarray, kind: GGMLType) -> np.ndarray:
    return np.stack([dequantize(row, kind) for row in raw])


@pytest.mark.parametrize("name", ["Q4_1", "Q6_K", "BF16"])
def test_chunks_do_not_show(name: str) -> None:
    """More weights than are worked on at a time, and no multiple of them."""
    kind = next(t for t in GGML_TYPES.values() if t.name == name)
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (75, 1280 // kind.block_size * kind.block_bytes), np.uint8)
    ours = dequantize(raw, kind)
    assert ours.shape == (75, 1280)
    np.testing.assert_array_equal(ours.view(np.uint32), rows_one_by_one(raw, kind).view(np.uint32))


def assert_file_matches(path: Path, names: list[str]) -> set[str]:
    """Compare the header of a real file, and some tensors; the types that were seen."""
    reader, seen = gguf.GGUFReader(path), set()
    theirs = {t.name: t for t in reader.tensors}
    with GGUFFile.open(path) as file:
        places = {t.name: (t.shape, t.offset, t.nbytes) for t in file.tensors.values()}
        assert places == {
            name: (tuple(t.shape[::-1].tolist()), t.data_offset, t.n_bytes)
            for name, t in theirs.items()
        }
        ours = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in file.metadata.items()}
        assert ours == {
            k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")
        }
        for name in names:
            info, other = file.tensors[name], theirs[name]
            raw = file.data(name).reshape(*info.shape[:-1], -1)
            expected = gguf.quants.dequantize(other.data, other.tensor_type)
            assert_same_bits(dequantize(raw, info.ggml_type), expected)
            seen.add(info.ggml_type.name)
    return seen


@pytest.mark.slow
def test_smollm2(smollm2_path: Path) -> None:
    """All its tensors are compared by way of transformers in test_weights."""
    names = ["blk.0.attn_norm.weight", "blk.0.attn_q.weight", "token_embd.weight"]
    assert assert_file_matches(smollm2_path, names) == {"F32", "Q4_1", "Q8_0"}


@pytest.mark.slow
def test_qwen(qwen_path: Path) -> None:
    names = [f"blk.{i}.{t}" for i in (0, 11, 23) for t in ("ffn_down.weight", "attn_v.weight")]
    names += ["blk.5.ffn_gate.weight", "blk.3.attn_k.bias"]
    assert assert_file_matches(qwen_path, names) == {"F32", "Q5_0", "Q8_0", "Q4_K", "Q6_K"}

"""Quantized checkpoints beside the libraries that own their formats: equal bit for bit in fp32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sgen.runtime.checkpoint import stored_matrix
from sgen.runtime.folder import HFFolder

N, K = 48, 256
WEIGHTS = torch.randn(N, K, generator=torch.Generator().manual_seed(0)) * 0.05


def ours(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> Tensor:
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    whole = {f"m.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors")
    with HFFolder.open(folder) as source:
        matrix = stored_matrix(source, "m.weight", (N, K))
        assert matrix is not None
        return matrix.load().dequantize()


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_4_bits_of_bitsandbytes(kind: str, nested: bool, tmp_path: Path) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    codes, state = functional.quantize_4bit(
        WEIGHTS, blocksize=64, quant_type=kind, compress_statistics=nested
    )
    tensors = {f"weight.{name}": t for name, t in state.as_dict(packed=True).items()}
    got = ours(tmp_path, {"weight": codes, **tensors}, {"quant_method": "bitsandbytes"})
    assert torch.equal(got, functional.dequantize_4bit(codes, state))


def test_int8_of_bitsandbytes(tmp_path: Path) -> None:
    """They multiply by 1/127 last and we first, which is one rounding apart."""
    functional = pytest.importorskip("bitsandbytes.functional")
    values, largest, _ = functional.int8_vectorwise_quant(WEIGHTS.half())
    got = ours(tmp_path, {"weight": values, "SCB": largest}, {"quant_method": "bitsandbytes"})
    want = functional.int8_vectorwise_dequant(values, largest)
    torch.testing.assert_close(got, want, rtol=2e-7, atol=0)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("strategy", ["group", "channel"])
def test_packed_integers_of_compressed_tensors(
    bits: int, symmetric: bool, strategy: str, tmp_path: Path
) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor

    weights = {"num_bits": bits, "symmetric": symmetric, "strategy": strategy}
    width = 64 if strategy == "group" else K
    if strategy == "group":
        weights["group_size"] = width
    generator = torch.Generator().manual_seed(1)
    half = 2 ** (bits - 1)
    tensors = {
        "weight": WEIGHTS,
        "weight_scale": torch.rand(N, K // width, generator=generator) * 0.05 / half + 0.1 / half,
        "weight_zero_point": torch.zeros(N, K // width, dtype=torch.int8),
    }
    if not symmetric:
        shape = (N, K // width)
        points = torch.randint(-half, half, shape, generator=generator)
        tensors["weight_zero_point"] = points.to(torch.int8)
    theirs, packed = _through(PackedQuantizationCompressor, tensors, weights)
    packed.pop("weight_g_idx", None)
    assert torch.equal(ours(tmp_path, packed, {"quant_method": "compressed-tensors"}), theirs)


@pytest.mark.parametrize("kind", ["int", "float"])
@pytest.mark.parametrize("strategy", ["channel", "tensor"])
def test_scaled_values_of_compressed_tensors(kind: str, strategy: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.naive_quantized import NaiveQuantizationCompressor

    weights = {"num_bits": 8, "type": kind, "symmetric": True, "strategy": strategy}
    largest = WEIGHTS.abs().amax(1, keepdim=True) if strategy == "channel" else WEIGHTS.abs().max()
    scale = (largest / (127 if kind == "int" else 448)).reshape(-1, 1)
    scale = scale if strategy == "channel" else scale.reshape(1)
    theirs, packed = _through(
        NaiveQuantizationCompressor, {"weight": WEIGHTS, "weight_scale": scale}, weights
    )
    assert packed["weight"].dtype == (torch.int8 if kind == "int" else torch.float8_e4m3fn)
    assert torch.equal(ours(tmp_path, packed, {"quant_method": "compressed-tensors"}), theirs)


def _through(
    compressor: Any, tensors: dict[str, Tensor], weights: dict[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the library makes of it: fp32 [N, K], and the tensors in the file."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))
    packed = compressor.compress(dict(tensors), scheme)
    return compressor.decompress(dict(packed), scheme)["weight"].float(), packed

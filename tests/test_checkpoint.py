"""Quantized safetensors checkpoints load as the values that their formats define."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import tiny_hf_config, tiny_hf_tensors, write_hf_folder
from checkpoints import FORMATS
from torch import Tensor

from sgen.errors import ModelFileError, UnsupportedModelError
from sgen.kernels.packing import unpack
from sgen.runtime import packed
from sgen.runtime.compute import Compute
from sgen.runtime.models.decoder import Decoder
from sgen.runtime.models.native import NativeDecoder
from sgen.runtime.quant import QuantTensor
from sgen.runtime.stored import Scaled
from sgen.runtime.weights import Weights, load_weights, open_source, read_config
from tests.batches import batch_of

each_format = pytest.mark.parametrize("name", FORMATS)
SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}


def checkpoint(
    folder: Path, name: str, **said: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor], Path]:
    """A llama whose projections are quantized: its tensors, its weights, and its folder."""
    form = FORMATS[name]
    config = tiny_hf_config(quantization_config=form.config | said, **SIZES)
    rng = np.random.default_rng(5)
    stored: dict[str, Tensor] = {}
    exact: dict[str, Tensor] = {}
    for key, value in tiny_hf_tensors(config).items():
        if "_proj.weight" not in key:
            stored[key] = exact[key] = value
            continue
        tensors, exact[key] = form.pack(value * 0.1, rng)
        stored |= {f"{key.removesuffix('.weight')}.{k}": v for k, v in tensors.items()}
    return stored, exact, write_hf_folder(folder, config, stored)


def read(folder: Path) -> Weights:
    with open_source(folder) as source:
        return load_weights(source, read_config(source))


@each_format
def test_values_are_those_of_the_format(name: str, tmp_path: Path) -> None:
    stored, exact, folder = checkpoint(tmp_path, name)
    seen = []
    with open_source(folder) as source:
        weights = load_weights(source, read_config(source), lambda n, of: seen.append((n, of)))
    assert weights.keys() == exact.keys()
    for key, want in exact.items():
        weight = weights[key]
        got = weight if isinstance(weight, Tensor) else weight.dequantize()
        assert torch.equal(got, want), key
        if isinstance(weight, QuantTensor):
            rows = torch.tensor([2, 0, 2])
            assert torch.equal(weight.dequantize_rows(rows), want[rows])
            assert torch.equal(torch.from_numpy(unpack(weight.pack())), want), f"{key} packed"
    assert seen[-1][0] == seen[-1][1] == sum(t.nbytes for t in stored.values())
    projection = weights["model.layers.0.mlp.down_proj.weight"]
    assert isinstance(projection, QuantTensor)
    assert projection.nbytes < projection.dequantize().nbytes / 2


@pytest.mark.parametrize("name", ["gptq", "awq", "smoothquant", "fp8-blocks", "nf4"])
def test_models_compute_with_these_values(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "cache_folder", lambda: tmp_path / "cache")
    _, exact, folder = checkpoint(tmp_path / "quantized", name)
    plain = write_hf_folder(tmp_path / "plain", tiny_hf_config(**SIZES), exact)
    batch = batch_of([[1, 5, 9, 30], list(range(20))])
    logits = []
    for path in (plain, folder):
        with open_source(path) as source:
            config = read_config(source)
            model = Decoder(config, load_weights(source, config))
        logits.append(model.forward(batch, model.allocate(4)))
    assert torch.equal(*logits)
    library = Compute().library()
    if library is None:
        pytest.skip("there is no native code on this machine")
    with open_source(folder) as source:
        weights = packed.packed_weights(source, config)
    native = NativeDecoder(library, config, weights, isa="any", threads=1, kv_cache_dtype="fp32")
    got = native.forward(batch, native.allocate(4))
    assert float((got - logits[0]).std() / logits[0].std()) < 0.02  # it rounds activations


def test_smoothquant_says_how_inputs_are_quantized(tmp_path: Path) -> None:
    def projection(name: str) -> Scaled:
        weight = read(checkpoint(tmp_path / name, name)[2])["model.layers.0.mlp.up_proj.weight"]
        assert isinstance(weight, QuantTensor)
        assert isinstance(weight.data, Scaled)
        return weight.data

    assert (projection("smoothquant").input, projection("smoothquant").input_scale) == ("row", None)
    static = projection("fp8-static")
    assert static.input == "tensor"
    assert static.input_scale == pytest.approx(0.03)
    assert projection("int8-groups").input == "none"


def test_layers_that_were_left_alone_stay_plain(tmp_path: Path) -> None:
    stored, exact, folder = checkpoint(tmp_path, "gptq")
    prefix = "model.layers.1.mlp.down_proj"
    rest = {k: v for k, v in stored.items() if not k.startswith(prefix)}
    rest[f"{prefix}.weight"] = exact[f"{prefix}.weight"].to(torch.bfloat16)
    config = tiny_hf_config(quantization_config=FORMATS["gptq"].config, **SIZES)
    weight = read(write_hf_folder(folder, config, rest))[f"{prefix}.weight"]
    assert isinstance(weight, QuantTensor)
    assert weight.kind == torch.bfloat16


Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "suffix", "value", "words"),
    [
        ("gptq", "scales", None, "is missing"),
        ("gptq", "qzeros", torch.zeros(2, 7, dtype=torch.int32), r"shape \[2, 7\], not \[2, 8\]"),
        ("gptq", "qweight", torch.zeros(8, 64), "is F32, not one of I32"),
        ("gptq", "g_idx", torch.full((64,), 2, dtype=torch.int32), "names a group"),
        ("gptq", "g_idx", torch.full((64,), -1, dtype=torch.int32), "names a group"),
        ("gptq", "scales", torch.zeros(0, 64), "0 groups for 64 inputs"),
        ("awq", "scales", torch.zeros(3, 64), "3 groups for 64 inputs"),
        ("packed-4", "weight_packed", torch.zeros(64, 9, dtype=torch.int32), "shape"),
        ("smoothquant", "weight_scale", torch.zeros(5), "scales 64 x 64 weights in no way"),
        ("smoothquant", "weight_zero_point", torch.ones(64, 1, dtype=torch.int8), "asymmetric"),
        ("fp8-blocks", "weight_scale_inv", torch.zeros(2, 2), "in no way"),
        ("fp8-static", "input_scale", torch.zeros(2), "not one number"),
        ("nf4", "weight.absmax", torch.zeros(3), "has 3 scales, not 64"),
        ("nf4", "weight.quant_map", None, "is missing"),
        ("nf4", "weight.quant_state.bitsandbytes__nf4", torch.tensor([123]).byte(), "not JSON"),
        ("nf4", "weight.quant_state.bitsandbytes__nf4", torch.tensor([91, 93]).byte(), "object"),
        ("nf4-nested", "weight.nested_absmax", torch.zeros(4), "has 4 scales"),
        ("llm-int8", "SCB", None, "is I8|is missing"),
    ],
)
def test_broken_checkpoints_name_the_tensor(
    name: str, suffix: str, value: Tensor | None, words: str, tmp_path: Path
) -> None:
    stored, _, folder = checkpoint(tmp_path, name)
    stored.pop(f"{Q}.{suffix}", None)
    if value is not None:
        stored[f"{Q}.{suffix}"] = value
    config = tiny_hf_config(quantization_config=FORMATS[name].config, **SIZES)
    write_hf_folder(folder, config, stored)
    with pytest.raises(ModelFileError, match=words) as caught:
        read(folder)
    assert Q in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_tensor_that_no_format_uses_is_refused(tmp_path: Path) -> None:
    stored, _, folder = checkpoint(tmp_path, "awq")
    stored[f"{Q}.g_idx"] = torch.zeros(64, dtype=torch.int32)
    config = tiny_hf_config(quantization_config=FORMATS["awq"].config, **SIZES)
    with pytest.raises(UnsupportedModelError, match="g_idx"):
        read(write_hf_folder(folder, config, stored))


def test_integers_without_a_format_are_no_weights(tmp_path: Path) -> None:
    stored, _, folder = checkpoint(tmp_path, "smoothquant")
    write_hf_folder(folder, tiny_hf_config(**SIZES), stored)
    with pytest.raises(ModelFileError, match="is I8, not one of F32"):
        read(folder)


def test_infinite_scales_are_refused_by_the_native_path(tmp_path: Path) -> None:
    stored, _, folder = checkpoint(tmp_path, "gptq")
    stored[f"{Q}.scales"][1, 3] = torch.inf
    config = tiny_hf_config(quantization_config=FORMATS["gptq"].config, **SIZES)
    weight = read(write_hf_folder(folder, config, stored))[f"{Q}.weight"]
    assert isinstance(weight, QuantTensor)
    with pytest.raises(ValueError, match="infinite or NaN"):
        weight.pack()

"""Hugging Face folders: shards, dtypes, and the ways in which they can be broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import tiny_hf_config, tiny_hf_tensors, write_hf_folder
from safetensors.torch import save_file

from sgen.errors import ModelFileError, UnsupportedModelError
from sgen.runtime.folder import HFFolder

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = tiny_hf_config()
    return write_hf_folder(tmp_path / "model", config, tiny_hf_tensors(config), shards=3)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        HFFolder.open(folder)
    assert str(folder) in caught.value.path
    return str(caught.value)


def edit_index(folder: Path, change: Any) -> None:
    path = folder / INDEX
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_shards(folder: Path) -> None:
    expected = tiny_hf_tensors(tiny_hf_config())
    with HFFolder.open(folder) as opened:
        assert opened.config["hidden_size"] == 32
        assert set(opened.tensors) == set(expected)
        assert len({t.shard for t in opened.tensors.values()}) == 3
        info = opened.tensors["model.embed_tokens.weight"]
        assert (info.shape, info.dtype) == ((48, 32), "F32")
        found = {name: opened.tensor(name) for name in opened.tensors}
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


def test_one_file_is_taken_before_an_index(folder: Path) -> None:
    save_file({"model.norm.weight": torch.ones(3)}, folder / "model.safetensors")
    with HFFolder.open(folder) as opened:
        assert list(opened.tensors) == ["model.norm.weight"]


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "model-00002-of-00003.safetensors").unlink()
    message = refusal(folder)
    assert "model-00002-of-00003.safetensors" in message
    assert "missing" in message


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..", "x.bin", "", 7,
     "C:\\x.safetensors", "a\0.safetensors"],
)  # fmt: skip
def test_the_index_cannot_leave_the_folder(name: Any, folder: Path) -> None:
    edit_index(folder, lambda weights: weights.update({"model.norm.weight": name}))
    message = refusal(folder)
    assert "weight_map model.norm.weight" in message
    assert "no safetensors file of this folder" in message


def test_an_index_that_misplaces_tensors(folder: Path) -> None:
    edit_index(folder, lambda weights: weights.update({"new": "model-00001-of-00003.safetensors"}))
    assert "tensor new" in refusal(folder)


def test_a_tensor_in_two_shards(folder: Path) -> None:
    name = "model-00001-of-00003.safetensors"
    with HFFolder.open(folder) as opened:
        mine = {t.name: opened.tensor(t.name) for t in opened.tensors.values() if t.shard == name}
        other = next(t.name for t in opened.tensors.values() if t.shard != name)
    save_file(mine | {other: torch.ones(2)}, folder / name)
    assert f"tensor {other}" in refusal(folder)
    edit_index(folder, lambda weights: weights.pop(other))
    assert "another shard" in refusal(folder)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not JSON"),
        ("[1]", "must hold a JSON object"),
        ("{", "not JSON"),
        ('{"a": 1, "a": 2}', "a key is there twice"),
        ("[" * 100_000, "not JSON"),
        ('{"a": ' * 50_000, "not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
        (" " * (1 << 20) + "{}", "longer than 1048576 bytes"),
        ("\ud800", "not JSON"),
    ],
)
def test_broken_config(text: str, word: str, folder: Path) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    message = refusal(folder)
    assert word in message
    assert "config.json" in message


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "nul"])
def test_broken_index(index: str, folder: Path) -> None:
    (folder / INDEX).write_text(index)
    assert INDEX in refusal(folder)


def test_missing_files(folder: Path) -> None:
    (folder / INDEX).unlink()
    assert "neither model.safetensors nor" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UnsupportedModelError, match="pickled"):
        HFFolder.open(folder)
    (folder / "config.json").unlink()
    assert "config.json: is missing" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float64, torch.uint32])
def test_other_dtypes_are_refused_by_name(dtype: torch.dtype, tmp_path: Path) -> None:
    config = tiny_hf_config()
    tensors = {"model.norm.weight": torch.ones(32).to(dtype)}
    write_hf_folder(tmp_path, config, tensors)
    with pytest.raises(UnsupportedModelError, match=r"model\.norm\.weight is (BOOL|F64|U32)"):
        HFFolder.open(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_truncated_weights(keep: int, tmp_path: Path) -> None:
    config = tiny_hf_config()
    write_hf_folder(tmp_path, config, tiny_hf_tensors(config))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "cannot be read" in refusal(tmp_path)

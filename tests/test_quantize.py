"""`sgen quantize`: GGUF files in other types, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from builders import Stored, tiny_gguf, tiny_hf_config, write_hf_folder

from sgen.cli import main
from sgen.errors import InvalidRequestError, ModelFileError
from sgen.runtime.ggml import dequantize
from sgen.runtime.gguf import GGUFFile
from sgen.runtime.quantize import FILE_TYPES, quantize_gguf
from sgen.runtime.weights import load_weights, open_source, read_config


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.gguf"
    tiny_gguf().write(path)
    return path


def convert(source: Path, target: Path, form: str) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    quantize_gguf(source, target, form, lambda n, of: seen.append((n, of)))
    return seen


@pytest.mark.parametrize("form", FILE_TYPES)
def test_every_format_is_read_again(form: str, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.gguf"
    seen = convert(source, target, form)
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1]
    with GGUFFile.open(source) as old, GGUFFile.open(target) as new:
        assert list(new.tensors) == list(old.tensors)
        changed = {"general.file_type", "general.quantization_version"}
        assert {k for k in new.metadata if k not in changed} == old.metadata.keys() - changed
        assert new.metadata["general.file_type"] == FILE_TYPES[form]
        for name, tensor in new.tensors.items():
            assert tensor.shape == old.tensors[name].shape
            want = dequantize(old.data(name), old.tensors[name].ggml_type)
            got = dequantize(new.data(name), tensor.ggml_type)
            error = np.abs(got - want).max() / np.abs(want).max()
            assert error < (0.3 if len(tensor.shape) == 2 else 1e-7), name
    theirs = gguf.GGUFReader(target)
    assert [t.name for t in theirs.tensors] == list(old.tensors)
    with open_source(target) as again:
        assert load_weights(again, read_config(again)).keys() >= {"model.embed_tokens.weight"}


def test_rows_that_do_not_divide_take_another_type(source: Path, tmp_path: Path) -> None:
    """Rows of 64 have no super-blocks of 256."""
    convert(source, tmp_path / "target.gguf", "q4_k")
    with GGUFFile.open(tmp_path / "target.gguf") as file:
        kinds = {name: tensor.ggml_type.name for name, tensor in file.tensors.items()}
    assert kinds["blk.0.ffn_gate.weight"] == "Q5_0"
    assert kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    builder = tiny_gguf()
    name, tensor = next((n, t) for n, t in builder.tensors if n == "blk.0.ffn_gate.weight")
    values = np.ones(tensor.shape, np.float32)
    values[1, 2] = np.nan
    builder.put(name, Stored(tensor.shape, "F32", values.tobytes()))
    builder.write(tmp_path / "source.gguf")
    with pytest.raises(ModelFileError, match="not a number") as caught:
        convert(tmp_path / "source.gguf", tmp_path / "target.gguf", "q4_0")
    assert name in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["source.gguf"], "nothing is half written"


def test_a_file_onto_itself(source: Path) -> None:
    before = source.read_bytes()
    with pytest.raises(InvalidRequestError, match="same file"):
        convert(source, source, "q8_0")
    assert source.read_bytes() == before


def test_the_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "target.gguf"
    command = ["quantize", str(source), str(target), "--format", "q4_0"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == target.stat().st_size
    assert main(command) == 1
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    assert "MB" in capsys.readouterr().out
    folder = write_hf_folder(tmp_path / "hf", tiny_hf_config(), {})
    assert main(["quantize", str(folder), str(target), "--format", "q4_0", "--force"]) == 1
    assert "folder" in capsys.readouterr().err
    assert main(["quantize", str(source), str(tmp_path / "x.bin"), "--format", "q4_0"]) == 1
    assert ".gguf" in capsys.readouterr().err
    missing = str(tmp_path / "no" / "x.gguf")
    assert main(["quantize", str(source), missing, "--format", "q4_0"]) == 1
    assert "cannot write" in capsys.readouterr().err

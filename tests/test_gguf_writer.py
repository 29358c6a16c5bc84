"""The GGUF writer: read back by our reader and by the reference, and whole or absent."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from sgen.runtime.ggml import dequantize
from sgen.runtime.ggml_encode import encode
from sgen.runtime.gguf import GGUFFile
from sgen.runtime.gguf_writer import GGUFWriter, Planned

METADATA: dict[str, object] = {
    "general.architecture": "llama",
    "k.small": 7,
    "k.negative": -7,
    "k.huge": 1 << 40,
    "k.float": 0.5,
    "k.flag": True,
    "k.words": ["", "żółw"],
    "k.numbers": np.array([1, -2], np.int32),
    "k.nested": [["a"], ["b", "c"]],
}
PLAN = [Planned("odd", (3,), "f32"), Planned("rows", (2, 256), "q6_k")]
ODD = np.array([[1, 2, 3]], np.float32)
ROWS = np.linspace(-1, 1, 512, dtype=np.float32).reshape(2, 256)


def write(path: Path) -> None:
    with GGUFWriter(path, METADATA, PLAN) as writer:
        writer.write(encode(ODD, "f32"))
        writer.write(encode(ROWS, "q6_k"))


def test_our_reader_reads_it(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")
    with GGUFFile.open(tmp_path / "m.gguf") as file:
        assert file.version == 3
        for key, value in METADATA.items():
            np.testing.assert_equal(file.metadata[key], value)
        assert file.tensors["rows"].shape == (2, 256)
        values = dequantize(file.data("rows"), file.tensors["rows"].ggml_type)
        np.testing.assert_allclose(values.reshape(2, 256), ROWS, atol=0.02)


def test_the_reference_reads_it(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert reader.get_field("k.words").contents() == ["", "żółw"]  # type: ignore[union-attr]
    odd, rows = reader.tensors
    np.testing.assert_array_equal(odd.data, ODD[0])
    np.testing.assert_array_equal(rows.data, encode(ROWS, "q6_k"))


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), GGUFWriter(path, METADATA, PLAN):
        raise RuntimeError
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]

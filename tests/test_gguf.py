"""The GGUF reader: what it reads, and what it refuses and how."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from builders import GGUFBuilder, Stored, gguf_string, gguf_value, tiny_gguf
from hypothesis import given, settings
from hypothesis import strategies as st

from sgen.errors import ModelFileError, UnsupportedModelError
from sgen.runtime.gguf import GGUFFile


def small() -> GGUFBuilder:
    """Two tensors of 8 floats, the second padded to the alignment."""
    builder = GGUFBuilder([("general.architecture", "llama"), ("a.number", 7)])
    values = np.arange(8, dtype=np.float32)
    builder.tensors.append(("first", Stored((2, 4), "F32", values.tobytes())))
    builder.tensors.append(("second", Stored((8,), "F32", (values + 8).tobytes())))
    return builder


def open_bytes(tmp_path: Path, raw: bytes) -> GGUFFile:
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    return GGUFFile.open(path)


def refusal(tmp_path: Path, raw: bytes) -> str:
    with pytest.raises(ModelFileError) as caught:
        open_bytes(tmp_path, raw)
    assert "model.gguf" in caught.value.path
    return str(caught.value)


def test_reads_what_the_reference_writes(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    written: dict[str, Any] = {
        "k.uint8": 200,
        "k.int8": -100,
        "k.uint16": 60000,
        "k.int16": -30000,
        "k.uint32": 4_000_000_000,
        "k.int32": -2_000_000_000,
        "k.uint64": 1 << 63,
        "k.int64": -(1 << 62),
        "k.float32": 0.5,
        "k.float64": 1e300,
        "k.bool": True,
        "k.string": "żółw 🐢",
    }
    for key, value in written.items():
        getattr(writer, f"add_{key[2:]}")(key, value)
    writer.add_array("k.floats", [0.5, -1.5])
    writer.add_array("k.strings", ["", "a", "ünï"])
    writer.add_array("k.flags", [True, False])
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    writer.add_tensor("rows", rows)
    writer.add_tensor("halves", rows.astype(np.float16)[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFFile.open(tmp_path / "model.gguf") as file:
        assert file.version == 3
        for key, value in written.items():
            assert file.metadata[key] == value
            assert type(file.metadata[key]) is type(value)
        np.testing.assert_array_equal(np.asarray(file.metadata["k.floats"]), [0.5, -1.5])
        assert file.metadata["k.strings"] == ["", "a", "ünï"]
        flags = file.metadata["k.flags"]
        assert isinstance(flags, np.ndarray)
        assert flags.dtype == np.bool_
        assert flags.tolist() == [True, False]
        assert file.tensors["rows"].shape == (3, 4)
        np.testing.assert_array_equal(file.data("rows").view(np.float32), rows.reshape(-1))
        np.testing.assert_array_equal(file.data("halves").view(np.float16), rows[0])


def test_version_2(tmp_path: Path) -> None:
    builder = small()
    builder.version = 2
    with open_bytes(tmp_path, builder.build()) as file:
        assert file.version == 2
        assert file.metadata["a.number"] == 7


def test_views_are_read_only_and_outlive_the_file(tmp_path: Path) -> None:
    file = open_bytes(tmp_path, small().build())
    view = file.data("second")
    file.close()
    assert not view.flags.writeable
    np.testing.assert_array_equal(view.view(np.float32), np.arange(8, 16))
    file.close()  # twice is fine


def test_nested_arrays(tmp_path: Path) -> None:
    builder = small()
    builder.set("k.nested", [["a", "b"], ["c"]])
    builder.set("k.numbers", [np.array([1, 2], np.int8)])
    with open_bytes(tmp_path, builder.build()) as file:
        assert file.metadata["k.nested"] == [["a", "b"], ["c"]]
        numbers = file.metadata["k.numbers"]
        assert isinstance(numbers, list)
        assert numbers[0].tolist() == [1, 2]
    builder.set("k.nested", [[[["deep"]]]])
    with open_bytes(tmp_path, builder.build()) as file:
        assert file.metadata["k.nested"] == [[[["deep"]]]]
    builder.set("k.nested", [[[[["too deep"]]]]])
    assert "nested deeper than 4" in refusal(tmp_path, builder.build())


def test_alignment(tmp_path: Path) -> None:
    builder = small()
    builder.alignment = 64
    builder.set("general.alignment", 64)
    with open_bytes(tmp_path, builder.build()) as file:
        assert file.tensors["second"].offset % 64 == 0
        np.testing.assert_array_equal(file.data("second").view(np.float32), np.arange(8, 16))
    for bad, word in (
        (0, "power of two"),
        (48, "power of two"),
        ("32", "integer"),
        (True, "integer"),
    ):
        builder.set("general.alignment", bad)
        message = refusal(tmp_path, builder.build())
        assert word in message
        assert "general.alignment" in message


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(raw: bytes) -> bytes:
        assert raw.count(old) == 1
        return raw.replace(old, new)

    return change


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


FIRST = gguf_string("first") + struct.pack("<IQQ", 2, 4, 2)  # then type and offset
ONE_KEY = gguf_string("a.number")

BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no magic": (lambda raw: b"GGML" + raw[4:], "no GGUF file"),
    "short": (lambda raw: raw[:20], "too few"),
    "empty": (lambda raw: b"", "too few"),
    "cut at the start": (lambda raw: raw[:60], "do not fit"),
    "cut in the table": (lambda raw: raw[:120], "left"),
    "cut in the data": (lambda raw: raw[:-1], "[tensor second"),
    "tensor count": (lambda raw: raw[:8] + u64(1 << 60) + raw[16:], "do not fit"),
    "key count": (lambda raw: raw[:16] + u64((1 << 64) - 1) + raw[24:], "do not fit"),
    "one key too many": (lambda raw: raw[:16] + u64(3) + raw[24:], "[tensor 0"),
    "key length": (replaced(ONE_KEY, u64(1 << 40) + ONE_KEY[8:]), "at most 65535"),
    "key cut": (replaced(ONE_KEY, u64(60000) + ONE_KEY[8:]), "60000 bytes"),
    "empty key": (replaced(ONE_KEY, u64(0)), "key is empty"),
    "key not UTF-8": (replaced(b"a.number", b"a.numb\xff\xfe"), "not UTF-8"),
    "value not UTF-8": (replaced(gguf_string("llama"), gguf_string(b"ll\xe4ma")), "not UTF-8"),
    "same key": (replaced(ONE_KEY, gguf_string("general.architecture")), "there twice"),
    "value type": (replaced(gguf_value(7), struct.pack("<II", 13, 7)), "unknown value type 13"),
    "array type": (replaced(gguf_value(7), struct.pack("<IIQ", 9, 77, 1)), "array type 77"),
    "array length": (
        replaced(gguf_value(7), struct.pack("<IIQ", 9, 4, 1 << 62)),
        "array of 4611686018427387904 numbers",
    ),
    "string array length": (replaced(gguf_value(7), struct.pack("<IIQ", 9, 8, 1 << 61)), "fit"),
    "boolean": (replaced(gguf_value(7), struct.pack("<IB", 7, 2)), "boolean is 2"),
    "booleans": (
        replaced(gguf_value(7), struct.pack("<IIQBB", 9, 7, 2, 1, 9)),
        "neither 0 nor 1",
    ),
    "no dimensions": (replaced(FIRST, FIRST[:13] + struct.pack("<I", 0)), "0 dimensions"),
    "five dimensions": (replaced(FIRST, FIRST[:13] + struct.pack("<I", 5)), "5 dimensions"),
    "dimension of zero": (replaced(FIRST, FIRST[:17] + u64(4) + u64(0)), "without elements"),
    "elements overflow": (
        replaced(FIRST, FIRST[:17] + u64(1 << 63) + u64(1 << 63)),
        f"ends at byte {(1 << 128) + 192}",
    ),
    "tensor type": (
        replaced(FIRST + struct.pack("<I", 0), FIRST + struct.pack("<I", 99)),
        "type 99",
    ),
    "part of a block": (
        replaced(FIRST + struct.pack("<I", 0), FIRST + struct.pack("<I", 2)),
        "do not divide into Q4_0 blocks",
    ),
    "offset off the alignment": (
        replaced(FIRST + struct.pack("<IQ", 0, 0), FIRST + struct.pack("<IQ", 0, 8)),
        "no multiple of the alignment",
    ),
    "negative offset": (
        replaced(FIRST + struct.pack("<IQ", 0, 0), FIRST + struct.pack("<Iq", 0, -32)),
        "ends at byte",
    ),
    "overlap": (
        replaced(FIRST + struct.pack("<IQ", 0, 0), FIRST + struct.pack("<IQ", 0, 32)),
        "overlaps",
    ),
    "same tensor": (
        replaced(gguf_string("second"), gguf_string("first")),
        "there twice",
    ),
    "tensor name too long": (replaced(gguf_string("second"), gguf_string("s" * 65)), "at most 64"),
    "tensor without a name": (replaced(gguf_string("second"), u64(0)), "name is empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(case: str, tmp_path: Path) -> None:
    change, word = BROKEN[case]
    assert word in refusal(tmp_path, change(small().build()))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    raw = small().build()
    for length in range(len(raw)):
        refusal(tmp_path, raw[:length])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda raw: raw[:4] + struct.pack("<I", 1) + raw[8:], "version 1"),
        (lambda raw: raw[:4] + struct.pack("<I", 4) + raw[8:], "version 4"),
        (lambda raw: raw[:4] + struct.pack(">I", 3) + raw[8:], "big-endian"),
        (replaced(FIRST + struct.pack("<I", 0), FIRST + struct.pack("<I", 21)), "first is IQ3_S"),
    ],
)
def test_sound_but_unsupported(change: Callable[[bytes], bytes], word: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=word):
        open_bytes(tmp_path, change(small().build()))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(ModelFileError) as caught:
            GGUFFile.open(path)
        assert str(path) in str(caught.value)


def test_claims_allocate_nothing(tmp_path: Path) -> None:
    """A million strings and arrays are claimed where there is room for hardly any."""
    raw = small().build()
    claims = [
        replaced(gguf_value(7), struct.pack("<IIQ", 9, kind, count))
        for kind in (0, 4, 7, 8, 9, 12)
        for count in (1 << 20, 1 << 40, (1 << 64) - 1)
    ]
    claims += [lambda r: r[:8] + u64(1 << 24) + r[16:], lambda r: r[:16] + u64(1 << 24) + r[24:]]
    tracemalloc.start()
    try:
        for change in claims:
            refusal(tmp_path, change(raw))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_strings_cost_a_small_multiple_of_the_file(tmp_path: Path) -> None:
    """The worst case for Python objects: many short strings, lists and keys."""
    builder = GGUFBuilder([("k.strings", [f"{i:02x}" for i in range(20_000)])])
    builder.set("k.lists", [[] for _ in range(20_000)])
    builder.metadata += [(f"{i:x}", True) for i in range(20_000)]
    raw = builder.build()
    (tmp_path / "model.gguf").write_bytes(raw)
    tracemalloc.start()
    try:
        with GGUFFile.open(tmp_path / "model.gguf") as file:
            assert len(file.metadata) == 20_002
            assert tracemalloc.get_traced_memory()[1] < 16 * len(raw)
    finally:
        tracemalloc.stop()


NUMBERS = st.one_of(
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.floats(width=32, allow_nan=False),
    st.integers(-(2**63), 2**63 - 1).map(np.int64),
    st.text(max_size=20),
    st.lists(st.text(max_size=5), max_size=4),
    st.lists(st.integers(0, 255), min_size=1, max_size=9).map(lambda v: np.array(v, np.uint8)),
)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=8), NUMBERS, max_size=6))
def test_any_metadata_survives(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    values.pop("general.alignment", None)
    builder = small()
    builder.metadata += values.items()
    path = builder.write(tmp_path_factory.mktemp("gguf") / "model.gguf")
    with GGUFFile.open(path) as file:
        for key, value in values.items():
            found = file.metadata[key]
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(found, value)
            else:
                assert found == value


def test_tiny_builder_makes_sound_files(tmp_path: Path) -> None:
    """The other tests count on it: the reference reader takes it too."""
    path = tiny_gguf("qwen3", kind="Q6_K").write(tmp_path / "tiny.gguf")
    names = [t.name for t in gguf.GGUFReader(path).tensors]
    with GGUFFile.open(path) as file:
        assert list(file.tensors) == names

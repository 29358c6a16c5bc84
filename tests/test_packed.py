"""Saved packed weights: the same as fresh ones, and never trusted more than they deserve."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import torch
from builders import Stored, random_blocks, tiny_gguf, tiny_hf_config, tiny_hf_tensors
from builders import write_hf_folder as write_folder
from torch import Tensor

from sgen.errors import ModelFileError
from sgen.kernels.packing import ALIGNMENT, PackedMatrix, unpack
from sgen.runtime import packed
from sgen.runtime.packed import PackedWeights, packed_weights
from sgen.runtime.quant import QuantTensor
from sgen.runtime.weights import load_weights, open_source, read_config

Change = Callable[[bytearray], bytearray | None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of saved files, in a cache of this test alone."""
    monkeypatch.setenv("SGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packed"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_gguf(kind="Q4_1").write(tmp_path / "model.gguf")


def load(path: Path, progress: Callable[[int, int], None] = lambda a, b: None) -> PackedWeights:
    with open_source(path) as source:
        return packed_weights(source, read_config(source), progress)


def dense(weight: Any) -> Tensor:
    if isinstance(weight, PackedMatrix):
        return torch.from_numpy(unpack(weight))
    return weight.dequantize() if isinstance(weight, QuantTensor) else weight


def assert_right(weights: PackedWeights, path: Path) -> None:
    """The weights of the model's own file, matrices packed."""
    with open_source(path) as source:
        expected = load_weights(source, read_config(source))
        assert list(weights) == list(expected)
        for name, ours in weights.items():
            theirs = expected[name]
            assert isinstance(ours, PackedMatrix) == isinstance(theirs, QuantTensor)
            assert torch.equal(dense(ours), dense(theirs)), name
            if isinstance(ours, PackedMatrix):
                assert ours.data.ctypes.data % ALIGNMENT == 0


def is_mapped(weights: PackedWeights) -> bool:
    """Whether the matrices are those of a saved file, which nobody can write to."""
    matrices = [w for w in weights.values() if isinstance(w, PackedMatrix)]
    return not any(m.data.flags.writeable for m in matrices)


class NotToBeReadError(Exception):
    pass


def must_not_read(*args: object) -> None:
    raise NotToBeReadError


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("kind", "tied"), [("Q5_1", True), ("Q6_K", False), ("BF16", False)])
def test_packed_once(
    architecture: str, kind: str, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With permuted rows, biases, QK-norms, tied and separate heads; then without the tensors."""
    path = tiny_gguf(architecture, kind=kind, tied=tied).write(tmp_path / "model.gguf")
    assert_right(load(path), path)
    with monkeypatch.context() as patch:
        patch.setattr(packed, "load_weight", must_not_read)
        again = load(path)
    assert is_mapped(again)
    assert_right(again, path)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_folder(shards: int, cache: Path, tmp_path: Path) -> None:
    config = tiny_hf_config()
    tensors = {k: v.to(torch.bfloat16) for k, v in tiny_hf_tensors(config).items()}
    folder = write_folder(tmp_path / "model", config, tensors, shards=shards)
    for _ in range(2):
        weights = load(folder)
        assert is_mapped(weights)
        assert_right(weights, folder)
    (folder / "README.md").write_text("no part of the weights")
    load(folder)
    assert len(list(cache.iterdir())) == 1
    write_folder(folder, config, {k: v + 1 for k, v in tensors.items()}, shards=shards)
    assert_right(load(folder), folder)
    assert len(list(cache.iterdir())) == 2


def test_a_model_that_changes_in_place(model: Path, cache: Path) -> None:
    """Of the same size, with the same times as far as they can be set."""
    load(model)
    status = model.stat()
    other = tiny_gguf(kind="Q4_1", seed=1).write(model.with_name("other.gguf"))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, model)
    now = model.stat()
    assert (now.st_size, now.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert_right(load(model), model)
    assert len(list(cache.iterdir())) == 2


def test_a_model_that_is_replaced_while_it_is_read(model: Path, cache: Path) -> None:
    """What was read is right for this run, and is not kept for the next."""

    def touch(done: int, total: int) -> None:
        if done == total:
            os.utime(model, ns=(1, 1))

    weights = load(model, touch)
    assert_right(weights, model)
    assert not is_mapped(weights)
    assert list(cache.iterdir()) == []


def test_weights_outlive_their_files(model: Path, cache: Path) -> None:
    load(model)
    weights = load(model)
    before = {name: dense(w).clone() for name, w in weights.items()}
    shutil.rmtree(cache)
    for name, weight in weights.items():
        assert torch.equal(dense(weight), before[name])


def cut(size: int) -> Change:
    return lambda data: data[:size]


def flip(place: int) -> Change:
    def change(data: bytearray) -> None:
        data[place] ^= 1

    return change


def index(change: Callable[[dict[str, Any]], None]) -> Change:
    """A file whose index says something else, with the right sums."""

    def apply(data: bytearray) -> bytearray:
        length = int.from_bytes(data[-40:-32], "little")
        found = msgspec.msgpack.decode(data[-40 - length : -40])
        change(found)
        raw = msgspec.msgpack.encode(found)
        sums = len(raw).to_bytes(8, "little") + hashlib.sha256(raw).digest()
        return data[: -40 - length] + raw + sums

    return apply


def first(**values: Any) -> Change:
    """Another first entry: that of the embedding, [40, 64]."""
    return index(lambda found: found["entries"][0].update(values))


NO_CODING = {"bits": 4, "zero": 3, "has_min": True, "scale": 0, "group": 32}
COLUMNS_THAT_DO_NOT_FIT = {"bits": 4, "zero": 0, "has_min": True, "scale": 1, "group": 32}


def swap_pages(data: bytearray) -> None:
    """Moves weights without changing what they add up to."""
    data[4096:8192], data[8192:12288] = data[8192:12288], data[4096:8192]


def clear_page(data: bytearray) -> None:
    data[4096:8192] = bytes(4096)


BROKEN: dict[str, Change] = {
    "a bit of a weight": flip(ALIGNMENT),
    "a bit further on": flip(9000),
    "a bit between weights and index": lambda data: flip(data.rindex(b"\0" * 32))(data),
    "pages in another order": swap_pages,
    "an empty page": clear_page,
    "no sum": index(lambda found: found.update(sum=b"")),
    "empty": cut(0),
    "a byte": cut(1),
    "without its end": cut(-1),
    "the start only": cut(4096),
    "another kind of file": flip(3),
    "the index": flip(-60),
    "its sum": flip(-1),
    "its length": flip(-40),
    "a huge length": lambda data: data[:-40] + b"\xff" * 8 + data[-32:],
    "another model": index(lambda found: found.update(key="0" * 32)),
    "a weight less": index(lambda found: found["entries"].pop()),
    "no list": index(lambda found: found.update(entries=1)),
    "a name": first(name="model.embed_tokens.bias"),
    "rows": first(rows=41),
    "columns": first(columns=32),
    "a vector": first(coding=None),
    "a coding": first(coding=NO_CODING),
    "another coding": first(coding=COLUMNS_THAT_DO_NOT_FIT),
    "an offset before": first(offset=-64),
    "an offset behind": first(offset=1 << 40),
    "an odd offset": first(offset=65),
    "no number": first(offset="64"),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_made_anew(change: Change, model: Path, cache: Path) -> None:
    load(model)
    (saved,) = cache.iterdir()
    good = saved.read_bytes()
    data = bytearray(good)
    changed = change(data)
    saved.write_bytes(data if changed is None else changed)
    assert saved.read_bytes() != good
    assert_right(load(model), model)
    assert saved.read_bytes() == good


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_can_write_is_made_anew(mode: int, model: Path, cache: Path) -> None:
    load(model)
    (saved,) = cache.iterdir()
    assert saved.stat().st_mode & 0o777 == 0o600
    data = bytearray(saved.read_bytes())
    data[64:72], data[72:80] = data[72:80], data[64:72]  # the one change that the sum misses
    assert data != saved.read_bytes()
    saved.write_bytes(data)
    saved.chmod(mode)
    assert_right(load(model), model)
    assert saved.stat().st_mode & 0o777 == 0o600


def test_a_file_of_another_user_is_made_anew(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(model)
    (saved,) = cache.iterdir()
    made = saved.stat().st_ino
    monkeypatch.setattr(os, "getuid", lambda: saved.stat().st_uid + 1)
    weights = load(model)
    assert_right(weights, model)
    assert not is_mapped(weights)
    assert saved.stat().st_ino != made


def no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, "no space")


class Disk(NamedTuple):
    free: int


def test_without_a_folder_to_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_gguf().write(tmp_path / "model.gguf")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SGEN_CACHE", str(tmp_path / "file"))
    weights = load(model)
    assert_right(weights, model)
    assert not is_mapped(weights)


def test_a_full_disk(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_space)
    weights = load(model)
    assert_right(weights, model)
    assert not is_mapped(weights)
    assert list(cache.iterdir()) == [], "nothing half-written is left"


def test_a_disk_that_is_nearly_full_stays_so(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = model.stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(size))
    assert_right(load(model), model)
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(3 * size))
    assert is_mapped(load(model))


def load_and_check(path: Path) -> bool:
    weights = load(path)
    assert_right(weights, path)
    return is_mapped(weights)


def test_several_processes_at_once(model: Path, cache: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(load_and_check, [model] * 3) == [True] * 3
    assert len(list(cache.iterdir())) == 1


def saved_models(tmp_path: Path, cache: Path, count: int) -> list[tuple[Path, Path]]:
    """Models with their saved files, the first the one that was not used for longest."""
    made: list[tuple[Path, Path]] = []
    for i in range(count):
        model = tiny_gguf(seed=i).write(tmp_path / f"{i}.gguf")
        before = set(cache.iterdir()) if cache.exists() else set()
        load(model)
        (saved,) = set(cache.iterdir()) - before
        os.utime(saved, (1000 + i, 1000 + i))
        made.append((model, saved))
    return made


def test_the_budget(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = saved_models(tmp_path, cache, 3)
    load(models[0][0])  # is used again, so the second one is now the oldest
    size = models[0][1].stat().st_size
    monkeypatch.setattr(packed, "BUDGET", 3 * size + size // 2)
    (tmp_path / "last").mkdir()
    (last,) = saved_models(tmp_path / "last", cache, 1)
    assert set(cache.iterdir()) == {models[0][1], models[2][1], last[1]}
    monkeypatch.setattr(packed, "BUDGET", size // 2)
    (tmp_path / "large").mkdir()
    (large,) = saved_models(tmp_path / "large", cache, 1)
    assert set(cache.iterdir()) == {large[1]}, "the newest stays"
    assert is_mapped(load(large[0]))


def test_what_a_crash_left_is_removed(model: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    old, new = cache / "old.part", cache / "new.part"
    old.write_bytes(b"half")
    new.write_bytes(b"being written by another process")
    os.utime(old, (1, 1))
    load(model)
    assert not old.exists()
    assert new.exists()


def test_an_infinite_scale(tmp_path: Path, cache: Path) -> None:
    builder = tiny_gguf()
    stored = random_blocks("Q4_0", (64, 64), np.random.default_rng(0))
    raw = np.float16(np.inf).tobytes() + stored.raw[2:]
    builder.put("blk.1.ffn_up.weight", Stored((64, 64), "Q4_0", raw))
    path = builder.write(tmp_path / "model.gguf")
    with pytest.raises(ModelFileError, match="infinite or NaN") as caught:
        load(path)
    assert caught.value.where == "tensor blk.1.ffn_up.weight"
    assert list(cache.iterdir()) == []


def test_a_broken_model_is_refused_with_a_saved_file_too(model: Path) -> None:
    load(model)
    builder = tiny_gguf(kind="Q4_1")
    builder.drop("output_norm.weight")
    builder.write(model)
    with pytest.raises(ModelFileError, match="is missing"):
        load(model)


def test_progress_counts_every_byte(model: Path, cache: Path) -> None:
    with open_source(model) as source:
        stored = sum(t.nbytes for t in source.tensors.values())  # type: ignore[union-attr]
    # Of a saved file all pages before the index, which is shorter than one.
    for total in (lambda: stored, lambda: next(cache.iterdir()).stat().st_size // 4096 * 4096):
        seen: list[tuple[int, int]] = []
        load(model, lambda done, of: seen.append((done, of)))  # noqa: B023
        assert seen[0] == (0, total())
        assert seen[-1] == (total(), total())
        assert seen == sorted(seen)

"""Freed memory goes back to the system, and loading a model sees to it."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from builders import tiny_hf_config, tiny_hf_tensors, write_hf_folder

from sgen.runtime import loader, memory
from sgen.runtime.compute import Compute

BLOCK, BLOCKS = 2048, 20_000  # 40 MB of what is too small for pages of its own


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmRSS")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_between_what_is_still_held_goes_back() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("this C library cannot")
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.restype, libc.free.argtypes = None, (ctypes.c_void_p,)
    blocks = [libc.malloc(BLOCK) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    for block in blocks[:-1]:  # the last one holds up the heap
        libc.free(block)
    before = resident_bytes()
    memory.give_back()
    gone = before - resident_bytes()
    libc.free(blocks[-1])
    assert gone > BLOCK * BLOCKS * 3 // 4


def test_a_c_library_that_cannot_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory.give_back()


def test_a_loaded_model_gave_back_what_it_did_not_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(loader, "_tokenizer", lambda source, size: done.append("tokenizer"))
    monkeypatch.setattr(memory, "give_back", lambda: done.append("given back"))
    config = tiny_hf_config()
    folder = write_hf_folder(tmp_path / "m", config, tiny_hf_tensors(config))
    loader.load_model(folder, lambda stage, n, of: done.append(stage), compute=Compute("torch"))
    assert done[0] == "tokenizer"
    assert done[-1] == "given back"

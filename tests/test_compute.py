"""What a user may say of how a model is computed, and which instruction set is taken."""

from __future__ import annotations

import platform
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import sgen
from sgen.errors import InvalidRequestError
from sgen.kernels import isa, native, sampling
from sgen.runtime import compute as module
from sgen.runtime import loader
from sgen.runtime.compute import Compute
from sgen.runtime.loader import load_model
from sgen.runtime.models.decoder import Decoder

needs_native = pytest.mark.skipif(
    isa.chosen() is None or isa.load(isa.chosen() or "") is None, reason="no native code here"
)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"path": "gpu"}, "compute"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype"),
        ({"threads": 0}, "threads"),
        ({"threads": 1025}, "threads"),
        ({"kv_cache_dtype": "fp16"}, "kv_cache_dtype"),
        ({"path": "torch", "kv_cache_dtype": "bf16"}, "kv_cache_dtype"),
        ({"path": "native", "kv_cache_dtype": "fp8"}, "kv_cache_dtype"),
        ({"path": "triton", "kv_cache_dtype": "fp32"}, "kv_cache_dtype"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Compute(**options)
    assert caught.value.param == param


def test_where_the_triton_path_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert Compute("triton").device() == "cpu"
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(InvalidRequestError, match="needs an NVIDIA GPU") as caught:
        Compute("triton").device()
    assert "TRITON_INTERPRET=1" in caught.value.hint
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Compute("triton", kv_cache_dtype="fp8").device() == "cuda"
    assert Compute().device() is None, "it must be asked for"
    assert Compute("native").device() is Compute("torch").device() is None
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidRequestError, match="not installed") as caught:
        Compute("triton").device()
    assert "sgen[gpu]" in caught.value.hint


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SGEN_THREADS", raising=False)
    assert Compute(threads=3).num_threads() == 3
    assert Compute().num_threads() >= 1
    monkeypatch.setenv("SGEN_THREADS", "5")
    assert Compute().num_threads() == 5
    assert Compute(threads=1).num_threads() == 1, "what is said in the program counts"
    for bad in ("two", "0", "-1"):
        monkeypatch.setenv("SGEN_THREADS", bad)
        with pytest.raises(InvalidRequestError, match="SGEN_THREADS"):
            Compute().num_threads()


def test_instruction_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SGEN_ISA", raising=False)
    modern = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx2",
                        "fma", "f16c"})  # fmt: skip
    for abilities, best, runs in [
        (modern, "avx512vnni", ["avx512vnni", "avx2", "portable"]),
        (modern - {"avx512_vnni"}, "avx2", ["avx2", "portable"]),
        (frozenset({"asimd", "asimddp", "fphp"}), "neon", ["neon", "portable"]),
        (frozenset({"avx2"}), None, ["portable"]),
    ]:
        monkeypatch.setattr(isa, "_abilities", lambda found=abilities: found)
        assert isa.chosen() == best
        assert isa.supported() == runs
    monkeypatch.setenv("SGEN_ISA", "portable")
    assert isa.chosen() == "portable"
    monkeypatch.setenv("SGEN_ISA", "avx2")
    with pytest.raises(ValueError, match="this machine runs portable"):
        isa.chosen()
    with pytest.raises(InvalidRequestError, match="SGEN_ISA=avx2"):
        Compute().library()


@needs_native
def test_the_compiler_has_the_best_instruction_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """That of this kind of processor, whether or not this one has it.  Unoptimized code needs every
    intrinsic's instruction too, and is quickly made."""
    name = {"x86_64": "avx512vnni", "aarch64": "neon", "arm64": "neon"}.get(platform.machine())
    if name is None:
        pytest.skip("there is no code for this kind of processor")
    monkeypatch.setenv("SGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-O0"))  # the last -O counts
    assert native.build("decoder", (*isa.OPTIONS[name], *isa.EXACT, "-pthread")).exists()


def test_without_native_code_the_torch_path_is_taken(
    monkeypatch: pytest.MonkeyPatch, smollm2_path: Path
) -> None:
    monkeypatch.setattr(module.isa, "load", lambda name: None)
    assert isinstance(load_model(smollm2_path).model, Decoder)
    for asked in (Compute("native"), Compute(kv_cache_dtype="bf16")):
        with pytest.raises(InvalidRequestError, match="native path") as caught:
            asked.library()
        assert "torch" in caught.value.hint


def test_without_any_native_code(monkeypatch: pytest.MonkeyPatch, smollm2_path: Path) -> None:
    @sgen.program
    async def ask(s: sgen.State) -> str:
        s.user("What is the capital of France?")
        with s.assistant():
            return await s.gen(max_tokens=12, temperature=0)

    monkeypatch.setenv("SGEN_NATIVE", "0")
    monkeypatch.setattr(native, "load", native.load.__wrapped__)  # what was loaded stays so
    monkeypatch.setattr(sampling, "library", lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was asked for
        engine = sgen.Engine.load(smollm2_path, cache_tokens=256)
    with engine:
        assert "Paris" in ask.with_options(engine=engine).run().output
    with pytest.raises(InvalidRequestError, match="SGEN_NATIVE=0"):
        Compute("native").library()


def test_an_unknown_processor_takes_the_torch_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SGEN_ISA", raising=False)
    monkeypatch.setattr(isa, "_abilities", lambda: frozenset[str]())
    with pytest.warns(RuntimeWarning, match="processor is unknown: the torch path"):
        assert Compute().library() is None
    with pytest.raises(InvalidRequestError, match="processor is unknown"):
        Compute("native").library()


@needs_native
def test_a_shape_that_the_native_path_has_not(
    monkeypatch: pytest.MonkeyPatch, smollm2_path: Path
) -> None:
    monkeypatch.setattr(loader, "runs", lambda config: False)
    with pytest.warns(RuntimeWarning, match="heads of 64 dimensions: the torch path"):
        assert isinstance(load_model(smollm2_path).model, Decoder)
    for asked in (Compute("native"), Compute(kv_cache_dtype="bf16")):
        with pytest.raises(InvalidRequestError, match="heads of 64 dimensions"):
            load_model(smollm2_path, compute=asked)


def test_threads_of_the_torch_path(smollm2_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        load_model(smollm2_path, compute=Compute("torch", threads=1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@needs_native
def test_every_instruction_set_gives_the_same_text(
    monkeypatch: pytest.MonkeyPatch, smollm2_path: Path
) -> None:
    @sgen.program
    async def count(s: sgen.State) -> str:
        s += "One, two, three, four,"
        return await s.gen(max_tokens=6, temperature=0)

    outputs = {}
    for name in isa.supported():
        monkeypatch.setenv("SGEN_ISA", name)
        with sgen.Engine.load(smollm2_path, cache_tokens=256) as engine:
            outputs[name] = count.with_options(engine=engine).run().output
    assert len(set(outputs.values())) == 1, outputs
    assert "five" in outputs["portable"]


@needs_native
@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
def test_the_cache_is_as_large_as_it_says(kind: module.KVCacheDtype, smollm2_path: Path) -> None:
    model = load_model(smollm2_path, compute=Compute(kv_cache_dtype=kind)).model
    # 30 layers of 3 heads of 64 dimensions, keys and values; with int8 two fp32 scales a head.
    per_value = {"fp32": 4, "bf16": 2, "int8": 1}[kind]
    scales = 30 * 3 * 2 * 4 if kind == "int8" else 0
    assert model.kv_bytes_per_token == 2 * 30 * 3 * 64 * per_value + scales


def test_the_torch_library_is_not_asked_for_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> native.Library | None:
        pytest.fail("compiled although torch was asked for")

    monkeypatch.setattr(module.isa, "load", fail)
    assert Compute("torch").library() is None

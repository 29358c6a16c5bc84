"""Encoders of GGML blocks: the reference's bytes, bounded errors, refusals."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from sgen.runtime.ggml_encode import ENCODERS, encode

NEAREST = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
LIMITS = {
    "q4_k": 0.08,
    "q5_k": 0.04,
    "q6_k": 0.02,
    "iq4_nl": 0.085,
    "iq4_xs": 0.085,
    "mxfp4": 0.13,
}


def weights() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    rng = np.random.default_rng(5)
    return (rng.standard_normal((24, 512)) * rng.uniform(0.01, 0.1, (24, 1))).astype(np.float32)


def decoded(raw: np.ndarray, name: str) -> np.ndarray:  # type: ignore[type-arg]
    kind = gguf.GGMLQuantizationType(ENCODERS[name].number)
    return gguf.quants.dequantize(raw, kind)


def distance(x: np.ndarray, name: str) -> float:  # type: ignore[type-arg]
    return float(np.linalg.norm(decoded(encode(x, name), name) - x) / np.linalg.norm(x))


@pytest.mark.parametrize("name", NEAREST)
def test_bytes_are_those_of_the_reference(name: str) -> None:
    kind = gguf.GGMLQuantizationType(ENCODERS[name].number)
    np.testing.assert_array_equal(encode(weights(), name), gguf.quants.quantize(weights(), kind))


@pytest.mark.parametrize(("name", "limit"), LIMITS.items())
def test_a_search_stays_below_its_error(name: str, limit: float) -> None:
    assert distance(weights(), name) < limit


def test_a_search_beats_the_extremes() -> None:
    assert distance(weights(), "q4_k") < distance(weights(), "q4_1")
    assert distance(weights(), "q5_k") < distance(weights(), "q5_1")
    assert distance(weights(), "iq4_nl") < distance(weights(), "q4_0")


def test_mxfp4_is_no_worse_than_the_reference() -> None:
    x = weights()
    kind = gguf.GGMLQuantizationType.MXFP4
    theirs = gguf.quants.dequantize(gguf.quants.quantize(x, kind), kind)
    assert distance(x, "mxfp4") <= float(np.linalg.norm(theirs - x) / np.linalg.norm(x))


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("value", [0.0, 0.5, -7.0, 1e4])
def test_constants_survive(name: str, value: float) -> None:
    x = np.full((2, 256), value, np.float32)
    np.testing.assert_allclose(decoded(encode(x, name), name), x, rtol=0.2)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_refused(name: str, value: float) -> None:
    x = np.zeros((1, 256), np.float32)
    x[0, 9] = value
    with pytest.raises(ValueError, match="infinite or not a number"):
        encode(x, name)


def test_what_fp16_cannot_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="too large for a scale"):
        encode(np.full((1, 256), 1e30, np.float32), "q4_k")
    with pytest.raises(ValueError, match="blocks of 256"):
        encode(np.zeros((1, 64), np.float32), "q4_k")

"""GGUF files quantized anew, one tensor after another: what `sgen quantize` does.

Vectors stay fp32, as all of them are in such files.  The embedding and the output matrix get more
bits than the rest, since every token depends on them (llama.cpp's rule for its "_M" mixes, without
its choice of single layers).  A type whose blocks do not divide a matrix's rows is replaced by
the nearest one of 32 weights a block that has at least its bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sgen.errors import InvalidRequestError, ModelFileError
from sgen.runtime.ggml import dequantize
from sgen.runtime.ggml_encode import ENCODERS, encode
from sgen.runtime.gguf import GGUFFile, TensorInfo
from sgen.runtime.gguf_writer import GGUFWriter, Planned

FILE_TYPES = {
    "q8_0": 7,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 8,
    "q5_1": 9,
    "q4_k": 15,
    "q5_k": 17,
    "q6_k": 18,
    "iq4_nl": 25,
    "iq4_xs": 30,
    "mxfp4": 38,
}
"""`general.file_type` by format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""

_OUTER = ("token_embd.weight", "output.weight")
_SMALLER = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "iq4_xs": "iq4_nl"}


def quantize_gguf(
    source: Path, target: Path, form: str, progress: Callable[[int, int], None]
) -> None:
    """Write the model of the GGUF file `source` to `target` in a format of `FILE_TYPES`.

    `progress(weights done, weights in all)`.  The target appears when it is whole; what was there
    is replaced.  InvalidRequestError: both are one file.  ModelFileError: `source` is broken, or
    has weights that are not finite.  OSError: the target cannot be written.
    """
    if target.exists() and target.samefile(source):
        raise InvalidRequestError("source and target are the same file", param="DST")
    with GGUFFile.open(source) as file:
        plan = [Planned(t.name, t.shape, _kind(t, form)) for t in file.tensors.values()]
        dropped = ("general.alignment", "general.file_type", "general.quantization_version")
        metadata: dict[str, object] = {k: v for k, v in file.metadata.items() if k not in dropped}
        metadata |= {"general.file_type": FILE_TYPES[form], "general.quantization_version": 2}
        total = sum(math.prod(tensor.shape) for tensor in plan)
        done = 0
        progress(done, total)
        with GGUFWriter(target, metadata, plan) as writer:
            for tensor in plan:
                writer.write(_encoded(file, tensor))
                done += math.prod(tensor.shape)
                progress(done, total)


def _kind(tensor: TensorInfo, form: str) -> str:
    """The type in which a tensor is written."""
    if len(tensor.shape) < 2:
        return "f32"
    kind = form
    if tensor.name in _OUTER:
        kind = "q8_0" if form == "q8_0" else "q6_k"
    if tensor.shape[-1] % ENCODERS[kind].block_size:
        kind = _SMALLER.get(kind, "q8_0")
    return kind if tensor.shape[-1] % ENCODERS[kind].block_size == 0 else "f16"


def _encoded(file: GGUFFile, tensor: Planned) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    info = file.tensors[tensor.name]
    values = dequantize(file.data(tensor.name), info.ggml_type).reshape(-1, tensor.shape[-1])
    try:
        return encode(values, tensor.kind)
    except ValueError as error:
        where = f"tensor {tensor.name}"
        raise ModelFileError(str(error), path=str(file.path), where=where) from error

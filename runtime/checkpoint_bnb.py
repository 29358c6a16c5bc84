"""bitsandbytes' 4-bit matrices: NF4 and FP4 (QLoRA: Dettmers et al., arXiv:2305.14314).

Codes run through the matrix row by row, the first of two in the high nibble, and each block of
them has a scale, its largest absolute value.  With double quantization the scales are 8-bit codes
themselves, with scales and an offset of their own.  The table of codes is in the file.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from sgen.runtime.checkpoint_module import Load, Module
from sgen.runtime.stored import Codebook

KINDS = ("nf4", "fp4")
_STATE = "weight.quant_state.bitsandbytes__{}"


def has_4_bits(module: Module) -> bool:
    return any(module.has(_STATE.format(kind)) for kind in KINDS)


def load_4_bits(module: Module) -> Load:
    n, k = module.shape
    kind = next(kind for kind in KINDS if module.has(_STATE.format(kind)))
    module.expect(_STATE.format(kind), ("U8",))
    if k % 2:
        module.fail("weight", f"has {k} inputs, an odd number")
    module.expect("weight", ("U8",), (n * k // 2, 1))
    module.expect("weight.quant_map", ("F32",), (16,))
    nested = module.has("weight.nested_absmax")
    module.expect("weight.absmax", ("U8",) if nested else ("F32",))
    if nested:
        module.expect("weight.nested_absmax", ("F32",))
        module.expect("weight.nested_quant_map", ("F32",), (256,))

    def load() -> Codebook:
        state = _state(module, _STATE.format(kind))
        block = _positive(module, kind, state, "blocksize")
        if list(state.get("shape", [n, k])) != [n, k]:
            module.fail(_STATE.format(kind), f"says the shape {str(state['shape'])[:40]}")
        scales = module.tensor("weight.absmax")
        if nested:
            inner = _positive(module, kind, state, "nested_blocksize")
            offset = state.get("nested_offset", 0.0)
            if not isinstance(offset, int | float):
                module.fail(_STATE.format(kind), "nested_offset is no number")
            outer = module.tensor("weight.nested_absmax")
            if len(outer) != -(-len(scales) // inner):
                module.fail("weight.nested_absmax", f"has {len(outer)} scales")
            of_block = outer[torch.arange(len(scales)) // inner]
            table = module.tensor("weight.nested_quant_map")
            scales = table[scales.long()] * of_block + torch.tensor(offset, dtype=torch.float32)
        if len(scales) != -(-n * k // block):
            module.fail("weight.absmax", f"has {len(scales)} scales, not {-(-n * k // block)}")
        raw = module.tensor("weight").view(n, k // 2)
        codes = raw >> 4 | raw << 4  # ours have the first in the low nibble
        return Codebook(codes, module.tensor("weight.quant_map"), scales, block)

    return load


def _state(module: Module, suffix: str) -> dict[str, Any]:
    try:
        state = json.loads(bytes(module.tensor(suffix).tolist()))
    except (ValueError, RecursionError):
        module.fail(suffix, "is not JSON")
    if not isinstance(state, dict):
        module.fail(suffix, "must hold a JSON object")
    return state


def _positive(module: Module, kind: str, state: dict[str, Any], key: str) -> int:
    value = state.get(key)
    if not isinstance(value, int) or value < 1:
        module.fail(_STATE.format(kind), f"{key} is {str(value)[:40]}")
    return value

"""fp8 and int8 checkpoints: values with a scale by tensor, channel, group or block.

compressed-tensors' int-quantized (SmoothQuant, Xiao et al., arXiv:2211.10438), float-quantized and
naive-quantized; the fp8 of DeepSeek and Qwen, whose blocks have `weight_scale_inv` (a factor in
spite of its name); int8 of bitsandbytes (LLM.int8, Dettmers et al., arXiv:2208.07339).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sgen.runtime.checkpoint_module import FLOATS, Load, Module
from sgen.runtime.stored import Scaled

VALUES = ("F8_E4M3", "I8")
Input = Literal["none", "row", "tensor"]


def load_scaled(module: Module, block: tuple[int, int] | None, activations: Input) -> Load:
    """`block` is the config's, for scales that are a matrix of blocks."""
    n, k = module.shape
    module.expect("weight", VALUES, (n, k))
    name = "weight_scale_inv" if module.has("weight_scale_inv") else "weight_scale"
    shape = module.size(name)
    module.expect(name, FLOATS)
    size = _block(module, name, shape, block)
    if module.has("weight_zero_point"):
        module.expect("weight_zero_point", ("I8",))
    static = activations != "none" and module.has("input_scale")
    if static:
        module.expect("input_scale", FLOATS)
        if module.size("input_scale") not in ((), (1,)):
            module.fail("input_scale", "is not one number")
    else:
        module.ignore("input_scale")

    def load() -> Scaled:
        if module.has("weight_zero_point") and bool(module.tensor("weight_zero_point").any()):
            module.fail("weight_zero_point", "is not 0: asymmetric int8 weights do not run here")
        scales = module.tensor(name).float().reshape(-(-n // size[0]), -(-k // size[1]))
        given = float(module.tensor("input_scale").float()) if static else None
        kind: Input = "tensor" if static else activations
        return Scaled(module.tensor("weight"), scales.contiguous(), size, kind, given)

    return load


def _block(
    module: Module, name: str, shape: tuple[int, ...], block: tuple[int, int] | None
) -> tuple[int, int]:
    """How many rows and columns share a scale, by the shape of the scales."""
    n, k = module.shape
    if shape in ((), (1,), (1, 1)):
        return n, k
    if shape in ((n,), (n, 1)):
        return 1, k
    if block is not None and shape == (-(-n // block[0]), -(-k // block[1])):
        return block
    if len(shape) != 2 or shape[0] != n or not 1 <= shape[1] <= k or k % shape[1]:
        module.fail(name, f"has the shape {list(shape)}, which scales {n} x {k} weights in no way")
    return 1, k // shape[1]


def load_llm_int8(module: Module) -> Load:
    """bitsandbytes' int8: SCB [N] holds the largest absolute value of each output."""
    n, k = module.shape
    module.expect("weight", ("I8",), (n, k))
    module.expect("SCB", FLOATS, (n,))
    module.ignore("weight_format")

    def load() -> Scaled:
        # The reference multiplies by 1/127 last; here the scales have it, one rounding apart.
        scales: Tensor = module.tensor("SCB").float()[:, None] * torch.tensor(1 / 127)
        return Scaled(module.tensor("weight"), scales, (1, k), "row")

    return load

"""GPTQ, AWQ and packed compressed-tensors: integers in 32-bit words, with a scale a group.

GPTQ (Frantar et al., arXiv:2210.17323) packs along the inputs: word i of an output holds inputs
i * 32 / bits onward, the lowest bits first.  AWQ (Lin et al., arXiv:2306.00978) packs eight
outputs into a word, of which nibble i is output `AWQ_ORDER[i]`.  compressed-tensors packs along
the inputs as GPTQ does, but output by output, and adds half of the range to signed integers.

Files of GPTQ store a zero point less one (version 1) or as it is (version 2).  What
`checkpoint_format` says of it is wrong often enough that the values decide, where they can: see
`zero_offset`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sgen.runtime.checkpoint_module import FLOATS, Load, Module
from sgen.runtime.stored import Grouped, pack_nibbles

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_UNSURE = 0.25  # of a step: nearer to the middle than this, the mean decides nothing

Bits = Literal[4, 8]


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """int32 [R, W] -> uint8 [R, W * 32 / bits], the lowest bits first."""
    raw = words.contiguous().view(torch.uint8)  # little-endian, as safetensors is
    if bits == 8:
        return raw
    return torch.stack([raw & 15, raw >> 4], dim=-1).flatten(1)


def load_gptq(module: Module, bits: Bits, label: str) -> Load:
    """`label` is the config's `checkpoint_format`: "gptq" or "gptq_v2"."""
    n, k = module.shape
    each = 32 // bits
    if k % each or n % each:
        module.fail("qweight", f"{n} x {k} weights of {bits} bits do not fill words")
    groups = (module.size("scales") or (0,))[0]
    if not 1 <= groups <= k:
        module.fail("scales", f"has {groups} groups for {k} inputs")
    module.expect("scales", FLOATS, (groups, n))
    module.expect("qweight", ("I32",), (k // each, n))
    module.expect("qzeros", ("I32",), (groups, n // each))
    if module.has("g_idx"):
        module.expect("g_idx", ("I32", "I64"), (k,))

    def load() -> Grouped:
        q = unpack_words(module.tensor("qweight").T, bits)
        stored = unpack_words(module.tensor("qzeros"), bits).T.to(torch.int16)
        size = -(-k // groups)
        order = _order(module, "g_idx", groups, size) if module.has("g_idx") else None
        offset = zero_offset(q, stored, bits, label, order, size)
        zeros = (stored + offset) & (2**bits - 1)
        return _grouped(q, module.tensor("scales").T, zeros, bits, size, order)

    return load


def zero_offset(
    q: Tensor, stored: Tensor, bits: Bits, label: str, order: Tensor | None, size: int
) -> int:
    """What to add to stored zero points: 1 (version 1) or 0 (version 2).

    q uint8 [N, K], stored int16 [N, G].  Symmetric quantization has the middle of the range
    everywhere, less one in version 1.  Else weights are taken to be about 0 in the mean, so that
    the mean of q - stored is near to the offset; with 8 bits, whose steps are fine, or where the
    mean lies in between, the label decides.
    """
    middle = 2 ** (bits - 1)
    for offset in (0, 1):
        if bool((stored == middle - offset).all()):
            return offset
    said = 0 if label == "gptq_v2" else 1
    if bits == 8:
        return said
    group = torch.arange(q.shape[1]) // size if order is None else order.long()
    columns = torch.bincount(group, minlength=stored.shape[1]).double()
    mean = float(q.double().mean() - (stored.double() @ columns).mean() / q.shape[1])
    if abs(mean - 0.5) < _UNSURE:
        return said
    return int(mean > 0.5)


def load_awq(module: Module) -> Load:
    n, k = module.shape
    if n % 8:
        module.fail("qweight", f"{n} outputs of 4 bits do not fill words")
    groups = (module.size("scales") or (0,))[0]
    if not 1 <= groups <= k or k % groups:
        module.fail("scales", f"has {groups} groups for {k} inputs")
    module.expect("scales", FLOATS, (groups, n))
    module.expect("qweight", ("I32",), (k, n // 8))
    module.expect("qzeros", ("I32",), (groups, n // 8))

    def outputs_first(suffix: str) -> Tensor:
        nibbles = unpack_words(module.tensor(suffix), 4).view(-1, n // 8, 8)
        values = torch.empty_like(nibbles)
        values[..., list(AWQ_ORDER)] = nibbles
        return values.flatten(1).T.contiguous()

    def load() -> Grouped:
        zeros = outputs_first("qzeros").to(torch.int16)
        q = outputs_first("qweight")
        return _grouped(q, module.tensor("scales").T, zeros, 4, k // groups, None)

    return load


def load_packed(module: Module) -> Load:
    """compressed-tensors' pack-quantized; the words' number says the bits."""
    n, k = module.shape
    words = (module.size("weight_packed") or (0,))[-1]
    bits: Bits = 4 if words == -(-k // 8) else 8
    module.expect("weight_packed", ("I32",), (n, -(-k * bits // 32)))
    groups = (module.size("weight_scale") or (0,))[-1]
    if not 1 <= groups <= k:
        module.fail("weight_scale", f"has {groups} groups for {k} inputs")
    module.expect("weight_scale", FLOATS, (n, groups))
    if module.has("weight_zero_point"):
        module.expect("weight_zero_point", ("I32",), (-(-n * bits // 32), groups))
    if module.has("weight_g_idx"):
        module.expect("weight_g_idx", ("I32", "I64"), (k,))
    module.ignore("weight_shape")
    if k % 2:
        module.fail("weight_packed", f"has {k} inputs, an odd number")

    def load() -> Grouped:
        q = unpack_words(module.tensor("weight_packed"), bits)[:, :k].contiguous()
        zeros = torch.full((n, groups), 2 ** (bits - 1), dtype=torch.int16)
        if module.has("weight_zero_point"):
            packed = module.tensor("weight_zero_point").T
            zeros = unpack_words(packed, bits)[:, :n].T.to(torch.int16)
        size = -(-k // groups)
        order = None
        if module.has("weight_g_idx"):
            order = _order(module, "weight_g_idx", groups, size)
        return _grouped(q, module.tensor("weight_scale"), zeros, bits, size, order)

    return load


def _order(module: Module, suffix: str, groups: int, size: int) -> Tensor | None:
    """The group of each column, or None where groups are runs of columns."""
    order = module.tensor(suffix).to(torch.int32)
    if len(order) and (int(order.min()) < 0 or int(order.max()) >= groups):
        module.fail(suffix, f"names a group that is not among the {groups} there are")
    if torch.equal(order, (torch.arange(len(order)) // size).int()):
        return None
    return order


def _grouped(
    q: Tensor, scales: Tensor, zeros: Tensor, bits: Bits, size: int, order: Tensor | None
) -> Grouped:
    integers = pack_nibbles(q) if bits == 4 else q.contiguous()
    return Grouped(bits, integers, scales.contiguous(), zeros.contiguous(), size, order)
